"""Teacher features of the good parts: what students learn to give, and the statistics they are standardised by."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from calibration.device import CPU, device_of
from engines.networks.teacher_student import TeacherStudent

CHUNK = 16
"""Images that pass through the teachers at once."""
SMALLEST_VARIANCE = 1e-6
"""Of a teacher channel over normal parts: a dead channel stays near zero instead of dividing by it."""
LEAST_DEVIATION = 0.2
"""Of a teacher channel that is standardised, in root mean squares of its teacher's deviations at that level: a channel
that almost never fires over normal parts (behind a ReLU, as ResNet's) would count thousandfold where it does, on good
parts too."""
CACHE_BYTES = 1 << 30
"""Teacher features of all images are kept up to this size, else computed again for each batch."""


class Targets:
    """Chosen images and their teacher features: looked up where all fit into CACHE_BYTES, else computed.

    They are kept as the teachers give them, and standardised as the network does at the time they are asked for.
    planes: (P, 3, H, W) of 0..255; they stay where they are, what is given lies where the network does. parts: (P,) the
    part that each image shows; None: one each.
    """

    def __init__(self, network: TeacherStudent, planes: Tensor, parts: Tensor | None = None) -> None:
        self._network, self._planes, self.device = network, planes, device_of(network)
        self.parts = torch.arange(len(planes)) if parts is None else parts
        one = sum(level.numel() * level.element_size() for level in self._features(planes[:1].to(self.device)))
        self._levels: list[Tensor] | None = None
        if one * len(planes) <= CACHE_BYTES:
            chunks = [self._features(chunk) for chunk in self.chunks()]
            self._levels = [torch.cat(level) for level in zip(*chunks, strict=True)]

    def __len__(self) -> int:
        """Images."""
        return len(self._planes)

    def images(self, chosen: Tensor) -> Tensor:
        """Planes (B, 3, H, W) of the images with these indices (B,)."""
        return self._planes[chosen].to(self.device)

    def chunks(self) -> Iterator[Tensor]:
        """The planes of all images, CHUNK at a time."""
        return (chunk.to(self.device) for chunk in torch.split(self._planes, CHUNK))

    def features(self) -> Iterator[list[Tensor]]:
        """Levels (N, C_k, H_k, W_k) of all images, CHUNK at a time, as the teachers give them."""
        if self._levels is None:
            return (self._features(chunk) for chunk in self.chunks())
        split = [torch.split(level, CHUNK) for level in self._levels]
        return (list(levels) for levels in zip(*split, strict=True))

    def __call__(self, chosen: Tensor) -> list[Tensor]:
        """Levels (B, C_k, H_k, W_k) of the images with these indices (B,), standardised."""
        with torch.no_grad():
            if self._levels is not None:
                return self._network.standardised([level[chosen] for level in self._levels])
            return self._network.targets(self.images(chosen))

    def _features(self, planes: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return self._network.features(planes, self._network.model.levels)


def teacher_scales(network: TeacherStudent, targets: Targets) -> tuple[list[Tensor], list[Tensor]]:
    """Zeros and, for all channels of one teacher, their common root mean square: lists of (C,), one per level.

    Standardised by these, levels keep their directions, and teachers side by side weigh alike. As they come,
    EfficientNet-Lite's levels are 7 to 15 times as long as those of ResNet18, which would be all but left out.
    """
    scales = []
    for mean, deviation, widths in zip(*channel_statistics(targets), network.channels, strict=True):
        squares = torch.split(mean.square() + deviation.square(), list(widths))
        scales.append(torch.cat([own.mean().sqrt().expand(len(own)) for own in squares]))
    return [torch.zeros_like(scale) for scale in scales], scales


def standards(network: TeacherStudent, targets: Targets) -> tuple[list[Tensor], list[Tensor]]:
    """What levels are standardised by: `channel_statistics`, no deviation below LEAST_DEVIATION of its teacher's."""
    means, deviations = channel_statistics(targets)
    return means, [
        torch.cat([_not_silent(own) for own in torch.split(deviation, list(widths))])
        for deviation, widths in zip(deviations, network.channels, strict=True)
    ]


def _not_silent(deviations: Tensor) -> Tensor:
    """One teacher's channels (C,) of one level."""
    return torch.maximum(deviations, LEAST_DEVIATION * deviations.square().mean().sqrt())


def channel_statistics(targets: Targets) -> tuple[list[Tensor], list[Tensor]]:
    """Mean and deviation of each teacher channel over all positions of all images: two lists of (C,), one per level."""
    sums: list[Tensor] = []
    squares: list[Tensor] = []
    positions: list[int] = []
    for levels in targets.features():
        for k, level in enumerate(levels):
            values = level.double().transpose(0, 1).flatten(1)  # N, C, H, W -> C, N * H * W
            if len(sums) == k:
                sums.append(torch.zeros(len(values), dtype=torch.float64))
                squares.append(torch.zeros(len(values), dtype=torch.float64))
                positions.append(0)
            sums[k] += values.sum(dim=1).to(CPU)
            squares[k] += values.square().sum(dim=1).to(CPU)
            positions[k] += values.shape[1]
    means = [total / count for total, count in zip(sums, positions, strict=True)]
    variances = [
        (square / count - mean.square()).clamp_min(SMALLEST_VARIANCE)
        for square, count, mean in zip(squares, positions, means, strict=True)
    ]
    return [mean.float() for mean in means], [variance.sqrt().float() for variance in variances]
