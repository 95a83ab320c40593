"""Signals that end a program: as Ctrl-C does, and put back as they were."""

import os
import signal
import threading
import time

import pytest

from ddim_core.signals import ended_in_order


@pytest.fixture(autouse=True)
def _as_it_was():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_they_interrupt_and_are_put_back(number):
    signal.signal(number, signal.SIG_DFL)
    cleaned = []

    def stopped():
        with ended_in_order():
            try:
                os.kill(os.getpid(), number)
                time.sleep(1)
            finally:
                cleaned.append(True)

    with pytest.raises(KeyboardInterrupt) as e:
        stopped()
    assert e.value.args == (number,)
    assert cleaned == [True]
    assert signal.getsignal(number) == signal.SIG_DFL


def test_one_that_is_ignored_or_handled_stays_so():
    heard = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *args: heard.append(args[0]))
    with ended_in_order():
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_another_thread_may_enter():
    done = []

    def enter():
        with ended_in_order():
            done.append(True)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert done == [True]
