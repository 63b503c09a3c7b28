"""Example client: follow results, rejects and missed rejects, check messages by their schema, fetch what it missed.

A PLC bridge starts from here: replace `on_result`, `on_reject` and `on_missed`. Needs pyzmq and jsonschema; see
docs/messages.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import zmq
from jsonschema import Draft202012Validator

from inspectd.commands.arguments import count, whole
from inspectd.errors import EndpointError, KeysError, NoAnswer
from inspectd.wire.client import ask
from inspectd.wire.curve import connect
from inspectd.wire.errors import WireError
from inspectd.wire.keys import ClientKey, read_client_key
from inspectd.wire.public import SILENT_S, schema
from inspectd.wire.questions import MAX_SEQ

Message = dict[str, Any]
Context = zmq.Context[zmq.Socket[bytes]]
TURN_MS = 100
ANSWER_S = 2.0
ASK_AGAIN_S = 0.5  # verdicts are announced first and recorded some milliseconds later
LOST_AFTER_S = 2.0  # beyond the part's deadline
UNANSWERED_S = 60.0  # so long results wait for one that nobody answers for
MOST_WAITING = 10_000


class Subscription:
    """Some of a station's topics, on a socket of their own. Used by one thread. Raises EndpointError."""

    def __init__(
        self, context: Context, endpoint: str, station: str, key: ClientKey | None, names: Sequence[str]
    ) -> None:
        self._station = station
        self._schemas = {name: Draft202012Validator(schema(name)) for name in names}
        self._socket = context.socket(zmq.SUB)
        for name in names:
            self._socket.subscribe(f"{name}.{station}")
        try:
            self._handshakes = connect(self._socket, endpoint, key)
        except EndpointError:
            self._socket.close()
            raise

    def next(self) -> tuple[str, Message] | None:
        """The next message, with its name; None where none comes within a turn. Raises EndpointError where refused."""
        self._handshakes.check()
        if not self._socket.poll(TURN_MS):
            return None
        topic, body = self._socket.recv_multipart()
        name, _, station = topic.decode().partition(".")
        if station != self._station:
            return None  # `result.a` is a prefix of `result.ab`
        message = json.loads(body)
        fault = next(self._schemas[name].iter_errors(message), None)
        if fault is not None:
            print(f"message on {topic.decode()} does not follow its schema: {fault.message}", file=sys.stderr)
            return None
        return name, message

    def close(self) -> None:
        """Close the socket."""
        self._handshakes.close()
        self._socket.close()


