"""Errors of the calibration package: one line for a person, and the exit code that the command line ends with."""

from __future__ import annotations


class CalibrationError(Exception):
    """Base of the errors below."""

    exit_code = 5


class DataError(CalibrationError):
    """A data folder is missing, empty, of the wrong layout, or holds a file that is no image."""


class TooFewParts(CalibrationError):
    """There are fewer good parts than the step needs; the text says how many are needed."""


class TrainingDeviceError(CalibrationError):
    """The GPU that training is to run on is not there, or its memory does not suffice."""

    exit_code = 9
