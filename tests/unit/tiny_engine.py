"""A fused engine small enough for tests: FusedEngine's signature, untrained, from a seed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from engines.settings import CanvasSettings

CANVAS = CanvasSettings(height_px=64, width_px=96)
REGIONS = 2


class Tail(nn.Module):
    """Distances to maps and scores, with the kinds of operations that a real tail has."""

    def __init__(self) -> None:
        super().__init__()
        inside = torch.zeros(REGIONS, CANVAS.height_px // 4, CANVAS.width_px // 4)
        inside[0, :, :12], inside[1, :, 12:] = 1, 1
        self.register_buffer("inside", inside)
        self.register_buffer("places", torch.arange(0, CANVAS.height_px * CANVAS.width_px, 8).reshape(-1, 4))

    def forward(self, targets: Tensor, imitations: Tensor, grey: Tensor, reconstruction: Tensor) -> tuple[Tensor, ...]:
        """Score one part."""
        distance = (targets - imitations).square().mean(dim=1, keepdim=True)
        size = (CANVAS.height_px // 4, CANVAS.width_px // 4)
        maps = functional.interpolate(distance, size=size, mode="bilinear", align_corners=False)[:, 0]
        unlike = torch.sqrt((grey - reconstruction).flatten(1)[:, self.places].square().mean(dim=2) + 1e-6).amax(dim=1)
        regions = (maps.unsqueeze(1) * self.inside).amax(dim=(2, 3)) * unlike.unsqueeze(1)
        return regions.amax(dim=1), regions, maps


class TinyEngine(nn.Module):
    """`blocks` more convolutions make it as slow as a test needs it."""

    def __init__(self, decoder: bool = True, blocks: int = 0, width: int = 16) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.features = _stages(width)
            self.student = _stages(width)
            self.decoder = _decoder(width) if decoder else None
            self.more = nn.Sequential(*(nn.Conv2d(3, 3, 31, padding=15) for _ in range(blocks)))
        self.tail = Tail()
        self.eval()

    def forward(self, part: Tensor) -> tuple[Tensor, ...]:
        """FusedEngine's signature."""
        planes = part.permute(0, 3, 1, 2).float() / 255  # N, 3, H, W
        grey = planes.mean(dim=1)
        planes = self.more(planes)
        imitations = self.student(planes)
        reconstruction = grey * 0.5 if self.decoder is None else self.decoder(imitations).mean(dim=1)
        scored: tuple[Tensor, ...] = self.tail(self.features(planes), imitations, grey, reconstruction)
        return scored if self.decoder is None else (*scored, reconstruction)


def _stages(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU6(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
    )


def _decoder(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1),
        nn.Sigmoid(),
    )


def part_images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """(count, H, W, 3) coarse noise of very different contrast, so that scores are far apart."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, CANVAS.height_px // 8, CANVAS.width_px // 8, 3))
    contrast = np.linspace(0.1, 1.0, count)[rng.permutation(count), None, None, None]
    blocks = (coarse * contrast).astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    return np.ascontiguousarray(blocks)
