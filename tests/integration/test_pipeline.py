"""The whole line over real sockets, threads and files: the simulated camera, a runtime without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import cv2
import numpy as np
import pytest
import zmq
from closable import Keep
from fake_runtime import FakeRuntime
from line_values import BUNDLE_HASH, LIMITS, REGIONS, free_port, station

from inspectd.camera import Camera, Shot
from inspectd.cameras import open_camera
from inspectd.config import Station
from inspectd.engine_guard import Engine
from inspectd.errors import CameraError, CameraTimeout, EndpointError, StorageError
from inspectd.health.heartbeat import State
from inspectd.health.meters import Count
from inspectd.loading import locate_part
from inspectd.locate import Locator
from inspectd.messages import Outcome, Reason, Thresholds
from inspectd.pipeline import Pipeline, StageFailed
from inspectd.records.reading import RecordReader
from inspectd.records.rows import StoredPart

PATIENCE_S = 30.0


def build(
    settings: Station,
    runtime: FakeRuntime,
    *,
    max_parts: int | None = None,
    camera: Callable[[], Camera] | None = None,
    limits: Thresholds = LIMITS,
) -> Pipeline:
    """A pipeline around the fake runtime."""
    engine = Engine(runtime=runtime, regions=REGIONS, thresholds=limits, bundle_hash=BUNDLE_HASH)
    return Pipeline(
        settings,
        engine=engine,
        load=lambda folder: engine,
        locate=locate_part(Locator(settings.locate, settings.canvas)),
        camera=camera or (lambda: open_camera(settings.camera)),
        max_parts=max_parts,
    )


def stored(settings: Station) -> list[StoredPart]:
    """All records of a station."""
    with RecordReader(settings.records.folder / settings.station) as reader:
        return list(reader.all())


def run_through(pipeline: Pipeline) -> None:
    """Start, run to the end of its parts, stop; a context that does not terminate fails here."""
    pipeline.start()
    pipeline.run(lambda: False, lambda: None)
    assert pipeline.stop()


@contextmanager
def running(pipeline: Pipeline) -> Iterator[Pipeline]:
    """A pipeline that runs until the block ends."""
    asked: list[bool] = []
    pipeline.start()
    thread = Thread(target=lambda: pipeline.run(lambda: bool(asked), lambda: None))
    thread.start()
    try:
        yield pipeline
    finally:
        asked.append(True)
        thread.join(PATIENCE_S)
        assert pipeline.stop()


class Subscriber:
    """Collects what the PUB socket says."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], settings: Station) -> None:
        self._socket = context.socket(zmq.SUB)
        self._socket.subscribe(b"")
        self._socket.connect(settings.outputs.results)

    def next(self, topic: str) -> dict[str, Any]:
        """The next message on a topic."""
        while self._socket.poll(int(PATIENCE_S * 1000)):
            name, body = self._socket.recv_multipart()
            if name.decode() == topic:
                message: dict[str, Any] = json.loads(body)
                return message
        raise TimeoutError(topic)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close(linger=0)


@pytest.fixture
def subscribe(context: zmq.Context[zmq.Socket[bytes]], closed_after: Keep) -> Callable[[Station], Subscriber]:
    """Makes subscribers that are closed in the end."""
    return lambda settings: closed_after(Subscriber(context, settings))


