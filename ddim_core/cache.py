"""Where this package keeps the data and weights that it downloads or makes, and the errors of a disk in one line."""

import errno
import os
from pathlib import Path

from .errors import DiskError

__all__ = ["cache", "can_be_written", "cannot_write"]


def cache() -> Path:
    """The folder that DDIM_CORE_CACHE names, else `~/.cache/ddim_core`; looked up when needed, and not created.

    Raises:
        DiskError: there is neither (a user in a container may have no home directory).
    """
    named = os.environ.get("DDIM_CORE_CACHE") or os.path.join("~", ".cache", "ddim_core")
    place = os.path.expanduser(named)
    if place.startswith("~"):
        raise DiskError("there is no home directory to keep downloads in: set DDIM_CORE_CACHE to a folder")
    return Path(place)


def cannot_write(path: str | Path, error: OSError) -> DiskError:
    """The error for a file or folder that could not be written: which, why, and what to do."""
    try:
        cached = Path(os.path.abspath(path)).is_relative_to(os.path.abspath(cache()))
    except DiskError:
        cached = False
    if cached:
        remedy = "free some space, or set DDIM_CORE_CACHE to another folder"
    else:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "free some space" if full else "choose a folder that can be written"
    return DiskError(f"cannot write {path} ({error.strerror or error}): {remedy}")


def can_be_written(folder: str | Path) -> None:
    """Create a folder; raise DiskError if that, or writing into it, is not possible. For use before a download."""
    try:
        os.makedirs(folder, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise cannot_write(folder, error) from error
