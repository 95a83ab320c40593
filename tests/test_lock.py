"""One run in a folder: a second process is kept out, and no lock outlives its process."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from helpers import ENV, PYTHON, TINY_RUN, scenario, trainer

from ddim_core import lock
from ddim_core.errors import UsageError
from ddim_core.lock import LOCK, alone, in_turn
from ddim_core.train import train

HOLDER = """
import sys, time
from ddim_core.lock import alone

with alone(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has a run in this folder: (folder, process)."""
    folder = tmp_path / "deep" / "run"
    process = subprocess.Popen(
        [PYTHON, "-c", HOLDER, folder], env=ENV, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield folder, process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_kept_out_until_the_first_has_ended(holder, tmp_path):
    folder, process = holder
    (tmp_path / "link").symlink_to(folder)
    for name in (folder, str(folder), tmp_path / "link", folder / ".." / "run"):
        with (
            pytest.raises(UsageError, match=rf"belongs to a run that is under way \(process {process.pid} on ") as e,
            alone(name),
        ):
            raise AssertionError("it was let in")
        assert str(e.value).startswith(f"{folder} belongs")
        assert str(e.value).endswith("wait for it or stop it, or choose another --out")
    with alone(folder.parent), alone(tmp_path / "other"):
        pass
    with pytest.raises(UsageError, match="belongs to a run"):
        next(train(trainer(), folder))
    assert os.listdir(folder) == [LOCK]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert os.listdir(folder) == [LOCK], "the file is left, and locks nothing"
    with alone(folder):
        assert (folder / LOCK).read_text(encoding="utf-8").startswith(f"process {os.getpid()} on ")


def test_a_writer_waits_for_its_turn_but_not_for_ever(tmp_path, monkeypatch):
    holds = HOLDER.replace("alone", "in_turn")
    argv = [PYTHON, "-c", holds, tmp_path / "f.json"]
    with subprocess.Popen(argv, env=ENV, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stdout.readline() == "held\n"
        monkeypatch.setattr(lock, "_PATIENCE", 0.1)
        problem = rf"f\.json is being written by another process \(process {process.pid} on .*\): wait for it"
        with pytest.raises(UsageError, match=problem), in_turn(tmp_path / "f.json"):
            raise AssertionError("it was let in")
        with alone(tmp_path), in_turn(tmp_path / "g.json"):
            pass
        monkeypatch.setattr(lock, "_PATIENCE", 60)
        process.kill()
        with in_turn(tmp_path / "f.json"):
            assert os.listdir(tmp_path) == [".f.json.lock"]
    assert os.listdir(tmp_path) == []


def test_nothing_is_left_of_a_lock(tmp_path):
    with alone(tmp_path / "a" / "b"):
        assert os.listdir(tmp_path / "a" / "b") == [LOCK]
    assert os.listdir(tmp_path) == [], "not even folders, where nothing came of the run"
    with alone(tmp_path / "a"):
        (tmp_path / "a" / "x").touch()
    with pytest.raises(KeyError), alone(tmp_path / "b"):
        raise KeyError
    assert os.listdir(tmp_path) == ["a"]
    assert os.listdir(tmp_path / "a") == ["x"]
    list(train(trainer(TINY_RUN), tmp_path / "run"))
    assert LOCK not in os.listdir(tmp_path / "run")


def test_the_same_process_may_ask_again(tmp_path):
    with alone(tmp_path), alone(tmp_path / "."):
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()


def test_a_folder_that_cannot_be_written_is_left_to_its_first_file(tmp_path, capsys):
    (tmp_path / "file").touch()
    with alone(tmp_path / "file" / "run"):
        pass
    assert capsys.readouterr() == ("", "")
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def none(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_lock", none)
    with alone(tmp_path / "run"):
        pass
    line = f"ddim: {tmp_path}/run cannot be locked (No locks available): make sure that no second run writes there\n"
    assert capsys.readouterr() == ("", line)
    assert os.listdir(tmp_path) == []


def test_a_lock_on_a_file_that_was_removed_is_none(tmp_path, monkeypatch):
    """Between opening and locking, the run that ended takes its file away: the next try makes a new one."""
    real, tries = lock._lock, []

    def late(file):
        if not tries:
            (tmp_path / LOCK).unlink()
        tries.append(file)
        real(file)

    monkeypatch.setattr(lock, "_lock", late)
    with alone(tmp_path):
        assert len(tries) == 2
        assert (tmp_path / LOCK).exists()


class OnWindows:
    """What `msvcrt.locking` promises, with numbers in place of locks."""

    LK_NBLCK = 2

    def __init__(self, error=None):
        self.error, self.calls = error, []

    def locking(self, file, mode, count):
        self.calls.append((mode, os.lseek(file, 0, os.SEEK_CUR), count))
        if self.error:
            raise OSError(self.error, os.strerror(self.error))


@pytest.mark.parametrize(
    ("error", "raised"),
    [(None, None), (errno.EACCES, BlockingIOError), (errno.EDEADLK, BlockingIOError), (errno.EBADF, OSError)],
)
def test_windows_locks_a_byte_that_nobody_reads(tmp_path, monkeypatch, error, raised):
    """A stand-in for the system's module, as there is no Windows here: what is asked of it, and what its errors become."""
    windows = OnWindows(error)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    file = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    try:
        if raised is None:
            lock._lock(file)
        else:
            with pytest.raises(raised) as e:
                lock._lock(file)
            assert type(e.value) is raised
        assert windows.calls == [(2, 2**30, 1)]
        assert os.lseek(file, 0, os.SEEK_CUR) == 0
    finally:
        os.close(file)


def test_two_commands_in_one_folder(tmp_path):
    result = scenario("two_runs", tmp_path)
    assert result["alive"], "the first is not disturbed"
    assert result["codes"] == [2, 2, 0, 2]
    assert result["left"] == [LOCK], "of the one that was killed"
    assert result["after"] == []
    assert result["starts"][0] == 0
    assert len(result["starts"]) == 2, "those that were kept out have left no line"
    assert result["seed"] == 0
    new, resumed = result["stderr"]
    assert "belongs to a run that is under way (process " in resumed
    assert "belongs to a run" in new or "exists: go on with --resume" in new
    assert result["later"] == [
        f"ddim: {tmp_path}/later/last.safetensors exists: go on with --resume, or choose another --out"
    ]
