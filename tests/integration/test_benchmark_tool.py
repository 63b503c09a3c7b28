"""tools/benchmark.py as a user runs it: small runs, what it prints, what it refuses. No figure is judged here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from benchmarking.sampling import sampler
from tiny_station import TinyStation, tool

from inspectd.errors import SettingsError

FIGURES = {
    "good": 16,
    "defective": 48,
    "image_auroc": 0.5,
    "fpr_at_95tpr": 0.9,
    "tpr_at_10fpr": 0.1,
    "pixel_auroc": None,
    "pro": None,
    "false_rejects": 2,
    "false_reject_rate": 0.125,
    "false_reject_interval": [0.016, 0.383],
    "escapes": 48,
    "escape_rate": 1.0,
    "escape_interval": [0.926, 1.0],
}


def sampler_is_there() -> bool:
    """Whether py-spy is installed, as the tool looks for it."""
    try:
        return bool(sampler())
    except SettingsError:
        return False


def finished(name: str) -> dict[str, object]:
    """A row of a set that was measured before."""
    about = {"name": name, "preset": "quick", "station": "texture", "bundle": "ab" * 8, "precision": "f32"}
    rest = {"calibration_s": 61.2, "promised": [0.01, 0.08], "asked_rate": 0.01, "by_severity": {}, "by_size": {}}
    return {**about, **rest, **FIGURES, "by_type": {"cut": FIGURES, "hole": FIGURES}}


@pytest.mark.parametrize("command", ["engine", "line", "accuracy", "results", "peers"])
def test_each_sub_command_explains_itself_with_an_example(command: str, tmp_path: Path) -> None:
    """--help works and shows a call."""
    done = tool("benchmark", command, "--help", folder=tmp_path)
    assert done.returncode == 0
    assert f"tools/benchmark.py {command} --" in done.stdout


def test_the_line_is_measured_in_the_real_daemon(tiny_station: TinyStation, tmp_path: Path) -> None:
    """Every step has its latencies, in order; memory is read; torch is not in the process; nothing is left behind."""
    settings = tiny_station.settings(tmp_path)
    done = tool("benchmark", "line", "--station", str(settings), "--parts", "220", "--period-ms", "8", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    row = re.compile(r"^\| (.+?) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", re.MULTILINE)
    steps, threads = done.stdout.split("| thread, for each part |")
    figures = {name: [float(value) for value in values] for name, *values in row.findall(steps)}
    on_core_ms = {name: float(value) for name, value, *_ in row.findall(threads)}
    assert len(figures) == 7
    assert all(on_core_ms[stage] > 0 for stage in ("trigger", "acquire", "inspect", "gate"))
    assert all(0 <= p50 <= p99 <= most for p50, p99, most in figures.values())
    assert figures["**trigger to verdict, less the engine**"][0] < figures["trigger to verdict"][0]
    assert "| torch in the process | no |" in done.stdout
    assert "| parts | 220, one each 8 ms |" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {settings.name}


def test_the_engine_is_taken_apart(tiny_station: TinyStation, tmp_path: Path) -> None:
    """Its layers by submodule and by operation: each way all of them, which together are all of the time."""
    bundle = str(tiny_station.bundle.folder)
    done = tool("benchmark", "engine", "--bundle", bundle, "--profile", "--seconds", "0.1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    layers, total_ms = re.findall(r"an inference, ([\d.]+) ms in its (\d+) layers", done.stdout)[0][::-1]
    for title in ("submodule", "operation"):
        table = done.stdout.split(f"| {title} | layers | ms | share |")[1].split("\n\n")[0]
        rows = re.findall(r"^\| (.+?) \| (\d+) \| ([\d.]+) \| [\d.]+% \|$", table, re.MULTILINE)
        assert sum(int(count) for _, count, _ in rows) == int(layers)
        assert sum(float(ms) for *_, ms in rows) == pytest.approx(float(total_ms), abs=0.05)
        if title == "submodule":
            assert {"teachers.0.stages.0", "decoder", "tail.patch_gmsd"} <= {name for name, *_ in rows}


@pytest.mark.parametrize(("name", "code", "says"), [("line.png", 3, ".svg"), ("line.svg", 3, "py-spy")])
def test_a_flame_graph_that_cannot_be_made_is_refused(
    tiny_station: TinyStation, tmp_path: Path, name: str, code: int, says: str
) -> None:
    """By the file's name, or because the profiler is missing; before anything is measured."""
    if says == "py-spy" and sampler_is_there():
        pytest.skip("py-spy is installed")
    settings = tiny_station.settings(tmp_path)
    done = tool("benchmark", "line", "--station", str(settings), "--profile", name, folder=tmp_path)
    assert done.returncode == code
    assert says in done.stderr.splitlines()[-1]
    assert not (tmp_path / name).exists()


