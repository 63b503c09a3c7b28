"""A labelled set through a bundle's engine -> the figures, by defect type, severity and size.

The same engine, thresholds and locating as in the daemon; the caller brings them: nothing here knows of stations.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration import metrics
from calibration.dataset import GOOD, Sample
from calibration.errors import DataError
from calibration.frame_sizes import Size
from calibration.images import load_frame, load_mask
from calibration.map_store import MapStore
from calibration.part_table import JudgedPart, Limits
from calibration.pixel_metrics import PixelFigures, pixel_figures
from engines.artifact import DataFingerprint, ThresholdSet, image_hash
from engines.runtimes import Outputs, Runtime, infer
from engines.settings import RegionSettings

Image = NDArray[np.uint8]
Frame = NDArray[np.uint8] | NDArray[np.uint16]
Bools = NDArray[np.bool_]
SIZE_EDGES_PX = (0, 3, 6, 9, 12)
MUCH_SMALLER = 1.25
"""From this on masks are widened before they are shrunk: fine lines would fall to pieces, and points be lost."""
NOT_A_NUMBER = "not_a_number"
WIDE_SHARE = 0.5
"""Of the canvas: masks beyond it are more often inverted than right."""


class Uninspectable(Exception):
    """`prepare` says why a frame gives no part image; the part counts as INVALID, which the line rejects."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Prepared:
    """The part image of a frame, (H, W, 3) uint8 RGB, and the (2, 3) matrix frame (x, y, 1) -> canvas (x, y)."""

    part_image: Image
    matrix: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is said of a set of parts. None where the set cannot say it (one kind of part only, no masks).

    A part of several images is judged as the line would judge it: its score is that of its worst image, and it is
    rejected where one of them is. Pixel figures count images; their intervals draw whole parts.
    Areas and the rates at 95 % TPR and 10 % FPR: over inspected parts. false_reject_rate and escape_rate: at the
    bundle's limits, over all parts; INVALID counts as rejected. Intervals: 95 %.
    """

    good: int
    defective: int
    invalid_good: int
    invalid_defective: int
    image_auroc: float | None
    image_auroc_interval: tuple[float, float] | None
    average_precision: float | None
    fpr_at_95tpr: float | None
    tpr_at_10fpr: float | None
    pixel_auroc: float | None
    pixel_auroc_interval: tuple[float, float] | None
    pro: float | None
    pro_interval: tuple[float, float] | None
    false_rejects: int
    false_reject_rate: float | None
    false_reject_interval: tuple[float, float] | None
    escapes: int
    escape_rate: float | None
    escape_interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Figures of the whole set, and of all its good parts with the defects of one kind.

    empty_masks: images of defects whose mask marks nothing on the part; pixel figures are without them. wide_masks:
    images whose mask marks more than half of the part, as an inverted one does. learnt_from: how many of the images the
    bundle was calibrated from. sizes: images by the width and height of their frames in pixels. parts: the verdict of
    each image, in the order of the samples.
    """

    overall: Figures
    empty_masks: int
    wide_masks: int
    learnt_from: int
    invalid_reasons: dict[str, int]
    by_type: dict[str, Figures]
    by_severity: dict[str, Figures]
    by_size: dict[str, Figures]
    sizes: dict[Size, int]
    parts: tuple[JudgedPart, ...]

    def to_json(self) -> dict[str, object]:
        """One flat JSON object: the overall figures by name, then the groups; without the single parts."""
        groups = {name: getattr(self, name) for name in ("by_type", "by_severity", "by_size")}
        return {
            **asdict(self.overall),
            "images": len(self.parts),
            "invalid": self.overall.invalid_good + self.overall.invalid_defective,
            "invalid_reasons": self.invalid_reasons,
            "empty_masks": self.empty_masks,
            "wide_masks": self.wide_masks,
            "learnt_from": self.learnt_from,
            **{name: {key: asdict(figures) for key, figures in group.items()} for name, group in groups.items()},
        }


