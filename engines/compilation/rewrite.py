"""Exact rewrites on the way to graph.onnx: the same numbers from operations that CPUs run faster."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from onnxscript import opset18 as op
from onnxscript.function_libs.torch_lib.ops.core import aten_index
from torch import Tensor, nn
from torch.nn import functional

NARROW: Final = 4
"""Up to so many output channels a convolution and a shuffle beat a deconvolution, whose vector lanes stay empty."""


class ShuffledConvolution(nn.Module):
    """A 4x4 deconvolution of stride 2 and padding 1, as one 3x3 convolution to all four phases and a pixel shuffle."""

    def __init__(self, deconvolution: nn.ConvTranspose2d) -> None:
        super().__init__()
        inputs, outputs = deconvolution.in_channels, deconvolution.out_channels
        weight = torch.zeros(outputs, 2, 2, inputs, 3, 3)  # output, phase down, phase across, input, rows, columns
        for down, across, row, column in _taps():
            kernel = deconvolution.weight[:, :, down + 3 - 2 * row, across + 3 - 2 * column]  # input, output
            weight[:, down, across, :, row, column] = kernel.detach().T
        self.convolution = nn.Conv2d(inputs, 4 * outputs, 3, padding=1, bias=deconvolution.bias is not None)
        self.convolution.weight = nn.Parameter(weight.flatten(0, 2), requires_grad=False)
        if deconvolution.bias is not None and self.convolution.bias is not None:
            bias = deconvolution.bias.detach().repeat_interleave(4)
            self.convolution.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, 2 H, 2 W)."""
        return functional.pixel_shuffle(self.convolution(features), 2)


def _taps() -> list[tuple[int, int, int, int]]:
    """(phase down, phase across, row, column) of the 3x3 window wherever the 4x4 kernel has a tap for it."""
    phases, window = range(2), range(3)
    return [
        (down, across, row, column)
        for down in phases
        for across in phases
        for row in window
        for column in window
        if 0 <= down + 3 - 2 * row < 4 and 0 <= across + 3 - 2 * column < 4
    ]


def faster_equivalent(module: nn.Module) -> nn.Module:
    """A copy of `module` with its narrow deconvolutions replaced; the module itself stays as it is."""
    rewritten = copy.deepcopy(module)
    for name, child in list(rewritten.named_modules()):
        if isinstance(child, nn.ConvTranspose2d) and _is_narrow(child):
            rewritten.set_submodule(name, ShuffledConvolution(child))
    return rewritten


def _is_narrow(layer: nn.ConvTranspose2d) -> bool:
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding, layer.dilation, layer.groups)
    return layer.out_channels <= NARROW and shape == ((4, 4), (2, 2), (1, 1), (0, 0), (1, 1), 1)


def index_by_gather(self: Any, indices: Sequence[Any]) -> Any:
    """Translate indexing along one axis to one Gather; the exporter's own rule transposes around a GatherND.

    self, indices: symbolic ONNX values, as `torch.onnx.export` hands them to a translation.
    """
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(given) != 1 or not str(given[0][1].dtype).startswith("INT"):
        return aten_index(self, indices)
    axis, index = given[0]
    return op.Gather(self, index, axis=axis)


TRANSLATIONS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {torch.ops.aten.index.Tensor: index_by_gather}
"""For `torch.onnx.export(custom_translation_table=...)`."""
