"""The layers of our networks in plain NumPy float64, by their textbook sums: what module tests compare with.

Not a test. Feature maps are (N, C, H, W).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Doubles = NDArray[np.float64]


def settle(module: nn.Module, seed: int = 0) -> None:
    """Put a module into float64 and evaluation mode, with random weights and running statistics."""
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    with torch.no_grad():
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            if not value.is_floating_point():
                continue
            drawn = torch.rand(value.shape, generator=generator, dtype=torch.float64)
            fan = max(1, value[0].numel()) if value.dim() > 1 else 1
            value.copy_(drawn + 0.5 if name.endswith("running_var") else (2 * drawn - 1) / fan**0.5)


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random feature maps, float64."""
    return torch.from_numpy(np.random.default_rng([seed, *shape]).normal(size=shape))


def array(tensor: torch.Tensor) -> Doubles:
    """A tensor as NumPy float64."""
    values: Doubles = tensor.detach().double().numpy()
    return values


def conv(layer: nn.Conv2d, x: Doubles) -> Doubles:
    """Cross-correlation with zeros around, as nn.Conv2d computes it (no groups, no dilation)."""
    weight, stride, pad = array(layer.weight), int(layer.stride[0]), int(layer.padding[0])
    size = weight.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    rows, columns = ((side - size) // stride + 1 for side in padded.shape[2:])
    out = np.zeros((x.shape[0], weight.shape[0], rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = padded[:, :, i * stride : i * stride + size, j * stride : j * stride + size]
            out[:, :, i, j] = np.einsum("nchw,ochw->no", window, weight)
    return out if layer.bias is None else out + array(layer.bias)[:, None, None]


def deconv(layer: nn.ConvTranspose2d, x: Doubles) -> Doubles:
    """Each value spread by the kernel, `stride` apart, and the border of `padding` cut off (nn.ConvTranspose2d)."""
    weight, stride, pad = array(layer.weight), int(layer.stride[0]), int(layer.padding[0])
    size = weight.shape[2]
    height, width = ((side - 1) * stride + size for side in x.shape[2:])
    out = np.zeros((x.shape[0], weight.shape[1], height, width))
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            spread = np.einsum("nc,cohw->nohw", x[:, :, i, j], weight)
            out[:, :, i * stride : i * stride + size, j * stride : j * stride + size] += spread
    out = out[:, :, pad : height - pad, pad : width - pad]
    return out if layer.bias is None else out + array(layer.bias)[:, None, None]


def batch_norm(layer: nn.BatchNorm2d, x: Doubles) -> Doubles:
    """By the running statistics."""
    if layer.running_mean is None or layer.running_var is None:
        raise ValueError("a batch norm without running statistics")
    mean, variance = array(layer.running_mean), array(layer.running_var)
    gain = array(layer.weight) / np.sqrt(variance + layer.eps)
    return x * gain[:, None, None] + (array(layer.bias) - mean * gain)[:, None, None]


def relu(x: Doubles) -> Doubles:
    """Nothing below zero."""
    return np.maximum(x, 0.0)


def sigmoid(x: Doubles) -> Doubles:
    """The logistic function."""
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def halved(x: Doubles) -> Doubles:
    """The average of each 2x2 block."""
    n, c, h, w = x.shape
    return np.asarray(x.reshape(n, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5)))  # N, C, H / 2, 2, W / 2, 2


def sequence(layers: nn.Sequential, x: Doubles) -> Doubles:
    """Sequences, convolutions, batch norms, ReLUs and averages of 2x2, in turn."""
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            x = sequence(layer, x)
        elif isinstance(layer, nn.ConvTranspose2d):
            x = deconv(layer, x)
        elif isinstance(layer, nn.Conv2d):
            x = conv(layer, x)
        elif isinstance(layer, nn.BatchNorm2d):
            x = batch_norm(layer, x)
        elif isinstance(layer, nn.ReLU):
            x = relu(x)
        elif isinstance(layer, nn.AvgPool2d):
            x = halved(x)
        elif not isinstance(layer, nn.Identity):
            raise TypeError(f"no plain version of {type(layer).__name__}")
    return x