def test_every_trigger_is_judged_announced_and_recorded(
    tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]], subscribe: Callable[[Station], Subscriber]
) -> None:
    """Verdicts leave in order, equal to their records; rejects have their own topic; the last word is `stopped`.

    Parts come four at a time and leave time for their verdicts, and six images fit their queue: no load of the machine
    that runs this can make a part overtake another, or an image find no room.
    """
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    settings = station(
        tmp_path,
        line={"deadline_ms": 1000 * PATIENCE_S},
        trigger={"source": "zmq", "endpoint": endpoint},
        records={"passed_image_every": 8},
    )
    calls = iter(range(1000))
    runtime = FakeRuntime(score=lambda image: 0.9 if next(calls) % 5 == 4 else 0.25)
    subscriber = subscribe(settings)
    results = []
    with running(build(settings, runtime)), context.socket(zmq.PUSH) as plc:
        plc.connect(endpoint)
        subscriber.next("health.test")  # the subscription stands
        for _ in range(5):
            for _ in range(4):
                plc.send(b"{}")
            results += [subscriber.next("result.test") for _ in range(4)]
    assert [message["seq"] for message in results] == list(range(1, 21))
    parts = {part.verdict.seq: part for part in stored(settings)}
    for message in results:
        part = parts[message["seq"]]
        assert message["verdict"] == part.verdict.outcome.value == ("REJECT" if message["part_score"] > 0.5 else "PASS")
        assert message["latency_ms"] == pytest.approx(
            (part.verdict.verdict_ns - part.verdict.trigger_ns) / 1e6, abs=1e-3
        )
        assert message["bundle_hash"] == BUNDLE_HASH
        assert part.pose is not None
        assert part.verdict.label == "good"
    assert sorted(parts) == list(range(1, 21))
    for part in parts.values():
        assert part.verdict.outcome is Outcome.PASS or part.image is not None
    kept = [part.image for part in parts.values() if part.image is not None]
    assert len(kept) == 6  # four rejects, and each eighth of the sixteen that passed
    assert all((settings.records.folder / "test" / name).is_file() for name in kept)
    while subscriber.next("health.test")["state"] != State.STOPPED:
        pass


def test_rejects_are_signalled(tmp_path: Path, subscribe: Callable[[Station], Subscriber]) -> None:
    """A rejected part is named on the reject topic, before its result."""
    settings = station(tmp_path)
    subscriber = subscribe(settings)
    with running(build(settings, FakeRuntime(score=lambda image: 0.9))):
        signal = subscriber.next("reject.test")
        result = subscriber.next("result.test")
    assert signal["action"] == "reject"
    assert signal["seq"] == result["seq"]


def test_a_dead_engine_costs_verdicts_not_answers(tmp_path: Path) -> None:
    """With an engine that refuses every part, each trigger is still answered in time: INVALID (engine fault)."""
    settings = station(tmp_path)
    runtime = FakeRuntime()
    runtime.slot.fault = "the engine is gone"
    pipeline = build(settings, runtime, max_parts=20)
    run_through(pipeline)
    parts = stored(settings)
    assert len(parts) == 20
    assert {(part.verdict.outcome, part.verdict.reason) for part in parts} == {(Outcome.INVALID, Reason.ENGINE_FAULT)}
    assert pipeline.meters.counts()[Count.ENGINES_ABANDONED] >= 1


def test_a_stage_survives_an_exception(tmp_path: Path) -> None:
    """An error that nobody foresaw costs one part, never the stage."""
    calls = iter(range(100))

    def score(image: np.ndarray[Any, Any]) -> float:
        if next(calls) == 3:
            raise ZeroDivisionError("unforeseen")
        return 0.1

    settings = station(tmp_path)
    run_through(build(settings, FakeRuntime(score=score), max_parts=10))
    outcomes = [part.verdict.outcome for part in stored(settings)]
    assert outcomes.count(Outcome.INVALID) == 1
    assert outcomes.count(Outcome.PASS) == 9


def test_nan_from_the_engine_is_invalid(tmp_path: Path) -> None:
    """A score that is not a number is INVALID, in the record too."""
    settings = station(tmp_path)
    run_through(build(settings, FakeRuntime(score=lambda image: float("nan")), max_parts=3))
    assert {part.verdict.reason for part in stored(settings)} == {Reason.NOT_A_NUMBER}


