"""Rows of peers.py -> the page of the comparison, as a whole: nothing on it is written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from benchmarking.machine import markdown_table
from benchmarking.page import machines_of
from benchmarking.peer_timing import LIMIT, ratios
from benchmarking.peers import FAILED, MEMORY, MODELS, NAMES, NOT_FINISHED, PRODUCT
from benchmarking.steps import Row

HEAD = """\
# Beside other methods

`tools/benchmark.py peers` wrote this page ([benchmark](benchmark.md) says how it works); do not edit it.

    {command}

{machines}
"""
ABOUT = """\
Every method learns from the good parts of a set, as many as the second table says, and judges the same labelled parts.
The sets are named as their folders are. One thread, for learning and for judging.

- **inspectd** is the product: the station that the table names is calibrated as `inspectd calibrate` does it, and its
  compiled engine is evaluated as `inspectd evaluate` does it. Parts have the size of the station's canvas.
- **Plain memory** is a script: a memory of patches without anything else.
- **PaDiM** and **PatchCore** are those of anomalib on ResNet18.

Escapes are defective parts that pass, false rejects are good parts that do not, both at the limit that the method
chose from good parts alone. The product's limit is chosen for the false-reject rate that its station asks for; that of
the plain memory is the highest score of a good part that was left out. PaDiM and PatchCore come with no such limit.

