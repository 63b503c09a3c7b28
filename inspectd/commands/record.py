"""`inspectd record`: good parts from the station's camera -> images and metadata.jsonl, for `inspectd calibrate`."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import TextIO

import cv2
import numpy as np
import zmq

from engines.pictures import Levels
from inspectd.camera import Camera, Shot
from inspectd.cameras import open_camera
from inspectd.commands.arguments import count
from inspectd.config import Station, load_station
from inspectd.errors import CameraError, CameraTimeout, EndOfFootage, StorageError
from inspectd.health.meters import Meters
from inspectd.locate import Locator
from inspectd.located import LocateFault
from inspectd.messages import DeepImage, Pose, Position
from inspectd.sections import LocateSettings
from inspectd.terminal import progress_bar
from inspectd.triggers import MessageTriggers, TimerTriggers, TriggerSource
from inspectd.wire.door import Door
from inspectd.wire.sockets import Context

METADATA_NAME = "metadata.jsonl"
UNFIT_IN_A_ROW = 50
WAITING_TRIGGERS = 1000
FIRST_BUNDLE_FROM = 20
"""Good parts from which a first bundle is offered."""

EPILOG = """\
examples:
  inspectd record --station smdc --count 300             into footage/smdc
  inspectd record --station smdc --count 50 --out trial  into another folder, which must be new or empty

Only parts that are located are saved; parts that the source knows to be defective are left out. With locate.mode part,
what the part looks like is learnt from these images, so none is left out for its look.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "record",
        help="save good parts from the station's camera",
        description="Save good parts from the station's camera, with their metadata.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--station", required=True, help="station name, or path of its settings")
    parser.add_argument("--count", type=count, required=True, metavar="N", help="parts to save")
    parser.add_argument("--out", type=Path, metavar="DIR", help="new or empty folder (default: footage/<station>)")


def run(args: argparse.Namespace) -> int:
    """Save; returns 0. Raises CameraError, StorageError, SettingsError, EndpointError."""
    station = load_station(args.station)
    out = args.out or Path("footage") / station.station
    saved, unfit = record_parts(station, args.count, out, offer=_offer(args.station, out))
    left_out = "; ".join(f"{count} left out: {why}" for why, count in unfit.items())
    print(f"{saved} good parts in {out}" + (f" ({left_out})" if left_out else ""))
    if saved < args.count:
        print(f"the footage ended before {args.count} parts", file=sys.stderr)
    return 0


def _offer(station: str, out: Path) -> str:
    """What a person can do once a few parts are saved, in one line."""
    command = f"inspectd calibrate --station {station} --data {out} --preset instant"
    return (
        f"{FIRST_BUNDLE_FROM} good parts are saved: in another terminal, `{command}` makes a first bundle of them, "
        "while recording goes on"
    )


def record_parts(station: Station, count: int, out: Path, *, offer: str = "") -> tuple[int, dict[str, int]]:
    """Save `count` parts below `out`; returns how many, and how many were left out for which reason.

    offer: said on standard error once FIRST_BUNDLE_FROM parts are saved, if more are to come. Fewer are saved only
    where the footage ends. Raises CameraError, StorageError, EndpointError.
    """
    _claim(out)
    context: Context = zmq.Context()
    door = Door(
        context, station.endpoints(), keys=station.key_folder(), refused=lambda: None, closed=lambda connections: None
    )
    unfit: dict[str, int] = {}
    saved = 0
    locator: Locator | None = None
    try:
        with (
            closing(open_camera(station.camera, every_image=station.trigger.source == "camera")) as camera,
            closing(_triggers(station, door)) as triggers,
            (out / METADATA_NAME).open("x", encoding="utf-8") as metadata,  # last: a try that fails leaves none
            progress_bar(passing=False) as progress,
        ):
            bar = progress.add_task("recording", total=count)
            for part_id, shot in _shots(station, camera, triggers, unfit):
                if saved == count:
                    break
                locator = locator or _locator(station, shot.image)
                pose = _fit(shot, locator, unfit)
                if pose is None:
                    continue
                saved += 1
                name = part_id or f"{station.station}-{saved:06d}"
                _save(out / f"{saved:06d}.png", metadata, part_id=name, shot=shot, pose=pose)
                progress.advance(bar)
                if saved == count:
                    break
                if saved == FIRST_BUNDLE_FROM and offer:
                    progress.console.print(offer, markup=False, highlight=False, soft_wrap=True)
    except OSError as error:
        raise StorageError(f"{error.filename or out}: {error.strerror}; {saved} parts are saved") from error
    finally:
        door.close()
        context.term()
    return saved, unfit


