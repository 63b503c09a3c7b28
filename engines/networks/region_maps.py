"""What tails read off maps region by region."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engines.networks.blur import Blur
from engines.scoring import region_masks
from engines.settings import CanvasSettings, RegionSettings

OUTSIDE = -1e4
"""Added to cells outside a region before the maximum."""


def region_maxima(maps: Tensor, outside: Tensor) -> Tensor:
    """Highest cell of (N, H_1, W_1) in each region, (N, R); `outside`: (R, H_1 * W_1), 0 inside, else OUTSIDE."""
    return (maps.flatten(1).unsqueeze(1) + outside).amax(dim=2)


def outside_regions(
    canvas: CanvasSettings, regions: Sequence[RegionSettings], cells: tuple[int, int] | None = None
) -> Tensor:
    """What `region_maxima` adds to maps of so many rows and columns; None: those of stride 4."""
    masks = torch.from_numpy(region_masks(canvas.height_px, canvas.width_px, regions, cells)).flatten(1)
    return torch.where(masks, 0.0, OUTSIDE)


def region_means(maps: Tensor, outside: Tensor) -> Tensor:
    """Mean of (N, H_1, W_1) over each region's cells, (N, R); `outside` as in `region_maxima`."""
    inside = (outside == 0).to(maps.dtype)
    share = inside / inside.sum(dim=1, keepdim=True)
    # No matrix product: TensorRT-RTX has none in float32 for GPUs of the Turing generation.
    return (maps.flatten(1).unsqueeze(1) * share).sum(dim=2)


class RegionBlur(nn.Module):
    """The highest value of each region under a Gaussian that is a mean over the region's own cells, (N, R).

    What lies beside a region is another's, or nobody's.
    """

    def __init__(self, outside: Tensor, height: int, width: int, sigma: float) -> None:
        """outside: (R, height * width), as in `region_maxima`, for maps (N, height, width); sigma in cells."""
        super().__init__()
        self.blur = Blur(sigma)
        inside = (outside == 0).float().reshape(1, -1, height, width)
        share = self.blur(inside)
        self.register_buffer("outside", outside, persistent=False)
        self.register_buffer("inside", inside, persistent=False)
        self.register_buffer("gain", inside / torch.where(inside > 0, share, 1.0), persistent=False)
        self.outside: Tensor
        self.inside: Tensor
        self.gain: Tensor

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, height, width) -> (N, R)."""
        wide = self.blur(maps.unsqueeze(1) * self.inside) * self.gain
        return (wide.flatten(2) + self.outside).amax(dim=2)  # type: ignore[no-any-return]
