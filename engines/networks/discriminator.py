"""Small networks that tell drawn-on defects from good surface: one more map for `score: calibrated`.

After the discriminative network of DRAEM (Zavrtanik et al., ICCV 2021), without its reconstruction: what a part should
look like enters as statistics of good parts. They see small, faint things that networks trained on objects overlook.
Several narrow networks in place of one: what each takes for a defect by chance is averaged out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.blur import Blur
from engines.preprocess import to_grey
from engines.scoring import LEVEL_STRIDE
from engines.settings import CanvasSettings, ModelSettings, RegionSettings

LARGEST_SIDE_PX = 128
"""A larger canvas is averaged down to about this size first."""
STRIDE = 8
"""View pixels per position of the coarsest layer: a view's sides are multiples of it."""
LOGIT_STRIDE = 2
SURROUND_PX = 4.0
"""Deviation of the Gaussian that is taken off the grey levels, in view pixels."""
CLIP = 8.0
"""Limit of each input channel, in deviations."""
MEMBERS = 2
"""Networks that learn side by side from other first weights; the mean of their logits counts."""
WIDTH, DEEP_WIDTH = 16, 24
CHANNELS = 5
NOTHING = -12.0
"""The logit of cells outside the view."""


@dataclass(frozen=True, slots=True)
class View:
    """What the discriminator sees of the canvas: rows and columns, averaged over shrink x shrink pixels."""

    top: int
    left: int
    height: int
    width: int
    shrink: int

    @classmethod
    def of(cls, canvas: CanvasSettings, regions: Sequence[RegionSettings]) -> Self:
        """The regions' common box, grown to whole steps of STRIDE view pixels."""
        shrink = 1
        while max(canvas.height_px, canvas.width_px) > LARGEST_SIDE_PX * shrink and shrink * STRIDE < 32:
            shrink *= 2
        step = STRIDE * shrink
        top, left = (min(r.top_px for r in regions) // step * step, min(r.left_px for r in regions) // step * step)
        bottom = -(-max(r.top_px + r.height_px for r in regions) // step) * step
        right = -(-max(r.left_px + r.width_px for r in regions) // step) * step
        return cls(top, left, min(bottom, canvas.height_px) - top, min(right, canvas.width_px) - left, shrink)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns after averaging."""
        return self.height // self.shrink, self.width // self.shrink

    def cut(self, planes: Tensor) -> Tensor:
        """Planes (N, 3, H, W) to (N, 3, *shape)."""
        seen = planes[:, :, self.top : self.top + self.height, self.left : self.left + self.width]
        return seen if self.shrink == 1 else functional.avg_pool2d(seen, self.shrink)

    def to_cells(self, logits: Tensor, canvas: tuple[int, int]) -> Tensor:
        """The highest logit (N, 1, h / 2, w / 2) of each cell of the anomaly map, (N, 1, H / 4, W / 4)."""
        pixels = LOGIT_STRIDE * self.shrink
        if pixels < LEVEL_STRIDE:
            logits = functional.max_pool2d(logits, LEVEL_STRIDE // pixels)
        elif pixels > LEVEL_STRIDE:
            size = (self.height // LEVEL_STRIDE, self.width // LEVEL_STRIDE)
            logits = functional.interpolate(logits, size=size, mode="nearest")
        rows, columns = (side // LEVEL_STRIDE for side in canvas)
        top, left = self.top // LEVEL_STRIDE, self.left // LEVEL_STRIDE
        height, width = logits.shape[2:]
        return functional.pad(logits, (left, columns - left - width, top, rows - top - height), value=NOTHING)


class Member(nn.Module):
    """One small network: what `Discriminator.compared` gives to logits (N, 1, h / 2, w / 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(_layer(CHANNELS * LOGIT_STRIDE**2, WIDTH), _layer(WIDTH, WIDTH))
        self.coarse = nn.Sequential(_layer(WIDTH, DEEP_WIDTH, 2), _layer(DEEP_WIDTH, DEEP_WIDTH))
        self.coarsest = nn.Sequential(_layer(DEEP_WIDTH, DEEP_WIDTH, 2), _layer(DEEP_WIDTH, DEEP_WIDTH))
        self.up_coarse = nn.Conv2d(DEEP_WIDTH, DEEP_WIDTH, 1)
        self.up_fine = nn.Conv2d(DEEP_WIDTH, WIDTH, 1)
        self.joined = _layer(WIDTH, WIDTH)
        self.head = nn.Conv2d(WIDTH, 1, 1)

    def forward(self, compared: Tensor) -> Tensor:
        """Logits of "defect here"."""
        fine = self.fine(compared)
        coarse = self.coarse(fine)
        coarse = coarse + _twice(self.up_coarse(self.coarsest(coarse)))
        return self.head(self.joined(fine + _twice(self.up_fine(coarse))))  # type: ignore[no-any-return]


class Discriminator(nn.Module):
    """Planes of 0..255 -> logit of "defect here" per cell of the anomaly map, the mean of its members'.

    Its buffers say what good parts look like, over the view: `mean` and `gain` = 1 / deviation of the colours,
    (3, h, w); `detail_gain` = 1 / deviation of the detail and `noise_gain`, the same of the good surface nearby,
    (1, h, w).
    """

    def __init__(self, canvas: CanvasSettings, regions: Sequence[RegionSettings]) -> None:
        super().__init__()
        self.view = View.of(canvas, regions)
        self.canvas = (canvas.height_px, canvas.width_px)
        self.surround = Blur(SURROUND_PX)
        for name, channels in (("mean", 3), ("gain", 3), ("detail_gain", 1), ("noise_gain", 1)):
            self.register_buffer(name, torch.zeros(channels, *self.view.shape))
        self.mean: Tensor
        self.gain: Tensor
        self.detail_gain: Tensor
        self.noise_gain: Tensor
        self.members = nn.ModuleList(Member() for _ in range(MEMBERS))

    def detail(self, seen: Tensor) -> Tensor:
        """Grey minus its surround of what the view shows, less the mean: (N, 3, h, w) to (N, 1, h, w), grey levels."""
        grey = 255.0 * to_grey(seen - self.mean).unsqueeze(1)
        return grey - self.surround(grey)  # type: ignore[no-any-return]

    def compared(self, seen: Tensor) -> Tensor:
        """What the view shows, (N, 3, h, w), as members see it: deviations from good parts, squares of pixels stacked.

        (N, CHANNELS * LOGIT_STRIDE^2, h / LOGIT_STRIDE, w / LOGIT_STRIDE)
        """
        detail = self.detail(seen)
        channels = (detail * self.detail_gain, detail * self.noise_gain, (seen - self.mean) * self.gain)
        return functional.pixel_unshuffle(torch.cat(channels, dim=1).clamp(-CLIP, CLIP), LOGIT_STRIDE)

    def forward(self, planes: Tensor) -> Tensor:
        """Map planes (N, 3, H, W) to (N, 1, H / 4, W / 4)."""
        compared = self.compared(self.view.cut(planes))
        logits = self.members[0](compared)
        for member in self.members[1:]:
            logits = logits + member(compared)
        return self.view.to_cells(logits / MEMBERS, self.canvas)


def new_discriminator(
    model: ModelSettings, canvas: CanvasSettings, regions: Sequence[RegionSettings]
) -> Discriminator | None:
    """An untrained discriminator, or None where the settings want none."""
    return Discriminator(canvas, regions) if model.discriminator and model.score == "calibrated" else None


def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _twice(maps: Tensor) -> Tensor:
    height, width = maps.shape[2:]
    return functional.interpolate(maps, size=(2 * height, 2 * width), mode="bilinear", align_corners=False)
