"""Time limits for what cannot be asked to stop: a step of a slow network, a compiler."""

import os
import signal
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["TooLong", "end_children", "limit"]


class TooLong(BaseException):
    """Not an Exception: what a compiler catches on its way must not keep it."""


@contextmanager
def limit(seconds: float):
    """Raise TooLong in what is inside once so many seconds have passed (in the main thread only)."""

    def stop(*_):
        raise TooLong(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01), 5.0)  # and again, should someone have caught it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def end_children(pid: int | str) -> None:
    """Kill the processes that this one has started, and theirs (Linux): a compiler's would hold up the exit."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in children.read_text(encoding="utf-8").split():
                end_children(child)
                with suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
