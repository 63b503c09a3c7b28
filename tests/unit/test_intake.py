"""The intake of triggers: what has come by the time of a stop."""

from __future__ import annotations

from threading import Event

import pytest
import zmq
from closable import Keep

from inspectd.health.meters import Meters
from inspectd.intake import UNREAD_AT_MOST, Intake
from inspectd.messages import Trigger
from inspectd.register import Register
from inspectd.triggers import MessageTriggers
from inspectd.wire.sockets import pull, push, receive

Context = zmq.Context[zmq.Socket[bytes]]


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
    numbers = iter(range(1, 10_000))
    register = Register(station="test", deadline_ms=100, next_seq=lambda: next(numbers), gate=to_gate, meters=meters)
    stop = Event()
    stop.set()
    Intake(
        register,
        triggers=MessageTriggers(asked, meters),
        gate=to_gate,
        camera=to_camera,
        positions=positions,
        max_parts=None,
        meters=meters,
    ).run(stop)
    told = []
    while gate.poll(0):
        told.append(receive(gate))
    assert [trigger.seq for trigger in told if isinstance(trigger, Trigger)] == list(range(1, taken + 1))
    assert camera.poll(0)
