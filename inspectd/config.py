"""Station settings: one YAML file, frozen, unknown keys refused, each field described.

The only place that reads the environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from engines.settings import (
    CanvasSettings,
    EngineSettings,
    ModelSettings,
    Name,
    RegionSettings,
    Settings,
    check_regions,
)
from inspectd.errors import SettingsError

SECONDS_PER_DAY = 86_400
LARGEST_PORT = 65_535


def _port_exists(endpoint: str) -> str:
    """libzmq takes the port modulo 65 536, and binds another one than was asked for."""
    if endpoint.startswith("tcp://") and not 1 <= int(endpoint.rpartition(":")[2]) <= LARGEST_PORT:
        raise ValueError(f"{endpoint}: a port is a number from 1 to {LARGEST_PORT}")
    return endpoint


Endpoint = Annotated[str, Field(pattern=r"^(tcp://[^\s/]+:\d{1,5}|ipc://\S+)$"), AfterValidator(_port_exists)]


class SimulatedCameraSettings(Settings):
    """The simulated capacitor line."""

    kind: Literal["simulated"] = Field(description="renders parts; needs no device")
    seed: int = Field(1, ge=0, description="same seed, same parts")
    defect_share: float = Field(0.0, ge=0, le=1, description="share of defective parts in the stream")
    pool: int = Field(256, ge=1, le=10_000, description="parts rendered ahead; the stream repeats after so many")


class FolderCameraSettings(Settings):
    """Images of a folder in name order."""

    kind: Literal["folder"] = Field(description="images on disk")
    path: Path = Field(description="folder with images (png, jpg, bmp, tif, webp)")
    loop: bool = Field(False, description="start over at the end")


class VideoCameraSettings(Settings):
    """Frames of a video file."""

    kind: Literal["video"] = Field(description="a recorded video")
    path: Path = Field(description="video file that OpenCV reads")
    loop: bool = Field(False, description="start over at the end")


class OpenCvCameraSettings(Settings):
    """A V4L2 device or an RTSP stream through OpenCV."""

    kind: Literal["opencv"] = Field(description="a live camera")
    source: str = Field(description="device number, /dev/videoN, or rtsp:// address")
    width_px: int | None = Field(None, ge=16, description="requested frame width")
    height_px: int | None = Field(None, ge=16, description="requested frame height")
    exposure_us: float | None = Field(None, gt=0, description="requested exposure time")


CameraSettings = Annotated[
    SimulatedCameraSettings | FolderCameraSettings | VideoCameraSettings | OpenCvCameraSettings,
    Field(discriminator="kind"),
]


class TriggerSettings(Settings):
    """What asks for a part to be inspected."""

    source: Literal["timer", "camera", "zmq"] = Field(
        "camera",
        description="timer: one part each period_ms; camera: each frame that arrives is a part; "
        'zmq: a message on `endpoint` (JSON {"part_id": ...})',
    )
    period_ms: float = Field(20.0, gt=0, description="timer only")
    endpoint: Endpoint | None = Field(None, description="zmq only: PULL socket that the trigger source connects to")
    frame_timeout_ms: float = Field(500.0, gt=0, description="longest wait for the camera's answer")

    @model_validator(mode="after")
    def _endpoint_where_needed(self) -> Self:
        if self.source == "zmq" and self.endpoint is None:
            raise ValueError("trigger.source zmq needs trigger.endpoint")
        return self


class LocateSettings(Settings):
    """How the part is found in the frame and brought into canonical pose."""

    mode: Literal["off", "bright_part"] = Field(
        "bright_part", description="off: the whole frame, resized to the canvas; bright_part: one bright part on dark"
    )
    part_height_px: int = Field(50, ge=8, description="height of the part on the canvas (short side)")
    part_width_px: int = Field(110, ge=8, description="width of the part on the canvas (long side)")
    max_angle_deg: float = Field(180.0, ge=0, le=180, description="largest rotation that is still this part")
    min_scale: float = Field(0.7, gt=0, description="smallest ratio of frame to part-image pixels that is this part")
    max_scale: float = Field(1.6, gt=0, description="largest such ratio")

    @model_validator(mode="after")
    def _scales_in_order(self) -> Self:
        if self.min_scale > self.max_scale:
            raise ValueError(f"min_scale {self.min_scale:g} is above max_scale {self.max_scale:g}")
        return self


class LineSettings(Settings):
    """What the line expects."""

    deadline_ms: float = Field(50.0, gt=0, description="trigger to verdict; after that INVALID (late)")
    invalid_action: Literal["accept", "reject", "stop"] = Field("reject", description="what the line does then")


class OutputSettings(Settings):
    """Who is told."""

    results: Endpoint = Field("tcp://127.0.0.1:5560", description="PUB: topics result, reject, health")
    queries: Endpoint = Field("tcp://127.0.0.1:5561", description="ROUTER: missed results, maps, status")
    metrics_port: int | None = Field(
        None, ge=1, le=LARGEST_PORT, description="HTTP /metrics and /ready on 127.0.0.1 at this port; none: no HTTP"
    )


class RecordSettings(Settings):
    """What is kept of each part, where and for how long."""

    folder: Path = Field(Path("records"), description="holds <station>/records.db and images/")
    keep_days: float = Field(90.0, gt=0, description="older records and images are deleted")
    keep_bytes: int = Field(10 * 2**30, ge=2**20, description="images and database together; the oldest go first")
    passed_image_every: int = Field(100, ge=0, description="keep the image of each n-th passed part; 0: none")


class CalibrationSettings(Settings):
    """How thresholds are chosen."""

    false_reject_rate: float = Field(0.01, gt=0, lt=0.5, description="share of good parts the line may lose")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the intervals that the report states")
    held_out_share: float = Field(0.3, gt=0.05, lt=0.9, description="good parts kept from training, for thresholds")
    seed: int = Field(0, ge=0, description="of splits, weights and batches")


class Station(Settings):
    """One camera position on the line, and its settings."""

    station: Name = Field(description="name; appears in topics, records and paths")
    description: str = Field("", description="one line for people")
    line: LineSettings = LineSettings()
    trigger: TriggerSettings = TriggerSettings()
    camera: CameraSettings
    locate: LocateSettings = LocateSettings()
    canvas: CanvasSettings = CanvasSettings()
    regions: tuple[RegionSettings, ...] = Field(min_length=1, description="areas of the part image")
    model: ModelSettings = ModelSettings()
    engine: EngineSettings = EngineSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    outputs: OutputSettings = OutputSettings()
    records: RecordSettings = RecordSettings()
    bundles: Path = Field(Path("bundles"), description="folder that holds <station>/<hash>/")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_regions(self.canvas, self.regions, self.model.decoder)
        if self.locate.mode == "bright_part" and (
            self.locate.part_height_px > self.canvas.height_px or self.locate.part_width_px > self.canvas.width_px
        ):
            raise ValueError("locate: the part is larger than the canvas")
        endpoints = [self.outputs.results, self.outputs.queries]
        if self.trigger.endpoint is not None:
            endpoints.append(self.trigger.endpoint)
        if len(set(endpoints)) != len(endpoints):
            raise ValueError(f"outputs.results, outputs.queries and trigger.endpoint must differ, got {endpoints}")
        return self


def station_folders() -> list[Path]:
    """Folders with station files, first hit wins: $INSPECTD_STATIONS, ./stations, /etc/inspectd/stations, shipped.

    The shipped ones lie inside the installed package, or beside it in a source checkout.
    """
    here = Path(__file__).parent
    folders = [Path("stations"), Path("/etc/inspectd/stations"), here / "stations", here.parent / "stations"]
    override = os.environ.get("INSPECTD_STATIONS")
    return [Path(override), *folders] if override else folders


def notify_address() -> str | None:
    """Where systemd wants to be told (a socket path, '@' for an abstract one), or None outside a notify unit."""
    return os.environ.get("NOTIFY_SOCKET") or None


def watchdog_period_s() -> float | None:
    """How often systemd's watchdog expects a sign of life, or None where it is off or meant for another process."""
    period_us, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not period_us.isdigit() or int(period_us) == 0 or (process and process != str(os.getpid())):
        return None
    return int(period_us) / 1e6


def load_station(name_or_path: str) -> Station:
    """Read a station by name (`smdc`) or by path (`./my.yaml`). Raises SettingsError with one line."""
    path = _find(name_or_path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: expected settings at the top level, found {type(raw).__name__}")
    try:
        return Station.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_one_line(error)}") from error


def _find(name_or_path: str) -> Path:
    if name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path:
        return Path(name_or_path)
    for folder in station_folders():
        candidate = folder / f"{name_or_path}.yaml"
        if candidate.is_file():
            return candidate
    known = sorted({path.stem for folder in station_folders() for path in folder.glob("*.yaml")})
    listed = ", ".join(known) or "none"
    raise SettingsError(f"no station named {name_or_path!r}; known: {listed} (or give a path to a .yaml)")


def _one_line(error: ValidationError) -> str:
    """'a.b: what is wrong' for each fault, joined by '; '."""
    parts = []
    for fault in error.errors():
        where = ".".join(str(step) for step in fault["loc"])
        what = "unknown setting" if fault["type"] == "extra_forbidden" else fault["msg"].removeprefix("Value error, ")
        parts.append(f"{where}: {what}" if where else what)
    return "; ".join(parts)
