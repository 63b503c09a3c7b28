"""The remote control of a faulty daemon: arm a fault over a socket, wait until it has happened, clear all."""

from __future__ import annotations

import json
from dataclasses import asdict
from threading import Event, Thread
from typing import Any

import zmq

from faulting.board import Board, Injection, Kind
from faulting.clock import WallClock
from inspectd.errors import InspectdError
from inspectd.wire.sockets import Context, Socket

POLL_MS = 100
LONGEST_WAIT_S = 60.0
SPARE_S = 10.0
Json = dict[str, Any]


class ControlFailed(InspectdError):
    """The faulty daemon does not answer, or refuses."""


class ControlServer:
    """Answers on a REP socket of its own, in its own thread, until closed; one client at a time."""

    def __init__(self, endpoint: str, board: Board, clock: WallClock) -> None:
        self._board, self._clock = board, clock
        self._context: Context = zmq.Context()
        self._socket = self._context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(endpoint)
        self._stop = Event()
        self._thread = Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering; waits for a question that is being answered."""
        self._stop.set()
        self._thread.join()
        self._context.term()

    def _run(self) -> None:
        with self._socket as socket:
            while not self._stop.is_set():
                if socket.poll(POLL_MS):
                    socket.send_json(self._answer(socket.recv()))

    def _answer(self, asked: bytes) -> Json:
        try:
            question = json.loads(asked)
            do = question.pop("do")
            if do == "arm":
                return self._arm(Injection(**{**question, "kind": Kind(question["kind"])}))
            if do == "taken":
                wait_s = min(LONGEST_WAIT_S, float(question["timeout_s"]))
                return {"taken": self._board.taken(int(question["number"]), int(question["at_least"]), wait_s)}
            if do == "clear":
                self._board.clear()
                return {}
            raise ValueError(f"cannot {do}: arm, taken or clear")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _arm(self, injection: Injection) -> Json:
        """A jump of the clock happens at once; everything else when its camera or engine next works."""
        number = self._board.arm(injection)
        if injection.kind is Kind.CLOCK_JUMP:
            self._clock.jump(injection.amount_s)
            self._board.take({Kind.CLOCK_JUMP})
        return {"number": number}


class Control:
    """The asking side, for tests and tools; used by one thread."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._context: Context = zmq.Context()
        self._socket: Socket = self._context.socket(zmq.REQ)
        self._socket.linger = 0
        self._socket.connect(endpoint)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        self._context.term()

    def arm(self, injection: Injection) -> int:
        """Let a fault happen from now on; returns its number at once. Raises ControlFailed."""
        return int(self._ask({"do": "arm", **asdict(injection)})["number"])

    def inject(self, injection: Injection, timeout_s: float = 30.0) -> int:
        """As `arm`, and wait until it has happened (the first time); returns its number. Raises ControlFailed."""
        number = self.arm(injection)
        if not self.taken(number, timeout_s=timeout_s):
            raise ControlFailed(f"{injection.kind.value} has not happened within {timeout_s:g} s")
        return number

    def taken(self, number: int, *, at_least: int = 1, timeout_s: float = 30.0) -> int:
        """How often a fault has happened; blocks until `at_least` times or for `timeout_s`. Raises ControlFailed."""
        question = {"do": "taken", "number": number, "at_least": at_least, "timeout_s": timeout_s}
        return int(self._ask(question, timeout_s)["taken"])

    def clear(self) -> None:
        """End every fault. Raises ControlFailed."""
        self._ask({"do": "clear"})

    def _ask(self, question: Json, timeout_s: float = 0.0) -> Json:
        self._socket.send_json(question)
        if not self._socket.poll(round(1000 * (timeout_s + SPARE_S))):
            raise ControlFailed(f"{self._endpoint}: no answer: has the faulty daemon ended?")
        answer: Json = json.loads(self._socket.recv())
        if "error" in answer:
            raise ControlFailed(f"{self._endpoint}: refused: {answer['error']}")
        return answer
