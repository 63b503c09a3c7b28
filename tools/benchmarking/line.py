"""Everything between trigger and verdict: the real daemon in its own process, asked for its own time stamps after."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np
import zmq
from numpy.typing import NDArray

from benchmarking.daemon import BenchmarkError, last_line, resident_mib, running_daemon, set_up, subscriber
from benchmarking.machine import markdown_table
from benchmarking.sampling import sampled
from benchmarking.threads import ThreadCost, ThreadTimes, thread_costs, thread_times
from engines.artifact import Bundle
from inspectd.config import Station
from inspectd.messages import Verdict
from inspectd.records.reading import RecordReader
from inspectd.wire.public import from_bytes

SILENT_AT_MOST_S = 60.0
POLL_MS = 500
ENDS_WITHIN_S = 60.0
SETTLED_PARTS = 100
"""Parts after which memory is read for the first time, and which no latency is taken from: caches fill, pages come."""
SAMPLES = 20
NS_PER_MS = 1e6
STEPS = ("capture", "locate", "engine", "verdict")
MEANS = ("capture", "hand_over", "locate", "engine", "gate", "publish", "commit")


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFigures:
    """One run.

    steps_ms: (P, 4) trigger -> captured -> located -> scored -> verdict. heard_ms: (P,) trigger -> subscriber.
    memory_mib: resident size after SETTLED_PARTS, then evenly up to the last part. metrics_ms: mean of each of MEANS,
    from the daemon's own histograms, all parts. threads: what a part costs in each thread of the daemon.
    """

    parts: int
    period_ms: float
    outcomes: dict[str, int]
    steps_ms: NDArray[np.float64]
    heard_ms: NDArray[np.float64]
    memory_mib: tuple[float, ...]
    torch: bool
    metrics_ms: dict[str, float]
    threads: list[ThreadCost]


@dataclass(frozen=True, slots=True)
class _Heard:
    """What was heard: (sequence number, wall time in ns) of each result as it came; the daemon's memory in MiB
    meanwhile, and its threads' times after SETTLED_PARTS and in the end."""

    results: list[tuple[int, int]]
    memory_mib: tuple[float, ...]
    settled: dict[int, ThreadTimes]
    ended: dict[int, ThreadTimes]


def measure_line(
    station: Station,
    bundle: Bundle,
    *,
    parts: int,
    period_ms: float,
    folder: Path,
    progress: Callable[[int], None],
    profile: Path | None = None,
) -> LineFigures:
    """Run `inspectd run` on the simulated camera below `folder`; blocks for parts x period_ms, plus some seconds.

    profile: where a flame graph is written, which costs the daemon some time. Raises BenchmarkError where the daemon
    ends early or loses a part, SettingsError where no flame graph can be made.
    """
    bench = set_up(station, folder, trigger={"source": "timer", "period_ms": period_ms})
    log = folder / "run.log"
    with running_daemon(bench, bundle, log) as process, subscriber(bench) as socket:
        _wait(process, socket, log)  # it judges: what it did to get there belongs into no profile
        with nullcontext() if profile is None else sampled(process.pid, profile, folder / "py-spy.log"):
            heard = _listen(process, socket, parts, log, progress)
        torch = "libtorch" in Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
        metrics = _step_means_ms(bench.metrics_port)
        process.send_signal(signal.SIGTERM)
        if process.wait(ENDS_WITHIN_S) != 0:
            raise BenchmarkError(f"the daemon ended with code {process.returncode}: {last_line(log)}")
    verdicts = _recorded(bench.records, heard.results)
    timed = _timed(verdicts, heard.results)
    return LineFigures(
        parts=len(verdicts),
        period_ms=period_ms,
        outcomes=dict(Counter(verdict.outcome.value for verdict in verdicts)),
        steps_ms=_steps_ms(timed),
        heard_ms=np.array([at_ns - verdict.trigger_wall_ns for verdict, at_ns in timed]) / NS_PER_MS,
        memory_mib=heard.memory_mib,
        torch=torch,
        metrics_ms=metrics,
        threads=thread_costs(heard.settled, heard.ended, max(1, parts - SETTLED_PARTS)),
    )


def _recorded(records: Path, heard: list[tuple[int, int]]) -> list[Verdict]:
    """The recorded verdict of each part that was heard, in the order of hearing: a part that waits is overtaken.

    Raises BenchmarkError where one is not recorded, or was heard twice.
    """
    numbers = [seq for seq, _ in heard]
    if len(set(numbers)) < len(numbers):
        raise BenchmarkError(f"{len(numbers)} results were heard, of {len(set(numbers))} parts")
    first, last = min(numbers), max(numbers)
    with RecordReader(records) as reader:
        rows = {part.verdict.seq: part.verdict for part in reader.between(first, last, last - first + 1)}
    missing = [seq for seq in numbers if seq not in rows]
    if missing:
        raise BenchmarkError(f"{len(heard)} results were heard, {len(missing)} not recorded: part {missing[0]} first")
    return [rows[seq] for seq in numbers]


