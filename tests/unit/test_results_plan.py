"""The plan of tools/benchmark.py results: what is measured, what counts as done, and the page that is written of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from inspectd.errors import SettingsError, StorageError

ROOT = Path(__file__).parents[2]
REGION = {"name": "whole", "top_px": 0, "left_px": 0, "height_px": 64, "width_px": 64, "patches": [[2, 2]]}
STUDENT = str(Path(__file__).parents[2] / "tools" / "student_texture.yaml")
PLAN: dict[str, Any] = {
    "settings": {
        "plain": {
            "station": STUDENT,
            "changes": {"canvas": {"height_px": 64, "width_px": 64}, "regions": [REGION]},
        },
        "short": {"station": STUDENT, "changes": {"model": {"quick": {"steps": 7}}}},
    },
    "data": {
        "cloth": {"folder": "cloth", "categories": ["red", "blue"], "images": True, "attribution": "by someone, CC BY"},
        "line": {"simulated": {"train": 20, "good": 4, "defective": 9}},
    },
    "tables": [
        {
            "title": "First",
            "paper": "a paper",
            "differs": "the data.",
            "by": ["severity"],
            "rows": [
                {
                    "name": "on cloth",
                    "settings": "plain",
                    "data": "cloth",
                    "pictures": True,
                    "paper": {"image_auroc": 0.9, "source": "table 9"},
                },
                {
                    "name": "fewer steps",
                    "settings": "short",
                    "data": "cloth",
                    "against": "on cloth",
                    "paper": {"image_auroc": 0.8, "source": "table 9"},
                },
                {"name": "on the line", "settings": "plain", "data": "line", "timeout_min": 3},
            ],
        },
        {"title": "Second", "rows": [{"name": "red", "settings": "plain", "data": "cloth", "categories": ["red"]}]},
    ],
}


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tools' packages can be imported, as they can beside a tool."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


def load(folder: Path, plan: dict[str, Any]) -> Any:
    """The plan, by way of a file."""
    from benchmarking.plan import load_plan

    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    return load_plan(path)


def changed(**changes: Any) -> dict[str, Any]:
    """PLAN with other sections; a deep copy."""
    copied: dict[str, Any] = json.loads(json.dumps(PLAN))
    return {**copied, **changes}


def bench(folder: Path, plan: dict[str, Any]) -> Any:
    """A bench on the plan that keeps everything in `folder`."""
    from benchmarking.results import Bench

    return Bench(load(folder, plan), folder / "rows.json", folder / "work")


def figures(auroc: float) -> dict[str, Any]:
    """What a row's process would report."""
    quality = {"pixel_auroc": 0.9, "pro": None, "fpr_at_95tpr": 0.1, "tpr_at_10fpr": 0.9}
    rates = {"false_rejects": 1, "false_reject_rate": 0.1, "false_reject_interval": [0.0, 0.4], "escapes": 2}
    found = {"image_auroc": auroc, "good": 10, "defective": 20, "escape_rate": 0.1, "escape_interval": [0.0, 0.3]}
    one = {**quality, **rates, **found}
    engines = [
        {"precision": name, "kept": name == "f32", "left_out": "", "median_ms": ms, "image_auroc": auroc - lost}
        for name, ms, lost in (("f32", 8.0, 0.0), ("bf16", 5.0, 0.001))
    ]
    engines.append(
        {"precision": "int8", "kept": False, "left_out": "no NNCF here", "median_ms": None, "image_auroc": None}
    )
    return {
        **one,
        "image_auroc_interval": [auroc - 0.1, auroc + 0.05],
        "by_severity": {"faint": one, "plain": one},
        "engines": engines,
        "precision": "f32",
        "promised": [0.0, 0.05],
        "calibration_s": 61.0,
        "resumed": False,
        "machine": "a machine",
        "took_s": 70.0,
    }


def finish(a_bench: Any, aurocs: dict[str, float]) -> None:
    """Write rows as if these had been measured with the settings of now; a negative figure: failed."""
    from benchmarking.results import entries_of

    rows = []
    for entry in entries_of(a_bench, ()):
        auroc = aurocs.get(entry.job.name)
        if auroc is not None:
            about = {"name": entry.job.name, "key": "00", "settings": entry.settings}
            reached = {"failed": "no such folder", "took_s": 1.0} if auroc < 0 else figures(auroc)
            rows.append({**about, **reached, "pictures": entry.job.name.replace("/", "-")})
    a_bench.out.write_text(json.dumps({"rows": rows}), encoding="utf-8")


