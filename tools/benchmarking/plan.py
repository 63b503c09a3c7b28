"""The plan of `benchmark.py results`: named settings, named data sets, and the tables that pair them; from one YAML."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from engines.errors import one_line
from engines.settings import EngineSettings, ModelSettings, Settings
from inspectd.config import Station, load_station, station_path
from inspectd.errors import SettingsError
from inspectd.sections import CalibrationSettings, LocateSettings
from inspectd.yaml_file import read_mapping

Raw = dict[str, Any]
Precision = Literal["f32", "bf16", "int8"]
SCORED = ("canvas", "regions", "model", "locate", "engine", "calibration")
"""Sections of a station that its scores and limits depend on: with the data they make a row's key."""
FAMILIES: tuple[str, ...] = get_args(ModelSettings.model_fields["family"].annotation)


class SimulatedSettings(Settings):
    """How many parts `tools/simulated_line.py` renders."""

    train: int = Field(300, ge=16, description="good parts to calibrate from")
    good: int = Field(1000, ge=1, description="good parts to test with")
    defective: int = Field(900, ge=1, description="defective parts")
    seed: int = Field(1, ge=0, description="same seed, same parts")


class DataSettings(Settings):
    """A labelled data set: a folder, folders of categories, or the simulated line."""

    folder: str | None = Field(None, description="where it lies, seen from where the benchmark is run")
    layout: Literal["mvtec", "btad"] = Field("mvtec", description="what is expected there (docs/datasets.md)")
    categories: tuple[str, ...] | Literal["all"] = Field((), description="folders below it, one row each; none: itself")
    simulated: SimulatedSettings | None = Field(None, description="render this many parts instead")
    images: bool = Field(False, description="its images may be shown on the page: the licence allows it")
    attribution: str = Field("", description="whose images they are, and under which licence")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.folder is None) == (self.simulated is None):
            raise ValueError("needs a folder, or simulated, and not both")
        if self.images and self.folder and not self.attribution:
            raise ValueError("images may only be shown with their attribution")
        return self


class ModelChanges(Settings):
    """A station, and what is changed in it: mappings section by section, lists as a whole."""

    station: str = Field(description="name of a station, or path of its settings")
    changes: dict[str, Any] = Field({}, description="sections of the station, such as model")
    preset: Literal["quick", "full"] | None = Field(None, description="default: the plan's")


class PaperFigures(Settings):
    """What the paper reports, as shares of 1, on its own data."""

    image_auroc: float | None = Field(None, ge=0, le=1)
    pixel_auroc: float | None = Field(None, ge=0, le=1)
    pro: float | None = Field(None, ge=0, le=1)
    fpr_at_95tpr: float | None = Field(None, ge=0, le=1)
    tpr_at_10fpr: float | None = Field(None, ge=0, le=1)
    source: str = Field(description="where it says so, and on which data")


class RowSettings(Settings):
    """One line of a table: settings on data."""

    name: str = Field(description="what people read")
    settings: str = Field(description="one of the plan's settings")
    data: str = Field(description="one of the plan's data sets")
    categories: tuple[str, ...] = Field((), description="these of the data's only; none: all of them")
    paper: PaperFigures | None = None
    against: str | None = Field(None, description="a row of this table: say what changes, and whether as in the paper")
    pictures: bool = Field(False, description="show histograms, ROC, lambdas, sample maps")
    timeout_min: float | None = Field(None, gt=0, description="default: the plan's")


