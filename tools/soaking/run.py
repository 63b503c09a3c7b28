"""The soak run itself: the daemon works, a subscriber listens, mishaps happen, and every part is accounted for."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import zmq
from benchmarking.daemon import Bench, BenchmarkError, peak_mib, resident_mib

from inspectd.errors import NotHealthy, StorageError
from inspectd.records.reading import RecordReader
from inspectd.wire.client import ask
from inspectd.wire.errors import WireError
from inspectd.wire.public import from_bytes
from soaking.faults import Mishap
from soaking.memory import LifeMemory, MemorySamples
from soaking.mischief import Mischief
from soaking.supervisor import Ended, Supervisor
from soaking.tally import Life, Tally

POLL_MS = 50
MOST_MESSAGES = 1_000
SILENT_AT_MOST_S = 60.0
SETTLED_PARTS = 500
RECORDS_EVERY_S = 0.5
MEMORY_EVERY_S = 1.0
ASK_EVERY_S = 1.0
ASK_TIMEOUT_S = 5.0
GIVE_UP_ASKING_S = 10.0
LAST_QUESTIONS = 2
CHUNK = 500
LAG = 2_000
"""Records are read so many numbers behind the newest: a late part's row comes after its successors'."""


@dataclass(slots=True)
class Observed:
    """What a run showed, beside its tally. memory: of each life of the daemon that was long enough. most_memory_mib: of
    all lives. engine_mib: what loading one more engine takes, 0 where none is loaded beside another one.
    """

    tally: Tally = field(default_factory=Tally)
    memory: list[LifeMemory] = field(default_factory=list)
    most_memory_mib: float = 0.0
    engine_mib: float = 0.0
    deadlines_missed: int = 0
    unasked_ends: list[int] = field(default_factory=list)
    watchdog_fired: int = 0
    mishaps: dict[str, list[float]] = field(default_factory=dict)
    """By name: how long after each one the last INVALID, or the first verdict after a restart, came, in seconds."""
    seconds: float = 0.0


class Soak:
    """One run over `parts` verdicts. supervisor: its daemon runs. results: a subscriber's socket. mischief: None where
    nothing is to go wrong; plan: what goes wrong next.
    """

    def __init__(
        self,
        bench: Bench,
        supervisor: Supervisor,
        results: zmq.Socket[bytes],
        *,
        parts: int,
        mischief: Mischief | None,
        plan: Iterator[Mishap],
    ) -> None:
        self._bench, self._supervisor, self._results = bench, supervisor, results
        self._parts = parts
        self._mischief, self._plan = mischief, plan
        self.observed = Observed()
        self._tally = self.observed.tally
        self._read_to = 0
        self._heard_s = time.monotonic()
        self._life_parts = 0
        self._memory = MemorySamples()
        self._missed_counted = 0
        self._asked_since: dict[int, float] = {}
        self._next_s = dict.fromkeys(("records", "memory", "ask"), 0.0)
        self._next: Mishap | None = None
        self._next_at = 0
        self._latest: tuple[str, float] | None = None
        self._bad_until_s = 0.0

    def run(self, progress: Callable[[int], None]) -> Observed:
        """Until so many parts have had their verdict; blocks. Raises BenchmarkError where the daemon cannot go on."""
        begun_s = time.monotonic()
        self._begin_life(started=True)
        self._draw()
        while self._done < self._parts:
            self._listen(POLL_MS)
            self._supervise()
            self._keep_accounts()
            self._go_wrong()
            progress(self._done)
        self._finish()
        self.observed.seconds = time.monotonic() - begun_s
        return self.observed

    @property
    def _done(self) -> int:
        return self._tally.parts_heard + self._tally.parts_fetched

    def _listen(self, patience_ms: int) -> bool:
        """Take what has been announced; True where there was anything."""
        if not self._results.poll(patience_ms):
            return False
        for _ in range(MOST_MESSAGES):
            try:
                topic, content = self._results.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                break
            if topic.startswith(b"health."):
                self._missed_counted = from_bytes(content, "inspectd.health")["counts"].get("deadlines_missed", 0)
                continue
            result = from_bytes(content, "inspectd.result")
            self._tally.hear(result["seq"], (result["verdict"], result["reason"]))
            self._heard_s = time.monotonic()
            self._life_parts += 1
            if result["verdict"] == "INVALID" or self._life_parts == 1:
                self._bad_until_s = self._heard_s
        return True

    def _supervise(self) -> None:
        ended = self._supervisor.watch()
        if ended is not None:
            self.observed.unasked_ends.append(ended.code)
            self._end_life(ended)
            if ended.code == 0 or len(self.observed.unasked_ends) > self._done // 100 + 5:
                raise BenchmarkError(f"the daemon ended with code {ended.code}: {self._supervisor.last_line()}")
            self._begin_life()
        elif time.monotonic() - self._heard_s > SILENT_AT_MOST_S:
            raise BenchmarkError(f"no result for {SILENT_AT_MOST_S:g} s: {self._supervisor.last_line()}")

    def _begin_life(self, *, started: bool = False) -> None:
        """started: the daemon runs already, and has taken no part before this."""
        self._tally.lives.append(Life(time.monotonic_ns() if not started else 0))
        if not started:
            self._supervisor.start()
        self._heard_s = time.monotonic()
        self._life_parts, self._missed_counted = 0, 0
        self._memory = MemorySamples()

    def _end_life(self, ended: Ended) -> None:
        memory = self._memory.result()
        self.observed.memory += [] if memory is None else [memory]
        self._tally.lives[-1].triggers = ended.triggers
        self.observed.deadlines_missed += self._missed_counted if ended.triggers is None else ended.deadlines_missed

    def _restart(self, number: signal.Signals) -> None:
        """End the daemon and start it again, as `systemctl restart` or a crash would."""
        self._end_life(self._supervisor.end(number))
        while self._listen(POLL_MS):
            pass
        self._begin_life()

    def _keep_accounts(self) -> None:
        if self._is_time("records", RECORDS_EVERY_S):
            self._read_records(LAG)
        if self._is_time("memory", MEMORY_EVERY_S):
            self._look_at_memory()
        if self._is_time("ask", ASK_EVERY_S):
            self._ask_for_missed(up_to=self._tally.heard.largest - LAG // 10)

    def _is_time(self, what: str, every_s: float) -> bool:
        if time.monotonic() < self._next_s[what]:
            return False
        self._next_s[what] = time.monotonic() + every_s
        return True

    def _read_records(self, lag: int) -> None:
        """Count what has been recorded since the last time, up to `lag` numbers behind the newest."""
        try:
            with RecordReader(self._bench.records) as reader:
                last = reader.newest() - lag
                while self._read_to < last:
                    parts = reader.between(self._read_to + 1, last, CHUNK)
                    for part in parts:
                        self._tally.record(part.verdict)
                    self._read_to = parts[-1].verdict.seq if len(parts) == CHUNK else last
        except StorageError as error:
            if lag == 0:
                raise BenchmarkError(f"the records cannot be read: {error}") from error

    def _look_at_memory(self) -> None:
        pid = self._supervisor.pid
        self._memory.add(resident_mib(pid), peak_mib(pid), settled=self._life_parts >= SETTLED_PARTS)
        self.observed.most_memory_mib = max(self.observed.most_memory_mib, self._memory.most_mib)

    def _ask_for_missed(self, up_to: int) -> None:
        """Ask the daemon for what was not heard; what it has no record of is asked for during ten seconds."""
        now_s = time.monotonic()
        for first, last in self._tally.untold(1, up_to):
            if now_s - self._asked_since.setdefault(first, now_s) > GIVE_UP_ASKING_S:
                continue
            try:
                question = {"ask": "results", "from_seq": first, "to_seq": last}
                answer, _ = ask(self._bench.queries, question, ASK_TIMEOUT_S)
            except (NotHealthy, WireError):
                return  # it is asked again in a second
            for result in answer["results"]:
                self._tally.fetch(result["seq"])

    def _draw(self) -> None:
        """What goes wrong next, and after how many parts."""
        self._next = None if self._mischief is None else next(self._plan)
        self._next_at = self._done + (self._next.after_parts if self._next else 0)

    def _go_wrong(self) -> None:
        if self._mischief is not None:
            self._mischief.turn()
        if self._next is None or self._mischief is None or self._done < self._next_at:
            return
        self._note_recovery()
        self._latest = (self._next.name, time.monotonic())
        number = self._mischief.do(self._next)
        if number is signal.SIGHUP:
            self._supervisor.signal(number)
        elif number is not None:
            self._restart(number)
        self._draw()

    def _note_recovery(self) -> None:
        """How long the mishap before could be seen."""
        if self._latest is not None:
            name, at_s = self._latest
            self.observed.mishaps.setdefault(name, []).append(max(0.0, self._bad_until_s - at_s))

    def _finish(self) -> None:
        """End the daemon, hear its last words, ask once more where something is missing, and settle."""
        self._note_recovery()
        if self._mischief is not None:
            self._mischief.close()
        self._look_at_memory()
        for _ in range(LAST_QUESTIONS):
            self._ask_for_missed(self._tally.heard.largest)
            time.sleep(ASK_EVERY_S)  # what has only just been announced may not be recorded yet
        self._end_life(self._supervisor.end(signal.SIGTERM))
        while self._listen(POLL_MS):
            pass
        self._read_records(0)
        self._read_gaps()
        self.observed.watchdog_fired = self._supervisor.watchdog_fired
        self._tally.settle()

    def _read_gaps(self) -> None:
        """Rows that came so late that reading had passed them."""
        with RecordReader(self._bench.records) as reader:
            for first, last in self._tally.recorded.missing(1, self._tally.recorded.largest):
                for part in reader.between(first, last, CHUNK):
                    self._tally.record(part.verdict)
