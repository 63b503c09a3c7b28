"""For `calibrate` without a station: good parts of a folder -> a station's file, and what was seen and chosen."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from engines.pictures import Levels, to_8_bits
from inspectd.auto_station import Choice, choose, in_words, station_name, station_yaml
from inspectd.commands.good_parts import read_excluded, without_excluded
from inspectd.config import load_station
from inspectd.errors import SettingsError, StorageError, UsageError
from inspectd.messages import Image

if TYPE_CHECKING:
    from calibration.survey import Survey


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a person asks for: from which pictures, the station's name and file where given, whether to overwrite."""

    data: Path
    name: str | None = None
    out: Path | None = None
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeStation:
    """A station's file, and what it rests on."""

    path: Path
    data: Path
    survey: Survey
    choice: Choice

    def say(self, *, calibrates: bool) -> None:
        """Tell what was seen, chosen and written, and what may come next; warnings on standard error."""
        for line in in_words(self.survey, self.choice):
            print(line)
        sys.stdout.flush()
        for warning in self.survey.warnings:
            print(f"inspectd: warning: {warning}", file=sys.stderr)
        print(f"station: {self.path}")
        if not calibrates:
            station, data = quote(shown(self.path)), quote(str(self.data))
            print(f"next: read it, then inspectd calibrate --station {station} --data {data}")
        sys.stdout.flush()


def shown(path: Path) -> str:
    """A path as --station takes it for a path, not for a name."""
    text = str(path)
    return text if "/" in text or text.endswith((".yaml", ".yml")) else f"./{text}"


def make_station(asked: Asked, progress: Callable[[str, int, int], None], exclude: Path | None = None) -> MadeStation:
    """Survey the good parts, choose, and write the station's file; `exclude` lists parts to leave out.

    Raises DataError, TooFewParts, UsageError where the file is there or the name cannot be, StorageError,
    SettingsError.
    """
    try:
        from calibration.dataset import read_dataset
        from calibration.errors import DataError
        from calibration.grey_levels import grey_levels
        from calibration.survey import Picture, survey
    except ImportError as error:
        raise SettingsError(f"calibrate needs {error.name}: pip install 'inspectd[calibrate]'") from error

    name = station_name(asked.data, asked.name)
    path = asked.out or Path(f"{name}.yaml")
    if path.suffix not in {".yaml", ".yml"}:
        raise UsageError(f"--station-out {path}: a station's file ends with .yaml")
    if path.exists() and not asked.force:
        raise UsageError(f"{path} is there: calibrate with --station {shown(path)}, or give --force to overwrite it")
    samples, _ = without_excluded(read_dataset(asked.data).good, asked.data, read_excluded(asked.data, exclude))
    if not samples:
        raise DataError(f"{asked.data}: holds no good parts")
    grey = grey_levels([sample.path for sample in samples], None, progress)
    load = partial(_load, None if grey is None else grey.levels)
    found = survey([Picture(sample.path.name, partial(load, sample.path)) for sample in samples], progress)
    choice = choose(found)
    _write(path, station_yaml(name, asked.data, samples[0].path.parent, found, choice), force=asked.force)
    load_station(str(path))
    return MadeStation(path=path, data=asked.data, survey=found, choice=choice)


def _load(levels: Levels | None, path: Path) -> Image:
    from calibration.images import load_frame

    return to_8_bits(load_frame(path), levels)


def _write(path: Path, text: str, *, force: bool) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{path} is there: give --force to overwrite it") from error
    except (OSError, UnicodeEncodeError) as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error