def test_each_pair_of_settings_and_folder_is_measured_once(tmp_path: Path) -> None:
    """In the plan's order; a row that another table shows too costs nothing; the longest time-out holds."""
    from benchmarking.plan import jobs_of

    jobs = jobs_of(load(tmp_path, PLAN))
    names = ["plain/cloth/red", "plain/cloth/blue", "short/cloth/red", "short/cloth/blue", "plain/line"]
    assert [job.name for job in jobs] == names
    assert [job.timeout_min for job in jobs] == [60, 60, 60, 60, 3]


def test_all_categories_are_those_that_are_there(tmp_path: Path) -> None:
    """`all` lists the folders that hold parts to train on; a folder that is not there is one row, which will say so."""
    from benchmarking.plan import DataSettings, categories_of

    for name in ("b", "a"):
        (tmp_path / name / "train").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    assert categories_of(DataSettings(folder=str(tmp_path), categories="all")) == ("a", "b")
    assert categories_of(DataSettings(folder=str(tmp_path / "nowhere"), categories="all")) == ("",)


def test_changes_reach_the_station_and_nothing_else(tmp_path: Path) -> None:
    """Mappings are merged at any depth, lists replaced; the station's other settings stay."""
    from benchmarking.plan import jobs_of, station_of

    plan = load(tmp_path, PLAN)
    jobs = {job.name: job for job in jobs_of(plan)}
    plain, path = station_of(plan, jobs["plain/line"], tmp_path / "stations")
    assert (plain.canvas.height_px, [region.name for region in plain.regions]) == (64, ["whole"])
    assert path.is_file()
    short, _ = station_of(plan, jobs["short/cloth/red"], tmp_path / "stations")
    assert (short.model.quick.steps, short.model.quick.batch) == (7, plain.model.quick.batch)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"tables": []}, "tables"),
        ({"extra": 1}, "extra"),
        ({"data": {"cloth": {"folder": "x", "simulated": {}}}}, "not both"),
        ({"data": {"cloth": {"folder": "x", "images": True}}}, "attribution"),
        (
            {"tables": [{"title": "T", "rows": [{"name": "a", "settings": "gone", "data": "line"}]}]},
            "no settings named",
        ),
        ({"tables": [{"title": "T", "rows": [{"name": "a", "settings": "plain", "data": "gone"}]}]}, "no data named"),
        (
            {"tables": [{"title": "T", "rows": [{"name": "a", "settings": "plain", "data": "line", "against": "b"}]}]},
            "no row of it",
        ),
        (
            {
                "tables": [
                    {"title": "T", "rows": [{"name": "a", "settings": "plain", "data": "cloth", "categories": ["x"]}]}
                ]
            },
            "no such categories",
        ),
    ],
)
def test_a_wrong_plan_is_one_line(tmp_path: Path, broken: dict[str, Any], says: str) -> None:
    """Names that lead nowhere, unknown settings, images without attribution."""
    with pytest.raises(SettingsError, match=says) as raised:
        load(tmp_path, changed(**broken))
    assert "\n" not in str(raised.value)


def test_a_row_counts_as_long_as_its_settings_do(tmp_path: Path) -> None:
    """What was measured is not measured again; a changed setting makes its rows, and only those, undone."""
    from benchmarking.results import entries_of

    finish(bench(tmp_path, PLAN), {"plain/cloth/red": 0.9, "short/cloth/red": 0.8, "plain/line": -1})
    done = {entry.job.name for entry in entries_of(bench(tmp_path, PLAN), ()) if entry.row is not None}
    assert done == {"plain/cloth/red", "short/cloth/red", "plain/line"}
    other = changed()
    other["settings"]["short"]["changes"]["model"]["quick"]["steps"] = 8
    other["data"]["line"]["simulated"]["good"] = 5
    done = {entry.job.name for entry in entries_of(bench(tmp_path, other), ()) if entry.row is not None}
    assert done == {"plain/cloth/red"}


