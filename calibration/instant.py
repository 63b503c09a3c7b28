"""Preset `instant`: a station in seconds, from the memory alone, and what it does not know yet."""

from __future__ import annotations

from typing import Final

from engines.artifact import SettingsSnapshot
from engines.settings import EngineSettings

PARITY_PARTS: Final = 8
"""Held-out good parts that the compiled engine is checked on, and as many with made defects."""
MADE_OF_EACH: Final = 2
"""Made defects of each kind and size, to say what limits catch."""


def snapshot_of(asked: SettingsSnapshot) -> SettingsSnapshot:
    """The same station without anything that is trained: `score: memory` of the same teachers, canvas and regions."""
    return asked.model_copy(update={"model": asked.model.untrained})


def engine_of(asked: EngineSettings) -> EngineSettings:
    """What is compiled: where the station leaves the choice, f32 alone."""
    return asked if asked.precision != "auto" else asked.model_copy(update={"precision": "f32"})


def unknown_yet(asked: SettingsSnapshot) -> tuple[str, ...]:
    """What a bundle of this preset lacks beside one of `quick`, one line each, for people."""
    lacking = ["the highest cell of the memory alone counts (the mean over regions was not tried)"]
    if asked.model.student:
        lacking.append("no student is trained: parts are judged by the memory alone, without places and Patch_GMSD")
    if asked.engine.precision == "auto":
        lacking.append("the engine computes in f32 (no faster precision was tried)")
    return (
        "preset instant makes a bundle for a start: " + "; ".join(lacking) + ". `inspectd calibrate --preset quick` "
        "from the same parts knows more",
    )
