"""The intake of triggers: what has come by the time of a stop."""

from __future__ import annotations

from threading import Event, Thread

import pytest
import zmq
from closable import Keep

from inspectd.health.meters import Count, Meters
from inspectd.intake import UNREAD_AT_MOST, Intake
from inspectd.messages import Shed, Trigger
from inspectd.register import Register
from inspectd.trigger_message import Ask
from inspectd.triggers import MessageTriggers
from inspectd.wire.sockets import Socket, pull, push, receive

Context = zmq.Context[zmq.Socket[bytes]]


def made_register(gate: Socket, meters: Meters, deadline_ms: float = 100) -> Register:
    """A register that numbers parts from 1 on."""
    numbers = iter(range(1, 1_000_000))
    return Register(
        station="test",
        deadline_ms=deadline_ms,
        margin_ns=2_000_000,
        next_seq=lambda: next(numbers),
        gate=gate,
        meters=meters,
    )


@pytest.mark.parametrize(("sent", "taken"), [(7, 7), (UNREAD_AT_MOST + 50, UNREAD_AT_MOST)])
def test_what_came_before_the_stop_gets_its_verdict(
    context: Context, closed_after: Keep, sent: int, taken: int
) -> None:
    """Its sender was not refused. A sender that never pauses does not keep the daemon from ending."""
    gate, camera = (closed_after(pull(context, f"inproc://{name}")) for name in ("gate", "camera"))
    to_gate, to_camera, positions = (
        closed_after(push(context, f"inproc://{name}", 10_000)) for name in ("gate", "camera", "positions")
    )
    asked = closed_after(context.socket(zmq.PULL))
    asked.bind("inproc://asked")
    plc = closed_after(context.socket(zmq.PUSH))
    plc.set_hwm(0)
    plc.connect("inproc://asked")
    for _ in range(sent):
        plc.send(b"{}")
    meters = Meters()
    register = made_register(to_gate, meters)
    stop = Event()
    stop.set()
    Intake(
        register,
        triggers=MessageTriggers(asked, meters),
        gate=to_gate,
        camera=to_camera,
        positions=positions,
        max_parts=None,
        deadline_ms=100,
        meters=meters,
    ).run(stop)
    told = []
    while gate.poll(0):
        told.append(receive(gate))
    assert [seq for message in told for seq in numbers_of(message)] == list(range(1, taken + 1))
    assert camera.poll(0)


def numbers_of(message: object) -> list[int]:
    """The parts that a message to the gate is about."""
    triggers = message.triggers if isinstance(message, Shed) else (message,)
    return [trigger.seq for trigger in triggers if isinstance(trigger, Trigger)]


class Flood:
    """So many triggers, all there at once; then the stop."""

    def __init__(self, count: int, stop: Event) -> None:
        self._left, self._stop = count, stop

    def next(self, stop: Event) -> Ask | None:
        """The next of them."""
        if not self._left:
            self._stop.set()
            return None
        self._left -= 1
        return Ask(1)

    def waits(self) -> bool:
        """Whether there are more."""
        return self._left > 0

    def close(self) -> None:
        """Nothing to let go of."""


@pytest.mark.parametrize("room", [4, 40, 10_000])
def test_a_flood_is_shed_in_batches_and_every_number_is_told(context: Context, closed_after: Keep, room: int) -> None:
    """Full queues end nothing: whatever has a number reaches the gate, once, in order, however little it takes."""
    gate, camera = (closed_after(pull(context, f"inproc://{name}")) for name in ("gate", "camera"))
    to_gate = closed_after(push(context, "inproc://gate", room))
    to_camera, positions = (closed_after(push(context, f"inproc://{name}", 5)) for name in ("camera", "positions"))
    meters, stop, sent = Meters(), Event(), 3_000
    intake = Intake(
        made_register(to_gate, meters),
        triggers=Flood(sent, stop),
        gate=to_gate,
        camera=to_camera,
        positions=positions,
        max_parts=None,
        deadline_ms=100,
        meters=meters,
    )
    taking = Thread(target=intake.run, args=(stop,))
    taking.start()
    numbers: list[int] = []
    messages = 0
    while len(numbers) < sent:
        assert gate.poll(5_000), "the intake ended before every part was told"
        told = receive(gate)
        messages += 1
        numbers += numbers_of(told)
        if isinstance(told, Shed):
            meters.count(Count.SHED, len(told.triggers))
    taking.join(10)
    assert numbers == list(range(1, sent + 1))
    assert messages < sent / 10
    assert meters.counts()["overload"] == sent - meters_of(camera)


def meters_of(camera: Socket) -> int:
    """How many parts the camera's stage was asked for."""
    found = 0
    while camera.poll(0):
        found += receive(camera) is not None
    return found


def test_what_was_overdue_on_arrival_is_its_senders_lateness(context: Context, closed_after: Keep) -> None:
    """An age that leaves no time for an answer marks the part; one that leaves some does not."""
    gate = closed_after(pull(context, "inproc://gate"))
    register = made_register(closed_after(push(context, "inproc://gate", 10)), meters := Meters())
    assert not register.enter(Ask(due_ns=1, age_ns=97_000_000)).overdue
    assert register.enter(Ask(due_ns=1, age_ns=98_000_000)).overdue
    assert meters.counts()["triggers_overdue"] == 1
    assert gate.poll(1_000)
