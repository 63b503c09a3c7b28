"""The plan cache: what it hands out, refuses, replaces and drops."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engines.errors import EngineUnavailable
from engines.plans import ENTRY_NAME, PLAN_NAME, STAGE_NAME, PatchStage, PlanCache, PlanKey, Reproduced
from engines.settings import CanvasSettings, PatchGmsdSettings, RegionSettings

KEY = PlanKey(
    graph_sha256="ab" * 32, gpu="NVIDIA RTX 4000", sm=89, package="tensorrt", version="11.4.0.106", precision="f16"
)
STAGE = PatchStage(
    combine="add",
    canvas=CanvasSettings(height_px=64, width_px=96),
    regions=(RegionSettings(name="all", top_px=0, left_px=0, height_px=64, width_px=96, patches=((2, 3),)),),
    patch_gmsd=PatchGmsdSettings(),
    lambdas=(0.5,),
    patch_factor=(3.0,),
)
REPRODUCED = Reproduced(images=8, worst_deviation=0.001)
ROOMY = 2**30


def keep(cache: PlanCache, key: PlanKey = KEY, plan: bytes = b"plan", stage: PatchStage | None = STAGE) -> Path:
    """Put an accepted plan into the cache."""
    with cache.draft(key, plan, stage) as draft:
        return draft.accept(REPRODUCED)


@pytest.mark.parametrize("stage", [STAGE, None])
def test_an_accepted_plan_is_found(tmp_path: Path, stage: PatchStage | None) -> None:
    """Its bytes and its stage come back as they were given, also where it takes the place of another."""
    cache = PlanCache(tmp_path, ROOMY)
    keep(cache, plan=b"earlier")
    keep(cache, plan=b"plan", stage=stage)
    found = cache.find(KEY)
    assert (found.key, found.serialised, found.stage) == (KEY, b"plan", stage)
    assert [path.name for path in tmp_path.iterdir()] == [KEY.digest]


def test_a_draft_that_is_not_accepted_leaves_nothing(tmp_path: Path) -> None:
    """A plan whose check failed cannot be found, and no file of it stays; what was there before does."""
    cache = PlanCache(tmp_path, ROOMY)
    keep(cache, plan=b"earlier")
    with cache.draft(KEY, b"unchecked", STAGE) as draft:
        assert draft.plan.serialised == b"unchecked"
    assert cache.find(KEY).serialised == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == [KEY.digest]


@pytest.mark.parametrize(
    "change",
    [
        {"graph_sha256": "cd" * 32},
        {"gpu": "NVIDIA H100"},
        {"sm": 90},
        {"version": "11.5.0"},
        {"package": "tensorrt_rtx"},
        {"precision": "f32"},
        {"batch": 2},
    ],
)
def test_another_key_is_another_plan(tmp_path: Path, change: dict[str, object]) -> None:
    """Graph, GPU, package, version, precision and batch each ask for a plan of their own; a refusal says what to do."""
    cache = PlanCache(tmp_path, ROOMY)
    keep(cache)
    other = KEY.model_copy(update=change)
    with pytest.raises(EngineUnavailable, match="inspectd build") as refused:
        cache.find(other)
    assert "\n" not in str(refused.value)
    assert not cache.has(other)


def damage_flip(folder: Path) -> None:
    """One bit of the plan, its size unchanged."""
    (folder / PLAN_NAME).write_bytes(b"plaN")


def damage_stage(folder: Path) -> None:
    """Another lambda."""
    path = folder / STAGE_NAME
    path.write_text(path.read_text().replace("0.5", "0.6"))


def damage_torn(folder: Path) -> None:
    """Half an entry."""
    path = folder / ENTRY_NAME
    path.write_bytes(path.read_bytes()[:40])


def damage_missing(folder: Path) -> None:
    """No plan."""
    (folder / PLAN_NAME).unlink()


def damage_no_entry(folder: Path) -> None:
    """No entry."""
    (folder / ENTRY_NAME).unlink()


def damage_unlisted(folder: Path) -> None:
    """An entry that lists no plan."""
    path = folder / ENTRY_NAME
    path.write_text(path.read_text().replace(PLAN_NAME, STAGE_NAME, 1))


def damage_pipe(folder: Path) -> None:
    """A pipe that nobody writes to."""
    (folder / PLAN_NAME).unlink()
    os.mkfifo(folder / PLAN_NAME)


def damage_swapped(folder: Path) -> None:
    """The entry of another key."""
    other = PlanCache(folder.parent, ROOMY)
    moved = keep(other, KEY.model_copy(update={"precision": "f32"}))
    for name in (PLAN_NAME, STAGE_NAME, ENTRY_NAME):
        (folder / name).write_bytes((moved / name).read_bytes())


@pytest.mark.parametrize(
    "damage",
    [
        damage_flip,
        damage_stage,
        damage_torn,
        damage_missing,
        damage_no_entry,
        damage_unlisted,
        damage_pipe,
        damage_swapped,
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_entry_is_refused_and_rebuilt(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    """Whatever happened to it, an entry that is not as it was accepted never runs; building again mends it."""
    cache = PlanCache(tmp_path, ROOMY)
    damage(keep(cache))
    with pytest.raises(EngineUnavailable, match=r"inspectd build|cannot be read") as refused:
        cache.find(KEY)
    assert "\n" not in str(refused.value)
    keep(cache)
    assert cache.find(KEY).serialised == b"plan"


def test_the_oldest_plans_go_first(tmp_path: Path) -> None:
    """Over the bound the oldest entries are dropped, and the newest stays, even where it alone is over the bound."""
    cache = PlanCache(tmp_path, 10_000)
    keys = [KEY.model_copy(update={"sm": sm}) for sm in (75, 86, 89)]
    for age, key in enumerate(keys):
        folder = keep(cache, key, plan=bytes(2000), stage=None)
        os.utime(folder, ns=(10**18 + age, 10**18 + age))
    assert [cache.has(key) for key in keys] == [True, True, True]
    newest = KEY.model_copy(update={"sm": 120})
    keep(cache, newest, plan=bytes(5000), stage=None)
    assert [cache.has(key) for key in (*keys, newest)] == [False, False, True, True]
    keep(cache, newest, plan=bytes(12_000), stage=None)
    assert [cache.has(key) for key in (*keys, newest)] == [False, False, False, True]


def test_a_killed_build_leaves_nothing_for_long(tmp_path: Path) -> None:
    """Drafts older than a day, and what was about to be deleted, go with the next plan; a fresh draft stays."""
    for name, age_s in ((".draft-killed", 2 * 86_400), (".draft-other", 0), (".old-killed", 0)):
        (tmp_path / name).mkdir()
        moment = tmp_path.stat().st_mtime - age_s
        os.utime(tmp_path / name, (moment, moment))
    keep(PlanCache(tmp_path, ROOMY))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".draft-other", KEY.digest])


def test_timings_are_kept_for_the_gpu_and_version(tmp_path: Path) -> None:
    """The builder's measurements serve every bundle and precision on this GPU and version, and no other."""
    cache = PlanCache(tmp_path, ROOMY)
    assert cache.timing(KEY) == b""
    cache.keep_timing(KEY, b"one")
    cache.keep_timing(KEY, b"measured")
    assert cache.timing(KEY.model_copy(update={"precision": "f32", "graph_sha256": "cd" * 32})) == b"measured"
    assert cache.timing(KEY.model_copy(update={"version": "10.16"})) == b""
    assert len(list(tmp_path.iterdir())) == 1
