"""Good part images -> bundle: learn, weigh, compile, choose limits on held-out parts, report, seal."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from calibration import instant
from calibration.cautions import warnings_of
from calibration.detection import MOST_ASKED, Asked, catching_in_words, curve, odd_in_words, odd_parts, rejected
from calibration.device import DeviceChoice, device_name, training_device
from calibration.errors import DataError, TooFewParts
from calibration.fit_memory import MADE_OF_EACH
from calibration.fit_scores import fit
from calibration.fitted import Fitted
from calibration.frame_sizes import Size, warning_of
from calibration.grey_levels import GreyLevels
from calibration.made_defects import WANTED, with_defects
from calibration.reference import reference
from calibration.report import OddSample, ReportData, SampleMaps, write_report
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
from engines.pictures import Levels
from engines.runtimes import Runtime, infer
from engines.runtimes.openvino import OpenVinoRuntime, parse_precision
from engines.settings import TrainingSettings
from engines.teachers import Teacher

Images = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)."""

LEAST_PARTS = {"memory": 5, "calibrated": 16, "paper": 16}
"""Good parts from which each score can be fitted."""
GOLDEN_PARTS = 6
REPORT_SAMPLES = 6
PARITY_PARTS = 32
NETWORK = "network.safetensors"
PACKAGES = ("numpy", "opencv-python-headless", "openvino", "torch", "timm", "nncf", "onnx")
# How far a score may move on the station's machine: rounding of another build, not another answer.
TOLERANCE = {"f32": 0.01, "bf16": 0.05, "int8": 0.05}


@dataclass(frozen=True, slots=True)
class GoodParts:
    """What is learnt from: (P, H, W, 3) uint8 RGB part images, the part of each, and (P,) arrays of their poses.

    names: of each image, for people. unfit: images of good parts, not among them, that show no part to be judged.
    sizes: images by the width and height of their frames in pixels. grey: of images of more than 8 bits. excluded:
    names of images that a person left out.
    template: by which they were located where that was learnt; seen: what learning it saw, one line each, for people.
    """

    images: Images
    part_ids: tuple[str, ...]
    poses: Mapping[str, NDArray[np.float64]]
    names: tuple[str, ...] = ()
    unfit: int = 0
    sizes: Mapping[Size, int] = field(default_factory=dict)
    grey: GreyLevels | None = None
    excluded: tuple[str, ...] = ()
    template: PartTemplate | None = None
    seen: tuple[str, ...] = ()

    def warnings(self, snapshot: SettingsSnapshot) -> tuple[str, ...]:
        """What a person must know before a bundle of these settings judges any part, one line each."""
        whole_frame = snapshot.locate.get("mode") == "off"
        several = warning_of(self.sizes, whole_frame=whole_frame)
        few = "" if self.grey is None else self.grey.warning
        return (*warnings_of(snapshot, self.images, self.unfit), *filter(None, [several, few]))

    @property
    def levels(self) -> Levels | None:
        """For the bundle: which grey levels of deep images become black and white."""
        return None if self.grey is None else self.grey.levels

    def named(self, index: int) -> str:
        """What people call the image."""
        return self.names[index] if self.names else f"number {index + 1}"

    def without(self, part_ids: Collection[str]) -> GoodParts:
        """These parts less those with such ids, which a person left out."""
        kept = np.array([part_id not in part_ids for part_id in self.part_ids])
        return replace(
            self,
            images=self.images[kept],
            part_ids=tuple(itertools.compress(self.part_ids, kept)),
            poses={name: values[kept] for name, values in self.poses.items()},
            names=tuple(itertools.compress(self.names, kept)),
            excluded=(*self.excluded, *itertools.compress(self.names or self.part_ids, ~kept)),
        )


@dataclass(frozen=True, slots=True)
class OddGoodPart:
    """A good part that a person should look at before limits depend on it. image: (H, W, 3) uint8 RGB."""

    name: str
    part_id: str
    image: Images
    sentence: str


Confirm = Callable[[Sequence[OddGoodPart]], Collection[str]]
"""Asks a person about odd good parts, the oddest first; answers with the ids of those that are none."""


Learnt = Callable[[Fitted], None]
"""Is shown what was learnt, before it is compiled."""


def nobody_looks(_fitted: Fitted) -> None:
    """A Learnt that takes no note."""


