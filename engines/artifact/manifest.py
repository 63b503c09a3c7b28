"""What a bundle says of itself: `manifest.json`, as frozen models. Written by calibration, read by the daemon."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, Field, FiniteFloat, JsonValue, model_validator

from engines.pictures import Levels
from engines.settings import CanvasSettings, EngineSettings, ModelSettings, Name, RegionSettings, Settings

MANIFEST_NAME = "manifest.json"
MAX_FILE_BYTES = 2 * 2**30
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
MOST_VALUES = 512
MARK_DIGITS = 16

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Relative, no empty, dot or dot-dot steps, no backslash, no leading dot: what is safe to join to a folder.
RelativeName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$", max_length=200)
]
Rate = Annotated[float, Field(ge=0, le=1)]


class Threshold(Settings):
    """The limit on one score; a score above it rejects. Rates are shares of good parts above this limit alone."""

    value: FiniteFloat = Field(description="the limit, in units of the score")
    method: Literal["conformal", "tail"] = Field(description="counted parts, or a fitted generalised Pareto tail")
    upper_bound: FiniteFloat | None = Field(
        None, description="tail only: upper confidence bound of the score that the asked rate of good parts passes"
    )
    asked_rate: Rate = Field(description="false-reject rate that the line tolerates, over all limits together")
    expected_rate: Rate = Field(description="share of good parts expected above this limit")
    low: Rate = Field(description="lower end of that share's interval")
    high: Rate = Field(description="upper end")
    confidence: Rate = Field(description="of the interval")
    parts: int = Field(ge=1, description="good parts that it rests on, none of them seen in training")


class ThresholdSet(Settings):
    """All limits of a station, and what they cost together: a part is rejected when any limit is passed."""

    part: Threshold
    regions: dict[Name, Threshold]
    method: Literal["conformal", "tail"]
    asked_rate: Rate
    expected_rate: Rate = Field(description="false-reject rate expected of all limits together")
    low: Rate
    high: Rate
    confidence: Rate
    parts: int = Field(ge=1)
    needed_parts: int = Field(ge=1, description="good parts with which the limits rest on counted parts alone")
    notes: tuple[str, ...] = Field((), description="what a person should know: too few parts, equal scores")


class Lambda(Settings):
    """Weight of a region's Patch_GMSD (Eq. 13) with the interval of its estimate."""

    region: Name
    value: Annotated[float, Field(gt=0, le=1)]
    low: Annotated[float, Field(ge=0)]
    high: Annotated[float, Field(gt=0)]


class TeacherInfo(Settings):
    """A frozen backbone: which weights, under which licence."""

    name: str
    sha256: Sha256
    licence: str


class DataFingerprint(Settings):
    """Which good parts were learnt from, in any order."""

    count: int = Field(ge=1)
    sha256: Sha256
    images: tuple[str, ...] = Field(
        (), description="the first MARK_DIGITS digits of each part image's hash; none in bundles that did not keep them"
    )

    def among(self, image_hashes: Iterable[str]) -> int:
        """How many of these part images, by `image_hash`, were learnt from; 0 where the bundle did not keep them."""
        marks = set(self.images)
        return sum(each[:MARK_DIGITS] in marks for each in image_hashes)


class ParityRow(Settings):
    """One candidate precision, against the f32 graph on golden and held-out parts."""

    precision: str
    median_ms: Annotated[float, Field(ge=0)]
    rank_correlation: Annotated[float, Field(ge=-1, le=1)]
    max_abs_error: Annotated[float, Field(ge=0)]
    max_rel_error: Annotated[float, Field(ge=0)]
    verdict_changes: int = Field(ge=0)
    kept: bool = Field(description="this is the engine in the bundle")
    why: str = Field("", description="why it was kept or not")


class EngineInfo(Settings):
    """The compiled engine: role of each file -> name in the bundle, and how it compares."""

    runtime: str
    precision: str
    files: dict[str, RelativeName]
    parity: tuple[ParityRow, ...] = ()


class GoldenImage(Settings):
    """A part image and the scores that this engine gave it when the bundle was made.

    A score is reproduced when |score - expected| <= tolerance * max(|expected|, its limit).
    """

    file: RelativeName
    part_score: FiniteFloat
    region_scores: tuple[FiniteFloat, ...]
    tolerance: Annotated[float, Field(gt=0, le=1)]


