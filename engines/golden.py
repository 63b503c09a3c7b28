"""Before READY: the engine that will run must give the golden images the scores that calibration stored with them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.artifact import Bundle, GoldenImage
from engines.errors import BundleError, ParityError
from engines.pictures import PictureError, decode
from engines.runtimes import Outputs, Runtime, infer_together


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """How well the scores were reproduced: the largest deviation as a share of max(|expected|, limit)."""

    images: int
    worst_deviation: float
    worst_file: str


def verify(bundle: Bundle, runtime: Runtime) -> GoldenReport:
    """Infer every golden image and compare its scores; blocks for one inference per image, or per batch of them.

    Each place of a batch gets an image; where there are fewer images, some of them again. Raises ParityError for a
    score out of tolerance or not a number, BundleError for an unreadable image, EngineFault.
    """
    limits = [
        bundle.thresholds.part.value,
        *(bundle.thresholds.regions[region.name].value for region in bundle.regions),
    ]
    names = ["part score", *(f"score of region {region.name}" for region in bundle.regions)]
    worst, worst_file = 0.0, bundle.manifest.golden[0].file
    for golden, outputs in _answers(bundle, runtime):
        deviations = _deviations(golden, _scores(bundle, outputs), np.array(limits))
        index = int(np.argmax(deviations))
        if not deviations[index] <= golden.tolerance:
            engine = runtime.info
            raise ParityError(
                f"golden image {golden.file}: the {names[index]} is off by {deviations[index]:.3g} of its limit, "
                f"allowed is {golden.tolerance:.3g} ({engine.runtime} {engine.precision} on {engine.device}); "
                "calibrate again on this machine"
            )
        if deviations[index] >= worst:
            worst, worst_file = float(deviations[index]), golden.file
    return GoldenReport(len(bundle.manifest.golden), worst, worst_file)


def read_golden(bundle: Bundle, golden: GoldenImage) -> NDArray[np.uint8]:
    """The golden part image, (H, W, 3) uint8 RGB of the bundle's canvas. Raises BundleError."""
    path: Path = bundle.path(golden.file)
    try:
        image = decode(np.frombuffer(path.read_bytes(), np.uint8)).pixels
    except PictureError as error:
        raise BundleError(f"{path}: {error}; calibrate again") from error
    canvas = bundle.manifest.settings.canvas
    expected = (canvas.height_px, canvas.width_px, 3)
    if image.shape != expected or image.dtype != np.uint8:
        found = f"{image.shape[1]}x{image.shape[0]} pixels" + (" of 16 bits" if image.dtype == np.uint16 else "")
        raise BundleError(f"{path}: is {found}, the canvas is {expected[1]}x{expected[0]}; calibrate again")
    return np.asarray(image, dtype=np.uint8)


def write_golden(path: Path, part_image: NDArray[np.uint8]) -> None:
    """Write an (H, W, 3) uint8 RGB part image without loss, as PNG. Raises OSError."""
    done, encoded = cv2.imencode(".png", cv2.cvtColor(part_image, cv2.COLOR_RGB2BGR))
    if not done:
        raise OSError(f"{path}: the image cannot be encoded as PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded.tobytes())


def _answers(bundle: Bundle, runtime: Runtime) -> Iterator[tuple[GoldenImage, Outputs]]:
    """Each golden image with the engine's answer; in full batches, so that nobody waits for company."""
    images, batch = bundle.manifest.golden, runtime.info.batch
    for first in range(0, len(images), batch):
        group = list(islice(cycle(images[first:] + images[:first]), batch))
        yield from zip(group, infer_together(runtime, [read_golden(bundle, golden) for golden in group]), strict=True)


def _scores(bundle: Bundle, outputs: Outputs) -> NDArray[np.float64]:
    """(1 + R,) scores, part first. Raises ParityError where the engine has other regions than the bundle."""
    if outputs.region_scores.shape != (len(bundle.regions),):
        raise ParityError(
            f"{bundle.folder}: the engine scores {outputs.region_scores.size} regions, "
            f"the bundle has {len(bundle.regions)}; calibrate again"
        )
    return np.array([outputs.part_score, *outputs.region_scores], dtype=np.float64)


def _deviations(golden: GoldenImage, scores: NDArray[np.float64], limits: NDArray[np.float64]) -> NDArray[np.float64]:
    """|score - expected| / max(|expected|, |limit|) for each score; infinite for a score that is not a number."""
    expected = np.array([golden.part_score, *golden.region_scores])
    scale = np.maximum(np.maximum(np.abs(expected), np.abs(limits)), np.finfo(np.float64).tiny)
    deviations = np.abs(scores - expected) / scale
    return np.where(np.isfinite(deviations), deviations, math.inf)
