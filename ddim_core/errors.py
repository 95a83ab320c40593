"""Errors that are reported in one line: what failed, why, what to do.

Each class carries the exit code of the command line.
"""

import sys

__all__ = [
    "CheckpointError",
    "DDIMError",
    "DataError",
    "DiskError",
    "NonFiniteError",
    "UnavailableError",
    "UsageError",
    "printable",
]


def printable() -> None:
    """Keep messages from failing on the terminal's encoding: characters that it lacks are escaped."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a stand-in for the terminal may not be a text file
            stream.reconfigure(errors="backslashreplace")


class DDIMError(Exception):
    """Base of all errors that this package raises on purpose about files, data, downloads and training."""

    exit_code = 1


class UsageError(DDIMError, ValueError):
    """An option or argument cannot be used as given."""

    exit_code = 2


class DataError(DDIMError):
    """A data set is missing, incomplete or not what it should be."""

    exit_code = 3


class CheckpointError(DDIMError):
    """A checkpoint or a file of weights is missing or damaged, or belongs to another model."""

    exit_code = 4


class NonFiniteError(DDIMError):
    """Training produced a loss, or a network produced images, that are not finite."""

    exit_code = 5


class DiskError(DDIMError):
    """A file cannot be written."""

    exit_code = 6


class UnavailableError(DDIMError):
    """Something has to be downloaded and cannot be."""

    exit_code = 7
