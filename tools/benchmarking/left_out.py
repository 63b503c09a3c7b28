"""How far the oddest of a station's own good parts lie out: what decides its limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.tail import fit_tail

if TYPE_CHECKING:
    from calibration.fitted import Fitted


def left_out_figures(fitted: Fitted) -> dict[str, Any]:
    """What the tail of the left-out part scores is like: JSON-ready, by `parts` good parts.

    shape: of the generalised Pareto distribution, the mean of its posterior (0: exponential, above: heavier).
    highest_over_median: of the parts' largest distances to the memory of the others, before they are put in units of
    good parts, where 0 is the median; None without a memory.
    """
    tail = fit_tail(fitted.part_scores)
    highest = None
    if fitted.maps is not None:
        farthest = fitted.maps.max(axis=(1, 2))
        highest = float(farthest.max() / np.median(farthest))
    return {
        "parts": len(fitted.part_scores),
        "shape": float((tail.shape * tail.weight).sum()),
        "highest_over_median": highest,
    }
