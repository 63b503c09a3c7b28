"""A camera that is unplugged, silent, frozen, or gives what it must not: what the line sees, and how it goes on."""

from __future__ import annotations

from collections.abc import Callable

import accounting
from faulting.board import Injection, Kind
from faulty_line import FaultyLine

Line = Callable[..., FaultyLine]
LIVE = {"kind": "simulated", "seed": 1, "pool": 4, "refuse_repeated": True}


def test_an_unplugged_camera_is_opened_again_by_itself(line: Line) -> None:
    """Unplugged: each part is INVALID (camera lost) at once, health says so; plugged in again, parts are judged."""
    running = line()
    assert running.reasons(2) == ["within_limits", "within_limits"]
    running.control.arm(Injection(kind=Kind.CAMERA_UNPLUGGED, parts=0))
    lost = [running.part() for _ in range(3)]
    assert {(result["verdict"], result["reason"]) for result in lost} == {("INVALID", "camera_lost")}
    running.wait_for_state("degraded", "camera")
    running.control.clear()
    running.recovers()
    running.wait_for_state("running")
    assert running.metrics()["inspectd_camera_reopened_total"] == 1
    triggers = len(running.heard.results)
    assert accounting.balance(running, triggers) == 0
    assert {"camera lost: parts are INVALID until it has been opened again", "camera opened again"} <= set(
        running.events()
    )


def test_a_silent_camera_costs_the_parts_it_did_not_answer(line: Line) -> None:
    """No image within the time-out: INVALID (no frame); the camera is kept, and the next part is judged."""
    running = line(trigger={"frame_timeout_ms": 100})
    running.control.arm(Injection(kind=Kind.CAMERA_SILENT, parts=2))
    assert running.reasons(3) == ["no_frame", "no_frame", "within_limits"]
    assert accounting.balance(running, 3) == 0


def test_a_camera_slower_than_the_deadline_delays_no_other_verdict(line: Line) -> None:
    """The image comes after its part's deadline: that part is late, those behind it are judged."""
    running = line(line={"deadline_ms": 400}, trigger={"frame_timeout_ms": 5000})
    running.control.arm(Injection(kind=Kind.CAMERA_SLOW, parts=1, amount_s=0.6))
    slow = running.part()
    assert (slow["verdict"], slow["reason"], slow["part_score"]) == ("INVALID", "late", None)
    running.recovers()
    accounting.balance(running, len(running.heard.results))


def test_repeated_images_are_refused_and_a_frozen_camera_is_opened_again(line: Line) -> None:
    """One duplicate costs one part; six equal images in a row are a frozen camera, which comes back by itself."""
    running = line(camera=LIVE)
    assert running.reasons(1) == ["within_limits"]
    running.control.arm(Injection(kind=Kind.CAMERA_DUPLICATE))
    assert running.reasons(2) == ["repeated_image", "within_limits"]
    frozen = running.control.arm(Injection(kind=Kind.CAMERA_FROZEN, parts=5))
    assert running.reasons(5) == ["repeated_image"] * 5
    assert running.control.taken(frozen, at_least=5) == 5
    running.recovers()
    assert running.metrics()["inspectd_camera_reopened_total"] == 1
    accounting.balance(running, len(running.heard.results))
    assert "frozen" in running.logged("camera lost: parts are INVALID until it has been opened again")["why"]


def test_stale_images_are_thrown_away(line: Line) -> None:
    """Images from before the trigger are never judged: the fresh one behind them is, or the part is INVALID (stale)."""
    running = line()
    running.control.arm(Injection(kind=Kind.CAMERA_STALE, parts=3))
    assert running.reasons(1) == ["within_limits"]
    assert running.metrics()["inspectd_stale_images_total"] == 3
    running.control.arm(Injection(kind=Kind.CAMERA_STALE, parts=100))
    assert running.reasons(2) == ["stale_frame", "within_limits"]
    assert accounting.balance(running, 3) == 0


def test_broken_images_never_pass(line: Line) -> None:
    """An unreadable image and one of another size are INVALID (bad image); a truncated one never passes."""
    running = line()
    assert running.reasons(1) == ["within_limits"]
    running.control.arm(Injection(kind=Kind.CAMERA_ERROR))
    running.control.arm(Injection(kind=Kind.CAMERA_WRONG_SHAPE))
    assert running.reasons(3) == ["bad_image", "bad_image", "within_limits"]
    running.control.arm(Injection(kind=Kind.CAMERA_TRUNCATED, parts=4))
    truncated = [running.part() for _ in range(4)]
    assert {result["verdict"] for result in truncated} <= {"INVALID", "REJECT"}
    assert running.reasons(1) == ["within_limits"]
    assert accounting.balance(running, 9) == 0
