"""`inspectd evaluate`: measure a bundle on a labelled data set. All settings come from the bundle; needs no station."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from rich.table import Table

from engines.artifact import Bundle, open_bundle, resolve_bundle
from engines.errors import BundleError
from engines.golden import verify
from engines.runtimes import load_runtime
from inspectd.errors import SettingsError, StorageError, UsageError
from inspectd.loading import part_template
from inspectd.locate import Locator
from inspectd.located import LocateFault
from inspectd.messages import DeepImage
from inspectd.sections import LocateSettings
from inspectd.terminal import progress_bar, table_console

if TYPE_CHECKING:
    from calibration.contact_sheet import Gallery
    from calibration.dataset import DataSet, Sample
    from calibration.evaluate import Evaluation, Figures, Prepared
    from calibration.part_table import Limits

EPILOG = """\
The data folder is in MVTec layout (train/good, test/good, test/<defect>, ground_truth/<defect>/*_mask.png), in BTAD
layout, or footage of `inspectd record` with labels. Without masks the pixel figures are null.

examples:
  inspectd evaluate --bundle bundles/smdc --data sets/smdc
  inspectd evaluate --bundle out --data mvtec/carpet --json > carpet.json
  inspectd evaluate --bundle out --data mvtec/carpet --parts parts.csv      each part's verdict, error, scores, limits
  inspectd evaluate --bundle out --data mvtec/carpet --sheet sheet.png      the worst errors and their anomaly maps
"""
NAMED = 5
"""Missed parts that the printed table names."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a bundle on a labelled data set",
        description="Measure a bundle on a labelled data set: one JSON object, or a table.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", required=True, type=Path, help="a bundle, or the folder that calibrate --out wrote")
    parser.add_argument("--data", required=True, type=Path, help="folder with the labelled set")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument(
        "--parts", type=Path, metavar="FILE.csv", help="write one row for each part: verdict, error, scores and limits"
    )
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE.png", help="draw the worst missed defects and wrongly rejected good parts"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate; returns 0.

    Raises BundleError, DataError, EngineUnavailable, ParityError, SettingsError, StorageError, UsageError.
    """
    try:
        from calibration.contact_sheet import Gallery
        from calibration.evaluate import evaluate
        from calibration.frame_sizes import warning_of
        from calibration.part_table import Limits
    except ImportError as error:
        raise SettingsError(f"evaluate needs {error.name}: install inspectd[calibrate]") from error
    _check_outputs(args)
    data = labelled(args.data)
    samples = data.labelled
    bundle = open_bundle(resolve_bundle(args.bundle))
    snapshot = bundle.manifest.settings
    prepare = preparer(bundle)
    limits = Limits.of(bundle.thresholds, snapshot.regions)
    gallery = Gallery(limits, snapshot.regions) if args.sheet else None
    runtime = load_runtime(bundle, snapshot.engine)
    try:
        verify(bundle, runtime)
        with progress_bar() as bar:
            task = bar.add_task("inspecting", total=len(samples))
            evaluation = evaluate(
                samples,
                prepare,
                runtime,
                bundle.thresholds,
                regions=snapshot.regions,
                learnt=bundle.manifest.data,
                onlooker=gallery,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    finally:
        runtime.close()
    several = warning_of(evaluation.sizes, whole_frame=snapshot.locate.get("mode") == "off")
    for caution in (*data.notes, *filter(None, [several]), *_cautions(evaluation, samples, args.data)):
        print(f"inspectd: warning: {caution}", file=sys.stderr)
    _write_outputs(args, evaluation, limits, gallery)
    if args.json:
        head = {"bundle": bundle.short_hash, "station": bundle.station, "data": str(args.data)}
        print(json.dumps({**head, **evaluation.to_json(), **_named(evaluation)}, indent=1, allow_nan=False))
    else:
        _print_tables(evaluation, bundle, args.data)
        _print_errors(evaluation, limits)
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse what could not be written before minutes are spent. Raises StorageError, UsageError."""
    for option, path, ending in (("--parts", args.parts, ".csv"), ("--sheet", args.sheet, ".png")):
        if path is None:
            continue
        if path.suffix.lower() != ending:
            raise UsageError(f"{option} {path}: the name must end in {ending}")
        if path.is_dir() or not path.parent.is_dir():
            raise StorageError(f"{path}: {'is a folder' if path.is_dir() else f'there is no folder {path.parent}'}")


def _write_outputs(args: argparse.Namespace, evaluation: Evaluation, limits: Limits, gallery: Gallery | None) -> None:
    """Write the table of parts and the contact sheet, where they are asked for. Raises StorageError."""
    from calibration.contact_sheet import contact_sheet
    from calibration.part_table import write_part_table
    from calibration.whole_file import replacing

    try:
        if args.parts is not None:
            write_part_table(args.parts, evaluation.parts, limits)
        if gallery is not None and gallery.counts:
            overall = evaluation.overall
            invalid = (overall.invalid_good, overall.invalid_defective)
            with replacing(args.sheet) as temporary:
                temporary.write_bytes(contact_sheet(gallery, f"{args.data} by bundle {args.bundle}", invalid))
    except OSError as error:
        where = error.filename or args.parts or args.sheet
        raise StorageError(f"{where}: cannot be written: {error.strerror}") from error
    if gallery is not None and not gallery.counts:
        print("inspectd: warning: no part could be inspected: there is no contact sheet", file=sys.stderr)


def _named(evaluation: Evaluation) -> dict[str, list[str]]:
    """The paths of both kinds of errors, in the order of the samples."""
    from calibration.part_table import ErrorKind, readable

    return {
        name: [readable(str(part.sample.path)) for part in evaluation.parts if part.error is kind]
        for name, kind in (("missed", ErrorKind.MISSED), ("wrongly_rejected", ErrorKind.WRONGLY_REJECTED))
    }


def _cautions(evaluation: Evaluation, samples: Sequence[Sample], data: Path) -> Iterator[str]:
    """What the figures do not say themselves, one line each."""
    if evaluation.learnt_from:
        yield (
            f"{evaluation.learnt_from} of {len(samples)} images are among those that the bundle was calibrated from: "
            "of false rejects and AUROC on other parts the figures say too little; give parts that it has not seen"
        )
    if evaluation.empty_masks:
        yield f"{evaluation.empty_masks} masks of defects mark nothing: pixel AUROC and PRO are without these parts"
    if evaluation.wide_masks:
        yield (
            f"{evaluation.wide_masks} masks mark more than half of the part: are they inverted? What is not black "
            "counts as the defect"
        )
    unmarked = all(sample.mask_path is None for sample in samples)
    if evaluation.overall.defective and unmarked and (data / "train").is_dir():  # footage never has masks
        yield f"no masks, so no pixel AUROC and no PRO: looked for them in {data / 'ground_truth'}"


def labelled(folder: Path) -> DataSet:
    """A data folder with labelled parts, at least one. Raises DataError."""
    from calibration.dataset import read_dataset
    from calibration.errors import DataError

    found = read_dataset(folder)
    if not found.labelled:
        raise DataError(f"{folder}: holds no labelled parts; evaluate needs test/good and test/<defect> (MVTec layout)")
    return found


def preparer(bundle: Bundle) -> Callable[[DeepImage], Prepared]:
    """The bundle's own locating, as the daemon does it: frame -> part image. Raises BundleError for bad settings."""
    from calibration.evaluate import Prepared, Uninspectable

    try:
        settings = LocateSettings.model_validate(bundle.manifest.settings.locate)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(step) for step in fault["loc"])
        raise BundleError(
            f"{bundle.folder}: locate.{where}: {fault['msg']}; calibrate again with this version"
        ) from error
    kept = bundle.manifest.settings
    locator = Locator(settings, kept.canvas, part_template(bundle), kept.levels)

    def prepare(frame: DeepImage) -> Prepared:
        try:
            located = locator.locate(frame)
        except LocateFault as fault:
            raise Uninspectable(fault.reason.value) from fault
        return Prepared(located.part_image, located.matrix)

    return prepare


def _print_tables(evaluation: Evaluation, bundle: Bundle, data: Path) -> None:
    console = table_console()
    on = _printable(str(data))
    console.print(f"bundle {bundle.short_hash} (station {bundle.station}) on {on}", soft_wrap=True, markup=False)
    overall = evaluation.overall
    promised = bundle.thresholds
    console.print(
        f"false rejects {_rate(overall.false_reject_rate, overall.false_reject_interval)}, "
        f"promised {promised.low:.2%} to {promised.high:.2%}; "
        f"escapes {_rate(overall.escape_rate, overall.escape_interval)}; "
        f"invalid {overall.invalid_good} good, {overall.invalid_defective} defective",
        soft_wrap=True,
    )
    if len(evaluation.parts) > overall.good + overall.defective:
        console.print(
            f"{overall.good + overall.defective} parts in {len(evaluation.parts)} images: a part is rejected where one "
            "of its images is, and intervals count parts",
            soft_wrap=True,
        )
    for reason, count in evaluation.invalid_reasons.items():
        console.print(f"  {reason}: {count}")
    console.print(
        f"AUROC per part {_area(overall.image_auroc, overall.image_auroc_interval)}, "
        f"per pixel {_area(overall.pixel_auroc, overall.pixel_auroc_interval)}; "
        f"PRO {_area(overall.pro, overall.pro_interval)}; 95 % intervals, by drawing parts again",
        soft_wrap=True,
    )
    console.print(
        "AUROC per part, FPR at 95 % TPR, TPR at 10 % FPR, AUROC per pixel, PRO up to FPR 0.3; escapes at the limit"
    )
    groups = (("type", evaluation.by_type), ("severity", evaluation.by_severity), ("size", evaluation.by_size))
    for title, group in groups:
        if group:
            console.print(_table(title, {"all": overall, **group}))


def _print_errors(evaluation: Evaluation, limits: Limits) -> None:
    """Name the first few parts of both kinds of errors, those farthest on the wrong side of their limits first."""
    from calibration.part_table import ErrorKind

    console = table_console()
    for kind, worst_first in ((ErrorKind.MISSED, 1), (ErrorKind.WRONGLY_REJECTED, -1)):
        wrong = [part for part in evaluation.parts if part.error is kind]
        judged = [(limits.decider(part), part) for part in wrong if not part.reason]
        judged.sort(key=lambda each: worst_first * each[0].margin)
        lines = [
            f"  {part.sample.path}: {decider.region or 'score'} {decider.score:.4g}, limit {decider.limit:.4g}"
            for decider, part in judged
        ]
        lines += [f"  {part.sample.path}: INVALID, {part.reason}" for part in wrong if part.reason]
        if lines:
            console.print(
                f"{kind.value}: {len(lines)} parts, the worst first" if lines[1:] else f"{kind.value}: 1 part"
            )
        for line in lines[:NAMED]:
            console.print(_printable(line), soft_wrap=True, markup=False, highlight=False)
        if len(lines) > NAMED:
            console.print(f"  and {len(lines) - NAMED} more: --parts FILE.csv names all, --sheet FILE.png shows some")


def _printable(text: str) -> str:
    """A path as a terminal can show it, whatever its bytes are."""
    from calibration.part_table import readable

    return readable(text)


def _table(title: str, group: dict[str, Figures]) -> Table:
    table = Table(box=None, pad_edge=False, title=f"by defect {title}", title_justify="left", padding=(0, 1))
    table.add_column(title, no_wrap=True)
    names = ("parts", "AUROC", "FPR@95", "TPR@10", "pixels", "PRO", "escapes")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for name, figures in group.items():
        table.add_row(
            name,
            str(figures.defective),
            _number(figures.image_auroc),
            _number(figures.fpr_at_95tpr),
            _number(figures.tpr_at_10fpr),
            _number(figures.pixel_auroc),
            _number(figures.pro),
            _rate(figures.escape_rate, figures.escape_interval),
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _area(value: float | None, interval: tuple[float, float] | None) -> str:
    return "-" if value is None or interval is None else f"{value:.4f} ({interval[0]:.4f}-{interval[1]:.4f})"


def _rate(rate: float | None, interval: tuple[float, float] | None) -> str:
    return "-" if rate is None or interval is None else f"{rate:.1%} ({100 * interval[0]:.1f}-{100 * interval[1]:.1f})"
