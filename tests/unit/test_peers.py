"""tools/benchmark.py peers: stations by set, what counts as measured, and the page. No method is run here."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.progress import Progress

from inspectd.errors import UsageError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tools' packages can be imported, as they can beside a tool."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


def sets(folder: Path, *names: str) -> dict[str, Path]:
    """Where sets lie: '<folder>/<set>' below `folder`."""
    return {Path(name).name: folder / name for name in names}


def settings(stations: dict[str, str], **changes: Any) -> Any:
    """Peers' settings, with what is not looked at here at some value."""
    from benchmarking.peers import PeerSettings

    given = {"size": 256, "parts": 0, "coreset": 0.01, "seed": 0, "weights": Path(__file__), "memory_script": None}
    return PeerSettings(**{**given, "stations": stations, **changes})


FIGURES: dict[str, Any] = {
    "learnt": 30,
    "good": 10,
    "defective": 20,
    "image_auroc": 0.9,
    "pixel_auroc": None,
    "fit_s": 3.21,
    "ms_per_image": 4.56,
    "machine": "a machine",
}
OF_PRODUCT = {
    "escapes": 3,
    "false_rejects": 1,
    "tail_shape": 0.125,
    "highest_over_median": 1.5,
    "asked_rate": 0.01,
    "canvas": "128x96",
    "bundle": "ab" * 8,
    "precision": "f32",
    "resumed": False,
}


def row(name: str, model: str, **changes: Any) -> dict[str, Any]:
    """A measured row."""
    own = {**OF_PRODUCT, "settings": {"station": "object"}} if model == "product" else {"settings": {"size": 256}}
    return {"data": name, "model": model, **FIGURES, **own, **changes}


def test_a_station_is_that_of_the_set_then_of_its_folder_then_of_all(tmp_path: Path) -> None:
    """The nearest name wins, in whatever order they are given; `object` where nothing is said."""
    from benchmarking.peers import stations_of

    known = sets(tmp_path, "paper/red", "paper/blue", "objects/nut")
    assert set(stations_of([], known).values()) == {"object"}
    found = stations_of(["red=mine.yaml", "paper=texture", "auto"], known)
    assert found == {"red": "mine.yaml", "blue": "texture", "nut": "auto"}
    assert stations_of(["auto", "paper=texture", "red=mine.yaml"], known) == found


@pytest.mark.parametrize("text", ["silk=texture", "red=", ""])
def test_a_station_for_no_set_is_refused(tmp_path: Path, text: str) -> None:
    """A slip of the pen would measure another station than was meant."""
    from benchmarking.peers import stations_of

    with pytest.raises(UsageError, match=f"--station {text}"):
        stations_of([text], sets(tmp_path, "paper/red"))


def test_a_product_row_depends_on_what_the_station_says_not_on_its_name() -> None:
    """A station's sections count, so that an edited file is measured again; `auto` has none before it is made."""
    wanted = settings({"nut": "object", "cloth": "auto"})
    named, made = wanted.of("product", "nut"), wanted.of("product", "cloth")
    assert named["model"]["score"] == "memory"
    assert named["canvas"] == {"height_px": 256, "width_px": 256}
    assert made == {"station": "auto", "preset": "quick", "parts": 0, "seed": 0}
    assert json.loads(json.dumps(named)) == named


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """What was measured, as (set, model); and what is said of all of it, to be changed."""
    from benchmarking import peers

    calls: list[tuple[str, str]] = []
    answer: dict[str, Any] = dict(FIGURES)

    def stand_in(job: Any, model: str) -> dict[str, Any]:
        calls.append((job.data.name, model))
        if "raise" in answer:
            raise answer["raise"]
        return dict(answer)

    monkeypatch.setattr(peers, "_measure_peer", stand_in)
    return calls, answer


def run(folder: Path, known: dict[str, Path], models: list[str], **changes: Any) -> list[dict[str, Any]]:
    """Measure what is missing."""
    from benchmarking.peers import measure_peers

    with Progress(disable=True) as bars:
        found: list[dict[str, Any]] = measure_peers(
            known, models, settings({}, **changes), out=folder / "peers.json", work=folder / "work", bars=bars
        )
    return found


def test_rows_are_measured_once_and_others_beside_them(tmp_path: Path, measured: Any) -> None:
    """Another set, method or setting is another row; what is there stays there."""
    calls, _ = measured
    one = sets(tmp_path, "paper/red")
    both = sets(tmp_path, "paper/red", "paper/blue")
    run(tmp_path, one, ["padim"])
    assert [found["data"] for found in run(tmp_path, both, ["padim"])] == ["red", "blue"]
    assert calls == [("red", "padim"), ("blue", "padim")]
    run(tmp_path, both, ["padim"], size=128)
    assert len(calls) == 4
    run(tmp_path, both, ["padim", "patchcore"])
    assert calls[4:] == [("red", "patchcore"), ("blue", "patchcore")]
    run(tmp_path, one, ["padim"], again=True)
    assert calls[6:] == [("red", "padim")]
    assert len(json.loads((tmp_path / "peers.json").read_text())["rows"]) == 6


