"""Signals that end a program, without anything half-written left behind."""

import contextlib
import signal
import threading
from collections.abc import Iterator

__all__ = ["ended_in_order"]


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
    """Inside, SIGTERM and a closing terminal raise `KeyboardInterrupt(number)`, as Ctrl-C raises one without a number.

    So whatever cleans up after Ctrl-C also does so after them. A signal that is ignored (under nohup) or handled
    already stays as it is; so do all of them in a thread other than the main one, where Python receives no signals.
    """

    def interrupt(number, frame):
        raise KeyboardInterrupt(number)

    main = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows lacks one
    ours = [number for number in numbers if main and signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
