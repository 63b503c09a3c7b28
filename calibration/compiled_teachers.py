"""The teachers' features by OpenVINO while good parts are learnt from: faster than by torch on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from engines.networks.teacher_network import TeacherNetwork
from engines.runtimes.openvino import import_openvino, openvino_core
from engines.settings import CanvasSettings

AT_ONCE: Final = 2
"""Images of one inference: with more, what is computed falls out of a processor's cache."""

WORTH_IT: Final = 100 * 256 * 256
"""Pixels of all images together from which compiling takes less time than it saves."""

Features = Callable[[Tensor, int], list[Tensor]]
"""`TeacherNetwork.features`, computed by whatever is fast."""


def features_of(network: TeacherNetwork, canvas: CanvasSettings, levels: int, images: int) -> Features:
    """The network's features for so many images: compiled where that pays, else by torch."""
    if images * canvas.height_px * canvas.width_px < WORTH_IT:
        return network.features
    return CompiledTeachers(network, canvas, levels)


class CompiledTeachers:
    """What `TeacherNetwork.features` computes, from the same weights, in float32: equal but for rounding.

    Frozen weights: a change of the network after this is not seen. Threads are as many as torch has.
    """

    def __init__(self, network: TeacherNetwork, canvas: CanvasSettings, levels: int) -> None:
        """Compile the first `levels` levels of all teachers for images of this canvas; blocks for seconds."""
        ov = import_openvino()
        planes = torch.zeros(AT_ONCE, 3, canvas.height_px, canvas.width_px)
        with torch.no_grad():
            program = torch.export.export(_Features(network, levels).eval(), (planes,))
        model = ov.convert_model(program)
        self._compiled = openvino_core().compile_model(
            model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        )
        self._request = self._compiled.create_infer_request()
        self._levels = levels

    def __call__(self, planes: Tensor, levels: int) -> list[Tensor]:
        """The first levels of all teachers side by side, (N, C_k, H_k, W_k), for planes (N, 3, H, W) of 0..255.

        Raises ValueError for more levels than were compiled.
        """
        if levels > self._levels:
            raise ValueError(f"{levels} levels are wanted, {self._levels} were compiled")
        found = [self._infer(planes[start : start + AT_ONCE]) for start in range(0, len(planes), AT_ONCE)]
        return [torch.cat(each) for each in zip(*(one[:levels] for one in found), strict=True)]

    def _infer(self, planes: Tensor) -> list[Tensor]:
        count = len(planes)
        if count < AT_ONCE:  # the graph has one shape
            planes = torch.cat([planes, planes[:1].expand(AT_ONCE - count, -1, -1, -1)])
        self._request.infer([np.ascontiguousarray(planes.numpy())], share_inputs=True)
        outputs = [self._request.get_output_tensor(k).data for k in range(self._levels)]
        return [torch.from_numpy(output[:count].copy()) for output in outputs]


class _Features(nn.Module):
    def __init__(self, network: TeacherNetwork, levels: int) -> None:
        super().__init__()
        self.network, self.levels = network, levels

    def forward(self, planes: Tensor) -> Sequence[Tensor]:
        return tuple(self.network.features(planes, self.levels))
