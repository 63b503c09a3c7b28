"""Bundles and a small runtime for tests: real files, made-up scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.threshold import choose_thresholds
from engines.artifact import (
    Bundle,
    BundleWriter,
    EngineInfo,
    GoldenImage,
    Lambda,
    ManifestContent,
    ParityRow,
    SettingsSnapshot,
    Statistic,
    TeacherInfo,
    fingerprint,
)
from engines.golden import write_golden
from engines.runtimes import Outputs, RuntimeInfo
from engines.settings import CanvasSettings, EngineSettings, ModelSettings, RegionSettings

CANVAS = CanvasSettings(height_px=64, width_px=96)
REGIONS = (
    RegionSettings(name="left", top_px=8, left_px=8, height_px=48, width_px=40, patches=((2, 2),)),
    RegionSettings(name="right", top_px=8, left_px=48, height_px=48, width_px=40, patches=((2, 2),)),
)
LOCATE = {"mode": "off", "part_height_px": 48, "part_width_px": 80, "max_angle_deg": 180.0}
GOLDEN_VALUES = (40, 90)


class MeanRuntime:
    """Implements the Runtime protocol: a region's score is its mean red value / 100, the part's the larger of them."""

    info = RuntimeInfo("test", "0", "f32", "cpu")

    def __init__(self, regions: Sequence[RegionSettings] = REGIONS, canvas: CanvasSettings = CANVAS) -> None:
        self._regions = regions
        self.input = np.zeros((canvas.height_px, canvas.width_px, 3), np.uint8)
        self.slots = (self,)
        self.bias = 0.0
        self.closed = False

    def start(self) -> None:
        """Nothing runs beside the test."""

    def wait(self, timeout_s: float) -> Outputs:
        """The scores of `input`; the map is its red channel at half size."""
        red = self.input[:, :, 0].astype(np.float32) / 100
        scores = [
            red[r.top_px : r.top_px + r.height_px, r.left_px : r.left_px + r.width_px].mean() for r in self._regions
        ]
        region_scores = np.array(scores, np.float32) + np.float32(self.bias)
        return Outputs(float(region_scores.max()), region_scores, red[::2, ::2].copy(), None)

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


def good_scores(count: int = 60, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(P,) part scores and (P, 2) region scores of good parts: 0.4 +- 0.05."""
    regions = np.random.default_rng(seed).normal(0.4, 0.05, size=(count, len(REGIONS)))
    return regions.max(axis=1), regions


def make_content(station: str = "line1", seed: int = 0, **changes: object) -> ManifestContent:
    """What calibration would state of `station`."""
    part, regions = good_scores(seed=seed)
    content = ManifestContent(
        station=station,
        product_version="0.1.0",
        packages={"numpy": np.__version__},
        settings=SettingsSnapshot(
            canvas=CANVAS, regions=REGIONS, model=ModelSettings(), locate=LOCATE, engine=EngineSettings()
        ),
        seeds={"calibration": seed},
        preset="quick",
        data=fingerprint([f"{seed:064x}", "ab" * 32]),
        teachers=(TeacherInfo(name="efficientnet_lite0", sha256="0" * 64, licence="Apache-2.0"),),
        lambdas=(
            Lambda(region="left", value=1.0, low=0.9, high=1.0),
            Lambda(region="right", value=0.5, low=0.4, high=0.6),
        ),
        thresholds=choose_thresholds(part, regions, ["left", "right"], asked_rate=0.01, confidence=0.95),
        engine=EngineInfo(
            runtime="openvino",
            precision="f32",
            files={"graph": "graph.onnx"},
            parity=(
                ParityRow(
                    precision="f32",
                    median_ms=2.5,
                    rank_correlation=1.0,
                    max_abs_error=0.0,
                    max_rel_error=0.0,
                    verdict_changes=0,
                    kept=True,
                ),
            ),
        ),
        golden=tuple(
            GoldenImage(
                file=f"golden/{value}.png", part_score=value / 100, region_scores=(value / 100,) * 2, tolerance=0.01
            )
            for value in GOLDEN_VALUES
        ),
        reference={"part_score": Statistic.of(part)},
    )
    return content.model_copy(update=changes)


def make_bundle(root: Path, station: str = "line1", seed: int = 0, **changes: object) -> Bundle:
    """A bundle on disk that MeanRuntime reproduces."""
    with BundleWriter(root, station) as writer:
        (writer.folder / "graph.onnx").write_bytes(b"graph %d" % seed)
        for value in GOLDEN_VALUES:
            image = np.full((CANVAS.height_px, CANVAS.width_px, 3), value, np.uint8)
            write_golden(writer.folder / "golden" / f"{value}.png", image)
        return writer.write(make_content(station, seed, **changes))
