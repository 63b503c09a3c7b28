"""`inspectd challenge`: show known-bad parts to the station, and record whether each was rejected."""

from __future__ import annotations

import argparse
import json
import os
import pwd
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import cv2
from rich.table import Table

from engines.labels import means_good
from inspectd.commands.arguments import add_key, client_key, count, whole
from inspectd.config import Station, load_station
from inspectd.errors import CameraError, InspectdError, NotHealthy, SettingsError
from inspectd.loading import find_bundle, load_engine, locate_part
from inspectd.locate import Locator
from inspectd.records.challenges import NEVER_CAME, Challenge, ChallengePart, part_of, read_challenges, to_note
from inspectd.records.ledger import Ledger
from inspectd.replay.footage import Footage, FootagePart
from inspectd.replay.line import ReplayLine
from inspectd.terminal import progress_bar, table_console
from inspectd.wire.client import ask
from inspectd.wire.errors import WireError
from inspectd.wire.keys import ClientKey
from inspectd.wire.public import Json
from inspectd.wire.questions import MAX_CHALLENGE_PARTS, MAX_PATIENCE_S

MOST_LISTED = 50
POLL_S = 0.3
ANSWERED_WITHIN_S = 5.0
RECORDED_WITHIN_S = 2.0
EPILOG = """\
DIR is a labelled set in MVTec layout (of test/<defect>, every image; the good ones are left out), a plain folder with
nothing but images of bad parts, or the records of a daemon (parts with a label). Its images go through the stages of
the daemon, beside it: it may run.

With --parts, the daemon is told, and then you put the parts on the line: its verdicts on them are marked as a challenge
in results and records, and change nothing else. Take by hand what it lets pass.

examples:
  inspectd challenge --station smdc --parts 3 --names no-electrode,crack,dent
  inspectd challenge --station smdc --data bad-parts         before the shift: images of bad parts, through the station
  inspectd challenge --station smdc --list                   when, by whom, with which bundle, and what came of it

INVALID counts as not proven: the part was not judged. Ends with 0 where every part was rejected, else with 17.
"""


class NotProven(InspectdError):
    """A known-bad part was not rejected."""

    exit_code = 17


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "challenge",
        help="prove that known-bad parts are rejected",
        description="Show known-bad parts to the station, and record whether each was rejected.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--station", required=True, help="station name, or path of its settings")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, metavar="DIR", help="images of known-bad parts")
    what.add_argument(
        "--parts",
        type=whole(1, MAX_CHALLENGE_PARTS),
        metavar="N",
        help="the next N parts on the running line are known bad",
    )
    what.add_argument("--list", action="store_true", help="list the challenges in the records")
    parser.add_argument("--bundle", type=Path, help="a bundle's folder (default: the station's active bundle)")
    parser.add_argument("--max-parts", type=count, metavar="N", help="the first N parts only")
    parser.add_argument("--names", type=_names, metavar="A,B,..", help="names of the N parts, in their order")
    parser.add_argument(
        "--timeout",
        type=whole(1, MAX_PATIENCE_S),
        default=300,
        metavar="S",
        help="how long the N parts may take to come",
    )
    parser.add_argument("--by", default="", metavar="NAME", help="who challenges (default: the user)")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    add_key(parser)


def run(args: argparse.Namespace) -> int:
    """Challenge; returns 0 where every part was rejected. Raises NotProven and errors of footage, bundle, records."""
    station = load_station(args.station)
    if args.list:
        _list(station, as_json=args.json)
        return 0
    challenge = _with_images(station, args) if args.parts is None else _on_the_line(station, args)
    if args.json:
        print(json.dumps({"station": station.station, **_json(challenge)}, indent=1, allow_nan=False))
    else:
        _print(challenge)
    escaped = [part for part in challenge.parts if not part.rejected]
    if escaped:
        raise NotProven(
            f"{len(escaped)} of {len(challenge.parts)} known-bad parts were not rejected, such as {escaped[0].name} "
            f"({escaped[0].outcome}): find out why before the line goes on"
        )
    return 0


def _with_images(station: Station, args: argparse.Namespace) -> Challenge:
    """The images through the daemon's stages; recorded before it is told. Blocks for about one inference a part."""
    cv2.setNumThreads(1)  # as the daemon runs, so that nothing differs
    begun_ns = time.time_ns()
    footage = Footage(args.data)
    with closing(Ledger(station.records.folder / station.station, set_aside=False)) as ledger:
        engine = load_engine(station, find_bundle(station, args.bundle))
        try:
            line = ReplayLine(
                station.station,
                engine=engine,
                locate=locate_part(Locator(station.locate, station.canvas)),
                invalid_action=station.line.invalid_action,
            )
            with progress_bar() as bar:
                bad = bar.track(_known_bad(footage), total=args.max_parts or footage.parts, description="challenging")
                parts = tuple(_judged(line, part) for part in islice(bad, args.max_parts))
        finally:
            engine.runtime.close()
        if not parts:
            raise CameraError(f"{args.data}: no part in it is known to be bad; give test/<defect>, or bad parts alone")
        challenge = Challenge(
            way="images",
            by=args.by or _user(),
            bundle_hash=engine.bundle_hash,
            begun_wall_ns=begun_ns,
            ended_wall_ns=time.time_ns(),
            parts=parts,
            source=str(args.data),
        )
        ledger.write([to_note(challenge)])
    return challenge