class Onlooker(Protocol):
    """Who is shown each inspected part. Arrays are views that are written again by the next part; copy to keep."""

    def show(self, part: JudgedPart, part_image: Image, anomaly_map: NDArray[np.float32], mask: Bools | None) -> None:
        """Take note of a part: its image (H, W, 3), map (H1, W1), and defect (H, W), None where no mask was given."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """One part after inspection.

    frame_px: width and height of its frame. empty_mask: it is defective, and its mask marks nothing. wide_mask: its
    mask marks more than WIDE_SHARE of the canvas. stored: the number under which its map and mask are kept, which they
    are where a mask can be compared with the map.
    """

    part: JudgedPart
    frame_px: Size
    image_hash: str = ""
    empty_mask: bool = False
    wide_mask: bool = False
    stored: int | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """One part, with all its images."""

    images: tuple[_Seen, ...]

    @property
    def sample(self) -> Sample:
        """The first of its samples."""
        return self.images[0].part.sample

    @property
    def judged(self) -> list[_Seen]:
        """The images that could be judged."""
        return [image for image in self.images if not image.part.reason]

    @property
    def score(self) -> float:
        """The highest score of its judged images, of which there is one at least."""
        return max(image.part.part_score for image in self.judged)

    @property
    def rejected(self) -> bool:
        """Whether one of its images was rejected."""
        return any(image.part.rejected for image in self.images)

    @property
    def reason(self) -> str:
        """Why none of its images could be judged; empty where one could."""
        return "" if self.judged else self.images[0].part.reason


def _by_part(seen: Iterable[_Seen]) -> list[_Part]:
    """The images of each part together, parts in the order of their first images."""
    parts: dict[tuple[str, str], list[_Seen]] = {}
    for image in seen:
        parts.setdefault((image.part.sample.label, image.part.sample.part_id), []).append(image)
    return [_Part(tuple(images)) for images in parts.values()]


def evaluate(
    samples: Sequence[Sample],
    prepare: Callable[[Frame], Prepared],
    runtime: Runtime,
    thresholds: ThresholdSet,
    *,
    regions: Sequence[RegionSettings],
    learnt: DataFingerprint | None = None,
    onlooker: Onlooker | None = None,
    progress: Callable[[int, int], None],
) -> Evaluation:
    """Inspect every sample and compare with its label and mask; blocks, about one inference per sample.

    prepare: frame -> part image, or raises Uninspectable. regions: in the order of the runtime's region scores; pixels
    outside all of them are not part of the part and do not count. learnt: what the bundle was calibrated from,
    where that is of interest. onlooker: shown each part that was inspected; what is INVALID has nothing to show.
    progress(done, total) after each sample.
    Raises DataError for a bad image or mask, EngineFault.
    """
    limits = Limits.of(thresholds, regions)
    # Maps are only worth their memory where there are masks to compare them with.
    with_masks = any(sample.mask_path is not None for sample in samples)
    with MapStore() as store:
        inspect = _Inspector(prepare, runtime, limits, with_masks, onlooker, store)
        seen = []
        for done, sample in enumerate(samples, start=1):
            seen.append(inspect(sample))
            progress(done, len(samples))
        return _evaluated(seen, regions, store, learnt)


def _evaluated(
    seen: Sequence[_Seen], regions: Sequence[RegionSettings], store: MapStore, learnt: DataFingerprint | None
) -> Evaluation:
    parts = _by_part(seen)
    good = [part for part in parts if part.sample.label == GOOD]
    bad = [part for part in parts if part.sample.label != GOOD]

    def grouped(key: Callable[[Sample], str]) -> dict[str, Figures]:
        names = sorted({key(part.sample) for part in bad} - {""})
        return {
            name: _figures(good, [part for part in bad if key(part.sample) == name], regions, store) for name in names
        }

    return Evaluation(
        overall=_figures(good, bad, regions, store),
        empty_masks=sum(each.empty_mask for each in seen),
        wide_masks=sum(each.wide_mask for each in seen),
        learnt_from=0 if learnt is None else learnt.among(each.image_hash for each in seen),
        invalid_reasons=dict(sorted(Counter(part.reason for part in parts if part.reason).items())),
        by_type=grouped(lambda sample: sample.label),
        by_severity=grouped(lambda sample: sample.severity),
        by_size=grouped(_size_group),
        sizes=dict(Counter(each.frame_px for each in seen)),
        parts=tuple(each.part for each in seen),
    )


@dataclass(frozen=True, slots=True)
class _Inspector:
    """One sample after the other through the engine; what was seen is shown to the onlooker, and kept where needed."""

    prepare: Callable[[Frame], Prepared]
    runtime: Runtime
    limits: Limits
    with_masks: bool
    onlooker: Onlooker | None
    store: MapStore

    def __call__(self, sample: Sample) -> _Seen:
        frame = load_frame(sample.path)
        size = frame.shape[1], frame.shape[0]
        try:
            prepared = self.prepare(frame)
        except Uninspectable as fault:
            return _Seen(JudgedPart(sample=sample, rejected=True, reason=fault.reason), size)
        digest = image_hash(prepared.part_image)
        outputs = infer(self.runtime, prepared.part_image)
        if not math.isfinite(outputs.part_score) or not np.isfinite(outputs.region_scores).all():
            return _Seen(JudgedPart(sample=sample, rejected=True, reason=NOT_A_NUMBER), size, digest)
        part = self._judged(sample, outputs)
        height, width = prepared.part_image.shape[:2]
        comparable = self.with_masks and (sample.label == GOOD or sample.mask_path is not None)
        mask = part_mask(sample, frame.shape[:2], prepared.matrix, (height, width)) if comparable else None
        if self.onlooker is not None:
            self.onlooker.show(part, prepared.part_image, outputs.anomaly_map, mask)
        if mask is None:
            return _Seen(part, size, digest)
        empty = sample.label != GOOD and not mask.any()
        found = _Seen(part, size, digest, empty_mask=empty, wide_mask=float(mask.mean()) > WIDE_SHARE)
        if empty:
            return found
        full_map = cv2.resize(outputs.anomaly_map, (width, height), interpolation=cv2.INTER_LINEAR)
        return replace(found, stored=self.store.add(np.asarray(full_map, np.float32), mask))

    def _judged(self, sample: Sample, outputs: Outputs) -> JudgedPart:
        score, region_scores = float(outputs.part_score), tuple(outputs.region_scores.tolist())
        rejected = self.limits.reject(score, region_scores)
        return JudgedPart(sample=sample, rejected=rejected, part_score=score, region_scores=region_scores)


def part_mask(
    sample: Sample, frame_shape: tuple[int, ...], matrix: NDArray[np.float64], shape: tuple[int, int]
) -> Bools:
    """The defect on the canvas (H, W), by the same matrix as the part; all false for a good part, or without a mask.

    Where the part is shrunk much, a pixel is defective if any of what it shows is: defects keep their connectedness.
    frame_shape: (rows, columns) of its image. Raises DataError for a mask of another size, or that marks a good part.
    """
    if sample.mask_path is None:
        return np.zeros(shape, dtype=np.bool_)
    mask = load_mask(sample.mask_path)
    if mask.shape != frame_shape:
        sizes = [f"{shape[1]}x{shape[0]}" for shape in (mask.shape, frame_shape)]
        raise DataError(f"{sample.mask_path}: {sizes[0]} pixels, its image has {sizes[1]}")
    if sample.label == GOOD and mask.any():
        raise DataError(
            f"{sample.mask_path}: marks a defect on {sample.path}, which is labelled good; move one of them"
        )
    wide = cv2.dilate(mask.astype(np.uint8), np.ones(_shown_by_one(matrix), np.uint8))
    warped = cv2.warpAffine(wide, matrix, shape[::-1], flags=cv2.INTER_NEAREST)
    return np.asarray(warped, dtype=np.bool_)


def _shown_by_one(matrix: NDArray[np.float64]) -> tuple[int, int]:
    """Rows and columns of the frame that one pixel of the canvas touches; 1 along a side that is not much smaller."""
    shrunk = 1 / np.hypot(*matrix[:, :2])  # along the frame's x and y
    across, down = np.abs(np.linalg.inv(matrix[:, :2])).sum(axis=1)  # the box around the pixel, which may stand askew
    touched = np.where(shrunk >= MUCH_SMALLER, np.ceil(np.array([across, down]) - 1e-9), 1)
    return int(touched[1]), int(touched[0])


def _figures(
    good: Sequence[_Part], bad: Sequence[_Part], regions: Sequence[RegionSettings], store: MapStore
) -> Figures:
    judged = [part for part in (*good, *bad) if not part.reason]
    scores = np.array([part.score for part in judged])
    defective = np.array([part.sample.label != GOOD for part in judged], dtype=np.bool_)
    comparable = defective.any() and not defective.all()
    false_rejects, escapes = sum(part.rejected for part in good), sum(not part.rejected for part in bad)
    false_reject, escape = metrics.rate_interval(false_rejects, len(good)), metrics.rate_interval(escapes, len(bad))
    pixels = _pixel_figures(judged, regions, store)
    return Figures(
        good=len(good),
        defective=len(bad),
        invalid_good=sum(bool(part.reason) for part in good),
        invalid_defective=sum(bool(part.reason) for part in bad),
        image_auroc=metrics.image_auroc(scores, defective) if comparable else None,
        image_auroc_interval=metrics.auroc_interval(scores, defective) if comparable else None,
        average_precision=metrics.average_precision(scores, defective) if comparable else None,
        fpr_at_95tpr=metrics.fpr_at_tpr(scores, defective, 0.95) if comparable else None,
        tpr_at_10fpr=metrics.tpr_at_fpr(scores, defective, 0.10) if comparable else None,
        pixel_auroc=pixels.auroc if pixels else None,
        pixel_auroc_interval=pixels.auroc_interval if pixels else None,
        pro=pixels.pro if pixels else None,
        pro_interval=pixels.pro_interval if pixels else None,
        false_rejects=false_rejects,
        false_reject_rate=false_reject.rate if false_reject else None,
        false_reject_interval=(false_reject.low, false_reject.high) if false_reject else None,
        escapes=escapes,
        escape_rate=escape.rate if escape else None,
        escape_interval=(escape.low, escape.high) if escape else None,
    )


def _pixel_figures(parts: Sequence[_Part], regions: Sequence[RegionSettings], store: MapStore) -> PixelFigures | None:
    """Pixel AUROC and PRO over the images that have maps and masks; None where no defective pixel was marked."""
    kept = [(image.stored, number) for number, part in enumerate(parts) for image in part.images]
    stored = [(place, number) for place, number in kept if place is not None]
    if not stored:
        return None
    all_maps, all_masks = store.views()
    inside = inside_regions(all_maps.shape[1:], regions)
    maps, masks = [all_maps[place] for place, _ in stored], [all_masks[place] for place, _ in stored]
    marked = sum(int(np.count_nonzero(mask & inside)) for mask in masks)
    if not 0 < marked < len(masks) * int(inside.sum()):
        return None
    owners = [number for _, number in stored]
    return pixel_figures(maps, masks, inside, parts=np.unique(owners, return_inverse=True)[1])


def inside_regions(shape: tuple[int, ...], regions: Sequence[RegionSettings]) -> Bools:
    """Which pixels of the canvas (H, W) lie in a region."""
    inside = np.zeros(shape, dtype=np.bool_)
    for region in regions:
        rows = slice(region.top_px, region.top_px + region.height_px)
        inside[rows, region.left_px : region.left_px + region.width_px] = True
    return inside


def _size_group(sample: Sample) -> str:
    """'03-05 px' and so on, in an order that sorts; nothing where the size is unknown."""
    if sample.size_px is None:
        return ""
    for low, high in pairwise(SIZE_EDGES_PX):
        if sample.size_px < high:
            return f"{low:02d}-{high - 1:02d} px"
    return f"{SIZE_EDGES_PX[-1]:02d}+ px"
