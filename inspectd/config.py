"""Station settings: one YAML file, frozen, unknown keys refused, each field described.

The only place that reads the environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, model_validator

from engines.errors import one_line
from engines.pictures import Levels
from engines.settings import (
    CanvasSettings,
    EngineSettings,
    ModelSettings,
    Name,
    RegionSettings,
    Settings,
    check_regions,
)
from inspectd.camera_sections import CameraSettings
from inspectd.errors import SettingsError
from inspectd.sections import (
    CalibrationSettings,
    ChallengeSettings,
    DriftSettings,
    LineSettings,
    LocateSettings,
    OutputSettings,
    ProcessSettings,
    RecordSettings,
    SecuritySettings,
    SupervisionSettings,
    TrackingSettings,
    TriggerSettings,
    on_loopback,
)
from inspectd.yaml_file import read_mapping

MOST_FAULTS = 10


class Station(Settings):
    """One camera position on the line, and its settings."""

    station: Name = Field(description="name; appears in topics, records and paths")
    description: str = Field("", description="one line for people")
    line: LineSettings = LineSettings()
    trigger: TriggerSettings = TriggerSettings()
    camera: CameraSettings
    locate: LocateSettings = LocateSettings()
    levels: Levels | None = Field(
        None,
        description="images of more than 8 bits: grey levels that become black and white; none: calibrate takes "
        "those of the good parts",
    )
    canvas: CanvasSettings = CanvasSettings()
    regions: tuple[RegionSettings, ...] = Field(min_length=1, description="areas of the part image")
    model: ModelSettings = ModelSettings()
    engine: EngineSettings = EngineSettings()
    supervision: SupervisionSettings = SupervisionSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    tracking: TrackingSettings = TrackingSettings()
    outputs: OutputSettings = OutputSettings()
    records: RecordSettings = RecordSettings()
    process: ProcessSettings = ProcessSettings()
    security: SecuritySettings = SecuritySettings()
    drift: DriftSettings = DriftSettings()
    challenge: ChallengeSettings = ChallengeSettings()
    bundles: Path = Field(Path("bundles"), description="folder that holds <station>/<hash>/")

    @model_validator(mode="after")
    def _rejects_reach_their_part(self) -> Self:
        earliest_ms, window_ms = self.tracking.earliest_ms(), self.tracking.window_ms
        if earliest_ms is not None and self.line.deadline_ms > earliest_ms:
            raise ValueError(
                f"line.deadline_ms {self.line.deadline_ms:g} is later than the reject's window less tracking.lead_ms "
                f"({earliest_ms:g} ms after the trigger): shorten the deadline, or move the actuator away"
            )
        if self.tracking.by == "encoder" and self.trigger.source != "zmq":
            raise ValueError("tracking.by encoder needs trigger.source zmq, whose messages carry the counts")
        if window_ms is not None and self.trigger.source == "timer" and window_ms > self.trigger.period_ms:
            raise ValueError(
                f"tracking.window_ms {window_ms:g} is longer than trigger.period_ms {self.trigger.period_ms:g}: "
                "the neighbour of a rejected part would be taken off too"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_regions(self.canvas, self.regions, self.model.decoder)
        if self.locate.mode == "bright_part" and (
            self.locate.part_height_px > self.canvas.height_px or self.locate.part_width_px > self.canvas.width_px
        ):
            raise ValueError("locate: the part is larger than the canvas")
        endpoints = self.endpoints()
        if len(set(endpoints)) != len(endpoints):
            raise ValueError(f"outputs.results, outputs.queries and trigger.endpoint must differ, got {endpoints}")
        if self.security.curve == "off" and self.security.plain_tcp == "loopback_only":
            for endpoint in endpoints:
                if not on_loopback(endpoint):
                    raise ValueError(
                        f"{endpoint} can be reached from other machines, and is plain: set security.curve: required "
                        "(and make keys with `inspectd keys`), or security.plain_tcp: anywhere"
                    )
        return self

    @model_validator(mode="after")
    def _silence_is_told_from_loss(self) -> Self:
        if self.trigger.source == "camera" and self.camera.kind == "opencv" and "://" in self.camera.source:
            raise ValueError(
                f"trigger.source camera: the stream {self.camera.source} looks lost whenever no part comes; "
                "use a device, or trigger.source timer or zmq"
            )
        return self

    @model_validator(mode="after")
    def _company_comes_before_the_deadline(self) -> Self:
        if self.engine.batch > 1 and self.engine.batch_wait_ms >= self.line.deadline_ms:
            raise ValueError(
                f"engine.batch_wait_ms {self.engine.batch_wait_ms:g} is not below line.deadline_ms "
                f"{self.line.deadline_ms:g}: a part that waits for company would be late; shorten the wait"
            )
        return self

    def key_folder(self) -> Path | None:
        """Where its keys lie, None where TCP is plain."""
        return self.security.keys / self.station if self.security.curve == "required" else None

    def endpoints(self) -> list[str]:
        """The ZeroMQ endpoints that its daemon listens on."""
        endpoints = [self.outputs.results, self.outputs.queries]
        if self.trigger.source == "zmq" and self.trigger.endpoint is not None:
            endpoints.append(self.trigger.endpoint)
        return endpoints


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
    path = station_path(name_or_path)
    raw = read_mapping(path)
    try:
        return Station.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_one_line(error)}") from error


def station_path(name_or_path: str) -> Path:
    """Where the station's settings are. Raises SettingsError for a name that no folder has."""
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
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    for fault in faults[:MOST_FAULTS]:
        where = ".".join(str(step) for step in fault["loc"])
        what = "unknown setting" if fault["type"] == "extra_forbidden" else fault["msg"].removeprefix("Value error, ")
        parts.append(one_line(f"{where}: {what}" if where else what))
    if len(faults) > MOST_FAULTS:
        parts.append(f"and {len(faults) - MOST_FAULTS} more")
    return "; ".join(parts)