def _on_the_line(station: Station, args: argparse.Namespace) -> Challenge:
    """Tell the daemon, then wait for its verdicts on the next parts; it records the challenge itself."""
    names = args.names or tuple(str(number) for number in range(1, args.parts + 1))
    by, begun_ns = args.by or _user(), time.time_ns()
    if len(names) != args.parts:
        raise SettingsError(f"--names has {len(names)} names for {args.parts} parts")
    key = client_key(station, args.key)
    question = {"ask": "challenge", "names": list(names), "by": by, "patience_s": args.timeout}
    range_of = _ask(station, question, key)
    sys.stderr.write(f"put the {args.parts} known-bad parts on the line now, in this order: {', '.join(names)}\n")
    results: dict[str, Json] = {}
    end_s = time.monotonic() + args.timeout + station.line.deadline_ms / 1e3 + RECORDED_WITHIN_S
    ask_for = {"ask": "results", "from_seq": range_of["first_seq"], "to_seq": range_of["last_seq"]}
    with progress_bar() as bar:
        task = bar.add_task("challenging", total=len(names))
        while len(results) < len(names) and time.monotonic() < end_s:
            time.sleep(POLL_S)
            found = _ask(station, ask_for, key)["results"]
            told = [message for message in found if message["challenge"] and message["run"] == range_of["run"]]
            results = {message["challenge"]: message for message in told}
            bar.update(task, completed=len(results))
    return Challenge(
        way="line",
        by=by,
        bundle_hash=next((message["bundle_hash"] for message in results.values()), ""),
        begun_wall_ns=begun_ns,
        ended_wall_ns=time.time_ns(),
        parts=tuple(_told(name, results.get(name)) for name in names),
    )


def _ask(station: Station, question: Json, key: ClientKey | None) -> Json:
    try:
        return ask(station.outputs.queries, question, ANSWERED_WITHIN_S, key)[0]
    except WireError as error:
        raise NotHealthy(str(error)) from error


def _told(name: str, message: Json | None) -> ChallengePart:
    """A challenge part from its result message, None where none came."""
    if message is None:
        return ChallengePart(name=name, outcome=NEVER_CAME)
    return ChallengePart(
        name=name,
        outcome=message["verdict"],
        reason=message["reason"],
        detail=message["detail"],
        label=message["label"],
        part_score=message["part_score"],
        seq=message["seq"],
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _known_bad(footage: Footage) -> Iterator[FootagePart]:
    """Where the footage has labels, those that are not good; a plain folder of images is all bad."""
    for part in footage:
        if not means_good(part.label) if part.label else footage.about == "folder of images":
            yield part


def _judged(line: ReplayLine, part: FootagePart) -> ChallengePart:
    return part_of(line.judge(part).verdict, part.part_id, on_line=False)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"


def _list(station: Station, *, as_json: bool) -> None:
    challenges = read_challenges(station.records.folder / station.station)
    if as_json:
        print(json.dumps([_json(challenge) for challenge in challenges], indent=1, allow_nan=False))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("time", "by", "way", "bundle", "parts", "rejected", "passed"):
        table.add_column(heading, justify="right" if heading in {"parts", "rejected"} else "left")
    for challenge in challenges[-MOST_LISTED:]:
        table.add_row(
            _time(challenge.begun_wall_ns),
            challenge.by,
            challenge.way,
            challenge.bundle_hash[:16],
            str(len(challenge.parts)),
            str(sum(part.rejected for part in challenge.parts)),
            "yes" if challenge.passed else "NO",
        )
    table_console().print(table)


def _print(challenge: Challenge) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("part", "defect", "verdict", "score", "detail"):
        table.add_column(heading, justify="right" if heading == "score" else "left")
    for part in sorted(challenge.parts, key=lambda part: part.rejected):
        table.add_row(
            part.name,
            part.label,
            part.outcome,
            "" if part.part_score is None else f"{part.part_score:.4g}",
            part.detail,
            style="green" if part.rejected else "bold red",
        )
    console = table_console()
    console.print(table)
    rejected = sum(part.rejected for part in challenge.parts)
    verdict = "passed" if challenge.passed else "NOT PASSED"
    console.print(
        f"challenge {verdict}: {rejected} of {len(challenge.parts)} known-bad parts rejected, "
        f"bundle {challenge.bundle_hash[:16]}, recorded for {challenge.by}",
        soft_wrap=True,
    )


def _json(challenge: Challenge) -> dict[str, object]:
    times = {"begun_at": _time(challenge.begun_wall_ns), "ended_at": _time(challenge.ended_wall_ns)}
    content = asdict(challenge)
    del content["begun_wall_ns"], content["ended_wall_ns"]
    return {"passed": challenge.passed, **times, **content}


def _time(wall_ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall_ns // 1_000_000_000))