def test_a_row_that_was_ended_is_tried_again_with_more_time_only(tmp_path: Path, measured: Any) -> None:
    """Hours are not spent twice on what did not finish in as many; with more, the new row takes its place."""
    from benchmarking.steps import TookTooLong

    calls, answer = measured
    one = sets(tmp_path, "paper/red")
    answer["raise"] = TookTooLong("not finished in 60 s")
    (ended,) = run(tmp_path, one, ["padim"], most_s=60.0)
    assert ended["not_finished_s"] == 60
    run(tmp_path, one, ["padim"], most_s=60.0)
    run(tmp_path, one, ["padim"], most_s=30.0)
    assert len(calls) == 1
    run(tmp_path, one, ["padim"], most_s=90.0)
    assert len(calls) == 2
    del answer["raise"]
    (whole,) = run(tmp_path, one, ["padim"])
    assert whole["image_auroc"] == FIGURES["image_auroc"]
    run(tmp_path, one, ["padim"], most_s=1.0)
    assert len(calls) == 3
    assert len(json.loads((tmp_path / "peers.json").read_text())["rows"]) == 1


def test_a_row_that_fails_neither_stops_the_others_nor_stays(tmp_path: Path, measured: Any) -> None:
    """Its line is told; the next run tries it again."""
    from benchmarking.steps import StepFailed

    calls, answer = measured
    both = sets(tmp_path, "paper/red", "paper/blue")
    answer["raise"] = StepFailed("no memory left")
    assert [found["failed"] for found in run(tmp_path, both, ["padim"])] == ["no memory left"] * 2
    del answer["raise"]
    assert all("failed" not in found for found in run(tmp_path, both, ["padim"]))
    assert len(calls) == 4


def test_a_program_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """The error says after how long; a program that is done in time gives its last object, and tells what it does."""
    from benchmarking.steps import TookTooLong, follow

    told: list[tuple[str, int, int]] = []
    endless = [sys.executable, "-c", "import signal; signal.pause()"]
    with pytest.raises(TookTooLong, match=r"not finished in 0\.2 s"):
        follow(endless, tmp_path / "log", lambda *step: told.append(step), most_s=0.2)
    program = "print('noise'); print('[\"fitting\", 1, 2]'); print('{\"a\": 1}'); print('{\"a\": 2}')"
    found = follow([sys.executable, "-c", program], tmp_path / "log", lambda *step: told.append(step), most_s=60)
    assert found == {"a": 2}
    assert told == [("fitting", 1, 2)]
    assert (tmp_path / "log").read_text() == "noise\n"


def cells(text: str, first: str) -> list[str]:
    """The cells of the first table line that begins so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_all_methods_of_a_set_side_by_side() -> None:
    """Areas, what passes at the limits of those that have one, and the product's tail; unfinished cells say so."""
    from benchmarking.peer_page import compared

    at_limit = {"escapes": 5, "false_rejects": 0, "highest_over_median": 1.25}
    text = compared(
        [
            row("nut", "product"),
            row("nut", "memory", image_auroc=0.8, **at_limit),
            row("nut", "padim", image_auroc=0.7),
            {"data": "nut", "model": "patchcore", "settings": {"size": 256}, "not_finished_s": 60.0},
        ]
    )
    named = dict(zip(cells(text, "set"), cells(text, "nut"), strict=True))
    assert named == {
        "set": "nut",
        "station": "object",
        "inspectd": "0.9000",
        "escapes": "3 of 20",
        "false rejects": "1 of 10",
        "tail shape": "0.12",
        "highest / median": "1.50",
        "plain memory": "0.8000",
        "its escapes": "5 of 20",
        "its false rejects": "0 of 10",
        "its highest / median": "1.25",
        "PaDiM, ResNet18": "0.7000",
        "PatchCore, ResNet18": "not finished in 60 s",
    }


def test_means_are_over_the_sets_that_all_methods_have() -> None:
    """A set on which one method has no figures would favour that method, or the others."""
    from benchmarking.peer_page import compared

    areas = {"nut": 1.0, "cloth": 0.8, "tile": 0.1}
    rows = [row(name, "product", image_auroc=area) for name, area in areas.items()]
    rows += [row(name, "padim", image_auroc=0.5) for name in ("nut", "cloth")]
    rows += [{"data": "tile", "model": "padim", "settings": {"size": 256}, "failed": "no memory left"}]
    text = compared(rows)
    mean = dict(zip(cells(text, "set"), cells(text, "**mean of 2 sets**"), strict=True))
    assert (mean["inspectd"], mean["PaDiM, ResNet18"], mean["escapes"]) == ("0.9000", "0.5000", "")
    assert dict(zip(cells(text, "set"), cells(text, "tile"), strict=True))["PaDiM, ResNet18"] == "failed"


