"""The calibration report: one HTML file without outside resources, for the person who answers for the station."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from calibration import plots
from calibration.detection import OddPart, caught_by
from calibration.errors import CalibrationError
from calibration.made_defects import KINDS, SIZES, MadeDefect, gallery
from engines.artifact import ManifestContent, ThresholdSet

SHOWN_DEFECTS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleMaps:
    """One part as the engine sees it: (H, W, 3) uint8 RGB, (H, W) grey in [0, 1] or None, (H1, W1) map."""

    name: str
    part_image: NDArray[np.uint8]
    reconstruction: NDArray[np.floating] | None
    anomaly_map: NDArray[np.floating]
    part_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OddSample:
    """A good part far from the others: (H, W, 3) uint8 RGB, its left-out map (h, w), and what it costs."""

    name: str
    part_image: NDArray[np.uint8]
    anomaly_map: NDArray[np.floating]
    odd: OddPart


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """What the report shows. Scores are those of good parts that were not trained on: (P,) and (P, R).

    parts: that were learnt from, where some have several images. odd: the oddest good parts; excluded: names of those
    that a person left out. defects: made defects, found: (Q,) which of them the limits reject. tried: ways to score and
    what share each catches, the one that counts first. catching: (N, 2) expected false-reject rates and shares of made
    defects caught.
    """

    content: ManifestContent
    part_scores: NDArray[np.floating]
    region_scores: NDArray[np.floating]
    parts: int | None = None
    samples: tuple[SampleMaps, ...] = ()
    curves: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    trained_on: str = ""
    took_s: float | None = None
    odd: tuple[OddSample, ...] = ()
    excluded: tuple[str, ...] = ()
    defects: Sequence[MadeDefect] = ()
    found: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    tried: tuple[tuple[str, float], ...] = ()
    catching: NDArray[np.floating] = field(default_factory=lambda: np.zeros((0, 2)))


def write_report(path: Path, data: ReportData) -> None:
    """Write the report as one self-contained HTML file. Raises CalibrationError for scores that do not fit, OSError."""
    limits, names = data.content.thresholds, [region.name for region in data.content.settings.regions]
    if data.region_scores.shape != (len(data.part_scores), len(names)):
        raise CalibrationError(f"report: region scores of shape {data.region_scores.shape} for {len(names)} regions")
    columns = [("whole part", data.part_scores, limits.part)]
    for name, scores in zip(names, data.region_scores.T, strict=True):
        # The only region of a texture has the part's own score: one picture says it all.
        if len(names) > 1 or not np.array_equal(scores, data.part_scores):
            columns.append((name, scores, limits.regions[name]))
    lambdas = data.content.lambdas
    pictures = {
        "rate": _uri(plots.rate_bar(limits)),
        "scores": _uri(plots.score_histograms(columns)),
        "lambdas": _uri(plots.lambda_bars(lambdas)) if lambdas else "",
        "curves": _uri(plots.training_curves(data.curves)) if data.curves else "",
        "catching": _uri(plots.catching_curve(data.catching, limits)) if len(data.catching) else "",
        "missed": _gallery([d for d, found in zip(data.defects, data.found, strict=True) if not found]),
        "caught": _gallery([d for d, found in zip(data.defects, data.found, strict=True) if found]),
    }
    environment = Environment(
        loader=PackageLoader("calibration"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["percent"] = _percent
    text = environment.get_template("report.html.j2").render(
        content=data.content,
        parts=data.parts,
        limits=limits,
        limit_rows=[(name, threshold) for name, _, threshold in columns],
        how=_how(limits),
        pictures=pictures,
        tiles=_tiles(data.samples),
        odd_tiles=_odd_tiles(data.odd),
        excluded=data.excluded,
        detection=_detection(data),
        tried=data.tried,
        warnings=(*limits.notes, *data.warnings),
        settings=yaml.safe_dump(data.content.settings.model_dump(mode="json"), sort_keys=False),
        written=datetime.now(UTC).astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        trained_on=data.trained_on,
        took_s=data.took_s,
    )
    path.write_text(text, encoding="utf-8")


def _how(limits: ThresholdSet) -> str:
    """In words for a quality engineer, how the limits were found."""
    confidence = f"{limits.confidence:.0%}"
    if limits.method == "conformal":
        return (
            f"The limits were counted off on {limits.parts} good parts that the networks had not seen. Whatever the "
            f"distribution of the scores, with {confidence} confidence between {_percent(limits.low)} and "
            f"{_percent(limits.high)} of future good parts are rejected, as long as they look like these."
        )
    return (
        f"{limits.parts} good parts are too few to count off a rate of {_percent(limits.asked_rate)}, so a generalised "
        f"Pareto tail was fitted to the highest scores, and the limits set where it expects "
        f"{_percent(limits.expected_rate)} of good parts, its doubt included. With {confidence} confidence no more "
        f"than {_percent(limits.high)} of future good parts are rejected. With {limits.needed_parts} held-out good "
        "parts the limits would rest on counting alone, and this interval would be narrower."
    )


def _tiles(samples: tuple[SampleMaps, ...]) -> list[dict[str, str]]:
    """Pictures of each sample; all maps share one colour scale, so that they can be compared."""
    top = max((float(np.nanmax(sample.anomaly_map)) for sample in samples), default=1.0)
    return [
        {
            "name": sample.name,
            "score": f"{sample.part_score:.4g}",
            "part": _uri(plots.image_tile(sample.part_image)),
            "reconstruction": "" if sample.reconstruction is None else _uri(plots.grey_tile(sample.reconstruction)),
            "map": _uri(plots.map_tile(sample.part_image, sample.anomaly_map, top)),
        }
        for sample in samples
    ]


def _odd_tiles(samples: tuple[OddSample, ...]) -> list[dict[str, Any]]:
    """Pictures of the oddest good parts; the map's colour begins at its median, where good parts usually are."""
    tops = [float(sample.anomaly_map.max() - np.median(sample.anomaly_map)) for sample in samples]
    top = max(tops, default=1.0)
    return [
        {
            "name": sample.name,
            "odd": sample.odd,
            "part": _uri(plots.image_tile(sample.part_image)),
            "map": _uri(plots.map_tile(sample.part_image, sample.anomaly_map - np.median(sample.anomaly_map), top)),
        }
        for sample in samples
    ]


def _detection(data: ReportData) -> dict[str, Any] | None:
    """Shares of made defects caught, of all, by size, and one row for each kind; None where none was made."""
    if not len(data.defects):
        return None
    whole, by_size, by_kind = caught_by(data.defects, data.found)
    rows = [(kind.replace("_", " "), [by_kind[kind, size] for size in SIZES]) for kind in KINDS]
    return {"whole": whole, "by_size": by_size, "rows": rows}


def _gallery(defects: Sequence[MadeDefect]) -> str:
    """At most SHOWN_DEFECTS of them, evenly from the list, each with a close-up."""
    if not defects:
        return ""
    chosen = np.unique(np.linspace(0, len(defects) - 1, min(SHOWN_DEFECTS, len(defects))).round().astype(int))
    return _uri(plots.image_png(gallery([defects[index] for index in chosen], 4, side_px=110, closeups=True)))


def _percent(rate: float) -> str:
    """Two significant digits down to hundredths: 12.5 %, 1.3 %, 0.25 %, 0.01 %."""
    if 0 < rate < 0.0001:
        return "< 0.01 %"
    return f"{100 * rate:.1f} %" if rate >= 0.1 else f"{float(f'{100 * rate:.2g}'):g} %"


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
