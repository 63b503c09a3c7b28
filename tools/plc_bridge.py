"""Example client: follow results, rejects and missed rejects, check messages by their schema, fetch what it missed.

A PLC bridge starts from here: replace `on_result` and `on_reject`. Needs pyzmq and jsonschema; see docs/messages.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq
from jsonschema import Draft202012Validator

from inspectd.errors import EndpointError, KeysError
from inspectd.wire.curve import Handshakes, connect
from inspectd.wire.keys import ClientKey, read_client_key
from inspectd.wire.public import schema

Message = dict[str, Any]
ANSWER_TIMEOUT_MS = 2000
SILENT_MS = 3000
RECORDED_BY_S = 0.5


class Asker:
    """Asks the daemon's query socket; a new socket after each silence, as REQ sockets need."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, key: ClientKey | None) -> None:
        self._context = context
        self._endpoint, self._key = endpoint, key
        self._socket: zmq.Socket[bytes] | None = None
        self._handshakes: Handshakes | None = None

    def ask(self, question: Message) -> Message | None:
        """The answer, or None where none came in time or the daemon refused."""
        if self._socket is None:
            self._socket = self._context.socket(zmq.REQ)
            self._socket.linger = 0
            self._handshakes = connect(self._socket, self._endpoint, self._key)
        self._socket.send(json.dumps(question).encode())
        if not self._socket.poll(ANSWER_TIMEOUT_MS):
            self.close()
            return None
        answer: Message = json.loads(self._socket.recv_multipart()[0])
        return None if answer["answer"] == "error" else answer

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        if self._handshakes is not None:
            self._handshakes.close()
        if self._socket is not None:
            self._socket.close()
        self._socket = self._handshakes = None


class Follower:
    """Hands on each result exactly once, in order, the missed ones too.

    `last_seq`: the newest number that was handled in an earlier run; everything after it is asked for. None: begin with
    whatever comes first.
    """

    def __init__(self, asker: Asker, on_result: Callable[[Message], None], last_seq: int | None) -> None:
        self._asker = asker
        self._on_result = on_result
        self._next = None if last_seq is None else last_seq + 1

    def take(self, result: Message) -> None:
        """Handle a result that came by subscription; asks for those before it first, where some are missing."""
        seq = result["seq"]
        if self._next is not None and seq < self._next:
            return  # an answer to an earlier question has brought it already
        if self._next is not None and seq > self._next:
            self.fetch(seq - 1)
        self._on_result(result)
        self._next = seq + 1

    def heard_of(self, last_seq: int | None) -> None:
        """The heartbeat names the newest verdict: a gap at the end shows without waiting for the next part."""
        if self._next is not None and last_seq is not None and last_seq >= self._next:
            self.fetch(last_seq)

    def fetch(self, to_seq: int) -> None:
        """Ask for everything up to `to_seq` and hand it on; numbers without a record are named on standard error."""
        asked_twice = False
        while self._next is not None and self._next <= to_seq:
            answer = self._asker.ask({"ask": "results", "from_seq": self._next, "to_seq": to_seq})
            if answer is None:
                print(f"no answer: {self._next}..{to_seq} are still missing", file=sys.stderr)
                return
            incomplete = answer["missing"] or answer["complete_to"] < self._next
            if incomplete and not asked_twice:
                asked_twice = True  # verdicts are announced first and recorded some milliseconds later
                time.sleep(RECORDED_BY_S)
                continue
            if answer["complete_to"] < self._next:
                return
            for first, last in answer["missing"]:
                print(
                    f"no record of {first}..{last}: the daemon was killed there, or they are too old", file=sys.stderr
                )
            for result in answer["results"]:
                self._on_result(result)
            self._next = answer["complete_to"] + 1


def schedule(window: Message | None) -> str:
    """When the actuator must act, in words."""
    if window is None:
        return "at once"
    parts = []
    if window["opens_in_ms"] is not None:
        width_ms = window["closes_in_ms"] - window["opens_in_ms"]
        parts.append(f"in {window['opens_in_ms']:.1f} ms for {width_ms:.1f} ms")
    if window["from_count"] is not None:
        parts.append(f"from count {window['from_count']} to {window['to_count']}")
    if window["neighbour"] is not None:
        parts.append(f"and {window['neighbour']} with it")
    return ", ".join(parts)


