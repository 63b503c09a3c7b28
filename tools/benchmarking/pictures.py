"""The pictures of one row, as PNG files: scores and limit, ROC, lambdas, and maps of parts that tell most."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarking.steps import LAMBDAS, MAPS, ROC, SCORES
from benchmarking.watched import Said
from calibration import plots
from calibration.evaluate import Frame, Prepared, part_mask
from calibration.images import load_frame
from engines.artifact import Bundle
from engines.runtimes import Runtime, infer
from engines.scoring import LEVEL_STRIDE, region_masks

CAUGHT, ESCAPED = 3, 4


def draw_pictures(
    folder: Path,
    bundle: Bundle,
    said: Sequence[Said],
    prepare: Callable[[Frame], Prepared],
    runtime: Runtime,
) -> None:
    """Write the pictures of a labelled set that `said` tells of; blocks for a second or two.

    The chosen parts are read and inspected once more for their maps. Raises DataError, EngineFault, OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scores = np.array([part.part_score for part in said])
    defective = np.array([not part.good for part in said], dtype=np.bool_)
    limit = bundle.thresholds.part.value
    if defective.any() and not defective.all():
        (folder / SCORES).write_bytes(plots.labelled_histogram(scores, defective, limit))
        rejected = np.array([part.rejected for part in said], dtype=np.bool_)
        (folder / ROC).write_bytes(plots.roc(scores, defective, rejected))
    if bundle.manifest.lambdas:
        (folder / LAMBDAS).write_bytes(plots.lambda_bars(bundle.manifest.lambdas))
    canvas = bundle.manifest.settings.canvas
    masks = region_masks(canvas.height_px, canvas.width_px, bundle.regions)
    inside = np.asarray(masks.any(axis=0), dtype=np.bool_)
    shown = [_mapped(name, part, prepare, runtime, inside) for name, part in chosen_parts(said)]
    if shown:
        (folder / MAPS).write_bytes(plots.map_sheet(shown))


def chosen_parts(said: Sequence[Said]) -> Iterator[tuple[str, Said]]:
    """The parts worth showing, with what they are: good ones, defects caught, and escapes of the lowest scores."""
    ordered = sorted(said, key=lambda part: part.part_score)
    good = [part for part in ordered if part.good]
    caught = [part for part in ordered if not part.good and part.rejected]
    escaped = [part for part in ordered if not part.good and not part.rejected]
    if good:
        yield "good, median score", good[len(good) // 2]
        highest = good[-1]
        yield f"good, highest score{', rejected' if highest.rejected else ''}", highest
    for part in caught[: -CAUGHT - 1 : -1]:
        yield "caught, highest scores", part
    for part in escaped[:ESCAPED]:
        yield "escaped, lowest scores", part


def _mapped(
    name: str,
    part: Said,
    prepare: Callable[[Frame], Prepared],
    runtime: Runtime,
    inside: NDArray[np.bool_],
) -> plots.MappedPart:
    """The part with its map where `inside` (H1, W1) says that a region is: other cells are not looked at."""
    frame = load_frame(part.sample.path)
    prepared = prepare(frame)
    outputs = infer(runtime, prepared.part_image)
    height, width = prepared.part_image.shape[:2]
    severity = f", {part.sample.severity}" if part.sample.severity else ""
    mask = part_mask(part.sample, frame.shape[:2], prepared.matrix, (height, width))
    rows, columns = (_around(np.asarray(inside.any(axis=axis))) for axis in (1, 0))
    down, across = (slice(LEVEL_STRIDE * cells.start, LEVEL_STRIDE * cells.stop) for cells in (rows, columns))
    return plots.MappedPart(
        title=name,
        good=part.good,
        about=f"{part.sample.label}{severity}: {part.part_score:.3g}",
        part_image=prepared.part_image[down, across],
        anomaly_map=np.where(inside, outputs.anomaly_map, 0.0)[rows, columns],
        mask=mask[down, across],
    )


def _around(inside: NDArray[np.bool_]) -> slice:
    """The cells from the first inside a region to the last, and one more on each side as far as there is one."""
    found = np.flatnonzero(inside)
    return slice(max(int(found[0]) - 1, 0), min(int(found[-1]) + 2, len(inside)))
