"""The upper tail of good parts' scores: a generalised Pareto distribution over a high order statistic, with its doubt.

Peaks over threshold (Pickands 1975; Davison & Smith 1990). With a handful of exceedances the likelihood says little of
the shape, and a fitted point says nothing of its error; so the whole posterior over shape, scale and exceedance rate is
kept on a grid. No random numbers: equal scores give equal limits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
NO_SCALE = 1e-100
"""Scale of a tail without any spread: far below any score's own, and distances over it still are finite."""
SHAPES = np.linspace(-0.5, 1.0, 61)
# Scale as a multiple of the mean exceedance; the mean of the distribution is scale / (1 - shape).
RELATIVE_SCALES = np.geomspace(0.05, 8.0, 81)
# Prior of the shape: about that of a memory's left-out scores over eleven sets (-0.1 to 0.2, mean 0.04); two deviations
# reach beyond Student's t with 3 degrees of freedom (1/3).
SHAPE_MEAN, SHAPE_DEVIATION = 0.05, 0.2
RATE_POINTS = 15
EXCEEDANCE_SHARE = 0.25
MIN_EXCEEDANCES = 8
MAX_EXCEEDANCES = 60
BISECTIONS = 40


@dataclass(frozen=True, slots=True)
class Tail:
    """The posterior: (G,) shapes, scales, exceedance rates and their weights (sum 1) over the level `start`."""

    start: float
    shape: Floats
    scale: Floats
    rate: Floats
    weight: Floats

    def limit(self, rate: float) -> float:
        """The value that a new good part passes with probability `rate`, doubt included; falls as `rate` rises.

        The posterior's mean rate above it equals `rate`, as with a counted limit; heavier tails that the few parts do
        not rule out push it outwards.
        """
        distances = self.scale * _box_cox(np.maximum(self.rate / rate, 1.0), self.shape)
        low, high = 0.0, float(distances.max())
        # Bisection to a precision that no score resolves; the mean rate falls with the distance.
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if self._mean_rate(middle) > rate:
                low = middle
            else:
                high = middle
        return self.start + high

    def upper_bound(self, rate: float, confidence: float) -> float:
        """The value that at most `rate` of good parts pass, with this (one-sided) confidence; falls as `rate` rises."""
        ratio = np.maximum(self.rate / rate, 1.0)
        return float(_weighted_quantile(self.start + self.scale * _box_cox(ratio, self.shape), self.weight, confidence))

    def rate_above(self, value: float, confidence: float) -> tuple[float, float]:
        """Expected share of good parts above `value` >= start, and the share that it stays below with this confidence.

        Taken at a quarter of the doubt: with few exceedances of a heavy tail the posterior's own bound holds less
        often than it says (docs/thresholds.md has the simulation).
        """
        rates = self._rates(max(value - self.start, 0.0))
        high = _weighted_quantile(rates, self.weight, 1 - (1 - confidence) / 4)
        return float((rates * self.weight).sum()), high

    def _mean_rate(self, distance: float) -> float:
        return float((self._rates(distance) * self.weight).sum())

    def _rates(self, distance: float) -> Floats:
        """(G,) share of good parts further above `start` than `distance` >= 0."""
        return self.rate * _survival(distance / self.scale, self.shape)


def fit_tail(scores: NDArray[np.floating]) -> Tail:
    """Fit the tail of (P,) finite scores, P >= 3; of fewer than 10 the prior of the shape decides."""
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    wanted = int(np.clip(round(EXCEEDANCE_SHARE * len(ordered)), MIN_EXCEEDANCES, MAX_EXCEEDANCES))
    count = min(wanted, len(ordered) - 1)
    start = ordered[-count - 1]
    excess = ordered[-count:] - start
    # The share above an order statistic is Beta distributed, whatever the distribution of the scores.
    share = stats.beta(count + 1, len(ordered) - count)
    rates = share.ppf((np.arange(RATE_POINTS) + 0.5) / RATE_POINTS)
    unit = float(excess.mean())
    if unit <= 0:
        # Equal scores: no tail to fit. Nothing lies above them, and the shares alone speak of the doubt.
        flat = np.zeros_like(rates)
        return Tail(
            float(start),
            flat,
            np.full_like(rates, NO_SCALE),
            rates,
            np.full_like(rates, 1 / RATE_POINTS),
        )
    shape, relative = (grid.ravel() for grid in np.meshgrid(SHAPES, RELATIVE_SCALES, indexing="ij"))
    log_posterior = _log_likelihood(excess / unit, shape, relative) - ((shape - SHAPE_MEAN) / SHAPE_DEVIATION) ** 2 / 2
    weight = np.exp(log_posterior - log_posterior.max())
    weight /= weight.sum()
    kept = weight > 1e-9 / len(weight)
    shape, scale, weight = shape[kept], relative[kept] * unit, weight[kept]
    return Tail(
        start=float(start),
        shape=np.tile(shape, RATE_POINTS),
        scale=np.tile(scale, RATE_POINTS),
        rate=np.repeat(rates, len(shape)),
        weight=np.tile(weight, RATE_POINTS) / (RATE_POINTS * weight.sum()),
    )


def _log_likelihood(excess: Floats, shape: Floats, scale: Floats) -> Floats:
    """(G,) log density of all exceedances (M,), -inf outside the support. The flat prior of log scale is the grid's."""
    ratio = excess[:, None] / scale  # (M, G)
    argument = 1 + shape * ratio
    inside = (argument > 0).all(axis=0)
    near_zero = np.abs(shape) < 1e-9
    safe = np.where(near_zero, 1.0, shape)
    logs = np.log(np.where(argument > 0, argument, 1.0))
    terms = np.where(near_zero, ratio, (1 + 1 / safe) * logs)
    return np.where(inside, -len(excess) * np.log(scale) - terms.sum(axis=0), -np.inf)


def _box_cox(ratio: Floats, shape: Floats) -> Floats:
    """(ratio ** shape - 1) / shape, and its limit log(ratio) at shape 0."""
    near_zero = np.abs(shape) < 1e-9
    safe = np.where(near_zero, 1.0, shape)
    return np.where(near_zero, np.log(ratio), np.expm1(safe * np.log(ratio)) / safe)


def _survival(distance: Floats, shape: Floats) -> Floats:
    """Share of a unit generalised Pareto distribution above `distance` >= 0."""
    near_zero = np.abs(shape) < 1e-9
    safe = np.where(near_zero, 1.0, shape)
    base = np.maximum(1 + safe * distance, 0.0)
    # 0 ** -x is infinite; beyond the end point of a negative shape nothing is left.
    powered = np.where(base > 0, np.where(base > 0, base, 1.0) ** (-1 / safe), 0.0)
    return np.where(near_zero, np.exp(-distance), powered)


def _weighted_quantile(values: Floats, weights: Floats, level: float) -> float:
    """The smallest value with at least `level` of the weight at or below it."""
    order = np.argsort(values, kind="stable")
    position = np.searchsorted(np.cumsum(weights[order]), level)
    return float(values[order[min(int(position), len(order) - 1)]])