class Rejects(Thread):
    """Follows rejects on a socket and in a thread of its own: nothing that is done with results delays one.

    act: what to do with each message, by its name; called in this thread. `heard` is set once a message has come, or
    none can come any more. The thread prints when there is silence: then no reject would come either.
    """

    def __init__(self, subscribe: Callable[[], Subscription], act: Mapping[str, Callable[[Message], None]]) -> None:
        super().__init__(name="rejects")
        self._subscribe, self._act = subscribe, act
        self._ending = Event()
        self._error: Exception | None = None
        self.heard = Event()

    def run(self) -> None:
        """The thread's body."""
        try:
            with closing(self._subscribe()) as subscription:
                self._follow(subscription)
        except Exception as error:
            self._error = error
        finally:
            self.heard.set()

    def check(self) -> None:
        """Raise what has ended the thread: without it no part is taken off the line."""
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Stop, and wait for it."""
        self._ending.set()
        self.join()

    def _follow(self, subscription: Subscription) -> None:
        silent_s = time.monotonic() + SILENT_S
        while not self._ending.is_set():
            if (came := subscription.next()) is not None:
                name, message = came
                self._act[name](message)
                self.heard.set()
            elif time.monotonic() < silent_s:
                continue
            else:
                print("silent: no heartbeat; nobody inspects", file=sys.stderr)
            silent_s = time.monotonic() + SILENT_S


class Follower:
    """Hands on each result exactly once, in order, the missed ones too; what comes behind a missing one waits for it.

    A missing number is asked for time and again, and heard where it comes by itself: its part may still be judged. It
    is lost where it has no record LOST_AFTER_S after its deadline. A result that comes all the same is handed on.
    recorded(first, last): an answer to the question for results; raises NoAnswer, WireError.
    `last_seq`: the newest number that was handled before; everything after it is asked for. None: begin with whatever
    comes first. run: the run of numbers that it belongs to, empty where that was not kept.

    Where numbers begin again (another run), it says so and starts over with the first one.
    """

    def __init__(
        self,
        recorded: Callable[[int, int], Message],
        on_result: Callable[[Message], None],
        last_seq: int | None,
        run: str = "",
    ) -> None:
        self._recorded = recorded
        self._on_result = on_result
        self._next = None if last_seq is None else last_seq + 1
        self._run = run
        self._newest = -1
        self._waiting: dict[int, Message] = {}
        self._lost: list[range] = []
        self._deadline_s = 0.0
        self._gap, self._gap_since_s, self._ask_at_s = -1, 0.0, 0.0
        self._came_s = 0.0

    def take(self, result: Message) -> None:
        """Take in a result that came by subscription."""
        now_s = time.monotonic()
        if now_s - self._came_s > SILENT_S:
            self._gap_since_s = now_s  # the daemon was away: what nobody could answer is not overdue
        self._came_s = now_s
        self._follow_run(result.get("run", ""), result["seq"], before=result["seq"] - 1)
        self._next = result["seq"] if self._next is None else self._next
        self._newest = max(self._newest, result["seq"])
        if len(self._waiting) < MOST_WAITING:  # else it is asked for later
            self._keep(result)
        self.turn()

    def heard_of(self, last_seq: int | None, run: str = "") -> None:
        """The heartbeat names the newest number: a gap at the end shows without waiting for the next part."""
        self._follow_run(run, last_seq or 0, before=last_seq or 0)
        if self._next is not None and last_seq is not None:
            self._newest = max(self._newest, last_seq)
        self.turn()

    def turn(self) -> None:
        """Hand on what is next; where that is missing and it is time to ask, ask. To be called each now and then."""
        self._hand_on()
        while self._next is not None and self._next <= self._newest:
            now_s = time.monotonic()
            if self._gap != self._next:
                self._gap, self._gap_since_s, self._ask_at_s = self._next, now_s, now_s
            if now_s < self._ask_at_s:
                return
            self._fetch(self._next, for_s=now_s - self._gap_since_s)
            self._hand_on()

    def _follow_run(self, run: str, newest: int, *, before: int) -> None:
        """Look at the run of a message that came by subscription, and at the newest number that it names.

        before: where no run was known, and the numbers are smaller than those handled before, the others follow it.
        """
        if not run or run == self._run:
            return
        if self._run:
            self._start_over(run)
        else:
            print(f"the run of numbers is {run}: give it as --run together with --last-seq", file=sys.stderr)
            if self._next is not None and newest < self._next - 1:
                why = "they began again, or records were lost; all that there are: --last-seq 0"
                print(f"numbers up to {newest} only, not {self._next - 1}: {why}", file=sys.stderr)
                self._next = before + 1
        self._run = run

    def _start_over(self, run: str) -> None:
        """Hand on what still waits of the run that is over, name what is missing of it, and begin with number 1."""
        print(f"numbers begin again: run {run} in place of {self._run}; starting over with 1", file=sys.stderr)
        expected = self._newest + 1 if self._next is None else self._next
        for seq in [*sorted(self._waiting), self._newest + 1]:
            if seq > expected:
                print(f"{expected}..{seq - 1} of run {self._run} never came", file=sys.stderr)
            if seq in self._waiting:
                self._on_result(self._waiting[seq])
            expected = seq + 1
        self._next, self._newest, self._gap = 1, -1, -1
        self._waiting.clear()
        self._lost.clear()

    def _fetch(self, first: int, *, for_s: float) -> None:
        """Ask for what has been missing from `first` on for so long; where that is overdue, go on without it."""
        last = min(self._waiting, default=self._newest + 1) - 1
        missing = []
        try:
            answer = self._recorded(first, last)
            if self._run and answer.get("run", self._run) != self._run:
                raise WireError("another run of numbers answers")  # the subscription says so next, and in its order
            missing = answer["missing"]
            for result in answer["results"]:
                self._keep(result)
        except (NoAnswer, WireError) as error:
            print(f"{first}..{last} are still missing: {error}", file=sys.stderr)
        self._ask_at_s = time.monotonic() + ASK_AGAIN_S
        behind = min(self._waiting, default=first)
        if missing and missing[0][0] == first and for_s > self._deadline_s + LOST_AFTER_S:
            self._go_on_after(first, missing[0][1], "the daemon was killed there, or they are too old")
        elif behind > first and for_s > UNANSWERED_S and time.monotonic() - self._came_s < SILENT_S:
            self._go_on_after(first, behind - 1, "later ones come and wait, and no answer brings these: see --queries")

    def _go_on_after(self, first: int, last: int, why: str) -> None:
        print(f"no record of {first}..{last}: {why}", file=sys.stderr)
        self._lost.append(range(first, last + 1))
        self._next = last + 1

    def _keep(self, result: Message) -> None:
        """Let it wait for its turn, unless that has come and gone."""
        seq, next_seq = result["seq"], self._next or 0
        self._deadline_s = seconds_between(result["triggered_at"], result["due_at"])
        if seq >= next_seq:
            self._waiting[seq] = result
        elif (lost := next((numbers for numbers in self._lost if seq in numbers), None)) is not None:
            self._lost.remove(lost)
            self._lost += [left for left in (range(lost.start, seq), range(seq + 1, lost.stop)) if left]
            self._on_result(result)

    def _hand_on(self) -> None:
        while self._next is not None and (result := self._waiting.pop(self._next, None)) is not None:
            self._on_result(result)
            self._next += 1


def seconds_between(start: str, end: str) -> float:
    """From one time of a message to another."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


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


