"""Good parts whose pictures have several sizes: what that does to them, and what the line will say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

Size = tuple[int, int]
"""Width and height in pixels."""
MOST_NAMED = 4


def in_words(sizes: Mapping[Size, int]) -> str:
    """`412x285 (37 images), 285x412 (2)`, the most frequent first."""
    ordered = Counter(sizes).most_common()
    named = [
        f"{width}x{height} ({count}{' images' if not place else ''})"
        for place, ((width, height), count) in enumerate(ordered)
    ]
    rest = f" and {len(named) - MOST_NAMED} more sizes" if len(named) > MOST_NAMED else ""
    return ", ".join(named[:MOST_NAMED]) + rest


def warning_of(sizes: Mapping[Size, int], *, whole_frame: bool) -> str:
    """One line where there is more than one size, else empty. whole_frame: whether `locate` is off."""
    if len(sizes) < 2:
        return ""
    shapes = {round(width / height, 2) for width, height in sizes}
    what = "a part is larger in one than in another"
    if whole_frame:
        what = "each whole frame is resized to the canvas, so a part is larger in one than in another"
        if len(shapes) > 1:
            what = "each whole frame is stretched to the canvas, so a part has another shape in each"
    return (
        f"images have {len(sizes)} sizes: {in_words(sizes)}; {what}. Give images of one size, as the camera takes them"
    )
