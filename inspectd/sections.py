"""The sections of a station's settings, each field described; frozen, unknown keys refused; `Station` holds them."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from engines.settings import Settings
from inspectd.endpoints import LARGEST_PORT, PATTERN, checked, host_of

Endpoint = Annotated[str, Field(pattern=PATTERN), AfterValidator(checked)]


def on_loopback(endpoint: str) -> bool:
    """Whether only programs of this machine reach an endpoint: ipc, or TCP on 127.0.0.0/8, ::1 or localhost."""
    if not endpoint.startswith("tcp://"):
        return True
    host = host_of(endpoint)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class TriggerSettings(Settings):
    """What asks for a part to be inspected."""

    source: Literal["timer", "camera", "zmq"] = Field(
        "camera",
        description="timer: one part each period_ms; camera: each frame that arrives is a part; "
        'zmq: a message on `endpoint` (JSON {"part_id", "encoder", "age_ms"}, each optional)',
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

    mode: Literal["off", "bright_part", "part"] = Field(
        "bright_part",
        description="off: the whole frame, resized to the canvas; bright_part: one bright part on dark; part: one part "
        "of any look, which `calibrate` learns from the good parts",
    )
    part_height_px: int = Field(50, ge=8, description="bright_part only: height of the part on the canvas (short side)")
    part_width_px: int = Field(110, ge=8, description="bright_part only: width of the part on the canvas (long side)")
    max_angle_deg: float = Field(
        180.0, ge=0, le=180, description="bright_part only: largest rotation that is still this part"
    )
    min_scale: float = Field(
        0.7, gt=0, description="bright_part only: smallest ratio of frame to part-image pixels that is this part"
    )
    max_scale: float = Field(1.6, gt=0, description="bright_part only: largest such ratio")

    @model_validator(mode="after")
    def _scales_in_order(self) -> Self:
        if self.min_scale > self.max_scale:
            raise ValueError(f"min_scale {self.min_scale:g} is above max_scale {self.max_scale:g}")
        return self


class LineSettings(Settings):
    """What the line expects."""

    deadline_ms: float = Field(50.0, gt=0, description="trigger to verdict; after that INVALID (late)")
    margin_ms: float = Field(
        2.0,
        gt=0,
        description="so long before its deadline, a fifth of it at most, an unanswered part is given up: time for the "
        "verdict to leave",
    )
    invalid_action: Literal["accept", "reject", "stop"] = Field("reject", description="what the line does then")


class TrackingSettings(Settings):
    """When the actuator acts on a part that is to be rejected; see docs/tracking.md."""

    by: Literal["none", "delay", "encoder"] = Field(
        "none",
        description="none: the reject signal means at once; delay: a time after the trigger; "
        "encoder: a distance of the belt after the trigger",
    )
    delay_ms: float | None = Field(
        None, gt=0, le=3_600_000, description="delay only: trigger to the part's leading edge at the actuator"
    )
    window_ms: float | None = Field(None, gt=0, le=60_000, description="delay only: how long the part is there")
    distance_counts: int | None = Field(
        None, gt=0, lt=2**40, description="encoder only: trigger to the part's leading edge at the actuator"
    )
    window_counts: int | None = Field(None, gt=0, lt=2**40, description="encoder only: how far the part is there")
    modulus: int | None = Field(
        None, ge=2, le=2**53, description="encoder only: counts after which the counter wraps; none: it does not"
    )
    direction: Literal["up", "down"] = Field(
        "up", description="encoder only: whether the count rises or falls as the belt moves on"
    )
    fastest_counts_per_s: float | None = Field(
        None, gt=0, description="encoder only: the belt at its fastest; checks that a verdict is in time even then"
    )
    lead_ms: float = Field(
        5.0, ge=0, le=60_000, description="from the command's leaving to the actuator's effect: transport and reaction"
    )
    send: Literal["at_verdict", "at_window"] = Field(
        "at_verdict",
        description="at_verdict: the PLC waits for the window; at_window: the command is held until lead_ms before it",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {"delay": ("delay_ms", "window_ms"), "encoder": ("distance_counts", "window_counts")}
        for by, names in needed.items():
            missing = [name for name in names if getattr(self, name) is None]
            if self.by == by and missing:
                raise ValueError(f"tracking.by {by} needs {' and '.join(missing)}")
            foreign = [name for name in names if getattr(self, name) is not None]
            if self.by != by and foreign:
                raise ValueError(f"{' and '.join(foreign)} are for tracking.by {by}, which is {self.by}")
        end = (self.distance_counts or 0) + (self.window_counts or 0)
        if self.modulus is not None and self.modulus <= 2 * end:
            raise ValueError(f"modulus {self.modulus} must be more than twice distance_counts + window_counts ({end})")
        return self

    def earliest_ms(self) -> float | None:
        """The earliest that a window opens after its trigger, less the lead; None where that is not known."""
        if self.delay_ms is not None:
            return self.delay_ms - self.lead_ms
        if self.distance_counts is not None and self.fastest_counts_per_s is not None:
            return 1e3 * self.distance_counts / self.fastest_counts_per_s - self.lead_ms
        return None


class OutputSettings(Settings):
    """Who is told."""

    results: Endpoint = Field("tcp://127.0.0.1:5560", description="PUB: topics result, reject, health")
    queries: Endpoint = Field("tcp://127.0.0.1:5561", description="ROUTER: missed results, maps, status")
    metrics_port: int | None = Field(
        None, ge=1, le=LARGEST_PORT, description="HTTP /metrics and /ready on 127.0.0.1 at this port; none: no HTTP"
    )


class SecuritySettings(Settings):
    """Who may talk to the daemon over TCP; ipc:// endpoints are guarded by the permissions of their files."""

    curve: Literal["off", "required"] = Field(
        "off",
        description="required: every TCP endpoint, also on the loopback, is encrypted and lets in only the clients of "
        "the allow-list (`inspectd keys`); off: plain TCP",
    )
    plain_tcp: Literal["loopback_only", "anywhere"] = Field(
        "loopback_only",
        description="where plain TCP may listen while curve is off; anywhere: whoever reaches the port reads results "
        "and sends triggers",
    )
    keys: Path = Field(Path("keys"), description="holds <station>/ with the daemon's key and clients/, the allow-list")


