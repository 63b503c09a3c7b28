"""What people call their good parts: as a folder of a data set, or as the label of a recorded part."""

from __future__ import annotations

import re
from typing import Final

GOOD: Final = "good"
"""The label of good parts."""
GOOD_NAMES: Final = frozenset(
    {
        *("good", "goods", "ok", "okay", "oks", "normal", "normals", "pass", "passed", "fine", "intact", "golden"),
        *("nodefect", "nodefects", "defectfree", "nondefect", "nondefective", "notdefective", "undamaged"),
        *("anomalyfree", "noanomaly", "nonanomalous", "faultless", "flawless", "correct", "accept", "accepted"),
        *("clean", "healthy", "perfect", "conform", "conforming", "conforme", "compliant"),
        *("gut", "io", "bon", "bons", "bonne", "buono", "bueno", "buena", "bom", "goed", "dobry"),
        *("良品", "合格", "正常", "양품", "정상"),
    }
)
"""As `means_good` leaves a name: `OK`, `i.O.`, `Defect-free`, `0_good` and `Good parts (2)` are among them."""
WHAT_IS_GOOD: Final = re.compile("(parts?|images?|samples?|pieces?|pics?|pictures?|items?|products?|teile?|品)$")
OF_THE_SETS: Final = frozenset({"good", "ok"})
"""The names in MVTec AD and BTAD, of which nothing has to be said."""


def means_good(name: str) -> bool:
    """Whether this is a name of good parts, in any case, with numbers and what is good beside it or not."""
    bare = re.sub(r"[\W\d_]", "", name).casefold()
    return bare in GOOD_NAMES or WHAT_IS_GOOD.sub("", bare) in GOOD_NAMES


def label_of(name: str) -> str:
    """The label that a folder or a recorded label means: GOOD for each of its names, any other as it is."""
    return GOOD if means_good(name) else name
