"""FMM, the feature mask generation of rd_feature_mask (CJIF 2024, 3.7): the student must fill in what was masked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


class FeatureMask(nn.Module):
    """One level's 1x1 alignment f_align and, with `generate`, the generator G of the equation after Eq. 11.

    G is a 3x3 convolution, ReLU and a 3x3 convolution. While training, positions are masked in between; in use nothing
    is. The paper gives all three convolutions the teacher's channels; `middle` are those between the two of G.
    """

    def __init__(self, inputs: int, outputs: int, middle: int, *, generate: bool) -> None:
        super().__init__()
        self.align = nn.Conv2d(inputs, outputs, 1)
        self.generator: nn.Module | None = None
        if generate:
            self.generator = nn.Sequential(
                nn.Conv2d(outputs, middle, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(middle, outputs, 3, padding=1),
            )

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map F_D (N, inputs, H, W) to F_G (N, outputs, H, W); `mask`: M_A, (N, 1, H, W) of zeros and ones."""
        aligned = self.align(features)
        if self.generator is None:
            return aligned  # type: ignore[no-any-return]
        return self.generator(aligned if mask is None else aligned * mask)  # type: ignore[no-any-return]


def random_masks(levels: Sequence[Tensor], rate: float, seed: Sequence[int]) -> list[Tensor]:
    """M_A of Eq. 11 for each level (N, C, H, W): (N, 1, H, W), 0 with probability `rate`, else 1.

    A function of shapes, rate and seed only: torch's own generator is left alone.
    """
    generator = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**63)))
    drawn = [torch.rand(len(level), 1, *level.shape[2:], generator=generator) for level in levels]
    return [(numbers >= rate).to(level) for numbers, level in zip(drawn, levels, strict=True)]