class Bridge:
    """One station's subscription. key: where the daemon lets in only clients with one. Raises EndpointError."""

    def __init__(
        self, station: str, results: str, queries: str, *, last_seq: int | None, key: ClientKey | None
    ) -> None:
        self.station = station
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._asker = Asker(self._context, queries, key)
        self._follower = Follower(self._asker, self.on_result, last_seq)
        self._schemas = {name: Draft202012Validator(schema(name)) for name in ("result", "reject", "missed", "health")}
        for name in self._schemas:
            self._socket.subscribe(f"{name}.{station}")
        try:
            self._handshakes = connect(self._socket, results, key)
        except EndpointError:
            self._context.destroy(linger=0)
            raise
        self.handled = 0

    def on_result(self, result: Message) -> None:
        """What to do with a verdict: here, print it."""
        self.handled += 1
        score = result["part_score"]
        print(
            f"{result['seq']:>8}  {result['part_id']:<24} {result['verdict']:<8} "
            f"{'' if score is None else format(score, '.4g'):>8}  {result['latency_ms']:.2f} ms  {result['detail']}",
            flush=True,
        )

    def on_reject(self, reject: Message) -> None:
        """What moves the gate: here, print it. Start a timer for the window, or compare the counter with its counts."""
        when = schedule(reject["window"])
        print(f"{reject['seq']:>8}  {reject['part_id']:<24} -> {reject['action']} {when}", flush=True)

    def on_missed(self, missed: Message) -> None:
        """A part that should be off the line is still on it: never act on it here, call a person. Here, print it."""
        print(f"{missed['seq']:>8}  {missed['part_id']:<24} -> missed, {missed['detail']}", flush=True)

    def run(self, max_parts: int | None) -> None:
        """Follow until `max_parts` results were handled. Raises EndpointError where we are refused."""
        while max_parts is None or self.handled < max_parts:
            self._handshakes.check()
            if not self._socket.poll(SILENT_MS):
                self._handshakes.check()
                print("silent: no heartbeat; nobody inspects", file=sys.stderr)
                continue
            topic, body = self._socket.recv_multipart()
            name, _, station = topic.decode().partition(".")
            if station != self.station:
                continue  # `result.a` is a prefix of `result.ab`
            message = json.loads(body)
            fault = next(self._schemas[name].iter_errors(message), None)
            if fault is not None:
                print(f"message on {topic.decode()} does not follow its schema: {fault.message}", file=sys.stderr)
            elif name == "result":
                self._follower.take(message)
            elif name == "reject":
                self.on_reject(message)
            elif name == "missed":
                self.on_missed(message)
            else:
                self._follower.heard_of(message["last_seq"])

    def close(self) -> None:
        """Close sockets and context."""
        self._handshakes.close()
        self._socket.close(linger=0)
        self._asker.close()
        self._context.term()


def main() -> int:
    """Follow one station; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Follow a station's results and reject signals, and fetch the results that were missed.",
        epilog="example: python tools/plc_bridge.py --station smdc --last-seq 1200",
    )
    parser.add_argument("--station", required=True)
    parser.add_argument("--results", default="tcp://127.0.0.1:5560", help="outputs.results of the station")
    parser.add_argument("--queries", default="tcp://127.0.0.1:5561", help="outputs.queries of the station")
    parser.add_argument(
        "--last-seq", type=int, help="newest sequence number that was handled before; default: begin now"
    )
    parser.add_argument("--max-parts", type=int, help="end after so many results")
    parser.add_argument("--key", type=Path, help="this client's key, as `inspectd keys client` made it")
    args = parser.parse_args()
    try:
        key = None if args.key is None else read_client_key(args.key)
        bridge = Bridge(args.station, args.results, args.queries, last_seq=args.last_seq, key=key)
        try:
            bridge.run(args.max_parts)
        finally:
            bridge.close()
    except (EndpointError, KeysError) as error:
        print(f"plc_bridge: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
