"""The tail for `score: paper`: from network outputs to anomaly map, region scores and part score. Kept in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engines.networks.dtkd import distance_map, min_max
from engines.networks.outputs import NetworkOutputs
from engines.networks.patch_gmsd import PatchGmsd
from engines.scoring import LEVEL_STRIDE, region_masks
from engines.settings import CanvasSettings, ModelSettings, RegionSettings

Scored = tuple[Tensor, Tensor, Tensor]
"""part_score (N,), region_scores (N, R), anomaly_map (N, H_1, W_1)."""


class PaperTail(nn.Module):
    """`score: paper`: Eq. 17 for the features, Eq. 12 for the reconstruction, Eq. 11 for their product.

    Region score = S_DT * lambda_r * Patch_GMSD_r, whose maximum over regions is Eq. 11; without a decoder the maximum
    of the map over the region's cells. Without features (an ablation) Eq. 12 alone: region score = lambda_r *
    Patch_GMSD_r, and each cell of the map has the highest score of its regions, for there is nothing finer.
    """

    def __init__(
        self,
        model: ModelSettings,
        canvas: CanvasSettings,
        regions: Sequence[RegionSettings],
        first: Sequence[int],
        lambdas: Sequence[float],
    ) -> None:
        super().__init__()
        self.distance = model.distance
        self.two_teachers = len(model.teachers) == 2
        self.first = tuple(first)
        self.features = model.features
        self.cells = (canvas.height_px // LEVEL_STRIDE, canvas.width_px // LEVEL_STRIDE)
        self.patch_gmsd = PatchGmsd(canvas, regions, model.patch_gmsd) if model.decoder else None
        self.register_buffer("lambdas", torch.tensor(lambdas), persistent=False)
        masks = region_masks(canvas.height_px, canvas.width_px, regions)
        self.register_buffer("inside", torch.from_numpy(masks).float().flatten(1), persistent=False)
        self.lambdas: Tensor
        self.inside: Tensor

    def forward(self, outputs: NetworkOutputs) -> Scored:
        """Score one batch of network outputs."""
        if not self.features:
            return self._by_reconstruction(outputs)
        maps = distance_map(outputs.targets, outputs.imitations, self.first, self.distance, 0)
        if self.two_teachers:
            maps = maps * distance_map(outputs.targets, outputs.imitations, self.first, self.distance, 1)
        if outputs.attention is not None:
            maps = maps * min_max(outputs.attention)
        highest = maps.amax(dim=(1, 2))  # S_DT
        if self.patch_gmsd is None or outputs.reconstruction is None:
            return highest, (maps.flatten(1).unsqueeze(1) * self.inside).amax(dim=2), maps
        regions = highest.unsqueeze(1) * self.lambdas * self.patch_gmsd(outputs.grey, outputs.reconstruction)
        return regions.amax(dim=1), regions, maps

    def _by_reconstruction(self, outputs: NetworkOutputs) -> Scored:
        """Eq. 12 alone."""
        if self.patch_gmsd is None or outputs.reconstruction is None:
            raise ValueError("a score without features needs the decoder")
        regions = self.lambdas * self.patch_gmsd(outputs.grey, outputs.reconstruction)
        maps = (regions.unsqueeze(2) * self.inside).amax(dim=1)  # N, R, cells -> N, cells
        return regions.amax(dim=1), regions, maps.reshape(-1, *self.cells)