def test_a_hanging_engine_is_answered_at_the_deadline_and_its_scores_recorded_late(
    tmp_path: Path, subscribe: Callable[[Station], Subscriber]
) -> None:
    """A part without scores gets INVALID (late); scores that come afterwards are recorded and never announced."""
    hold = Event()
    settings = station(tmp_path, line={"deadline_ms": 200}, trigger={"period_ms": 1000})
    subscriber = subscribe(settings)
    with running(build(settings, FakeRuntime(hold=hold))) as pipeline:
        late = subscriber.next("result.test")
        hold.set()
        following = subscriber.next("result.test")
    assert (late["verdict"], late["reason"]) == ("INVALID", "late")
    assert late["latency_ms"] >= 198  # not before its time; that it leaves in time is the rule tested on Gate
    assert following["seq"] == late["seq"] + 1
    part = next(part for part in stored(settings) if part.verdict.seq == late["seq"])
    assert part.verdict.reason is Reason.LATE
    assert part.late is not None
    assert part.late.part_score > 0
    assert pipeline.meters.counts()[Count.LATE_SCORES] == 1


def test_a_full_queue_is_a_counted_verdict(tmp_path: Path) -> None:
    """With the engine held up and triggers going on, each part that finds no room is INVALID, none is lost."""
    hold = Event()
    settings = station(tmp_path, trigger={"period_ms": 2}, line={"deadline_ms": 5000})
    pipeline = build(settings, FakeRuntime(hold=hold), max_parts=60)
    pipeline.start()
    thread = Thread(target=lambda: pipeline.run(lambda: False, lambda: None))
    thread.start()
    thread.join(PATIENCE_S)  # all 60 were triggered, the engine still holds the first one
    hold.set()
    assert pipeline.stop()
    parts = stored(settings)
    assert [part.verdict.seq for part in parts] == list(range(1, 61))
    reasons = [part.verdict.reason for part in parts]
    assert reasons.count(Reason.OVERLOAD) == pipeline.meters.counts()[Count.OVERLOAD] > 0
    assert set(reasons) <= {Reason.OVERLOAD, Reason.WITHIN_LIMITS}
    assert reasons.count(Reason.WITHIN_LIMITS) >= 4


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    """A second run of the daemon continues where the first one ended, in the same records."""
    settings = station(tmp_path)
    for _ in range(2):
        run_through(build(settings, FakeRuntime(), max_parts=5))
    assert [part.verdict.seq for part in stored(settings)] == list(range(1, 11))


class ScriptedCamera:
    """Gives images or raises, as the script says; then the same image for ever."""

    def __init__(self, script: list[Exception | int], image: np.ndarray[Any, Any]) -> None:
        self._script = script
        self._image = image

    def grab(self, timeout_s: float) -> Shot:
        """The next step of the script: an error, or an image taken so many milliseconds ago."""
        import time

        step = self._script.pop(0) if self._script else 0
        if isinstance(step, Exception):
            raise step
        return Shot(image=self._image, captured_ns=time.monotonic_ns() - step * 1_000_000)

    def close(self) -> None:
        """Nothing to release."""


def test_camera_faults_become_invalid_and_the_camera_is_kept(tmp_path: Path) -> None:
    """A time-out is NO_FRAME, an unreadable image is BAD_IMAGE, an old one is thrown away; then it goes on."""
    settings = station(tmp_path)
    with_part = open_camera(settings.camera).grab(1).image
    script: list[Exception | int] = [
        CameraTimeout("no image within 500 ms"),
        CameraError("x.png: no image"),
        5000,
        5000,
    ]
    camera = ScriptedCamera(script, with_part)
    run_through(build(settings, FakeRuntime(), max_parts=4, camera=lambda: camera))
    verdicts = [part.verdict for part in stored(settings)]
    assert [verdict.reason for verdict in verdicts] == [
        Reason.NO_FRAME,
        Reason.BAD_IMAGE,
        Reason.WITHIN_LIMITS,
        Reason.WITHIN_LIMITS,
    ]
    assert verdicts[1].detail == "x.png: no image"


