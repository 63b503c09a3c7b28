"""Picture sheets of a recorded stream: what was caught, what escaped, what was rejected wrongly, what passed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from engines.labels import GOOD
from engines.pictures import PictureError, read_picture
from engines.runtimes import Runtime, infer
from inspectd.config import Station
from inspectd.demo.summary import severity
from inspectd.loading import find_bundle, load_engine, part_template
from inspectd.locate import Locator
from inspectd.located import LocateFault
from inspectd.messages import Image, Outcome, Verdict
from inspectd.pictures import Tile, sheet, write_png
from inspectd.records.reading import RecordReader
from inspectd.records.rows import StoredPart

PER_SHEET = 24
COLUMNS = 4
HEADROOM = 2.0


def draw_sheets(station: Station, out: Path) -> list[Path]:
    """Draw the sheets of the station's records into `out`; returns the files. Raises StorageError, EngineFault."""
    folder = station.records.folder / station.station
    with RecordReader(folder) as reader:
        parts = [part for part in reader.all() if part.image]
    kinds: dict[str, Callable[[StoredPart], bool]] = {
        "caught": lambda part: part.verdict.label != GOOD and part.verdict.outcome is Outcome.REJECT,
        "escaped": lambda part: part.verdict.label != GOOD and part.verdict.outcome is Outcome.PASS,
        "rejected-wrongly": lambda part: part.verdict.label == GOOD and part.verdict.outcome is not Outcome.PASS,
        "passed": lambda part: part.verdict.label == GOOD and part.verdict.outcome is Outcome.PASS,
    }
    bundle = find_bundle(station, None)
    engine = load_engine(station, bundle)
    try:
        draw = _Artist(
            Locator(station.locate, station.canvas, part_template(bundle), bundle.manifest.settings.levels),
            engine.runtime,
            folder,
        )
        passed = [part for part in parts if kinds["passed"](part)][:PER_SHEET]
        draw.limit = HEADROOM * max((draw.peak(part) for part in passed), default=1.0)
        drawn = []
        for name, belongs in kinds.items():
            tiles = list(draw.tiles(_varied([part for part in parts if belongs(part)])))
            if tiles:
                write_png(out / f"{name}.png", sheet(tiles, COLUMNS))
                drawn.append(out / f"{name}.png")
        return drawn
    finally:
        engine.runtime.close()


def _varied(parts: list[StoredPart]) -> list[StoredPart]:
    """At most PER_SHEET parts, one of each defect type in turn, then sorted by type."""
    by_label: dict[str, list[StoredPart]] = {}
    for part in parts:
        by_label.setdefault(part.verdict.label, []).append(part)
    chosen: list[StoredPart] = []
    for turn in range(PER_SHEET):
        chosen += [queue[turn] for queue in by_label.values() if turn < len(queue)]
    return sorted(chosen[:PER_SHEET], key=lambda part: (part.verdict.label, part.verdict.seq))


class _Artist:
    """Scores recorded images again with the same bundle, and draws them."""

    def __init__(self, locator: Locator, runtime: Runtime, folder: Path) -> None:
        self._locator = locator
        self._runtime = runtime
        self._folder = folder
        self.limit = 1.0

    def peak(self, part: StoredPart) -> float:
        """The highest value of a part's anomaly map, 0 where it shows no part."""
        part_image = self._part_image(part)
        return 0.0 if part_image is None else float(infer(self._runtime, part_image).anomaly_map.max())

    def tiles(self, parts: list[StoredPart]) -> Iterator[Tile]:
        """One tile per part that can be cut out."""
        for part in parts:
            part_image = self._part_image(part)
            if part_image is None:
                continue
            verdict = part.verdict
            yield Tile(
                part_image=part_image,
                anomaly_map=infer(self._runtime, part_image).anomaly_map.copy(),
                limit=self.limit,
                outcome=verdict.outcome,
                title=" ".join(step for step in (severity(part), verdict.label.replace("_", " ")) if step),
                subtitle=f"{verdict.part_id}: {_decisive(verdict)}",
            )

    def _part_image(self, part: StoredPart) -> Image | None:
        if part.image is None:
            return None
        try:
            return self._locator.locate(read_picture(self._folder / part.image).pixels).part_image
        except (PictureError, LocateFault):
            return None


def _decisive(verdict: Verdict) -> str:
    """The score that is furthest above its limit, or nearest below it: what the verdict hung on."""
    if verdict.part_score is None:
        return "no score"
    compared = [("part", verdict.part_score, verdict.thresholds.part)]
    for (name, score), (_, limit) in zip(verdict.region_scores, verdict.thresholds.regions, strict=True):
        compared.append((name, score, limit))
    name, score, limit = max(compared, key=lambda each: each[1] - each[2])
    return f"{name} {score:.3g}, limit {limit:.3g}"