def say(line: str) -> None:
    """Print a line at once and in one piece: two threads do."""
    print(f"{line}\n", end="", flush=True)


class Bridge:
    """One station's rejects and results. key: where the daemon lets in only clients with one."""

    def __init__(
        self,
        station: str,
        results: str,
        queries: str,
        *,
        last_seq: int | None,
        run_of_numbers: str,
        key: ClientKey | None,
    ) -> None:
        self._station, self._results, self._queries = station, results, queries
        self._last_seq, self._run_of_numbers, self._key = last_seq, run_of_numbers, key
        self.handled = 0

    def on_result(self, result: Message) -> None:
        """What to do with a verdict: here, print it."""
        self.handled += 1
        score = result["part_score"]
        say(
            f"{result['seq']:>8}  {result['part_id']:<24} {result['verdict']:<8} "
            f"{'' if score is None else format(score, '.4g'):>8}  {result['latency_ms']:.2f} ms  {result['detail']}"
        )

    def on_reject(self, reject: Message) -> None:
        """What moves the gate: here, print it. Start a timer for the window, or compare the counter with its counts.

        Called in the thread of `Rejects`, as `on_missed` is: whatever takes its time here delays the next reject.
        """
        when = schedule(reject["window"])
        say(f"{reject['seq']:>8}  {reject['part_id']:<24} -> {reject['action']} {when}")

    def on_missed(self, missed: Message) -> None:
        """A part that should be off the line is still on it: never act on it here, call a person. Here, print it."""
        say(f"{missed['seq']:>8}  {missed['part_id']:<24} -> missed, {missed['detail']}")

    def _recorded(self, first: int, last: int) -> Message:
        """Ask the daemon for results that were missed. Raises NoAnswer, WireError."""
        question = {"ask": "results", "from_seq": first, "to_seq": last}
        return ask(self._queries, question, ANSWER_S, self._key)[0]

    def run(self, max_parts: int | None) -> None:
        """Follow until `max_parts` results were handled; rejects first. Raises EndpointError where we are refused."""
        with ExitStack() as stack:
            context: Context = zmq.Context()
            stack.callback(context.term)
            subscribe = partial(Subscription, context, self._results, self._station, self._key)
            act = {"reject": self.on_reject, "missed": self.on_missed, "health": lambda _: None}
            rejects = Rejects(partial(subscribe, tuple(act)), act)
            rejects.start()
            stack.callback(rejects.end)
            rejects.heard.wait(SILENT_S)
            results = stack.enter_context(closing(subscribe(("result", "health"))))
            follower = Follower(self._recorded, self.on_result, self._last_seq, self._run_of_numbers)
            while max_parts is None or self.handled < max_parts:
                rejects.check()
                match results.next():
                    case "result", result:
                        follower.take(result)
                    case "health", health:
                        follower.heard_of(health["last_seq"], health.get("run", ""))
                    case None:
                        follower.turn()


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
        "--last-seq", type=whole(0, MAX_SEQ), help="newest sequence number that was handled before; default: begin now"
    )
    parser.add_argument(
        "--run",
        default="",
        metavar="ID",
        help="the run that --last-seq belongs to; in another one, begin with the first",
    )
    parser.add_argument("--max-parts", type=count, help="end after so many results")
    parser.add_argument("--key", type=Path, help="this client's key, as `inspectd keys client` made it")
    args = parser.parse_args()
    try:
        key = None if args.key is None else read_client_key(args.key)
        bridge = Bridge(
            args.station, args.results, args.queries, last_seq=args.last_seq, run_of_numbers=args.run, key=key
        )
        bridge.run(args.max_parts)
    except (EndpointError, KeysError) as error:
        print(f"plc_bridge: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
