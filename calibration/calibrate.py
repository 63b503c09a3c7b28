"""Good part images -> bundle: learn, weigh, compile, choose limits on held-out parts, report, seal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calibration.cautions import warnings_of
from calibration.device import DeviceChoice, device_name, training_device
from calibration.errors import DataError, TooFewParts
from calibration.fit_scores import Fitted, fit
from calibration.reference import reference
from calibration.report import ReportData, SampleMaps, write_report
from calibration.synthetic import with_defects
from calibration.threshold import choose_thresholds, held_out_parts
from engines.alignment import TEMPLATE_NAME, PartTemplate, save_template
from engines.artifact import (
    Bundle,
    BundleWriter,
    EngineInfo,
    GoldenImage,
    ManifestContent,
    SettingsSnapshot,
    TeacherInfo,
    fingerprint,
    image_hash,
)
from engines.compile import CompiledEngine, compile_engine
from engines.golden import write_golden
from engines.networks.fused import FusedEngine, save_fused
from engines.runtimes import Runtime, infer
from engines.runtimes.openvino import OpenVinoRuntime, parse_precision
from engines.settings import TrainingSettings
from engines.teachers import Teacher

Images = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)."""

LEAST_PARTS = 16
GOLDEN_PARTS = 6
REPORT_SAMPLES = 6
PARITY_PARTS = 64
NETWORK = "network.safetensors"
PACKAGES = ("numpy", "opencv-python-headless", "openvino", "torch", "timm", "nncf", "onnx")
# How far a score may move on the station's machine: rounding of another build, not another answer.
TOLERANCE = {"f32": 0.01, "bf16": 0.05, "int8": 0.05}


@dataclass(frozen=True, slots=True)
class GoodParts:
    """What is learnt from: (P, H, W, 3) uint8 RGB part images, the part of each, and (P,) arrays of their poses.

    unfit: images of good parts, not among them, that show no part to be judged. template: by which they were located
    where that was learnt; seen: what learning it saw, one line each, for people.
    """

    images: Images
    part_ids: tuple[str, ...]
    poses: Mapping[str, NDArray[np.float64]]
    unfit: int = 0
    template: PartTemplate | None = None
    seen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for. `asked_rate`: the false-reject rate that the line tolerates; `confidence`: of intervals.

    `held_out_share` of the good parts, at least, is kept from training where they are enough to be split.
    `device`: where it trains.
    """

    station: str
    snapshot: SettingsSnapshot
    preset: Literal["quick", "full"]
    asked_rate: float
    confidence: float
    held_out_share: float
    seed: int
    device: DeviceChoice = "auto"

    @property
    def training(self) -> TrainingSettings:
        """The preset's schedule."""
        model = self.snapshot.model
        return model.quick if self.preset == "quick" else model.full


@dataclass(frozen=True, slots=True)
class _Made:
    """What the steps after compilation share. `fresh`: images of the parts that `fitted.fresh` names."""

    parts: GoodParts
    request: Request
    fitted: Fitted
    compiled: CompiledEngine
    runtime: Runtime
    fresh: Images
    folder: Path

    @property
    def scores(self) -> NDArray[np.float64]:
        """Left-out part scores of the fresh parts."""
        return self.fitted.part_scores[self.fitted.fresh]


def calibrate(parts: GoodParts, request: Request, root: Path, work: Path, progress: Progress) -> Bundle:
    """Learn from good parts and write a bundle under root/<station>/; blocks for minutes, resumes from `work`.

    Raises TooFewParts, DataError for part images that are all alike, TrainingDeviceError, WeightsError,
    EngineUnavailable, ParityError, BundleError. Activation is the caller's step.
    """
    started = time.monotonic()
    _check(parts)
    device = training_device(request.device)
    snapshot = request.snapshot
    fitted = fit(
        parts.images,
        np.unique(parts.part_ids, return_inverse=True)[1],
        snapshot.model,
        snapshot.canvas,
        snapshot.regions,
        request.training,
        held_out=held_out_parts(
            len(set(parts.part_ids)), request.held_out_share, request.asked_rate, len(snapshot.regions)
        ),
        confidence=request.confidence,
        seed=request.seed,
        work=work,
        progress=progress,
        device=device,
    )
    fused = FusedEngine(fitted.network, snapshot.model, snapshot.canvas, snapshot.regions, fitted.constants)
    with BundleWriter(root, request.station) as writer:
        fresh = parts.images[fitted.held_out[fitted.fresh]]
        compiled = _compile(fused, parts.images, fresh, request=request, folder=writer.folder, progress=progress)
        save_fused(fused, writer.folder / NETWORK)
        if parts.template is not None:
            save_template(parts.template, writer.folder / TEMPLATE_NAME)
        runtime = OpenVinoRuntime(compiled.files["model"], parse_precision(compiled.precision), snapshot.engine.threads)
        try:
            made = _Made(parts, request, fitted, compiled, runtime, fresh, writer.folder)
            content = _content(made)
            _report(made, content, device_name(device), time.monotonic() - started)
        finally:
            runtime.close()
        return writer.write(content)


