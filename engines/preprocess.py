"""Part image -> network input: the only image-to-tensor code. Runs inside the fused graph; imports no torch itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in a grey value (ITU-R BT.601)."""


@dataclass(frozen=True, slots=True)
class Normalisation:
    """How a teacher wants its input: (value - mean) / deviation per RGB channel, in grey levels of 0..255."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


IMAGENET = Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""torchvision's backbones: ImageNet mean and deviation."""

CENTRED = Normalisation((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
"""EfficientNet-Lite: (x - 127) / 128."""


def to_planes(part: Tensor) -> Tensor:
    """Turn part images (N, H, W, 3) uint8 into float32 planes (N, 3, H, W), still 0..255."""
    return part.permute(0, 3, 1, 2).float()  # N, H, W, C -> N, C, H, W


def normalise(planes: Tensor, normalisation: Normalisation) -> Tensor:
    """Normalise float planes (N, 3, H, W) of 0..255 for a teacher; same shape."""
    shape = (1, 3, 1, 1)
    mean = planes.new_tensor(normalisation.mean).reshape(shape)
    factor = planes.new_tensor([1.0 / value for value in normalisation.deviation]).reshape(shape)
    return (planes - mean) * factor


def to_grey(planes: Tensor) -> Tensor:
    """Grey values (N, H, W) in [0, 1] of float planes (N, 3, H, W) of 0..255."""
    red, green, blue = (weight / 255.0 for weight in LUMA)
    return planes[:, 0] * red + planes[:, 1] * green + planes[:, 2] * blue


def check_part_image(image: NDArray[Any], height_px: int, width_px: int) -> None:
    """Raise ValueError unless `image` is (height_px, width_px, 3) uint8."""
    if image.shape != (height_px, width_px, 3) or image.dtype != np.uint8:
        raise ValueError(
            f"part image must be ({height_px}, {width_px}, 3) uint8, got {image.shape} {image.dtype}; check the canvas"
        )
