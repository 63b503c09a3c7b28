"""What people call their good parts: as a folder of a data set, or as the label of a recorded part."""

from __future__ import annotations

import re
from typing import Final

GOOD: Final = "good"
"""The label of good parts."""
GOOD_NAMES: Final = frozenset(
    {
        *("good", "goods", "ok", "okay", "normal", "pass", "passed", "fine", "intact", "golden"),
        *("nodefect", "nodefects", "defectfree", "nondefective", "faultless", "correct"),
        *("gut", "io", "bon", "bons", "bonne", "buono", "bueno", "buena", "bom", "goed", "dobry"),
    }
)
"""In lower case, without spaces, dots, dashes and underscores: `OK`, `i.O.` and `Defect-free` are among them."""
OF_THE_SETS: Final = frozenset({"good", "ok"})
"""The names in MVTec AD and BTAD, of which nothing has to be said."""


def means_good(name: str) -> bool:
    """Whether this is a name of good parts."""
    return re.sub(r"[\s._-]", "", name).lower() in GOOD_NAMES


def label_of(name: str) -> str:
    """The label that a folder or a recorded label means: GOOD for each of its names, any other as it is."""
    return GOOD if means_good(name) else name
