"""Tails for `score: paper` of other families than dtkd: network outputs -> anomaly map and scores, in float32."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from engines.networks.blur import Blur
from engines.networks.outputs import NetworkOutputs
from engines.networks.region_maps import outside_regions, region_maxima
from engines.networks.tail import Scored
from engines.scoring import LEVEL_STRIDE
from engines.settings import CanvasSettings, RegionSettings

SIGMA_PX = 4.0
"""Deviation of the Gaussian over the anomaly map, in pixels of the part image, as in both papers."""


def cosine_distances(targets: Sequence[Tensor], imitations: Sequence[Tensor]) -> list[Tensor]:
    """M_k, 1 - cosine over the channels of each level (N, C_k, H_k, W_k): (N, H_k, W_k) in 0..2.

    Eq. 1 of Appl. Sci. 2023, 13, 3838.
    """
    return [
        1.0 - functional.cosine_similarity(target, imitation, dim=1)
        for target, imitation in zip(targets, imitations, strict=True)
    ]


class ReverseTail(nn.Module):
    """The map is the sum over levels of M_k, smoothed; a region's score is its highest cell.

    The papers bring each M_k to the size of the image and smooth with a Gaussian of 4 pixels at 256x256. Here levels
    are brought to the size of level one, one cell per 4 pixels, where the same Gaussian has a deviation of one cell:
    a sixteenth of the work, and so smooth a map peaks hardly higher between two cells than in one.
    The part score is the highest region score: the map's maximum, less what lies outside the regions.
    """

    def __init__(self, canvas: CanvasSettings, regions: Sequence[RegionSettings]) -> None:
        super().__init__()
        self.blur = Blur(SIGMA_PX / LEVEL_STRIDE)
        self.register_buffer("outside", outside_regions(canvas, regions).float(), persistent=False)
        self.outside: Tensor

    def forward(self, outputs: NetworkOutputs) -> Scored:
        """Score one batch: part_score (N,), region_scores (N, R), anomaly_map (N, H_1, W_1)."""
        distances = cosine_distances(outputs.targets, outputs.imitations)
        total, *coarser = [level.unsqueeze(1) for level in distances]
        for level in coarser:
            total = total + functional.interpolate(level, size=total.shape[2:], mode="bilinear", align_corners=False)
        maps = self.blur(total)[:, 0]
        by_region = region_maxima(maps, self.outside)
        return by_region.amax(dim=1), by_region, maps