class TableSettings(Settings):
    """One table of the page: a paper, or a question."""

    title: str
    paper: str = Field("", description="citation")
    differs: str = Field("", description="what differs from the paper: teachers, data, epochs; or what this is")
    by: tuple[Literal["type", "severity", "size"], ...] = Field((), description="also by these groups of defects")
    rows: tuple[RowSettings, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rows_agree(self) -> Self:
        names = [row.name for row in self.rows]
        if len(set(names)) != len(names):
            raise ValueError(f"table {self.title}: two rows of one name")
        for row in self.rows:
            if row.against is not None and row.against not in names:
                raise ValueError(f"table {self.title}: {row.name} is against {row.against}, which is no row of it")
        return self


class Plan(Settings):
    """Everything that is measured, and how the page shows it."""

    preset: Literal["quick", "full"] = "quick"
    timeout_min: float = Field(60, gt=0, description="a row that takes longer is ended, and kept as failed")
    timing_s: float = Field(2, gt=0, description="how long each engine is timed")
    precisions: tuple[Precision, ...] = Field(("f32", "bf16", "int8"), description="engines that are compared")
    settings: dict[str, ModelChanges]
    data: dict[str, DataSettings]
    tables: tuple[TableSettings, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_known(self) -> Self:
        for table in self.tables:
            for row in table.rows:
                if row.settings not in self.settings:
                    raise ValueError(f"table {table.title}: {row.name}: no settings named {row.settings}")
                if row.data not in self.data:
                    raise ValueError(f"table {table.title}: {row.name}: no data named {row.data}")
                known = self.data[row.data].categories
                if row.categories and known != "all" and not set(row.categories) <= set(known):
                    raise ValueError(f"table {table.title}: {row.name}: {row.data} has no such categories")
        return self


@dataclass(frozen=True, slots=True)
class Job:
    """What is measured once, however many tables show it: settings on one folder, `category` below the data's or ''."""

    settings: str
    data: str
    category: str
    timeout_min: float

    @property
    def name(self) -> str:
        """'smdc/simulated', 'texture/paper/brg01_rl'."""
        return "/".join(part for part in (self.settings, self.data, self.category) if part)


def load_plan(path: Path) -> Plan:
    """Read a plan. Raises SettingsError with one line."""
    try:
        return Plan.model_validate(read_mapping(path))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(step) for step in fault["loc"])
        what = one_line(fault["msg"].removeprefix("Value error, "))
        raise SettingsError(f"{path}: {where}: {what}" if where else f"{path}: {what}") from error


def jobs_of(plan: Plan) -> list[Job]:
    """What there is to measure, in the plan's order, each pair of settings and folder once."""
    limits: dict[tuple[str, str, str], float] = {}
    for table in plan.tables:
        for row in table.rows:
            for category in row.categories or categories_of(plan.data[row.data]):
                pair = (row.settings, row.data, category)
                limits[pair] = max(limits.get(pair, 0.0), row.timeout_min or plan.timeout_min)
    return [Job(*pair, timeout_min) for pair, timeout_min in limits.items()]


def categories_of(data: DataSettings) -> tuple[str, ...]:
    """The folders below the data's own that are rows of their own; ('',) where it is one set by itself."""
    if data.categories != "all":
        return data.categories or ("",)
    folder = Path(data.folder or "")
    found = sorted(entry.name for entry in folder.iterdir() if (entry / "train").is_dir()) if folder.is_dir() else []
    return tuple(found) or ("",)


def station_of(plan: Plan, job: Job, folder: Path) -> tuple[Station, Path]:
    """The job's station with its changes, as validated and as a file below `folder`. Raises SettingsError."""
    wanted = plan.settings[job.settings]
    raw = merged(_raw_station(wanted.station), wanted.changes)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{job.settings}.yaml"
    path.write_text(json.dumps(raw, indent=1), encoding="utf-8")  # JSON is YAML
    return load_station(str(path)), path


def _raw_station(name_or_path: str) -> Raw:
    """As the file has it: defaults may depend on what a row changes."""
    load_station(name_or_path)
    return read_mapping(station_path(name_or_path))


def merged(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> Raw:
    """`raw` with `changes`: mappings key by key at any depth, anything else replaced."""
    result = dict(raw)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return result


def described(plan: Plan, job: Job, station: Station) -> Raw:
    """Everything that the row's figures depend on, JSON-ready: other families' options and schedules left out."""
    preset = plan.settings[job.settings].preset or plan.preset
    data = plan.data[job.data]
    source = data.model_dump(mode="json", include={"folder", "layout", "simulated"})
    return {**scored_sections(station, preset), "preset": preset, "data": {**source, "category": job.category}}


def scored_sections(station: Station, preset: str) -> Raw:
    """The sections that a station's scores and limits depend on, JSON-ready, without what family and preset leave."""
    sections = station.model_dump(mode="json", include=set(SCORED))
    own, other = station.model.family, "full" if preset == "quick" else "quick"
    unused = {*FAMILIES, other} - {own}
    sections["model"] = {name: value for name, value in sections["model"].items() if name not in unused}
    return sections


def key_of(described_settings: Raw) -> str:
    """A short name of the settings: the first digits of the SHA-256 of their JSON."""
    return hashlib.sha256(json.dumps(described_settings, sort_keys=True).encode()).hexdigest()[:12]


def unchanged(stored: Any, now: Any, default: Any) -> bool:
    """Whether a row measured with `stored` settings is one of `now`.

    A setting that did not exist then must have its default now: a new option with the old behaviour as default makes no
    row stale, while a changed value, or a changed default, does.
    """
    if isinstance(stored, Mapping) and isinstance(now, Mapping):
        defaults = default if isinstance(default, Mapping) else {}
        if any(name not in now for name in stored):
            return False
        return all(
            unchanged(stored[name], value, defaults.get(name)) if name in stored else value == defaults.get(name)
            for name, value in now.items()
        )
    return bool(stored == now)


def defaults_of(station: Station) -> Raw:
    """What `described` would say of a station of this family that states nothing but its canvas and regions."""
    sections: dict[str, Settings] = {
        "model": ModelSettings(family=station.model.family),
        "locate": LocateSettings(),
        "engine": EngineSettings(),
        "calibration": CalibrationSettings(),
    }
    return {name: section.model_dump(mode="json") for name, section in sections.items()}