class Statistic(Settings):
    """How a quantity was spread over good parts: one value a part."""

    mean: FiniteFloat
    std: Annotated[float, Field(ge=0)]
    quantiles: tuple[tuple[Rate, FiniteFloat], ...]
    parts: int = Field(0, ge=0, description="how many good parts; 0 in bundles that did not count them")
    values: tuple[FiniteFloat, ...] = Field(
        (), max_length=MOST_VALUES, description="their values, what the drift watch compares with; none in old bundles"
    )

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> Self:
        """Mean, population deviation, quantiles of QUANTILES, and the values of a (P,) finite array, P >= 1.

        Of more than MOST_VALUES, evenly chosen ones are kept: parts stand in no order that has to do with their values.
        """
        values = np.asarray(values, dtype=np.float64)
        cuts = tuple((q, float(v)) for q, v in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True))
        places = np.linspace(0, len(values) - 1, min(len(values), MOST_VALUES)).round().astype(np.int64)
        return cls(
            mean=float(values.mean()),
            std=float(values.std()),
            quantiles=cuts,
            parts=len(values),
            values=tuple(float(value) for value in values[places]),
        )


class SettingsSnapshot(Settings):
    """The station's settings that scores depend on. `locate` is a plain dict: the engines know nothing of locating."""

    canvas: CanvasSettings
    regions: tuple[RegionSettings, ...]
    model: ModelSettings
    locate: dict[str, JsonValue]
    engine: EngineSettings
    levels: Levels | None = Field(
        None, description="grey levels of 16-bit frames that become black and white; null: 8-bit frames, or the upper 8"
    )


class FileEntry(Settings):
    """One file of the bundle."""

    sha256: Sha256
    size: int = Field(ge=0, le=MAX_FILE_BYTES, description="bytes")


class ManifestContent(Settings):
    """What calibration states; the writer adds format, creation time and the files to make a Manifest."""

    station: Name
    product_version: str
    packages: dict[str, str] = Field(description="package -> version, of those that shape the result")
    settings: SettingsSnapshot
    seeds: dict[str, int]
    preset: str
    data: DataFingerprint
    teachers: tuple[TeacherInfo, ...]
    lambdas: tuple[Lambda, ...] = Field((), description="empty without a decoder")
    thresholds: ThresholdSet
    engine: EngineInfo
    golden: tuple[GoldenImage, ...] = Field(min_length=1)
    reference: dict[str, Statistic] = Field(
        description="held-out good parts that pass: part_score, region_score.<name>, brightness, sharpness, pose"
    )

    @model_validator(mode="after")
    def _regions_agree(self) -> Self:
        names = [region.name for region in self.settings.regions]
        if sorted(self.thresholds.regions) != sorted(names):
            raise ValueError(f"thresholds for regions {sorted(self.thresholds.regions)}, settings have {sorted(names)}")
        if self.lambdas and [weight.region for weight in self.lambdas] != names:
            raise ValueError(f"lambdas for regions {[weight.region for weight in self.lambdas]}, settings have {names}")
        for golden in self.golden:
            if len(golden.region_scores) != len(names):
                raise ValueError(f"{golden.file}: {len(golden.region_scores)} region scores for {len(names)} regions")
        return self


class Manifest(ManifestContent):
    """`manifest.json`: the SHA-256 of its bytes is the bundle's hash."""

    format_version: Literal[1] = 1
    created: AwareDatetime
    files: dict[RelativeName, FileEntry]

    @model_validator(mode="after")
    def _names_listed(self) -> Self:
        named = [*self.engine.files.values(), *(golden.file for golden in self.golden)]
        missing = sorted(set(named) - set(self.files))
        if missing:
            raise ValueError(f"names {missing[0]}, which is not among its files")
        return self


def image_hash(part_image: NDArray[np.uint8]) -> str:
    """The SHA-256 (hex) of a part image's pixels, (H, W, 3)."""
    return hashlib.sha256(part_image.tobytes()).hexdigest()


def fingerprint(image_hashes: Iterable[str]) -> DataFingerprint:
    """The fingerprint of a set of part images from the `image_hash` of each; independent of their order."""
    hashes = sorted(image_hashes)
    return DataFingerprint(
        count=len(hashes),
        sha256=hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
        images=tuple(each[:MARK_DIGITS] for each in hashes),
    )
