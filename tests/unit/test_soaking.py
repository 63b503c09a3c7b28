"""The accounts, the quantiles and the schedule of tools/soak.py, against cases worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from line_values import MS, verdict

from inspectd.messages import Outcome

TOOLS = str(Path(__file__).parents[2] / "tools")
PASS, LATE = ("PASS", "within_limits"), ("INVALID", "late")


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tools' packages can be imported, as they can beside a tool."""
    monkeypatch.syspath_prepend(TOOLS)


@pytest.fixture
def tally() -> Iterator[Any]:
    """An empty tally with one life of the daemon."""
    from soaking.tally import Life, Tally

    made = Tally()
    made.lives.append(Life(0))
    return made


def answer(tally: Any, *seqs: int) -> None:
    """Parts that were announced and recorded as they should be."""
    for seq in seqs:
        tally.hear(seq, PASS)
        tally.record(verdict(seq))


def test_a_clean_run_owes_nothing(tally: Any) -> None:
    """Every trigger has its verdict, announced and recorded once."""
    answer(tally, 1, 2, 4, 3)
    tally.lives[0].triggers = 4
    tally.settle()
    assert (tally.triggers, tally.lost, tally.announced_twice, tally.recorded_otherwise, tally.cut_off) == (
        4,
        0,
        0,
        0,
        0,
    )
    assert tally.verdicts == {PASS: 4}


def test_an_announced_part_without_a_record_is_lost(tally: Any) -> None:
    """Heard, and not in the records: also at the end, and where the daemon was killed."""
    answer(tally, 1, 3)
    tally.hear(2, PASS)
    tally.hear(4, PASS)
    tally.settle()
    assert (tally.not_recorded, tally.lost) == (2, 2)


def test_a_recorded_part_that_nobody_could_hear_is_lost(tally: Any) -> None:
    """Neither on the topic nor fetched; what was fetched counts as told."""
    answer(tally, 1, 4)
    for seq in (2, 3):
        tally.record(verdict(seq))
    tally.fetch(2)
    tally.lives[0].triggers = 4
    tally.settle()
    assert (tally.not_told, tally.lost, tally.parts_fetched) == (1, 1, 1)


def test_a_trigger_without_a_verdict_is_lost(tally: Any) -> None:
    """A number left out between two, or at the end by the daemon's own count."""
    answer(tally, 1, 3)
    tally.lives[0].triggers = 4
    tally.settle()
    assert tally.without_verdict == 2


def test_a_kill_cuts_numbers_off_and_loses_none(tally: Any) -> None:
    """Numbers that a killed daemon had set aside are no parts; what it had announced must be recorded."""
    from soaking.tally import Life

    answer(tally, 1, 2)
    tally.lives.append(Life(100 * MS))
    for seq in (259, 260):
        tally.hear(seq, PASS)
        tally.record(replace(verdict(seq), trigger_ns=101 * MS, verdict_ns=105 * MS, deadline_ns=150 * MS))
    tally.lives[1].triggers = 2
    tally.settle()
    assert (tally.lost, tally.cut_off, tally.triggers) == (0, 256, 4)


def test_twice_otherwise_and_too_late_are_seen(tally: Any) -> None:
    """A result that comes again, one that is recorded differently, one whose stamp is past its deadline."""
    answer(tally, 1)
    tally.hear(1, PASS)
    tally.hear(2, LATE)
    tally.record(verdict(2))
    tally.record(replace(verdict(3, Outcome.INVALID), verdict_ns=60 * MS))
    assert (tally.announced_twice, tally.recorded_otherwise, tally.past_deadline) == (1, 1, 1)


def test_quantiles_hold_to_half_a_percent() -> None:
    """Against NumPy on durations over four decades; the maximum is exact."""
    from soaking.latencies import Latencies

    durations = np.random.default_rng(1).lognormal(15, 1.2, 20_000).astype(int)
    latencies = Latencies()
    for duration_ns in durations:
        latencies.add(int(duration_ns))
    found = latencies.quantiles()
    assert found is not None
    for share, value_ms in ((0.5, found.p50_ms), (0.99, found.p99_ms), (0.999, found.p999_ms)):
        exact_ms = float(np.quantile(durations, share, method="inverted_cdf")) / 1e6
        assert exact_ms <= value_ms <= 1.0051 * exact_ms
    assert found.max_ms == durations.max() / 1e6
    assert Latencies().quantiles() is None


def test_the_seed_decides_what_goes_wrong() -> None:
    """The same seed gives the same mishaps after as many parts, another one others; in time every kind comes."""
    from soaking.faults import WEIGHTS, mishaps

    first, again, other = (list(islice(mishaps(seed, 100), 400)) for seed in (7, 7, 8))
    assert first == again
    assert first != other
    assert {mishap.name for mishap in first} == {kind.value for kind in WEIGHTS}
    assert 90 < sum(mishap.after_parts for mishap in first) / len(first) < 110


@pytest.fixture
def samples() -> Any:
    """An empty account of one life's memory."""
    from soaking.memory import MemorySamples

    return MemorySamples()


def live(samples: Any, *mib: float, most_mib: float = 0.0) -> Any:
    """A life that was seen to take so much, once a second after it had settled."""
    for now_mib in mib:
        samples.add(now_mib, most_mib, settled=True)
    return samples.result()


def promised(**changes: Any) -> dict[str, bool]:
    """What is said of the memory of a run with faults."""
    from soaking.report import Setting, promises
    from soaking.run import Observed

    setting = Setting("", "test", 50, 80, False, 1, True)
    found = {each.text: each.held for each in promises(setting, Observed(**changes))}
    return {text: held for text, held in found.items() if text.startswith("memory")}


GROWS, RISES = "memory grows by at most 64 MiB", "memory never rises by more than 64 MiB and one engine"


def test_an_engine_loaded_beside_another_is_no_growth(samples: Any) -> None:
    """Neither as a life settles nor at its end; the rise has a bound of its own, with one engine in it."""
    life = live(samples, 380, *[286] * 20, *[380] * 9, most_mib=381)
    assert (life.begin_mib, life.end_mib, life.most_mib, life.growth_mib, life.rise_mib) == (286, 286, 381, 0, 95)
    assert promised(memory=[life], engine_mib=40) == {GROWS: True, RISES: True}
    assert promised(memory=[life], engine_mib=30) == {GROWS: True, RISES: False}


def test_memory_that_stays_is_growth(samples: Any) -> None:
    """The least of the last ten samples against the least of the first ten, 64 MiB at most."""
    assert promised(memory=[live(samples, *[280] * 10, *[344] * 10)], engine_mib=50) == {GROWS: True, RISES: True}
    assert promised(memory=[live(samples, *[345] * 10)], engine_mib=50) == {GROWS: False, RISES: True}


def test_the_worst_life_counts(samples: Any) -> None:
    """One that leaks among others that do not."""
    from soaking.memory import LifeMemory

    good, bad = LifeMemory(280, 281, 300), LifeMemory(280, 380, 400)
    assert promised(memory=[good, bad, good], engine_mib=100) == {GROWS: False, RISES: True}


def test_a_life_that_was_too_short_says_nothing_of_growth(samples: Any) -> None:
    """Before it has settled, and within the first ten samples; what it took at most is known all the same."""
    samples.add(500, 510, settled=False)
    assert live(samples, *[280] * 10) is None
    assert samples.most_mib == 510