def nobody_asked(_odd: Sequence[OddGoodPart]) -> Collection[str]:
    """A Confirm that keeps all parts: none is ever dropped by itself."""
    return ()


Preset = Literal["instant", "quick", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for.

    snapshot: as the station has it; preset: how much of it is learnt now. `asked_rate`: the false-reject rate that the
    line tolerates; `confidence`: of intervals. `held_out_share` of the good parts, at least, is kept from training
    where they are enough to be split. `device`: where it trains.
    """

    station: str
    snapshot: SettingsSnapshot
    preset: Preset
    asked_rate: float
    confidence: float
    held_out_share: float
    seed: int
    device: DeviceChoice = "auto"

    @property
    def asked(self) -> Asked:
        """What limits are chosen for."""
        return Asked.of(self.asked_rate, self.confidence, self.snapshot.regions)

    @property
    def training(self) -> TrainingSettings:
        """The preset's schedule."""
        model = self.snapshot.model
        return model.full if self.preset == "full" else model.quick

    @property
    def instant(self) -> bool:
        """Whether it has to be quick above all."""
        return self.preset == "instant"


@dataclass(frozen=True, slots=True)
class _Fresh:
    """Images of the parts that were not learnt from, read from disk as they are asked for."""

    images: Images
    places: NDArray[np.int64]

    def __getitem__(self, chosen: int | slice | NDArray[np.int64]) -> Images:
        """The chosen ones of them: an image (H, W, 3), or several (n, H, W, 3)."""
        found: Images = np.array(self.images[self.places[chosen]])
        return found


@dataclass(frozen=True, slots=True)
class _Made:
    """What the steps after compilation share. `fresh`: images of the parts that `fitted.held_out` names; lacking: what
    the preset left out, for people."""

    parts: GoodParts
    request: Request
    fitted: Fitted
    compiled: CompiledEngine
    runtime: Runtime
    fresh: _Fresh
    folder: Path
    lacking: tuple[str, ...]

    @property
    def scores(self) -> NDArray[np.float64]:
        """Left-out part scores of the fresh parts."""
        return self.fitted.part_scores


def calibrate(  # noqa: PLR0917  (what is learnt from, how, and where all goes)
    parts: GoodParts,
    request: Request,
    root: Path,
    work: Path,
    progress: Progress,
    confirm: Confirm = nobody_asked,
    learnt: Learnt = nobody_looks,
) -> Bundle:
    """Learn from good parts and write a bundle under root/<station>/; blocks for minutes, resumes from `work`.

    `confirm` is asked about good parts that are far from all others; without those that it names all is learnt again.
    `learnt` is shown what then counts: the left-out scores, for instance, which the bundle does not keep.
    Raises TooFewParts, DataError for part images that are all alike, TrainingDeviceError, WeightsError,
    EngineUnavailable, ParityError, BundleError. Activation is the caller's step.
    """
    started = time.monotonic()
    lacking = instant.unknown_yet(request.snapshot) if request.instant else ()
    if request.instant:
        request = replace(request, snapshot=instant.snapshot_of(request.snapshot))
    device = training_device(request.device)
    fitted = _fit(parts, request, work, progress, device)
    while denied := confirm(_odd_good_parts(parts, request, fitted)):
        parts = parts.without(denied)
        fitted = _fit(parts, request, work, progress, device)
    learnt(fitted)
    snapshot = request.snapshot
    fused = FusedEngine(fitted.network, snapshot.model, snapshot.canvas, snapshot.regions, fitted.constants)
    with BundleWriter(root, request.station) as writer:
        fresh = _Fresh(parts.images, fitted.held_out)
        compiled = _compile(fused, parts.images, fresh, request=request, folder=writer.folder, progress=progress)
        save_fused(fused, writer.folder / NETWORK)
        if parts.template is not None:
            save_template(parts.template, writer.folder / TEMPLATE_NAME)
        runtime = OpenVinoRuntime(compiled.files["model"], parse_precision(compiled.precision), snapshot.engine.threads)
        try:
            made = _Made(parts, request, fitted, compiled, runtime, fresh, writer.folder, lacking)
            content = _content(made)
            _report(made, content, device_name(device) if fitted.losses else "", time.monotonic() - started)
        finally:
            runtime.close()
        return writer.write(content)


def _fit(parts: GoodParts, request: Request, work: Path, progress: Progress, device: torch.device) -> Fitted:
    """Learn, and score what was not learnt from."""
    snapshot = request.snapshot
    _check(parts, snapshot.model.score)
    return fit(
        parts.images,
        np.unique(parts.part_ids, return_inverse=True)[1],
        snapshot.model,
        snapshot.canvas,
        snapshot.regions,
        request.training,
        held_out=held_out_parts(
            len(set(parts.part_ids)), request.held_out_share, request.asked_rate, len(snapshot.regions)
        ),
        asked=request.asked,
        seed=request.seed,
        work=work,
        progress=progress,
        device=device,
        made=(instant.MADE_OF_EACH if request.instant else MADE_OF_EACH) * len(WANTED),
        choose=not request.instant,
    )


def _odd_good_parts(parts: GoodParts, request: Request, fitted: Fitted) -> list[OddGoodPart]:
    """Those that lie beyond the limit that the others alone would have, the oddest first."""
    found = []
    for odd in odd_parts(fitted, request.asked, MOST_ASKED):
        if odd.stands_out:
            index = int(fitted.held_out[odd.index])
            name = parts.named(index)
            found.append(OddGoodPart(name, parts.part_ids[index], parts.images[index], odd_in_words(name, odd)))
    return found


def _check(parts: GoodParts, score: str) -> None:
    count, least = len(set(parts.part_ids)), LEAST_PARTS[score]
    if count < least:
        raise TooFewParts(
            f"{count} good parts: calibration needs at least {least}, and 200 or more for tight limits; "
            "save more with `inspectd record`"
        )
    if all(np.array_equal(image, parts.images[0]) for image in parts.images):
        raise DataError("all good parts are the same image: is the camera frozen?")


def _compile(
    fused: FusedEngine, images: Images, fresh: _Fresh, *, request: Request, folder: Path, progress: Progress
) -> CompiledEngine:
    """Compile into `folder`; parity is judged on fresh parts, half of them with made defects.

    Verdicts are compared by limits that are chosen on each candidate's own scores of the good ones.
    """
    regions = request.snapshot.regions
    names = [region.name for region in regions]
    good = fresh[: instant.PARITY_PARTS if request.instant else PARITY_PARTS]
    engine = request.snapshot.engine

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
        engine=instant.engine_of(engine) if request.instant else engine,
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
    catching = catching_in_words(fitted, request.asked)
    limits = limits.model_copy(update={"notes": (*made.lacking, *limits.notes, *catching)})
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
    """Fresh parts, as they are and with made defects, with what the engine that will run says of each."""
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
    fitted, request = made.fitted, made.request
    found = rejected(fitted.defect_scores, content.thresholds)
    data = ReportData(
        content=content,
        part_scores=fitted.part_scores,
        region_scores=fitted.region_scores,
        parts=len(set(made.parts.part_ids)),
        samples=_samples(made),
        curves={name: np.stack([np.arange(len(losses)), losses], axis=1) for name, losses in fitted.losses.items()},
        warnings=(
            *made.parts.warnings(request.snapshot),
            *(odd.sentence for odd in _odd_good_parts(made.parts, request, fitted)),
            *made.compiled.left_out,
        ),
        trained_on=trained_on,
        took_s=took_s,
        odd=_odd_samples(made),
        excluded=made.parts.excluded,
        defects=fitted.defects,
        found=found,
        tried=fitted.tried,
        catching=curve(fitted, request.asked),
    )
    write_report(made.folder / "report.html", data)


def _samples(made: _Made) -> tuple[SampleMaps, ...]:
    """Held-out parts from the lowest left-out score to the highest, with the map of the engine that will run.

    Limits are chosen on left-out scores, so these are shown: the engine has learnt from the part, and scores it lower.
    """
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
                part_score=float(made.scores[index]),
            )
        )
    return tuple(samples)


def _odd_samples(made: _Made) -> tuple[OddSample, ...]:
    """The oddest good parts with their left-out maps; with the engine's own map where there is no memory."""
    fitted = made.fitted
    samples = []
    for odd in odd_parts(fitted, made.request.asked):
        image = made.fresh[odd.index]
        shown = infer(made.runtime, image).anomaly_map.copy() if fitted.maps is None else fitted.maps[odd.index]
        name = made.parts.named(int(fitted.held_out[odd.index]))
        samples.append(OddSample(name=name, part_image=image, anomaly_map=shown, odd=odd))
    return tuple(samples)


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