def timing(limit: str) -> dict[str, Any]:
    """A row of times: the product twice as fast as the faster peer with one thread, and half as fast with two."""
    shared = {"p99_ms": 99.0, "inferences": 7, "heavy": "avx512", "light": "avx2"}
    taken = {("inspectd, f32 (kept)", 1): 5.0, ("PaDiM", 1): 10.0, ("STFPM", 1): 20.0}
    taken |= {("inspectd, f32 (kept)", 2): 16.0, ("PaDiM", 2): 12.0, ("STFPM", 2): 8.0}
    engines = [
        {"name": name, "threads": threads, "median_ms": ms, "peer": not name.startswith("inspectd"), **shared}
        for (name, threads), ms in taken.items()
    ]
    about = {"data": "nut", "model": "time", "image": "256x256", "station": "nut", "versions": "v", "unfinished": []}
    return {**about, "machine": "a machine", "settings": {"bundle": "abab", "limit": limit}, "engines": engines}


def test_times_stand_beside_those_of_the_fastest_peer() -> None:
    """The ratio is to the peer that is fastest with as many threads; the limit of instructions is told."""
    from benchmarking.peer_page import peer_page

    text = peer_page([], [timing("AVX2")], "a command")
    assert cells(text, "inspectd, f32 (kept)")[1:] == [
        "avx512, avx2",
        "5.00",
        "99.00",
        "0.50",
        "16.00",
        "99.00",
        "2.00",
    ]
    assert cells(text, "STFPM")[4] == "2.00"
    assert "limited by `ONEDNN_MAX_CPU_ISA=AVX2`" in text
    assert "not limited" in peer_page([], [timing("")], "a command")
    assert "Escapes are" not in text


def test_the_page_states_its_command_and_every_machine() -> None:
    """Rows of an earlier run may be of another machine; all are counted, and a failure is told with its reason."""
    from benchmarking.peer_page import peer_page

    rows = [row("nut", "product"), row("nut", "padim", machine="another machine", versions="anomalib 9")]
    failed = {"data": "cloth", "model": "padim", "settings": {"size": 256}, "failed": "no memory left"}
    text = peer_page([*rows, failed], [], "tools/benchmark.py peers --data sets")
    assert "\n    tools/benchmark.py peers --data sets\n" in text
    assert "- 1 rows: a machine\n- 1 rows: another machine\n" in text
    assert "- cloth, PaDiM, ResNet18: failed: no memory left" in text
    assert "| nut | inspectd | 128x96 | 30 | 10 | 20 | 0.9000 | - | 3.2 | 4.6 |" in text
    assert "anomalib 9." in text


@pytest.mark.parametrize(
    ("kernels", "found"),
    [
        (["brgconv_avx2_f32", "jit_avx512_f32", "unknown_f32"], "avx512"),
        (["brgconv_avx512_amx_bf16"], "amx"),
        (["ref_any_f32"], "-"),
    ],
)
def test_the_widest_instructions_are_named(kernels: list[str], found: str) -> None:
    """What OpenVINO really executes, whatever was asked for."""
    from benchmarking.peer_timing import widest

    assert widest(kernels) == found


def test_the_tail_of_left_out_scores_does_not_depend_on_their_unit() -> None:
    """The shape of heavy tails is larger than that of light ones; highest over median is of distances, not of units."""
    from benchmarking.left_out import left_out_figures

    chance = np.random.default_rng(0)
    maps = np.array([[[1.0, 0.5]], [[2.0, 0.1]], [[5.0, 3.0]]], dtype=np.float32)

    def figures(scores: Any) -> dict[str, Any]:
        fitted: Any = argparse.Namespace(part_scores=scores, maps=maps)
        return left_out_figures(fitted)

    light, heavy = chance.uniform(size=400), chance.pareto(2.0, size=400)
    assert figures(light)["shape"] < 0.05
    assert figures(heavy)["shape"] > 0.25
    assert figures(3 * heavy - 7)["shape"] == pytest.approx(figures(heavy)["shape"])
    assert figures(light)["highest_over_median"] == pytest.approx(2.5)
    assert figures(light)["parts"] == 400


def test_fewer_parts_are_drawn_in_their_order_and_the_same_by_seed() -> None:
    """The product and the peers learn from the same ones."""
    from benchmarking.drawn import drawn

    samples = list(range(100))
    found = drawn(samples, 10, 3)
    assert found == sorted(found)
    assert len(found) == 10
    assert found == drawn(samples, 10, 3) != drawn(samples, 10, 4)
    assert drawn(samples, 0, 3) == samples