def test_a_line_faster_than_its_engine_is_measured_too(tiny_station: TinyStation, tmp_path: Path) -> None:
    """Under overload verdicts overtake each other; each is found in the records all the same."""
    settings = tiny_station.settings(tmp_path, line={"deadline_ms": 2000})  # for what is queued at the end
    done = tool("benchmark", "line", "--station", str(settings), "--parts", "400", "--period-ms", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\| verdicts \| .*INVALID \d+", done.stdout, re.MULTILINE)


def test_a_bundle_that_cannot_run_is_refused(tiny_station: TinyStation, tmp_path: Path) -> None:
    """A bundle that the daemon would refuse ends with its code, before anything is measured."""
    settings = tiny_station.settings(tmp_path)
    other = tiny_station.variant(tmp_path / "other")
    weights = other.folder / "engine.bin"
    weights.chmod(0o644)
    weights.write_bytes(b"short")
    done = tool("benchmark", "line", "--station", str(settings), "--bundle", str(other.folder), folder=tmp_path)
    assert done.returncode == 4
    assert "engine.bin" in done.stderr.splitlines()[-1]


def test_finished_rows_are_not_measured_again(tmp_path: Path) -> None:
    """A set that the output file has already costs nothing, and is in the tables; several have a mean."""
    for name in ("cloth", "paper"):
        (tmp_path / "data" / name / "train" / "good").mkdir(parents=True)
    out = tmp_path / "accuracy.json"
    out.write_text(json.dumps({"rows": [finished("cloth"), finished("paper")]}))
    before = out.read_bytes()
    only = ("--only", "cloth", "--only", "paper")
    done = tool("benchmark", "accuracy", "--data", "data", "--out", str(out), *only, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| cloth | texture | abababababababab | 0.5000 | - | - | 0.9000 | 0.1000 |" in done.stdout
    assert "**mean of the categories**" in done.stdout
    assert "| cloth | 2 of 16, 12.5% (1.6% to 38.3%) | 1.0% to 8.0% |" in done.stdout
    assert out.read_bytes() == before


def labelled_set(folder: Path) -> None:
    """As few files as make a set in MVTec layout; nothing here opens an image."""
    for kind in ("train/good", "test/good", "test/cut"):
        (folder / kind).mkdir(parents=True)
        (folder / kind / "0.png").write_bytes(b"")


MEMORY = """
import json, pathlib, sys
with open("calls.txt", "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + chr(10))
name = pathlib.Path(sys.argv[1]).name
print("a library that prints")
largest = {"cloth": {"auroc": 0.9, "escapes": 1, "false": 0}, "paper": {"auroc": 0.8}}[name]
print(json.dumps({"data": name, "learnt": 1, "good": 1, "defective": 1, "largest cell": largest}))
"""


def test_peers_measure_each_set_once(tmp_path: Path) -> None:
    """A script's line of JSON becomes a row; a folder of sets is all of them; another size is another row.

    What passes at its limit is told where the script tells it.
    """
    for name in ("cloth", "paper"):
        labelled_set(tmp_path / "data" / name)
    calls = tmp_path / "calls.txt"
    script = tmp_path / "memory.py"
    script.write_text(MEMORY.replace("calls.txt", str(calls)))
    command = ("benchmark", "peers", "--data", "data", "--memory-script", "memory.py", "--model", "memory")
    done = tool(*command, "--parts", "7", "--write", "table.md", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| cloth | 0.9000 | 1 of 1 | 0 of 1 | - |" in done.stdout
    assert "| paper | 0.8000 | - | - | - |" in done.stdout
    assert "| **mean of 2 sets** | 0.8500 |" in done.stdout
    assert "| paper | plain memory | 256x256 | 1 | 1 | 1 | 0.8000 | - | - | - |" in done.stdout
    assert (tmp_path / "table.md").read_text() == done.stdout
    asked = [f"{tmp_path}/data/{name} --px 256 --parts 7" for name in ("cloth", "paper")]
    assert calls.read_text().splitlines() == asked
    again = tool(*command, "--parts", "7", folder=tmp_path)
    assert "| **mean of 2 sets** | 0.8500 |" in again.stdout
    assert calls.read_text().splitlines() == asked
    assert tool(*command, "--size", "128", folder=tmp_path).returncode == 0
    assert len(calls.read_text().splitlines()) == 4
    assert len(json.loads((tmp_path / "peers.json").read_text())["rows"]) == 4


def made_set(folder: Path) -> None:
    """Twelve good parts to learn from, and a few to judge, one of them with a plain defect."""
    chance = np.random.default_rng(0)
    names = [*(f"train/good/{number:02d}.png" for number in range(12)), "test/good/0.png", "test/cut/0.png"]
    for name in names:
        image = 120 + chance.normal(0, 6, (64, 64, 3))
        if "cut" in name:
            image[20:40, 20:40] = 0
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), image.clip(0, 255).astype(np.uint8))


@pytest.mark.slow
def test_the_product_is_a_row_among_its_peers(tmp_path: Path) -> None:
    """Its station is calibrated and its engine judges the labelled parts, once; tail and escapes are in the page."""
    made_set(tmp_path / "nut")
    region = {"name": "whole", "top_px": 0, "left_px": 0, "height_px": 64, "width_px": 64}
    small = {
        "station": "small",
        "camera": {"kind": "folder", "path": "nowhere"},
        "locate": {"mode": "off"},
        "canvas": {"height_px": 64, "width_px": 64},
        "regions": [region],
        "model": {"score": "memory", "random_teachers": True},
        "engine": {"precision": "f32"},
    }
    (tmp_path / "small.yaml").write_text(json.dumps(small))  # JSON is YAML
    command = ("benchmark", "peers", "--data", "nut", "--model", "product", "--station", "./small.yaml")
    done = tool(*command, "--parts", "10", "--write", "page.md", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "peers.json").read_text())["rows"]
    assert (row["learnt"], row["good"], row["defective"], row["canvas"]) == (10, 1, 1, "64x64")
    assert row["highest_over_median"] >= 1
    assert -0.5 <= row["tail_shape"] <= 1
    assert row["ms_per_image"] > 0
    assert row["fit_s"] > 0
    assert (tmp_path / "work" / "peers" / row["folder"] / "manifest.json").is_file()
    assert f"| nut | ./small.yaml | {row['image_auroc']:.4f} | {row['escapes']} of 1 |" in done.stdout
    assert (tmp_path / "page.md").read_text() == done.stdout
    before = (tmp_path / "peers.json").read_bytes()
    assert tool(*command, "--parts", "10", folder=tmp_path).returncode == 0
    assert (tmp_path / "peers.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("engine", "--bundle", "nowhere"), 4, "no such folder"),
        (("line", "--station", "nowhere"), 3, "no station named"),
        (("line", "--station", "smdc", "--parts", "10"), 2, "at least 200"),
        (("accuracy", "--data", "."), 8, "no category"),
        (("accuracy", "--data", ".", "--only", "silk"), 8, "no set named silk"),
        (("accuracy", "--data", ".", "--only", "smdc", "--out", "broken.json"), 8, "not what this benchmark writes"),
        (("results", "--plan", "nowhere.yaml"), 3, "nowhere.yaml"),
        (("results", "--plan", "plan.yaml", "--list"), 3, "plan.yaml: "),
        (("peers", "--data", "nowhere"), 5, "no such folder"),
        (("peers", "--data", "sets/set", "--weights", "nowhere"), 2, "--weights nowhere: no such file"),
        (("peers", "--data", "sets/set", "--model", "memory"), 2, "--memory-script None: no such file"),
        (("peers", "--data", "sets/set", "--station", "silk=texture"), 2, "--station silk=texture: no set"),
        (("peers", "--data", "sets/set", "--station", "nowhere"), 2, "no such file"),
        (("peers", "--data", "sets/set", "--model", "product", "--station", "nowhere"), 3, "no station named"),
        (("peers", "--data", "sets/set", "--time", "only"), 2, "name a bundle: --bundle DIR"),
        (("peers", "--data", "sets/set", "--model", "memory", "--memory-script", "fails.py"), 1, "no patches; see"),
        ((), 2, "required"),
    ],
)
def test_what_is_wrong_is_one_line_and_a_documented_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    """Never a traceback."""
    (tmp_path / "broken.json").write_text("[1")
    (tmp_path / "plan.yaml").write_text("tables: 1")
    (tmp_path / "fails.py").write_text("raise SystemExit('no patches')")
    labelled_set(tmp_path / "sets/set")
    done = tool("benchmark", *arguments, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
