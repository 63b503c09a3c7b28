"""Errors of the engines package: one line for a person, and the exit code that the command line ends with."""

from __future__ import annotations


class EnginesError(Exception):
    """Base of the errors below."""

    exit_code = 1


class BundleError(EnginesError):
    """A bundle is missing, was changed, is of another format, or was made for other settings."""

    exit_code = 4


class WeightsError(EnginesError):
    """A teacher's weights are missing or are not the file that their hash names."""

    exit_code = 5


class EngineUnavailable(EnginesError):
    """The runtime or the precision that was asked for cannot run on this machine."""

    exit_code = 9


class ParityError(EnginesError):
    """The compiled engine does not reproduce the trained network or the golden images."""

    exit_code = 9


class EngineFault(EnginesError):
    """One inference failed or did not end in time; the part becomes INVALID."""

    exit_code = 9


class EngineTimeout(EngineFault):
    """One inference did not end in time, and may still run."""


def one_line(text: str) -> str:
    """Foreign text as it may stand in an error: on one line, without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