def _listen(
    process: subprocess.Popen[bytes],
    socket: zmq.Socket[bytes],
    parts: int,
    log: Path,
    progress: Callable[[int], None],
) -> _Heard:
    """Hear every result, and look at the daemon meanwhile."""
    heard: list[tuple[int, int]] = []
    memory: list[float] = []
    threads: dict[int, ThreadTimes] = {}
    every = max(1, (parts - SETTLED_PARTS) // SAMPLES)
    while len(heard) < parts:
        _wait(process, socket, log)
        content = socket.recv_multipart()[1]
        heard.append((from_bytes(content, "inspectd.result")["seq"], time.time_ns()))
        settled = len(heard) - SETTLED_PARTS
        if settled == 0:
            threads = thread_times(process.pid)
        if settled >= 0 and settled % every == 0:
            memory.append(resident_mib(process.pid))
        progress(len(heard))
    return _Heard(heard, (*memory, resident_mib(process.pid)), threads, thread_times(process.pid))


def _wait(process: subprocess.Popen[bytes], socket: zmq.Socket[bytes], log: Path) -> None:
    """Block for the next result. Raises BenchmarkError where the daemon has ended, or says nothing for long."""
    give_up_s = time.monotonic() + SILENT_AT_MOST_S
    while not socket.poll(POLL_MS):
        if process.poll() is not None:
            raise BenchmarkError(f"the daemon ended with code {process.returncode}: {last_line(log)}")
        if time.monotonic() > give_up_s:
            raise BenchmarkError(f"no result for {SILENT_AT_MOST_S:g} s: {last_line(log)}")


def line_tables(figures: LineFigures) -> str:
    """Markdown: latencies by step, means of finer ones, threads, memory."""
    total = figures.steps_ms.sum(axis=1)
    engine = figures.steps_ms[:, STEPS.index("engine")]
    rows = [
        _latency_row("trigger to verdict", total),
        _latency_row("**trigger to verdict, less the engine**", total - engine),
        _latency_row("trigger to image (camera hand-over)", figures.steps_ms[:, 0]),
        _latency_row("image to part located (queue, locate)", figures.steps_ms[:, 1]),
        _latency_row("engine", engine),
        _latency_row("scores to verdict (queue, gate)", figures.steps_ms[:, 3]),
        _latency_row("trigger to subscriber, less the engine", figures.heard_ms - engine),
    ]
    means = [(name, f"{mean:.3f}") for name, mean in figures.metrics_ms.items()]
    threads = [
        (cost.name, f"{cost.on_core_ms:.3f}", f"{cost.waited_ms:.3f}", f"{cost.woken:.1f}") for cost in figures.threads
    ]
    memory = figures.memory_mib
    facts = [
        ("parts", f"{figures.parts}, one each {figures.period_ms:g} ms"),
        ("verdicts", ", ".join(f"{name} {count}" for name, count in figures.outcomes.items())),
        (f"memory after {SETTLED_PARTS} parts, MiB", f"{memory[0]:.1f}"),
        ("memory after the last part, MiB", f"{memory[-1]:.1f}"),
        ("most memory seen, MiB", f"{max(memory):.1f}"),
        ("torch in the process", "yes" if figures.torch else "no"),
    ]
    return "\n\n".join(
        (
            markdown_table(("step", "p50 ms", "p99 ms", "max ms"), rows),
            markdown_table(("step, all parts", "mean ms"), means),
            markdown_table(("thread, for each part", "ms on a core", "ms waiting for one", "wake-ups"), threads),
            markdown_table(("run", ""), facts),
        )
    )


def _timed(verdicts: list[Verdict], heard: list[tuple[int, int]]) -> list[tuple[Verdict, int]]:
    """The judged parts after the first SETTLED_PARTS, each with the wall time when it was heard."""
    pairs = zip(verdicts[SETTLED_PARTS:], heard[SETTLED_PARTS:], strict=True)
    timed = [(verdict, at_ns) for verdict, (_, at_ns) in pairs if verdict.scored_ns]
    if not timed:
        raise BenchmarkError("no part was judged: look at the station's `locate` and deadline")
    return timed


def _steps_ms(timed: list[tuple[Verdict, int]]) -> NDArray[np.float64]:
    stamps = np.array([(v.trigger_ns, v.captured_ns, v.located_ns, v.scored_ns, v.verdict_ns) for v, _ in timed])
    return np.asarray(np.diff(stamps, axis=1) / NS_PER_MS, dtype=np.float64)


def _latency_row(name: str, values_ms: NDArray[np.float64]) -> tuple[str, ...]:
    p50, p99 = np.percentile(values_ms, (50, 99))
    return (name, f"{p50:.3f}", f"{p99:.3f}", f"{values_ms.max():.3f}")


def _step_means_ms(port: int) -> dict[str, float]:
    """Mean time of each of MEANS, from /metrics."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    except (OSError, HTTPException) as error:
        raise BenchmarkError(f"the daemon's metrics cannot be read: {error}") from error
    finally:
        connection.close()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    means = {}
    for step in MEANS:
        total, count = (float(values[f'inspectd_step_seconds_{what}{{step="{step}"}}']) for what in ("sum", "count"))
        if count:
            means[step] = 1e3 * total / count
    return means
