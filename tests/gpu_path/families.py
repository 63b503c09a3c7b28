"""Each network family, narrow and with random weights, as the graph.onnx that calibration would write for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from calibration.constants import fit_constants
from calibration.fit_memory import units_of
from calibration.remember import fill_memory
from engines.compilation.gpu.graphs import TypedGraph, typed_graph
from engines.compilation.graph import export_graph
from engines.networks import memory
from engines.networks.families import new_network
from engines.networks.fused import FusedEngine
from engines.networks.outputs import NetworkOutputs
from engines.plans import PlanPrecision
from engines.scoring import READINGS, CalibratedConstants, MemoryConstants, ScoringConstants
from engines.settings import CanvasSettings, ModelSettings, RegionSettings
from engines.teachers import Teacher, WeightsInfo, untrained_stages

CANVAS: Final = CanvasSettings(height_px=64, width_px=96)
REGIONS: Final = (
    RegionSettings(name="left", top_px=8, left_px=8, height_px=48, width_px=40, patches=((4, 2), (2, 1))),
    RegionSettings(name="right", top_px=8, left_px=48, height_px=45, width_px=40, patches=((2, 2),)),
)
LAMBDAS: Final = (0.9, 0.4)
GOOD_PARTS: Final = 24
FAMILIES: Final[dict[str, dict[str, Any]]] = {
    "dtkd": {"score": "calibrated", "memory_patches": 300},
    "dtkd, paper": {"score": "paper"},
    "dtkd without decoder": {"score": "paper", "decoder": False},
    "dtkd on resnet18": {"score": "paper", "distance": "cosine", "teachers": ("resnet18",)},
    "stpm": {"family": "stpm", "score": "calibrated", "memory_patches": 300},
    "memory": {"score": "memory", "memory_patches": 300},
    "memory of dinov2": {"score": "memory", "memory_patches": 300, "teachers": ("dinov2_small",)},
    "stpm, paper": {"family": "stpm", "score": "paper", "teachers": ("vgg16",)},
    "rd_two_teachers": {"family": "rd_two_teachers", "score": "paper", "rd_two_teachers": {"width": 16}},
    "rd_feature_mask": {"family": "rd_feature_mask", "score": "calibrated", "rd_feature_mask": {"width": 16}},
}


def part_images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """(count, H, W, 3) uint8: one blocky pattern, its light and its grain different from part to part."""
    rng = np.random.default_rng(seed)
    pattern = np.random.default_rng(99).integers(40, 200, (CANVAS.height_px // 8, CANVAS.width_px // 8, 3))
    large = pattern.repeat(8, axis=0).repeat(8, axis=1)
    light = rng.uniform(0.8, 1.2, (count, 1, 1, 1))
    grain = rng.normal(0, 6, (count, CANVAS.height_px, CANVAS.width_px, 3))
    return np.clip(large * light + grain, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Family:
    """One family's network, random but in working order, and its graph below `folder`; changes: other settings."""

    name: str
    folder: Path
    changes: dict[str, Any] = field(default_factory=dict)
    _typed: dict[tuple[PlanPrecision, int], TypedGraph] = field(default_factory=dict)

    @staticmethod
    def searched_in_two_steps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
        """One whose few patches are searched as the thousands of a station are; not to be shared between tests."""
        monkeypatch.setattr(memory, "COARSE", 8)
        return Family("stpm", folder)

    @property
    def model(self) -> ModelSettings:
        """Its settings."""
        return ModelSettings.model_validate({**FAMILIES[self.name], **self.changes})

    @cached_property
    def engine(self) -> FusedEngine:
        """The fused network: statistics of batch norms and score from made-up good parts."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            teachers = [
                Teacher(name, untrained_stages(name, self.model.teacher_levels, CANVAS), WeightsInfo("none", "", ""))
                for name in self.model.teachers
            ]
            network = new_network(self.model, CANVAS, REGIONS, teachers)
        images = part_images(GOOD_PARTS)
        parts, owners = torch.from_numpy(images), np.arange(len(images))
        _settle(network, parts)
        constants = self._constants(network, parts) if self.model.score == "calibrated" else None
        memory = student = None
        if self.model.memory_patches:
            recalled = fill_memory(
                network, images, owners, canvas=CANVAS, regions=REGIONS, seed=0, progress=lambda *_: None
            )
            names = READINGS[:1] if constants else READINGS
            units = units_of(recalled.read[:, : len(names)])
            memory = MemoryConstants(names, units, None if constants else recalled.surface)
            student = units_of(np.random.default_rng(2).normal(0, 1, (GOOD_PARTS, 1, len(REGIONS))))
        lambdas = LAMBDAS if self.model.decoder else (1.0, 1.0)
        scoring = ScoringConstants(lambdas, constants, memory, student if constants else None)
        return FusedEngine(network, self.model, CANVAS, REGIONS, scoring)

    @cached_property
    def graph(self) -> Path:
        """graph.onnx, by the exporter that calibration uses."""
        path = self.folder / f"{self.name.replace(', ', '-').replace(' ', '-')}.onnx"
        export_graph(self.engine, CANVAS, len(REGIONS), path)
        return path

    def typed(self, precision: PlanPrecision, batch: int = 1) -> TypedGraph:
        """Its graph for a GPU; made once."""
        if (precision, batch) not in self._typed:
            made = typed_graph(self.graph, precision, part_images(GOOD_PARTS), batch=batch)
            self._typed[precision, batch] = made
        return self._typed[precision, batch]

    def ports(self, batch: int = 1) -> dict[str, tuple[str, tuple[int, ...]]]:
        """What its plan takes and gives: TensorRT's name of the type, and the shape."""
        height, width = CANVAS.height_px, CANVAS.width_px
        ports = {"part": ("UINT8", (batch, height, width, 3))}
        ports["anomaly_map"] = ("FLOAT", (batch, height // 4, width // 4))
        if self.model.decoder:
            scores = {"feature_scores": (batch, len(REGIONS)), "reconstruction": (batch, height, width)}
        else:
            scores = {"part_score": (batch,), "region_scores": (batch, len(REGIONS))}
        return ports | {name: ("FLOAT", shape) for name, shape in scores.items()}

    def answers(self, part: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """What the torch network says of one part (H, W, 3)."""
        names = ("part_score", "region_scores", "anomaly_map", "reconstruction")
        with torch.inference_mode():
            outputs = self.engine(torch.from_numpy(part[None]))
        return {name: value.numpy() for name, value in zip(names, outputs, strict=False)}

    def _constants(self, network: nn.Module, parts: torch.Tensor) -> CalibratedConstants:
        with torch.inference_mode():
            outputs: list[NetworkOutputs] = [network(part[None]) for part in parts]
        patch = np.random.default_rng(1).uniform(0.05, 0.1, (len(parts), len(REGIONS)))
        return fit_constants(outputs, patch, CANVAS, REGIONS, self.model)


def _settle(network: nn.Module, parts: torch.Tensor) -> None:
    """Give batch norms the statistics of these parts: without, random networks fade out or grow without bound."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
    network.train()
    with torch.no_grad():
        network(parts)
    network.eval()
