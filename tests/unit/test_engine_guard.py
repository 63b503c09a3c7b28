"""The guard of the engine: what costs an engine its place, what replaces it, and when nothing does any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest
from fake_runtime import FakeRuntime
from line_values import BUNDLE_HASH, LIMITS, REGIONS

from engines.errors import EngineUnavailable
from inspectd.engine_guard import Engine, EngineGuard, EngineLost, RestartBudget
from inspectd.health.meters import Count, Meters
from inspectd.sections import SupervisionSettings

PATIENCE_S = 20.0
OTHER_HASH = "cd" * 32


def engine(bundle_hash: str = BUNDLE_HASH, folder: Path | None = None) -> Engine:
    """An engine without a network."""
    return Engine(runtime=FakeRuntime(), regions=REGIONS, thresholds=LIMITS, bundle_hash=bundle_hash, folder=folder)


@dataclass
class Loader:
    """Gives out what the script says, then engines of the running bundle; `hold` makes it wait."""

    script: list[Exception | Engine] = field(default_factory=list)
    hold: Event | None = None
    asked: list[Path | None] = field(default_factory=list)

    def __call__(self, folder: Path | None) -> Engine:
        """The next step of the script."""
        self.asked.append(folder)
        if self.hold is not None:
            self.hold.wait(PATIENCE_S)
        step = self.script.pop(0) if self.script else engine()
        if isinstance(step, Exception):
            raise step
        return step


@contextmanager
def guard(
    loader: Loader,
    *,
    first: Engine | None = None,
    changed: Callable[[Engine], None] = lambda engine: None,
    **settings: float,
) -> Iterator[tuple[EngineGuard, Meters]]:
    """A guard that is closed in the end."""
    meters = Meters()
    supervision = SupervisionSettings.model_validate(settings)
    made = EngineGuard(first or engine(), load=loader, settings=supervision, meters=meters, changed=changed)
    try:
        yield made, meters
    finally:
        if loader.hold is not None:
            loader.hold.set()
        made.close()


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.001)


def test_restarts_are_counted_in_a_window_and_their_pauses_grow() -> None:
    """0, 1, 2, 4 s, then none is left until the first ones are older than the window."""
    budget = RestartBudget(4, 100.0)
    assert [budget.take(now_s) for now_s in (0.0, 10.0, 20.0, 30.0, 40.0)] == [0.0, 1.0, 2.0, 4.0, None]
    assert budget.take(99.9) is None
    assert budget.take(100.0) == 4.0  # the first one has left the window
    assert budget.take(100.0) is None
    assert budget.taken(300.0) == 0


def test_no_restart_is_allowed_where_the_settings_say_so() -> None:
    """restarts 0: the first abandoned engine is the end."""
    assert RestartBudget(0, 100.0).take(0.0) is None


def test_an_engine_that_hangs_is_replaced_at_once() -> None:
    """One hang: no engine, then the same bundle from the same folder; counted, timed, told, over."""
    loader = Loader(hold=Event())
    with guard(loader, first=engine(folder=Path("/bundles/a"))) as (watched, meters):
        before = watched.current()
        watched.failed("did not end within 50 ms", hung=True)
        assert watched.current() is None
        assert "did not end within 50 ms" in watched.worries()[0]
        assert watched.report() == {"available": False, "restarts_in_window": 1} or not loader.asked
        loader.hold.set()
        until(lambda: watched.current() is not None)
        assert watched.current() is not before
        assert loader.asked == [Path("/bundles/a")]
        assert watched.worries() == []
        counts = meters.counts()
        assert (counts[Count.ENGINES_ABANDONED], counts[Count.ENGINE_RESTARTS], counts[Count.ENGINE_FAULTS]) == (
            1,
            1,
            1,
        )
        assert b"inspectd_engine_restart_seconds_count 1.0" in meters.prometheus()


def test_single_faults_cost_parts_only() -> None:
    """Failures that an answer follows leave the engine in its place; the n-th in a row does not."""
    with guard(Loader(hold=Event()), faults_in_a_row=3) as (watched, _):
        for _turn in range(4):
            watched.failed("no answer", hung=False)
            watched.failed("no answer", hung=False)
            watched.judged()
        assert watched.current() is not None
        for _turn in range(3):
            watched.failed("no answer", hung=False)
        assert watched.current() is None


def test_a_replacement_that_cannot_be_loaded_is_tried_again_until_the_budget_is_spent() -> None:
    """Each attempt takes from the budget; then the daemon is to end, with code 9 and what was wrong last."""
    loader = Loader([EngineUnavailable("golden image 3 is off")] * 2)
    with guard(loader, restarts=2) as (watched, _):
        watched.check()
        watched.failed("hangs", hung=True)
        until(lambda: len(loader.asked) == 2)
        with pytest.raises(EngineLost, match="golden image 3 is off") as caught:
            until(lambda: watched.check() is not None)
        assert caught.value.exit_code == 9
        assert watched.current() is None


def test_a_replacement_that_takes_too_long_is_the_end() -> None:
    """A loader that hangs holds up nothing but itself: check says so after load_timeout_s."""
    with guard(Loader(hold=Event()), load_timeout_s=0.05) as (watched, _):
        watched.failed("hangs", hung=True)
        with pytest.raises(EngineLost, match="no engine was loaded within"):
            until(lambda: watched.check() is not None)


def test_an_abandoned_engine_that_never_lets_go_blocks_nobody() -> None:
    """Closing an engine may hang for good: the replacement comes all the same, and only the end tells of it."""
    never = Event()

    class Stuck(FakeRuntime):
        def close(self) -> None:
            never.wait(PATIENCE_S)

    stuck = Engine(runtime=Stuck(), regions=REGIONS, thresholds=LIMITS, bundle_hash=BUNDLE_HASH)
    with guard(Loader(), first=stuck) as (watched, _):
        watched.failed("hangs", hung=True)
        until(lambda: watched.current() is not None)
        never.set()


def test_another_bundle_takes_over_between_two_parts() -> None:
    """The running engine judges until the next part is asked for; whoever must know is told just before."""
    told: list[Engine] = []
    other = engine(OTHER_HASH)
    with guard(Loader([other]), changed=told.append) as (watched, meters):
        running = watched.current()
        watched.exchange(Path("/bundles/b"))
        until(lambda: watched.current() is not running)
        assert watched.current() is other
        assert told == [other]
        assert meters.counts()[Count.BUNDLES_EXCHANGED] == 1


def test_a_bad_bundle_is_refused_and_the_running_one_goes_on() -> None:
    """Whatever is wrong with it, known or not, the engine stays, nothing is worrying, the refusal is counted."""
    with guard(Loader([EngineUnavailable("golden image 0 is off"), ZeroDivisionError()])) as (watched, meters):
        running = watched.current()
        for _turn in range(2):
            watched.exchange(None)
        until(lambda: meters.counts()[Count.BUNDLES_REFUSED] == 2)
        assert watched.current() is running
        watched.check()
        assert watched.worries() == []


def test_the_running_bundle_asked_for_again_changes_nothing() -> None:
    """SIGHUP without a new bundle: the running engine stays."""
    loader = Loader()
    told: list[Engine] = []
    with guard(loader, changed=told.append) as (watched, meters):
        running = watched.current()
        watched.exchange(None)
        watched.exchange(Path("/second"))
        until(lambda: len(loader.asked) == 2)
        assert watched.current() is running
        assert told == []
        assert meters.counts()[Count.BUNDLES_EXCHANGED] == 0


def test_a_folder_that_holds_another_bundle_by_now_is_no_replacement() -> None:
    """After a hang only the very bundle that judged may go on by itself."""
    with guard(Loader([engine(OTHER_HASH)]), restarts=1) as (watched, _):
        watched.failed("hangs", hung=True)
        with pytest.raises(EngineLost, match="holds another bundle"):
            until(lambda: watched.check() is not None)


def test_the_replacement_is_of_the_bundle_that_judged_last() -> None:
    """After an exchange, a hang brings back the exchanged bundle, not the first one."""
    first, second = Path("/bundles/a"), Path("/bundles/b")
    loader = Loader([engine(OTHER_HASH, second), engine(OTHER_HASH, second)])
    with guard(loader, first=engine(folder=first)) as (watched, _):
        running = watched.current()
        watched.exchange(None)
        until(lambda: watched.current() is not running)
        watched.failed("hangs", hung=True)
        until(lambda: watched.current() is not None)
        assert loader.asked == [None, second]


def test_what_was_freed_is_counted_once_it_is_free() -> None:
    """An engine that was replaced, and one that could not be loaded: each leaves memory to be given back."""
    loader = Loader(script=[EngineUnavailable("no such file"), engine(OTHER_HASH)])
    with guard(loader) as (watched, _):
        assert watched.freed == 0
        watched.exchange(Path("/bundles/broken"))
        until(lambda: watched.freed == 1)
        watched.exchange(Path("/bundles/other"))
        until(lambda: watched.current() is not None and watched.freed == 2)