def _locate_settings(station: Station) -> LocateSettings:
    """With mode part, what the part looks like is learnt from these very images: whole frames are saved."""
    return LocateSettings(mode="off") if station.locate.mode == "part" else station.locate


def _claim(out: Path) -> None:
    """Make the folder; nothing that lies there is ever overwritten."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise StorageError(f"{out}: is not empty; name another folder with --out, or move it away")
    except OSError as error:
        raise StorageError(f"{out}: cannot be used: {error.strerror}") from error


class _OnArrival:
    """Each image that arrives is a part."""

    def next(self, stop: Event) -> None:
        """There is nothing to wait for but the camera."""

    def close(self) -> None:
        """Nothing to let go of."""


def _triggers(station: Station, door: Door) -> TriggerSource | _OnArrival:
    settings = station.trigger
    if settings.source == "timer":
        return TimerTriggers(settings.period_ms, station.line.deadline_ms, Meters())
    if settings.source == "zmq" and settings.endpoint is not None:
        door.open(lambda: None)
        return MessageTriggers(door.bind(zmq.PULL, settings.endpoint, WAITING_TRIGGERS), Meters())
    return _OnArrival()


def _shots(
    station: Station, camera: Camera, triggers: TriggerSource | _OnArrival, unfit: dict[str, int]
) -> Iterator[tuple[str | None, Shot]]:
    """(part_id, shot) as they come, until the footage ends. Raises CameraError after many failures in a row."""
    never = Event()
    failures = 0
    while True:
        ask = triggers.next(never)
        if isinstance(ask, Position) or (ask is None and not isinstance(triggers, _OnArrival)):
            continue
        try:
            shot = camera.grab(station.trigger.frame_timeout_ms / 1e3)
        except EndOfFootage:
            return
        except CameraError as error:
            failures += 1
            if failures >= UNFIT_IN_A_ROW:
                raise
            why = "no image in time" if isinstance(error, CameraTimeout) else "not readable"
            unfit[why] = unfit.get(why, 0) + 1
            continue
        failures = 0
        yield (ask.part_id if ask is not None else None), shot


def _locator(station: Station, first: DeepImage) -> Locator:
    """As `calibrate` will locate; images of more than 8 bits by the first one's range where none is set."""
    levels = station.levels
    if levels is None and first.dtype == np.uint16:
        levels = Levels.of([first.astype(np.uint16, copy=False)])
    return Locator(_locate_settings(station), station.canvas, levels=levels)


def _fit(shot: Shot, locator: Locator, unfit: dict[str, int]) -> Pose | None:
    """Where the part lies; None, counted, for a part that nothing good can be learnt from. Raises CameraError."""
    why = ""
    pose = None
    if shot.label not in {"", "good"}:
        why = "known to be defective"
    else:
        try:
            pose = locator.locate(shot.image).pose
        except LocateFault as fault:
            why = fault.reason.value
    if why:
        unfit[why] = unfit.get(why, 0) + 1
        unfit_so_far = sum(unfit.values())
        if unfit_so_far >= UNFIT_IN_A_ROW and unfit_so_far == unfit[why] and why != "known to be defective":
            raise CameraError(
                f"none of the first {unfit_so_far} images shows a part ({why}): check camera and `locate`"
            )
    return pose


def _save(path: Path, metadata: TextIO, *, part_id: str, shot: Shot, pose: Pose) -> None:
    """The image first, whole or not at all, then its line: a line never names a file that is not there."""
    done, data = cv2.imencode(".png", cv2.cvtColor(shot.image, cv2.COLOR_RGB2BGR))
    if not done:
        raise StorageError(f"{path}: the image cannot be encoded")
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(data.data)
        os.replace(temporary, path)  # noqa: PTH105 - replaces
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    age_s = (time.monotonic_ns() - shot.captured_ns) / 1e9
    taken = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age_s)
    line = {
        "file": path.name,
        "part_id": part_id,
        "time": taken.isoformat(timespec="microseconds"),
        "exposure_us": shot.exposure_us,
        "source": shot.source,
        "label": shot.label,
        "pose": asdict(pose),
    }
    metadata.write(json.dumps(line) + "\n")
    metadata.flush()