class RecordSettings(Settings):
    """What is kept of each part, where and for how long."""

    folder: Path = Field(Path("records"), description="holds <station>/records.db and images/")
    keep_days: float = Field(90.0, gt=0, description="older records and images are deleted")
    keep_bytes: int = Field(
        10 * 2**30,
        ge=2**20,
        description="images, database and its WAL together; beyond it the oldest go, whatever keep_days says. The row "
        "of a part takes some 620 bytes: 10 GiB without images hold 17 million parts, four days at 50 a second, half "
        "of that in the share of the rows",
    )
    rows_share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="of keep_bytes, what the rows of the parts keep for certain; images keep the rest, those of "
        "rejected parts longest; either may use what the other leaves",
    )
    sync_ms: float = Field(
        1000.0, ge=0, description="a power cut costs at most the records of this time; 0: synced with each batch"
    )
    damaged: Literal["set_aside", "refuse"] = Field(
        "set_aside", description="a damaged database: moved aside and begun anew, or the start refused"
    )
    passed_image_every: int = Field(
        100, ge=0, description="keep the image of each n-th part that passed, or that nobody had time for; 0: none"
    )


Core = Annotated[int, Field(ge=0)]


class ProcessSettings(Settings):
    """How the process runs beside others. What the system refuses is logged, and done without (docs/reliability.md)."""

    lock_memory: bool = Field(
        True, description="memory in use is never paged out; needs an unlimited RLIMIT_MEMLOCK, as the unit sets it"
    )
    realtime_priority: int = Field(
        0, ge=0, le=98, description="SCHED_FIFO priority of the acquire and gate threads; 0: like all others"
    )
    engine_cores: tuple[Core, ...] = Field((), description="cores of the engine's threads; empty: any")
    other_cores: tuple[Core, ...] = Field((), description="cores of all other threads; empty: any")
    garbage_collection: Literal["quiet", "default"] = Field(
        "quiet", description="quiet: seldom, and while no part waits; default: as Python does"
    )
    thread_switch_ms: float = Field(
        0.1, gt=0, le=100, description="longest time that a thread keeps the interpreter while another wants it"
    )
    loading_niceness: int = Field(
        10, ge=0, le=19, description="how far behind the rest an engine is loaded while parts come; 0: like the rest"
    )


class SupervisionSettings(Settings):
    """When an engine that fails is replaced, and when the daemon gives up and leaves it to systemd (docs/faults.md)."""

    hang_s: float = Field(
        1.0, gt=0, le=60, description="an engine that has not answered so long after its part's deadline hangs"
    )
    faults_in_a_row: int = Field(10, ge=1, description="an engine that failed on so many parts in a row is replaced")
    restarts: int = Field(3, ge=0, le=1000, description="at most so many replacements within window_s, then the end")
    window_s: float = Field(600.0, gt=0, description="in which the replacements are counted")
    load_timeout_s: float = Field(60.0, gt=0, description="longest time without any engine, while one is being loaded")


class DriftSettings(Settings):
    """Whether the passed parts still look as the good parts of calibration did (docs/drift.md)."""

    enabled: bool = Field(True, description="watch; thresholds never move by themselves")
    parts_per_false_alarm: int = Field(
        10_000_000, ge=1_000, description="without drift, one false alarm in so many passed parts at most, on average"
    )
    quantities: tuple[Literal["part_score", "region_scores", "brightness", "sharpness", "pose"], ...] = Field(
        ("part_score", "region_scores", "brightness", "sharpness", "pose"), description="what is watched"
    )


class ChallengeSettings(Settings):
    """Proof that known-bad parts are rejected (`inspectd challenge`, docs/challenge.md)."""

    every_hours: float | None = Field(
        None, gt=0, description="health is degraded where the last passed challenge is longer ago; none: no reminder"
    )


class CalibrationSettings(Settings):
    """How thresholds are chosen."""

    false_reject_rate: float = Field(0.01, gt=0, lt=0.5, description="share of good parts the line may lose")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the intervals that the report states")
    held_out_share: float = Field(
        0.3,
        gt=0.05,
        lt=0.9,
        description="good parts kept from training, for thresholds; more, up to half, where limits can then be counted",
    )
    seed: int = Field(0, ge=0, description="of splits, weights and batches")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where networks are trained; auto: on a CUDA GPU where torch finds one"
    )
