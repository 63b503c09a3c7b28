"""What a soak run found: the promises and whether they held, the figures; for a terminal, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarking.machine import describe_machine, markdown_table
from rich.console import Console
from rich.table import Table

from inspectd.messages import Reason
from soaking.run import Observed
from soaking.tally import WHOLE

MOST_GROWTH_MIB = 64.0
ENGINE_GIVEN_UP = 9
"""Exit code of a daemon whose engine has used up its restarts: by design, and systemd starts it again."""
NOT_IN_TIME = (Reason.LATE, Reason.OVERLOAD, Reason.NO_FRAME)
HEADINGS = ("", "parts", "p50 ms", "p99 ms", "p99.9 ms", "max ms")


@dataclass(frozen=True, slots=True)
class Setting:
    """What was asked for: `load` times `rate_hz`, which is what the daemon sustains where it was found here."""

    command: str
    station: str
    deadline_ms: float
    rate_hz: float
    rate_is_sustained: bool
    load: float
    faults: bool

    @property
    def period_ms(self) -> float:
        """Between two triggers."""
        return 1000 / (self.rate_hz * self.load)


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise, what was seen of it, and whether it held."""

    text: str
    seen: str
    held: bool


def promises(setting: Setting, observed: Observed) -> list[Promise]:
    """Every promise that the run could break."""
    tally = observed.tally
    invalid = sum(count for (outcome, _), count in tally.verdicts.items() if outcome == "INVALID")
    growth_mib = max((life.growth_mib for life in observed.memory), default=0.0)
    rise_mib = max((life.rise_mib for life in observed.memory), default=0.0)
    most_rise_mib = MOST_GROWTH_MIB + observed.engine_mib
    ends = [code for code in observed.unasked_ends if not (setting.faults and code == ENGINE_GIVEN_UP)]
    answered = sum(tally.verdicts.values())
    found = [
        _zero("lost", tally.lost),
        _zero("announced twice", tally.announced_twice),
        _zero("announced otherwise than recorded", tally.recorded_otherwise),
        _zero("verdicts past their deadline, by their stamps", tally.past_deadline),
        _zero("verdicts handed to the output past their deadline", observed.deadlines_missed),
        _equal("triggers = PASS + REJECT + INVALID", tally.triggers, answered),
        Promise("memory grows by at most 64 MiB", f"{growth_mib:+.1f} MiB", growth_mib <= MOST_GROWTH_MIB),
        Promise(
            "memory never rises by more than 64 MiB and one engine",
            f"{rise_mib:+.1f} of {most_rise_mib:.1f} MiB",
            rise_mib <= most_rise_mib,
        ),
        Promise("the daemon ends by itself only as documented", str(ends or "never"), not ends),
    ]
    if setting.rate_is_sustained and setting.load <= 1 and not setting.faults:
        late = sum(tally.verdicts[("INVALID", reason.value)] for reason in NOT_IN_TIME)
        found.append(Promise("every part is judged in time", f"{late} of {invalid} INVALID were not", late == 0))
    return found


def _zero(text: str, count: int) -> Promise:
    return Promise(text, str(count), count == 0)


def _equal(text: str, left: int, right: int) -> Promise:
    return Promise(text, f"{left} = {right}" if left == right else f"{left} against {right}", left == right)