def _check(parts: GoodParts) -> None:
    count = len(set(parts.part_ids))
    if count < LEAST_PARTS:
        raise TooFewParts(
            f"{count} good parts: calibration needs at least {LEAST_PARTS}, and 200 or more for tight limits; "
            "save more with `inspectd record`"
        )
    if np.all(parts.images == parts.images[0]):
        raise DataError("all good parts are the same image: is the camera frozen?")


def _compile(
    fused: FusedEngine, images: Images, fresh: Images, *, request: Request, folder: Path, progress: Progress
) -> CompiledEngine:
    """Compile into `folder`; parity is judged on fresh parts, half of them with drawn-on defects.

    Verdicts are compared by limits that are chosen on each candidate's own scores of the good ones.
    """
    regions = request.snapshot.regions
    names = [region.name for region in regions]
    good = fresh[:PARITY_PARTS]

    def verdicts(part: NDArray[np.float64], by_region: NDArray[np.float64]) -> NDArray[np.bool_]:
        limits = choose_thresholds(
            part[: len(good)],
            by_region[: len(good)],
            names,
            asked_rate=request.asked_rate,
            confidence=request.confidence,
        )
        limit = np.array([limits.regions[name].value for name in names])
        rejected: NDArray[np.bool_] = (part > limits.part.value) | (by_region > limit).any(axis=1)
        return rejected

    return compile_engine(
        fused,
        canvas=request.snapshot.canvas,
        regions=len(names),
        out=folder,
        engine=request.snapshot.engine,
        calibration_images=images,
        parity_images=np.concatenate([good, with_defects(good, regions, request.seed)]),
        verdicts=verdicts,
        progress=progress,
    )


def _content(made: _Made) -> ManifestContent:
    request, fitted = made.request, made.fitted
    limits = choose_thresholds(
        fitted.part_scores,
        fitted.region_scores,
        [region.name for region in request.snapshot.regions],
        asked_rate=request.asked_rate,
        confidence=request.confidence,
    )
    return ManifestContent(
        station=request.station,
        product_version=version("inspectd"),
        packages=_packages(),
        settings=request.snapshot,
        seeds={"calibration": request.seed},
        preset=request.preset,
        data=fingerprint(image_hash(image) for image in made.parts.images),
        teachers=_teachers(fitted),
        lambdas=fitted.lambdas,
        thresholds=limits,
        engine=EngineInfo(
            runtime=made.compiled.runtime,
            precision=made.compiled.precision,
            files={role: path.name for role, path in made.compiled.files.items()} | {"network": NETWORK},
            parity=made.compiled.parity,
        ),
        golden=_write_golden(made),
        reference=reference(
            made.parts.images,
            made.parts.poses,
            fitted=fitted,
            limits=limits,
        ),
    )


def _spread(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Indices of `count` parts from the lowest score to the highest."""
    order = np.argsort(scores, kind="stable")
    return order[np.unique(np.linspace(0, len(order) - 1, count).round().astype(np.int64))]


def _write_golden(made: _Made) -> tuple[GoldenImage, ...]:
    """Fresh parts, as they are and with drawn-on defects, with what the engine that will run says of each."""
    good = made.fresh[_spread(made.scores, GOLDEN_PARTS)]
    images = np.concatenate([good, with_defects(good, made.request.snapshot.regions, made.request.seed + 1)])
    golden = []
    for number, image in enumerate(images):
        name = f"golden/{number:02d}-{'good' if number < len(good) else 'defective'}.png"
        write_golden(made.folder / name, image)
        outputs = infer(made.runtime, image)
        golden.append(
            GoldenImage(
                file=name,
                part_score=outputs.part_score,
                region_scores=tuple(float(score) for score in outputs.region_scores),
                tolerance=TOLERANCE[made.compiled.precision],
            )
        )
    return tuple(golden)


def _report(made: _Made, content: ManifestContent, trained_on: str, took_s: float) -> None:
    scores = made.fitted.part_scores
    samples = []
    for index in _spread(made.scores, REPORT_SAMPLES):
        outputs = infer(made.runtime, made.fresh[index])
        samples.append(
            SampleMaps(
                name=f"good part, rank {int((scores < made.scores[index]).sum()) + 1} of {len(scores)}",
                part_image=made.fresh[index],
                reconstruction=None if outputs.reconstruction is None else outputs.reconstruction.copy(),
                anomaly_map=outputs.anomaly_map.copy(),
                part_score=outputs.part_score,
            )
        )
    data = ReportData(
        content=content,
        part_scores=scores,
        region_scores=made.fitted.region_scores,
        samples=tuple(samples),
        curves={
            name: np.stack([np.arange(len(losses)), losses], axis=1) for name, losses in made.fitted.losses.items()
        },
        warnings=(*warnings_of(made.request.snapshot, made.parts.images, made.parts.unfit), *made.compiled.left_out),
        trained_on=trained_on,
        took_s=took_s,
    )
    write_report(made.folder / "report.html", data)


def _teachers(fitted: Fitted) -> tuple[TeacherInfo, ...]:
    known = [teacher.weights for teacher in fitted.network.teachers if isinstance(teacher, Teacher)]
    return tuple(
        TeacherInfo(name=weights.name, sha256=weights.sha256, licence=weights.licence) for weights in known if weights
    )


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # another build of it, such as opencv-python
            found[name] = "not installed under this name"
    return found
