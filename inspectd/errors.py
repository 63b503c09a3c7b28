"""Errors that end a command with one clear line and a documented exit code; imports nothing of ours.

The table of exit codes is docs/exit_codes.md. `engines.errors` and `calibration.errors` follow the same
convention (an `exit_code` on the class), so that the command line maps them without knowing each class.
"""

from __future__ import annotations


class InspectdError(Exception):
    """Base of every error whose text is meant for a person: one line, what is wrong and what to do."""

    exit_code = 1


class UsageError(InspectdError):
    """The command line asks for what cannot be: an option is missing, or a package that it needs."""

    exit_code = 2


class SettingsError(InspectdError):
    """A station's settings are missing, ill-typed, unknown or contradict each other."""

    exit_code = 3


class KeysError(SettingsError):
    """A key file is missing, damaged, readable by others, or the allow-list cannot be read."""


class CameraError(InspectdError):
    """The camera, folder or video cannot be opened or read."""

    exit_code = 6


class CameraTimeout(CameraError):
    """No frame came in time; the part becomes INVALID and the camera is kept."""


class CameraLost(CameraError):
    """The device is gone (unplugged, crashed, driver closed): nothing comes until it has been opened again."""


class ImageRepeated(CameraError):
    """A live camera gave the very image of the part before: it is frozen, or handed a buffer out twice."""


class EndOfFootage(CameraError):
    """A folder or a video has no further frame; the normal end of a replay."""


class EndpointError(InspectdError):
    """A ZeroMQ or HTTP endpoint cannot be bound (port in use, bad address, no permission)."""

    exit_code = 7


class EndpointTaken(EndpointError):
    """Somebody else has bound it."""


class StorageError(InspectdError):
    """Records, bundles or footage cannot be written or read (disk full, no permission, corrupt)."""

    exit_code = 8


class StationBusy(InspectdError):
    """The station's daemon runs, and what was asked for would slow its verdicts."""

    exit_code = 18


class NotHealthy(InspectdError):
    """A health question was answered with no: the daemon is up, and verdicts are not to be relied on."""

    exit_code = 10


class Degraded(NotHealthy):
    """The daemon gives verdicts in time, but something needs a person."""

    exit_code = 12


class NoAnswer(NotHealthy):
    """Nobody answers where the daemon should: it is down or hangs."""

    exit_code = 13
