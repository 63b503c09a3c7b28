"""What each thread of a process costs: time on a core, time that it waited for one, how often it was woken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

NS_PER_MS = 1e6
FEWEST_MS = 0.005
"""What a part costs in a thread that is worth a row of its own."""
OTHERS = "all others"


@dataclass(frozen=True, slots=True)
class ThreadTimes:
    """One thread so far: its name, nanoseconds on a core, nanoseconds ready to run and without one, wake-ups."""

    name: str
    on_core_ns: int
    waited_ns: int
    woken: int


@dataclass(frozen=True, slots=True)
class ThreadCost:
    """Threads of one name, for each part: ms on a core, ms ready to run and without one, wake-ups."""

    name: str
    on_core_ms: float
    waited_ms: float
    woken: float


def thread_times(pid: int) -> dict[int, ThreadTimes]:
    """The threads of a process by the system's id, as Linux counts them; those that end meanwhile are left out."""
    found = {}
    for folder in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            on_core_ns, waited_ns, _ = (int(value) for value in (folder / "schedstat").read_text().split())
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
            woken = int(status["voluntary_ctxt_switches"])
            found[int(folder.name)] = ThreadTimes(status["Name"].strip(), on_core_ns, waited_ns, woken)
    return found


def thread_costs(before: Mapping[int, ThreadTimes], after: Mapping[int, ThreadTimes], parts: int) -> list[ThreadCost]:
    """What `parts` parts cost between two looks, the dearest first; what is next to nothing is one row together."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    nothing = ThreadTimes("", 0, 0, 0)
    for thread, now in after.items():
        then = before.get(thread, nothing)
        of_name = sums[now.name]
        of_name[0] += (now.on_core_ns - then.on_core_ns) / NS_PER_MS / parts
        of_name[1] += (now.waited_ns - then.waited_ns) / NS_PER_MS / parts
        of_name[2] += (now.woken - then.woken) / parts
    costs = [ThreadCost(name, *values) for name, values in sums.items()]
    large = [cost for cost in costs if cost.on_core_ms + cost.waited_ms >= FEWEST_MS]
    small = [cost for cost in costs if cost.on_core_ms + cost.waited_ms < FEWEST_MS]
    large.sort(key=lambda cost: -cost.on_core_ms)
    if small:
        sums_of_small = (sum(getattr(cost, name) for cost in small) for name in ("on_core_ms", "waited_ms", "woken"))
        large.append(ThreadCost(OTHERS, *sums_of_small))
    return large
