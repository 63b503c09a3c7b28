"""Station settings: what is accepted, and what a person reads when it is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from inspectd.config import Station, load_station
from inspectd.errors import SettingsError

SHIPPED = ("smdc", "smdc-vgg", "texture", "object")


def _write(folder: Path, changes: dict[str, object]) -> str:
    base = {
        "station": "bench",
        "camera": {"kind": "simulated"},
        "regions": [
            {"name": "body", "top_px": 0, "left_px": 0, "height_px": 64, "width_px": 64, "patches": [[4, 4], [2, 2]]}
        ],
    }
    path = folder / "bench.yaml"
    path.write_text(yaml.safe_dump(base | changes))
    return str(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_stations_load(name: str) -> None:
    """Every station that ships is valid and is named like its file."""
    assert load_station(name).station == name


def test_smdc_is_the_papers_part() -> None:
    """The capacitor station has the paper's canvas, three regions along the long axis, and two scales."""
    station = load_station("smdc")
    assert (station.canvas.height_px, station.canvas.width_px) == (128, 128)
    assert [region.patches for region in station.regions] == [((4, 1), (2, 1)), ((4, 4), (2, 2)), ((4, 1), (2, 1))]
    assert sum(region.width_px for region in station.regions) == 110


def test_each_setting_is_described() -> None:
    """Every leaf setting says what it is, so that a generated reference has no holes."""

    def undescribed(model: type, prefix: str = "") -> list[str]:
        names = []
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            inner = field.annotation
            if hasattr(inner, "model_fields"):
                names += undescribed(inner, f"{prefix}{name}.")
            elif not field.description and name not in {"camera", "kind"}:
                names.append(prefix + name)
        return names

    assert undescribed(Station) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lines": {}}, "lines: unknown setting"),
        ({"line": {"deadline_ms": "soon"}}, "line.deadline_ms"),
        ({"line": {"deadline_ms": float("inf")}}, "finite"),
        ({"line": {"deadline_ms": -1}}, "greater than 0"),
        ({"camera": {"kind": "telepathy"}}, "camera"),
        ({"station": "../etc"}, "station"),
        ({"canvas": {"height_px": 100, "width_px": 128}}, "multiples of 32"),
        ({"regions": [{"name": "a", "top_px": 100, "left_px": 0, "height_px": 64, "width_px": 64}]}, "the canvas is"),
        ({"regions": []}, "regions"),
        ({"trigger": {"source": "zmq"}}, "trigger.endpoint"),
        ({"locate": {"part_height_px": 200}}, "larger than the canvas"),
        ({"locate": {"min_scale": 2.0}}, "above max_scale"),
        ({"outputs": {"results": "localhost"}}, "outputs.results"),
        ({"outputs": {"results": "tcp://127.0.0.1:65536"}}, "a port is a number from 1 to 65535"),
        ({"outputs": {"results": "tcp://::1:5560"}}, "tcp://[::1]:5560"),
        ({"outputs": {"results": "tcp://[::1:5560"}}, "is no address"),
        ({"outputs": {"results": "tcp://[zz]:5560"}}, "is no address"),
        ({"outputs": {"queries": "tcp://999.1.1.1:5560"}}, "is no address"),
        ({"outputs": {"queries": "tcp://127.0.0.1;1.1.1.1:5560"}}, "is no address"),
        ({"trigger": {"source": "zmq", "endpoint": "tcp://fe80::1:5562"}}, "tcp://[fe80::1]:5562"),
        ({"outputs": {"results": "ipc:///tmp/" + "a" * 103}}, "at most 107 bytes"),
        ({"outputs": {"results": "ipc://@"}}, "needs a name"),
        ({"outputs": {"results": "ipc://*"}}, "needs a name"),
        ({"outputs": {"results": "ipc:///tmp/a", "queries": "ipc:///tmp/a"}}, "must differ"),
    ],
)
def test_bad_settings_are_one_clear_line(tmp_path: Path, changes: dict[str, object], expected: str) -> None:
    """A wrong setting is refused in one line that names the file and the setting."""
    with pytest.raises(SettingsError) as caught:
        load_station(_write(tmp_path, changes))
    text = str(caught.value)
    assert expected in text
    assert "bench.yaml" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://[::1]:5599", "tcp://127.0.0.1:5599", "tcp://localhost:5599", "tcp://lo:5599", "ipc:///tmp/a", "ipc://@a"],
)
def test_an_endpoint_that_can_be_bound_is_taken(tmp_path: Path, endpoint: str) -> None:
    """IPv6 in brackets, IPv4, names of hosts and of network interfaces, paths and abstract names."""
    changes = {"outputs": {"results": endpoint}, "security": {"plain_tcp": "anywhere"}}
    assert load_station(_write(tmp_path, changes)).outputs.results == endpoint


