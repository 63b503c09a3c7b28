"""Good parts' features -> the components that distances are taken in, also as they would be without some parts."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

LEAST_DEVIATION: Final = 0.05
"""Of a channel, in mean deviations: what almost never fires on good parts would count twentyfold where it does."""
SHRINKAGE: Final = 0.1
"""Share of the mean variance that is added to each component's before it is whitened."""
PER_COMPONENT: Final = 30
"""Features that each component needs at least: directions that few features show are theirs alone."""


class WhiteningStatistics:
    """Counts, sums and products of features by group, so that one group's can be taken away.

    Components that were fitted to a part, too, make it look nearer to good parts than a new one: on papers of 32 parts
    by a twentieth of the score at 192 components. So each part that is left out is seen in components of the others.
    """

    def __init__(self, groups: int, channels: int) -> None:
        self._count = torch.zeros(groups, dtype=torch.float64)
        self._sum = torch.zeros(groups, channels, dtype=torch.float64)
        self._products = torch.zeros(groups, channels, channels, dtype=torch.float64)

    def add(self, group: int, features: Tensor) -> None:
        """Features (M, C) float32 of one group."""
        self._count[group] += len(features)
        self._sum[group] += features.sum(dim=0, dtype=torch.float64)
        self._products[group] += (features.T @ features).double()

    def whitening(self, components: int, without: int | None = None) -> tuple[Tensor, Tensor]:
        """Projection (D, C) and shift (D,) of all groups, or of all but one: x -> projection @ x + shift is white.

        Channels standardised, principal directions, each divided by its spread. D is `components`, or fewer where the
        features are few. Where nothing is left without the group, it stays.
        """
        kept = torch.arange(len(self._count)) != (-1 if without is None else without)
        if float(self._count[kept].sum()) == 0:
            kept[:] = True
        count = self._count[kept].sum()
        mean = self._sum[kept].sum(dim=0) / count
        covariance = self._products[kept].sum(dim=0) / count - torch.outer(mean, mean)
        deviation = covariance.diagonal().clamp_min(0).sqrt()
        deviation = deviation.clamp_min(max(LEAST_DEVIATION * float(deviation.mean()), 1e-6))
        values, vectors = torch.linalg.eigh(covariance / torch.outer(deviation, deviation))
        wanted = min(components, max(1, int(self._count.sum()) // PER_COMPONENT))
        values, vectors = values.flip(0)[:wanted].clamp_min(0), vectors.flip(1)[:, :wanted]
        scaled = vectors / (values + SHRINKAGE * values.mean()).clamp_min(1e-12).sqrt()
        projection = scaled.T / deviation
        return projection.float(), (-projection @ mean).float()
