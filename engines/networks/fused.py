"""The fused engine: one module from uint8 part image to maps and scores. What is compiled, and the torch reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from engines.errors import BundleError
from engines.networks.calibrated import CalibratedTail
from engines.networks.families import new_network, paper_tail
from engines.networks.memory_tail import MemoryTail
from engines.networks.teacher_network import TeacherNetwork
from engines.scoring import MEAN, ScoringConstants
from engines.settings import CanvasSettings, ModelSettings, RegionSettings
from engines.teachers import bare_teacher, memory_grid
from engines.writing import writing

FORMAT = "inspectd-fused/4"
CONSTANTS = "constants."
NETWORK = "network."


class FusedEngine(nn.Module):
    """Preprocessing, teachers, student, ATAA, decoder and score in one graph, in evaluation mode."""

    def __init__(
        self,
        network: TeacherNetwork,
        model: ModelSettings,
        canvas: CanvasSettings,
        regions: Sequence[RegionSettings],
        constants: ScoringConstants,
    ) -> None:
        super().__init__()
        self.model, self.canvas, self.regions, self.constants = model, canvas, tuple(regions), constants
        self.network = network
        if network.memory is not None and constants.memory is not None:
            network.memory.far_only = MEAN not in constants.memory.readings  # a mean needs every cell's own distance
        self.tail = self._tail()
        self.requires_grad_(False)
        self.eval()

    def _tail(self) -> nn.Module:
        constants = self.constants
        if self.model.score == "paper":
            return paper_tail(self.network, self.canvas, self.regions, constants.lambdas)
        if self.model.score == "calibrated":
            return CalibratedTail(self.model, self.canvas, self.regions, constants)
        if constants.memory is None:
            raise ValueError("score: memory needs units fitted to good parts (calibration.fit_memory)")
        grid = memory_grid(self.model.teachers[0], self.canvas)
        return MemoryTail(self.canvas, self.regions, constants.memory, grid)

    def forward(self, part: Tensor) -> tuple[Tensor, ...]:
        """Map (N, H, W, 3) uint8 RGB to part_score (N,), region_scores (N, R), anomaly_map (N, H / 4, W / 4).

        With a decoder also to reconstruction (N, H, W), grey in [0, 1].
        """
        outputs = self.network(part)
        scored = self.tail(outputs)
        return scored if outputs.reconstruction is None else (*scored, outputs.reconstruction)


def save_fused(engine: FusedEngine, path: Path) -> None:
    """Write a fused engine as safetensors: all weights, teachers included, and the settings that rebuild it."""
    description = {
        "model": engine.model.model_dump(mode="json"),
        "canvas": engine.canvas.model_dump(mode="json"),
        "regions": [region.model_dump(mode="json") for region in engine.regions],
        "lambdas": list(engine.constants.lambdas),
        "readings": [] if engine.constants.memory is None else list(engine.constants.memory.readings),
    }
    state = {name: tensor.contiguous() for name, tensor in engine.network.state_dict(prefix=NETWORK).items()}
    arrays = engine.constants.arrays()
    state |= {f"{CONSTANTS}{name}": torch.from_numpy(array.copy()) for name, array in arrays.items()}
    with writing(path):
        save_file(state, path, metadata={"format": FORMAT, "engine": json.dumps(description, sort_keys=True)})


def load_fused(path: Path) -> FusedEngine:
    """Read what `save_fused` wrote; needs no teacher weights beside it. Raises BundleError in one line."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except Exception as error:  # safetensors raises its own untyped errors
        raise BundleError(f"{path}: cannot be read as a trained network: {error}") from error
    if metadata.get("format") != FORMAT:
        raise BundleError(f"{path}: format {metadata.get('format')!r}, this version reads {FORMAT}; calibrate again")
    described: dict[str, Any] = json.loads(metadata["engine"])
    model = ModelSettings.model_validate(described["model"])
    canvas = CanvasSettings.model_validate(described["canvas"])
    regions = [RegionSettings.model_validate(region) for region in described["regions"]]
    teachers = [bare_teacher(name, model.teacher_levels, canvas) for name in model.teachers]
    network = new_network(model, canvas, regions, teachers)
    try:
        network.load_state_dict(_under(state, NETWORK), assign=True)
        arrays = {name: tensor.numpy() for name, tensor in _under(state, CONSTANTS).items()}
        constants = ScoringConstants.from_arrays(tuple(described["lambdas"]), tuple(described["readings"]), arrays)
        return FusedEngine(network, model, canvas, regions, constants)
    except (RuntimeError, KeyError, ValueError) as error:
        raise BundleError(
            f"{path}: does not hold the network that it describes: {str(error).splitlines()[0]}; calibrate again"
        ) from error


def _under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