def test_a_frame_without_a_part_is_invalid_with_its_image(tmp_path: Path) -> None:
    """No part in the frame: INVALID, the reason from locate, and the frame kept to look at."""
    settings = station(tmp_path)
    camera = ScriptedCamera([], np.random.default_rng(0).integers(8, 16, (200, 240, 3), np.uint8))
    run_through(build(settings, FakeRuntime(), max_parts=3, camera=lambda: camera))
    for part in stored(settings):
        assert part.verdict.reason is Reason.NO_PART
        assert part.image is not None


def test_footage_is_judged_to_its_end_without_overload(tmp_path: Path) -> None:
    """A folder is read as fast as it is judged, a broken file in it is INVALID, and its end is a clean end."""
    footage = tmp_path / "footage"
    footage.mkdir()
    source = open_camera(station(tmp_path).camera)
    for index in range(12):
        cv2.imwrite(str(footage / f"{index}.png"), cv2.cvtColor(source.grab(1).image, cv2.COLOR_RGB2BGR))
    (footage / "5.png").write_bytes(b"not an image")
    settings = station(tmp_path, camera={"kind": "folder", "path": str(footage)}, trigger={"source": "camera"})
    run_through(build(settings, FakeRuntime()))
    parts = stored(settings)
    assert [Path(part.source).name for part in parts if part.source] == [f"{i}.png" for i in range(12) if i != 5]
    assert [part.verdict.reason for part in parts].count(Reason.WITHIN_LIMITS) == 11
    assert parts[5].verdict.reason is Reason.BAD_IMAGE


def test_triggers_by_message_name_their_parts(
    tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]], subscribe: Callable[[Station], Subscriber]
) -> None:
    """Each message is one part under its own name; a malformed one is counted and asks for nothing."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    settings = station(tmp_path, trigger={"source": "zmq", "endpoint": endpoint})
    subscriber = subscribe(settings)
    with running(build(settings, FakeRuntime())) as pipeline, context.socket(zmq.PUSH) as plc:
        plc.connect(endpoint)
        subscriber.next("health.test")
        for message in (b'{"part_id": "A-1"}', b"garbage", b'{"part_id": "A-2"}'):
            plc.send(message)
        assert [subscriber.next("result.test")["part_id"] for _ in range(2)] == ["A-1", "A-2"]
        assert pipeline.meters.counts()[Count.TRIGGERS_REFUSED] == 1


def test_a_port_in_use_is_one_clear_line(tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """A daemon that cannot bind says which endpoint, with exit code 7, and leaves nothing open."""
    settings = station(tmp_path)
    with context.socket(zmq.PUB) as other:
        other.bind(settings.outputs.results)
        pipeline = build(settings, FakeRuntime())
        with pytest.raises(EndpointError, match=settings.outputs.results) as caught:
            pipeline.start()
    assert caught.value.exit_code == 7


def test_a_camera_that_does_not_open_ends_the_start(tmp_path: Path) -> None:
    """The camera's own error comes out of start, and nothing is left running."""

    def no_camera() -> Camera:
        raise CameraError("no such device")

    with pytest.raises(CameraError, match="no such device"):
        build(station(tmp_path), FakeRuntime(), camera=no_camera).start()


def test_a_stage_that_fails_ends_the_run(tmp_path: Path) -> None:
    """There is no half-working mode: an error outside any part stops the pipeline, with the error's own exit code."""

    class BrokenCamera(ScriptedCamera):
        def grab(self, timeout_s: float) -> Shot:
            raise StorageError("an error that no part can have")

    camera = BrokenCamera([], np.zeros((1, 1, 3), np.uint8))
    pipeline = build(station(tmp_path), FakeRuntime(), camera=lambda: camera)
    pipeline.start()
    with pytest.raises(StageFailed, match="acquire") as caught:
        pipeline.run(lambda: False, lambda: None)
    assert caught.value.exit_code == 8
    assert pipeline.stop()


def test_a_second_daemon_on_the_same_records_is_refused(tmp_path: Path) -> None:
    """Two daemons would give the same numbers twice."""
    settings = station(tmp_path)
    with running(build(settings, FakeRuntime())), pytest.raises(StorageError, match="another inspectd"):
        build(settings, FakeRuntime())