def test_what_a_row_does_not_depend_on_leaves_it_done(tmp_path: Path) -> None:
    """The other preset, other families' options, outputs and deadlines do not make a row stale."""
    from benchmarking.results import entries_of

    finish(bench(tmp_path, PLAN), {"plain/line": 0.9})
    other = changed()
    other["settings"]["plain"]["changes"] |= {
        "line": {"deadline_ms": 77},
        "model": {"full": {"steps": 9}, "stpm": {"validate_every": 3}},
    }
    done = [entry.job.name for entry in entries_of(bench(tmp_path, other), ()) if entry.row is not None]
    assert done == ["plain/line"]


def test_a_new_option_makes_no_row_stale_and_a_new_value_does() -> None:
    """Settings that did not exist when a row was measured must have their default now."""
    from benchmarking.plan import unchanged

    stored = {"model": {"decoder": True}, "regions": [1]}
    default = {"model": {"decoder": True, "added": 3}}
    assert unchanged(stored, {"model": {"decoder": True, "added": 3}, "regions": [1]}, default)
    assert not unchanged(stored, {"model": {"decoder": True, "added": 4}, "regions": [1]}, default)
    assert not unchanged(stored, {"model": {"decoder": False, "added": 3}, "regions": [1]}, default)
    assert not unchanged(stored, {"model": {"decoder": True}, "regions": [1, 2]}, default)
    assert not unchanged(stored, {"model": {}, "regions": [1]}, default)


def test_only_names_rows_by_pattern_settings_or_data(tmp_path: Path) -> None:
    """What fits nothing is one line with the names that there are."""
    from benchmarking.results import entries_of

    a_bench = bench(tmp_path, PLAN)

    def names(*only: str) -> list[str]:
        return [entry.job.name for entry in entries_of(a_bench, only)]

    assert names("line") == ["plain/line"]
    assert names("short", "*/red") == ["plain/cloth/red", "short/cloth/red", "short/cloth/blue"]
    with pytest.raises(StorageError, match="no row like silk; there are plain/cloth/red"):
        names("silk")


def test_settings_that_no_station_can_have_are_told_in_the_list(tmp_path: Path) -> None:
    """One refused row hides no other."""
    from benchmarking.results import entries_of, list_of

    other = changed()
    other["settings"]["short"]["changes"] = {"model": {"family": "nonsense"}}
    finish(bench(tmp_path, PLAN), {"plain/cloth/red": 0.9, "plain/line": -1})
    text = list_of(entries_of(bench(tmp_path, other), ()))
    assert "| plain/cloth/red | 70 | done |" in text
    assert "| plain/line | 1 | failed: no such folder |" in text
    assert "| plain/cloth/blue | - | not yet |" in text
    assert "| short/cloth/red | - | refused: " in text


def test_the_page_has_ours_beside_the_papers(tmp_path: Path) -> None:
    """Means over categories, the paper's figures and their source, directions, engines, groups, and what is missing."""
    from benchmarking.page import write_page
    from benchmarking.results import entries_of

    a_bench = bench(tmp_path, PLAN)
    finish(
        a_bench,
        {
            "plain/cloth/red": 0.9,
            "plain/cloth/blue": 0.8,
            "short/cloth/red": 0.7,
            "short/cloth/blue": 0.8,
            "plain/line": -1,
        },
    )
    page = tmp_path / "docs" / "results.md"
    write_page(a_bench.plan, entries_of(a_bench, ()), page, a_bench.work, command="the command", plan_name="plan.yaml")
    text = page.read_text(encoding="utf-8")
    assert "Written by `the command`" in text
    assert "Paper: a paper." in text
    assert (
        "| on cloth | cloth (2) | 20 / 40 | 0.8500 (0.800 to 0.900) | 0.9000 | 0.9000 (0.900 to 0.900) | - | 0.1000 "
        in text
    )
    assert "| fewer steps | on cloth | -0.1000 | -0.1000 | yes |" in text
    assert (
        "| on cloth | cloth (2) | efficientnet_lite0 + efficientnet_lite1 | 150 x 16, adam 0.001 | 61 to 61 |" in text
    )
    assert "| fewer steps | cloth (2) | efficientnet_lite0 + efficientnet_lite1 | 7 x 16, adam 0.001 |" in text
    assert "| on cloth | cloth (2) | f32 | 8.00 | 8.00 | 5.00 | - | +0.0000 | +0.0010 | - |" in text
    assert "| 2 of 20, 10.0% | 0.0% to 5.0% | 4 of 40, 10.0% |" in text
    assert "| on cloth | red | 0.9000 |" in text
    assert "plain/cloth/red, by severity" in text
    assert "- plain/cloth/red, engine int8: no NNCF here" in text
    assert "- on cloth: table 9" in text
    assert "- on the line (plain/line): failed: no such folder" in text
    assert "| red | cloth | 10 / 20 | 0.9000 (0.800 to 0.950) |" in text


