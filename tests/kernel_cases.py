"""Parts and plans on which the Patch_GMSD kernels are compared with the float64 reference. Not a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from host_kernel import Floats, HostKernels, Order, host_buffers
from numpy.typing import NDArray

from engines.kernels import Combine, PatchGmsdPlan
from engines.patch_gmsd import patch_gmsd
from engines.preprocess import LUMA
from engines.settings import CanvasSettings, PatchGmsdSettings, RegionSettings

TOLERANCE = 5e-6
"""Float32 against float64, in units of Patch_GMSD; the in-graph module is held to 1e-5."""


@dataclass(frozen=True, slots=True)
class KernelCase:
    """Some parts of one station, and what the second kernel weighs their Patch_GMSD with."""

    canvas: CanvasSettings
    regions: tuple[RegionSettings, ...]
    settings: PatchGmsdSettings
    combine: Combine
    part: NDArray[np.uint8]
    reconstruction: Floats
    feature_scores: Floats
    lambdas: Floats
    patch_factors: Floats

    def plan(self) -> PatchGmsdPlan:
        """The plan for exactly these parts."""
        return PatchGmsdPlan(
            self.canvas,
            self.regions,
            self.settings,
            lambdas=self.lambdas.tolist(),
            patch_factors=self.patch_factors.tolist(),
            combine=self.combine,
            most_parts=len(self.part),
        )

    def buffers(self) -> dict[str, NDArray[np.generic]]:
        """The kernels' arguments."""
        return host_buffers(self.plan(), self.part, self.reconstruction, self.feature_scores)

    def scores(self, kernels: HostKernels, order: Order = "forward", seed: int = 0) -> Floats:
        """What the kernels say: (N, 1 + R)."""
        return kernels.run(self.plan().launches(len(self.part)), self.buffers(), order, seed)

    def expected(self) -> NDArray[np.float64]:
        """What the float64 reference and docs/scores.md say: (N, 1 + R)."""
        grey = (self.part / 255.0) @ np.array(LUMA)
        gmsd = np.stack(
            [
                patch_gmsd(image, reconstruction.astype(np.float64), self.regions, self.settings)
                for image, reconstruction in zip(grey, self.reconstruction, strict=True)
            ]
        )
        weighted = self.patch_factors.astype(np.float64) * self.lambdas * gmsd
        regions = self.feature_scores + weighted if self.combine == "add" else self.feature_scores * weighted
        return np.concatenate([regions.max(axis=1, keepdims=True), regions], axis=1)


def kernel_case(
    canvas: CanvasSettings,
    regions: Sequence[RegionSettings],
    settings: PatchGmsdSettings | None = None,
    *,
    combine: Combine = "add",
    parts: int = 1,
    seed: int = 0,
) -> KernelCase:
    """Parts with a flat ground, edges, colours and noise, each with a reconstruction that lacks some of it."""
    rng = np.random.default_rng(seed)
    height, width = canvas.height_px, canvas.width_px
    picture = np.zeros((parts, height, width, 3))
    picture[:, height // 4 : -height // 5, width // 6 : -width // 7] = rng.uniform(0.2, 0.8, (parts, 1, 1, 3))
    picture[:, height // 4 : -height // 5, width // 6 : width // 2] += 0.15
    clean = picture @ np.array(LUMA)
    noisy = picture + rng.normal(0, 0.05, picture.shape) * (rng.random((parts, 1, 1, 1)) < 0.8)
    count = len(regions)
    return KernelCase(
        canvas=canvas,
        regions=tuple(regions),
        settings=settings or PatchGmsdSettings(),
        combine=combine,
        part=np.clip(255 * noisy, 0, 255).astype(np.uint8),
        reconstruction=np.clip(clean + rng.normal(0, 0.01, clean.shape), 0, 1).astype(np.float32),
        feature_scores=rng.uniform(0.5, 2, (parts, count)).astype(np.float32),
        lambdas=rng.uniform(0.5, 1.5, count).astype(np.float32),
        patch_factors=rng.uniform(0.5, 1.5, count).astype(np.float32),
    )
