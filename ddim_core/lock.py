"""One run per folder, one writer per file: locks that the system holds for a process and releases when it ends, in any
way."""

import contextlib
import errno
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from .errors import UsageError

__all__ = ["LOCK", "alone", "in_turn"]

LOCK = ".lock"  # the file in a run's folder that is locked
_FAR = 2**30  # where Windows locks a byte: others cannot read a locked one
_PATIENCE = 60  # seconds for which a writer waits for another
_held: set[Path] = set()  # folders of runs of this process, which may ask again
_unlocked: set[Path] = set()  # folders without locks, of which that was said


@contextmanager
def alone(out: str | Path) -> Iterator[None]:
    """Inside, no other process has a run in this folder, which is created if need be.

    The lock is on a file `.lock` there; if several processes share a run, the first holds it. If the file system has
    no locks, a line on standard error says so and the run goes on; if the folder cannot be written, the run fails at
    its first file.

    Raises:
        UsageError: another process has a run here.
    """
    folder = Path(os.path.realpath(os.path.expanduser(out)))
    if folder in _held or (dist.is_initialized() and dist.get_rank() > 0):
        yield
        return
    with _locked(folder / LOCK, f"{folder} belongs to a run that is under way"):
        _held.add(folder)
        try:
            yield
        finally:
            _held.discard(folder)


@contextmanager
def in_turn(file: str | Path) -> Iterator[None]:
    """Inside, nobody else is inside for this file, to read what is there and write it anew: each waits for its turn.

    The lock is on a file `.NAME.lock` beside it, with the same exceptions as in `alone`.

    Raises:
        UsageError: it is another's turn for a minute.
    """
    path = Path(os.path.expanduser(file))
    place = Path(os.path.realpath(path.parent)) / f".{path.name}{LOCK}"
    with _locked(place, f"{path} is being written by another process", _PATIENCE):
        yield


@contextmanager
def _locked(path: Path, problem: str, patience: float = 0) -> Iterator[None]:
    folder = path.parent
    made = [f for f in (folder, *folder.parents) if not f.exists()]
    file = _take(path, problem, time.monotonic() + patience)
    try:
        yield
    finally:
        if file is not None:
            steps = [path.unlink, lambda: os.close(file)]
            for step in steps if os.name == "posix" else reversed(steps):  # Windows does not remove open files
                with contextlib.suppress(OSError):
                    step()
            with contextlib.suppress(OSError):  # if the run produced nothing
                for empty in made:
                    empty.rmdir()


def _take(path: Path, problem: str, until: float) -> int | None:
    """The open file that carries the lock; None if there can be none. Raises UsageError: another process has it."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            _lock(file)
        except BlockingIOError:
            who = os.read(file, 200).decode(errors="replace")
            os.close(file)
            if time.monotonic() < until:
                time.sleep(0.02)
                continue
            who = f" ({who})" if who else ""
            raise UsageError(f"{problem}{who}: wait for it or stop it, or choose another --out") from None
        except OSError as error:
            if path.parent not in _unlocked:
                _unlocked.add(path.parent)
                reason = error.strerror or error
                print(
                    f"ddim: {path.parent} cannot be locked ({reason}): make sure that no second run writes there",
                    file=sys.stderr,
                )
            return file
        # the file may have been removed between the two calls, by the run that ended: such a lock keeps nobody out
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                os.truncate(file, 0)
                os.write(file, f"process {os.getpid()} on {platform.node()}".encode())
                return file
        os.close(file)


def _lock(file: int) -> None:
    """Lock an open file. Raises BlockingIOError if another process holds it, another OSError if it cannot be locked."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        os.lseek(file, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EDEADLK):
                raise BlockingIOError from error
            raise
        finally:
            os.lseek(file, 0, os.SEEK_SET)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
