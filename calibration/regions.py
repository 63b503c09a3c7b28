"""Eq. 13: the weight lambda_r of each region, from the Patch_GMSD of held-out good parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError, TooFewParts
from engines.artifact import Lambda

RESAMPLES = 2000
MIN_PARTS = 5


def calibrate_lambdas(
    pg: NDArray[np.floating], regions: Sequence[str], *, confidence: float = 0.95, seed: int = 0
) -> tuple[Lambda, ...]:
    """Weights such that the average of lambda_r * Patch_GMSD_r is the same for every region, the largest being 1.

    Eq. 13 of the dtkd paper. pg: (P, R) Patch_GMSD_r of P good parts that the decoder was not trained on, >= 0;
    regions: the R names in that order. The interval of each lambda is the percentile bootstrap over parts.
    Raises TooFewParts under MIN_PARTS parts, CalibrationError for values that are not finite or a region that is all 0.
    """
    pg = np.asarray(pg, dtype=np.float64)
    if pg.ndim != 2 or pg.shape[1] != len(regions) or not regions:
        raise CalibrationError(f"Patch_GMSD of shape {pg.shape} does not fit {len(regions)} regions")
    if len(pg) < MIN_PARTS:
        raise TooFewParts(f"{len(pg)} held-out good parts: the region weights need at least {MIN_PARTS}")
    if not np.isfinite(pg).all() or (pg < 0).any():
        raise CalibrationError("Patch_GMSD of good parts is negative or not a number; train again")
    # Sorted, so that nothing depends on the order of the parts.
    ordered = pg[np.lexsort(pg.T[::-1])]
    means = ordered.mean(axis=0)
    if (means <= 0).any():
        raise CalibrationError(f"region {regions[int(np.argmin(means))]}: Patch_GMSD is 0 on every good part")
    draws = np.random.default_rng(seed).integers(0, len(pg), size=(RESAMPLES, len(pg)))
    resampled = np.maximum(
        ordered[draws].mean(axis=1), np.finfo(np.float64).tiny
    )  # (RESAMPLES, P, R) -> (RESAMPLES, R)
    spread = _weights(resampled)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    low, high = np.quantile(spread, tails, axis=0)
    return tuple(
        Lambda(region=name, value=float(value), low=float(min(lo, value)), high=float(max(hi, value)))
        for name, value, lo, hi in zip(regions, _weights(means), low, high, strict=True)
    )


def _weights(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., R) averages -> weights: inverse to the average, the largest 1."""
    smallest: NDArray[np.float64] = means.min(axis=-1, keepdims=True)
    return smallest / means