def test_images_are_shown_as_their_licence_allows(tmp_path: Path) -> None:
    """Maps of data whose images may not be shown stay where they are; those that may have their attribution."""
    from benchmarking.page import write_page
    from benchmarking.results import entries_of

    for images in (True, False):
        plan = changed()
        plan["data"]["cloth"]["images"] = images
        a_bench = bench(tmp_path, plan)
        finish(a_bench, {"plain/cloth/red": 0.9, "plain/cloth/blue": 0.8})
        drawn = a_bench.work / "plain-cloth-red"
        drawn.mkdir(parents=True, exist_ok=True)
        for name in ("scores.png", "maps.png"):
            (drawn / name).write_bytes(b"a picture")
        page = tmp_path / "docs" / "results.md"
        write_page(a_bench.plan, entries_of(a_bench, ()), page, a_bench.work, command="", plan_name="")
        text = page.read_text(encoding="utf-8")
        copied = sorted(path.name for path in (tmp_path / "docs" / "results").iterdir())
        shown = ["plain-cloth-red-maps.png"] if images else []
        assert copied == [*shown, "plain-cloth-red-scores.png"]
        assert ("Images: by someone, CC BY" in text) == images
        assert "(results/plain-cloth-red-scores.png)" in text


def test_pictures_stay_where_another_machine_drew_them(tmp_path: Path) -> None:
    """Rows are kept beside the page, their work folder is not: what the page shows already it goes on to show."""
    from benchmarking.page import write_page
    from benchmarking.results import entries_of

    a_bench = bench(tmp_path, PLAN)
    finish(a_bench, {"plain/cloth/red": 0.9, "plain/cloth/blue": 0.8})
    drawn = a_bench.work / "plain-cloth-red" / "scores.png"
    drawn.parent.mkdir(parents=True, exist_ok=True)
    page = tmp_path / "docs" / "results.md"
    copy = tmp_path / "docs" / "results" / "plain-cloth-red-scores.png"
    for content, expected in ((b"first", b"first"), (None, b"first"), (b"second", b"second")):
        drawn.unlink(missing_ok=True)
        if content is not None:
            drawn.write_bytes(content)
        write_page(a_bench.plan, entries_of(a_bench, ()), page, a_bench.work, command="", plan_name="")
        assert copy.read_bytes() == expected
        assert "(results/plain-cloth-red-scores.png)" in page.read_text(encoding="utf-8")


def test_the_plan_that_ships_can_be_run(tmp_path: Path) -> None:
    """Every row of tools/results.yaml has settings that a station can have."""
    from benchmarking.plan import described, jobs_of, load_plan, station_of

    plan = load_plan(ROOT / "tools" / "results.yaml")
    for job in jobs_of(plan):
        described(plan, job, station_of(plan, job, tmp_path)[0])


def test_the_page_that_ships_says_what_its_rows_say(tmp_path: Path) -> None:
    """Nobody wrote into docs/results/plan.md by hand, and no row on it is one of settings that have changed since."""
    from benchmarking.page import Pictures, results_page
    from benchmarking.plan import load_plan
    from benchmarking.results import Bench, entries_of

    docs = ROOT / "docs" / "results"
    plan = load_plan(ROOT / "tools" / "results.yaml")
    shipped = (docs / "plan.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^Written by `(.*?)`", shipped, re.MULTILINE)
    entries = entries_of(Bench(plan, docs / "plan.json", tmp_path), ())
    pictures = Pictures(plan, tmp_path, docs / "plan")
    assert results_page(plan, entries, pictures, command=command, plan_name="results.yaml") == shipped
    assert all(path.is_file() for path in (docs / link for link in re.findall(r"!\[.*?\]\((.*?)\)", shipped)))