def test_settings_cannot_change_after_loading(tmp_path: Path) -> None:
    """A loaded station is frozen."""
    station = load_station(_write(tmp_path, {}))
    with pytest.raises(ValueError, match="frozen"):
        station.line.deadline_ms = 1  # type: ignore[misc]


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "\x00"])
def test_a_file_that_is_no_settings_is_refused(tmp_path: Path, text: str) -> None:
    """A file that is not a YAML mapping is one clear line."""
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"x\.yaml"):
        load_station(str(path))


def test_an_unknown_station_lists_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for a station that is not there says which are."""
    monkeypatch.setenv("INSPECTD_STATIONS", str(tmp_path))
    with pytest.raises(SettingsError, match=r"known: .*smdc"):
        load_station("smcd")


def test_the_settings_page_is_what_the_code_says() -> None:
    """docs/settings.md was written from the settings as they are now."""
    page = Path(__file__).parents[2] / "tools" / "settings_page.py"
    done = subprocess.run([sys.executable, str(page), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_company_that_would_come_after_the_deadline_is_refused(tmp_path: Path) -> None:
    """A part may not wait for others as long as it has time; where nobody waits, the wait says nothing."""
    waits = {"batch_wait_ms": 50.0}
    with pytest.raises(SettingsError, match=r"engine\.batch_wait_ms 50 is not below line\.deadline_ms 50"):
        load_station(_write(tmp_path, {"engine": {"batch": 2, **waits}}))
    assert load_station(_write(tmp_path, {"engine": waits})).engine.batch == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tracking": {"by": "delay", "delay_ms": 200}}, "tracking.by delay needs window_ms"),
        ({"tracking": {"by": "encoder"}}, "tracking.by encoder needs distance_counts and window_counts"),
        ({"tracking": {"delay_ms": 200}}, "delay_ms are for tracking.by delay, which is none"),
        (
            {"tracking": {"by": "encoder", "distance_counts": 900, "window_counts": 100, "modulus": 2000}},
            "modulus 2000 must be more than twice",
        ),
        ({"tracking": {"by": "delay", "delay_ms": 54, "window_ms": 5}}, "line.deadline_ms 50 is later"),
        (
            {"tracking": {"by": "encoder", "distance_counts": 1000, "window_counts": 100}},
            "tracking.by encoder needs trigger.source zmq",
        ),
        (
            {
                "tracking": {
                    "by": "encoder",
                    "distance_counts": 1000,
                    "window_counts": 100,
                    "fastest_counts_per_s": 20000,
                },
                "trigger": {"source": "zmq", "endpoint": "ipc://x"},
            },
            "line.deadline_ms 50 is later",
        ),
        (
            {
                "tracking": {"by": "delay", "delay_ms": 200, "window_ms": 21},
                "trigger": {"source": "timer", "period_ms": 20},
            },
            "tracking.window_ms 21 is longer than trigger.period_ms 20",
        ),
    ],
)
def test_tracking_that_cannot_work_is_refused(tmp_path: Path, changes: dict[str, object], why: str) -> None:
    """What is missing, contradicts itself, or lets a verdict come after its window does not start."""
    with pytest.raises(SettingsError, match=why):
        load_station(_write(tmp_path, changes))


def test_tracking_that_works_is_accepted(tmp_path: Path) -> None:
    """By delay up to the very deadline; by encoder where messages carry the counts."""
    delay = {"by": "delay", "delay_ms": 55, "window_ms": 20, "lead_ms": 5}
    assert load_station(_write(tmp_path, {"tracking": delay})).tracking.earliest_ms() == 50
    encoder = {"by": "encoder", "distance_counts": 1000, "window_counts": 100, "fastest_counts_per_s": 10_000}
    source = {"source": "zmq", "endpoint": "ipc://x"}
    assert load_station(_write(tmp_path, {"tracking": encoder, "trigger": source})).tracking.earliest_ms() == 95


def test_a_stream_whose_every_image_is_a_part_is_refused(tmp_path: Path) -> None:
    """It looks lost whenever the line stands still; a device, or a stream with a timer, is fine."""
    stream, device = ({"kind": "opencv", "source": source} for source in ("rtsp://127.0.0.1/line", "/dev/video0"))
    with pytest.raises(SettingsError, match=r"rtsp://127\.0\.0\.1/line looks lost whenever no part comes"):
        load_station(_write(tmp_path, {"camera": stream, "trigger": {"source": "camera"}}))
    load_station(_write(tmp_path, {"camera": device, "trigger": {"source": "camera"}}))
    load_station(_write(tmp_path, {"camera": stream, "trigger": {"source": "timer", "period_ms": 20}}))