def facts(setting: Setting, observed: Observed) -> list[tuple[str, str]]:
    """What was run, and what came of it."""
    tally = observed.tally
    offered = f"one each {setting.period_ms:.3f} ms ({1000 / setting.period_ms:.1f} a second)"
    if setting.rate_is_sustained:
        offered += f", {setting.load:.0%} of the {setting.rate_hz:.1f} a second that it sustains"
    judged = sum(count for (outcome, _), count in tally.verdicts.items() if outcome != "INVALID")
    rows = [
        ("station, deadline", f"{setting.station}, {setting.deadline_ms:g} ms"),
        ("triggers offered", offered),
        ("triggers", str(tally.triggers)),
        *((f"{outcome} {reason}", str(count)) for (outcome, reason), count in sorted(tally.verdicts.items())),
        ("judged a second", f"{judged / observed.seconds:.1f}"),
        ("results heard, asked for", f"{tally.parts_heard}, {tally.parts_fetched}"),
        ("numbers skipped by kills, never announced", str(tally.cut_off)),
        ("lives of the daemon, ended by itself, by its watchdog", _lives(observed)),
        ("memory once settled, at the end, most; MiB", _memory(observed)),
        ("one engine loaded beside another, MiB", f"{observed.engine_mib:.1f}" if setting.faults else "-"),
        ("seconds", f"{observed.seconds:.0f}"),
        ("faults", str(sum(map(len, observed.mishaps.values()))) if setting.faults else "none"),
    ]
    whole = tally.latencies.table().get(WHOLE)
    if whole is not None:
        rows.append(("p99.9 over p50 of trigger to verdict", f"{whole.p999_ms / whole.p50_ms:.2f} (wanted: 3 at most)"))
    return rows


def _lives(observed: Observed) -> str:
    return f"{len(observed.tally.lives)}, {len(observed.unasked_ends)}, {observed.watchdog_fired}"


def _memory(observed: Observed) -> str:
    if not observed.memory:
        return f"-, -, {observed.most_memory_mib:.1f}"
    first, last = observed.memory[0], observed.memory[-1]
    return f"{first.begin_mib:.1f}, {last.end_mib:.1f}, {observed.most_memory_mib:.1f}"


def _latency_rows(observed: Observed) -> list[tuple[str, ...]]:
    return [
        (name, str(q.count), *(f"{value:.3f}" for value in (q.p50_ms, q.p99_ms, q.p999_ms, q.max_ms)))
        for name, q in observed.tally.latencies.table().items()
    ]


def _mishap_rows(observed: Observed) -> list[tuple[str, ...]]:
    return [
        (name, str(len(seconds)), f"{sorted(seconds)[len(seconds) // 2]:.2f}", f"{max(seconds):.2f}")
        for name, seconds in sorted(observed.mishaps.items())
    ]


def tables(setting: Setting, observed: Observed) -> list[tuple[Sequence[str], list[tuple[str, ...]]]]:
    """(headings, rows) of each table, the promises first."""
    held: list[tuple[str, ...]] = [
        (each.text, each.seen, "held" if each.held else "BROKEN") for each in promises(setting, observed)
    ]
    made: list[tuple[Sequence[str], list[tuple[str, ...]]]] = [
        (("promise", "seen", ""), held),
        (("run", ""), list(facts(setting, observed))),
        (HEADINGS, _latency_rows(observed)),
    ]
    if observed.mishaps:
        made.append((("fault", "times", "median s until it was over", "longest s"), _mishap_rows(observed)))
    return made


def markdown(setting: Setting, observed: Observed) -> str:
    """For docs/reliability.md."""
    blocks = [markdown_table(headings, rows) for headings, rows in tables(setting, observed)]
    return "\n\n".join([describe_machine(), f"    {setting.command}", *blocks])


def show(console: Console, setting: Setting, observed: Observed) -> None:
    """For a terminal."""
    for headings, rows in tables(setting, observed):
        table = Table()
        for number, heading in enumerate(headings):
            table.add_column(heading.strip("*"), justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*(cell.strip("*") for cell in row), style="bold red" if "BROKEN" in row else "")
        console.print(table)


def as_json(setting: Setting, observed: Observed) -> dict[str, Any]:
    """Everything, by name."""
    return {
        "machine": describe_machine(),
        "setting": asdict(setting),
        "promises": [asdict(each) for each in promises(setting, observed)],
        "facts": dict(facts(setting, observed)),
        "verdicts": {f"{outcome}/{reason}": n for (outcome, reason), n in observed.tally.verdicts.items()},
        "latency_ms": {name.strip("*"): asdict(q) for name, q in observed.tally.latencies.table().items()},
        "mishaps_s": observed.mishaps,
        "memory": [asdict(life) for life in observed.memory],
        "engine_mib": observed.engine_mib,
        "unasked_ends": observed.unasked_ends,
    }