Tail shape is that of the generalised Pareto distribution fitted to the product's scores of left-out good parts: 0 is
an exponential tail, and above it the oddest parts lie further out; of a few parts the prior says more than the parts.
Highest / median compares the largest distances of left-out good parts to the memory: where it is large, one odd part
moves the limit.
"""
DETAILS = """\
Learning: for the product the whole calibration (reading, memory, made defects, compilation, report); for PaDiM and
PatchCore reading, features, and what is learnt of them. A time after `>` is that of the last attempt of an interrupted
one. ms a part: the product's compiled engine under OpenVINO, and the others in torch from the prepared image on; the
times of all under OpenVINO, where they are measured, stand in a table of their own. The plain memory tells neither.
"""
TIMES = """\
All engines run under the same OpenVINO, take turns of a quarter of a second, and see images of the same size, from
uint8 pixels on: normalisation is part of each graph, and the resizing of pictures is part of none. The product's f32
engine and the variant that its calibration kept are compared with anomalib's models on ResNet18 in f32. STFPM's student
is not trained, which makes no difference to its speed. "Times the fastest peer" below 1: faster than all of anomalib's.
Instructions are the widest that OpenVINO names in what it executes, first of convolutions and matrix products, then of
other kernels.
"""


def peer_page(rows: Sequence[Row], times: Sequence[Row], command: str) -> str:
    """The whole page in Markdown. rows: of all sets and methods asked for; times: those of peer_timing, if any."""
    machines = machines_of([row for row in (*rows, *times) if "machine" in row])
    parts = [HEAD.format(command=command, machines=machines)]
    if rows:
        parts += [ABOUT, compared(rows), _failures(rows), "## In detail", DETAILS, _details(rows), _explained(rows)]
    if times:
        parts += ["## Time of one inference", TIMES, *(_times(row) for row in times)]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def compared(rows: Sequence[Row]) -> str:
    """Markdown: one line for each set, all methods side by side, and means over the sets that all methods have."""
    models = [model for model in MODELS if any(row["model"] == model for row in rows)]
    by_set: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_set.setdefault(row["data"], {})[row["model"]] = row
    head = ["set", *(heading for model in models for heading in _headings(model))]
    body = [[name, *(cell for model in models for cell in _cells(model, by_set[name].get(model)))] for name in by_set]
    whole = [found for found in by_set.values() if all(_has_figures(found.get(model)) for model in models)]
    if len(whole) > 1:
        mean = [f"**mean of {len(whole)} sets**"]
        for model in models:
            area = _number(_mean([found[model]["image_auroc"] for found in whole]), 4)
            mean += [area if heading == NAMES[model] else "" for heading in _headings(model)]
        body.append(mean)
    return f"Image AUROC, and what passes at the limits:\n\n{markdown_table(head, body)}"


def _headings(model: str) -> tuple[str, ...]:
    if model == PRODUCT:
        return ("station", NAMES[model], "escapes", "false rejects", "tail shape", "highest / median")
    if model == MEMORY:
        return (NAMES[model], "its escapes", "its false rejects", "its highest / median")
    return (NAMES[model],)


def _cells(model: str, row: Row | None) -> tuple[str, ...]:
    headings = _headings(model)
    if row is None or not _has_figures(row):
        return tuple(_why_not(row) if heading == NAMES[model] else "-" for heading in headings)
    area = _number(row["image_auroc"], 4)
    if model not in {PRODUCT, MEMORY}:
        return (area,)
    at_limit = (_of(row.get("escapes"), row["defective"]), _of(row.get("false_rejects"), row["good"]))
    highest = _number(row.get("highest_over_median"), 2)
    if model == MEMORY:
        return (area, *at_limit, highest)
    return (row["settings"]["station"], area, *at_limit, _number(row["tail_shape"], 2), highest)


def _has_figures(row: Row | None) -> bool:
    return row is not None and FAILED not in row and NOT_FINISHED not in row


def _why_not(row: Row | None) -> str:
    if row is None:
        return "-"
    return "failed" if FAILED in row else f"not finished in {row[NOT_FINISHED]:g} s"


def _failures(rows: Sequence[Row]) -> str:
    return "\n".join(f"- {row['data']}, {NAMES[row['model']]}: failed: {row[FAILED]}" for row in rows if FAILED in row)


def _details(rows: Sequence[Row]) -> str:
    head = ("set", "method", "image", "learnt from", "good", "defective", "image AUROC", "pixel AUROC")
    body = [
        (
            row["data"],
            NAMES[row["model"]],
            row.get("canvas") or "{0}x{0}".format(row["settings"]["size"]),
            *(str(row[count]) for count in ("learnt", "good", "defective")),
            *(_number(row[area], 4) for area in ("image_auroc", "pixel_auroc")),
            ("> " if row.get("resumed") else "") + _number(row["fit_s"], 1),
            _number(row["ms_per_image"], 1),
        )
        for row in rows
        if _has_figures(row)
    ]
    return markdown_table((*head, "learning s", "ms a part"), body)


def _explained(rows: Sequence[Row]) -> str:
    """What the methods ran with, from the rows."""
    found = [row for row in rows if _has_figures(row)]
    said = []
    if asked := sorted({row["asked_rate"] for row in found if row["model"] == PRODUCT}):
        said.append(
            f"The product's limits are chosen for {' and '.join(f'{rate:.1%}' for rate in asked)} false rejects."
        )
    if stations := sorted({row["settings"]["station"] for row in found if row["model"] == PRODUCT}):
        bundles = ", ".join(f"{row['data']} {row['bundle']}" for row in found if row["model"] == PRODUCT)
        said.append(f"Stations: {', '.join(stations)}; bundles: {bundles}.")
    if shares := sorted({row["settings"]["coreset"] for row in found if "coreset" in row["settings"]}):
        said.append(f"PatchCore keeps {' and '.join(f'{share:.1%}' for share in shares)} of the patches.")
    if versions := sorted({row["versions"] for row in found if row.get("versions")}):
        said.append(f"{'; '.join(versions)}.")
    return " ".join(said)


def _times(row: Row) -> str:
    """Markdown: one line for each engine, its time with each number of threads and the ratio to the fastest peer."""
    by_threads = sorted({one["threads"] for one in row["engines"]})
    against = ratios(row)
    head = ["engine", "instructions"]
    for threads in by_threads:
        head += [f"median ms, {_threads(threads)}", "p99 ms", "times the fastest peer"]
    body = []
    for name in dict.fromkeys(one["name"] for one in row["engines"]):
        found = {one["threads"]: one for one in row["engines"] if one["name"] == name}
        any_of = next(iter(found.values()))
        line = [name, f"{any_of['heavy']}, {any_of['light']}"]
        for threads in by_threads:
            one = found[threads]
            line += [f"{one['median_ms']:.2f}", f"{one['p99_ms']:.2f}", _number(against.get((name, threads)), 2)]
        body.append(line)
    settings = row["settings"]
    limit = f"limited by `{LIMIT}={settings['limit']}`" if settings["limit"] else "not limited"
    about = (
        f"Images of {row['image']}, bundle `{row['station']}` {settings['bundle']}, the peers learnt from "
        f"{row['data']}; instructions {limit}. {row['versions']}."
    )
    unfinished = "".join(f"\n\n- {line}" for line in row["unfinished"])
    return f"{about}\n\n{markdown_table(head, body)}{unfinished}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _of(count: int | None, whole: int) -> str:
    return "-" if count is None else f"{count} of {whole}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
