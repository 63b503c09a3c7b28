"""Component maps of good parts -> what is usual at each cell, and each part seen by the statistics of the others."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from engines.networks.blur import Blur

SMALLEST_DEVIATION = 1e-3
PRIOR_PARTS = 10.0
"""How many parts the deviation over all cells is worth, against the deviation of a cell by itself."""
NEIGHBOURS_SIGMA = 1.0
"""Gaussian over means and variances of cells, in cells: neighbours are alike, and parts are few."""


class CellStatistics:
    """Location and gain of each cell that bring component maps (P, C, H1, W1) of good parts to one scale.

    Mean 0 and equal deviation at each cell, a good part's worst cell 1 on average. inside: (H1, W1) bool, cells that
    touch a region.
    """

    def __init__(self, maps: Tensor, inside: Tensor) -> None:
        self._maps, self._inside = maps, inside
        self._smooth = Blur(NEIGHBOURS_SIGMA)
        self._mean = maps.mean(dim=0)
        self.location = self._smoothed(self._mean)
        excess = maps - self.location
        self._square = excess.square().mean(dim=0)
        deviation = self._deviation(self._square, len(maps))
        worst = (excess / deviation)[:, :, inside].amax(dim=2).mean(dim=0).clamp_min(1.0)  # C
        self._worst = worst[:, None, None]
        self.gain = 1.0 / (deviation * self._worst)

    def by_the_others(self) -> Iterator[Tensor]:
        """Each part's maps, (1, C, H1, W1), at the scale of location and deviation without it.

        A part is nearer to a mean that it belongs to than a new one will be: with 30 parts its highest cell by some
        deviations. The squares of the others are about the mean of all.
        """
        count = len(self._maps)
        for maps in self._maps:
            location = self._smoothed((count * self._mean - maps) / (count - 1))
            square = (count * self._square - (maps - self.location).square()) / (count - 1)
            yield ((maps - location) / (self._deviation(square.clamp_min(0.0), count - 1) * self._worst)).unsqueeze(0)

    def _deviation(self, square: Tensor, count: int) -> Tensor:
        """Of each cell, (C, H1, W1), from the mean square of `count` parts there and that of all cells."""
        common = square[:, self._inside].mean(dim=1)[:, None, None]
        mixed = (count * self._smoothed(square) + PRIOR_PARTS * common) / (count + PRIOR_PARTS)
        return mixed.sqrt().clamp_min(SMALLEST_DEVIATION)

    def _smoothed(self, maps: Tensor) -> Tensor:
        return self._smooth(maps.unsqueeze(0))[0]  # type: ignore[no-any-return]
