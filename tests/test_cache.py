"""Where downloads are kept: looked up when needed, and named wherever it cannot be written."""

import os
import subprocess
from pathlib import Path

import pytest
from helpers import ENV, PYTHON

from ddim_core.cache import cache, can_be_written, cannot_write
from ddim_core.data import load_dataset
from ddim_core.data.kanji import new_folder
from ddim_core.data.kuzushiji import fetch
from ddim_core.errors import DiskError
from ddim_core.files import write_atomically
from ddim_core.weights.registry import find

NAMED = "set DDIM_CORE_CACHE to another folder"


def test_the_folder_is_the_environment_s_or_in_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("DDIM_CORE_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache() == tmp_path / ".cache" / "ddim_core"
    for name, place in (("elsewhere", Path("elsewhere")), ("~/mine", tmp_path / "mine"), ("/a/b", Path("/a/b"))):
        monkeypatch.setenv("DDIM_CORE_CACHE", name)
        assert cache() == place
    monkeypatch.setenv("DDIM_CORE_CACHE", "")
    assert cache() == tmp_path / ".cache" / "ddim_core", "an empty name is none"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_atomically(folder / "x", b"content"),
        lambda folder: can_be_written(folder / "MNIST" / "raw"),
        lambda folder: new_folder(folder / "kkanji2").__enter__(),
        lambda folder: fetch(folder / "kkanji.tar", "http://127.0.0.1:9/x"),
        lambda folder: load_dataset("mnist"),
        lambda folder: find("cifar10").fetch(),
    ],
    ids=["file", "MNIST's folder", "kanji", "archive", "MNIST", "weights"],
)
def test_a_cache_that_cannot_be_written_is_named(monkeypatch, offline, tmp_path, write):
    """A file stands where the folder should be: nobody can write there, root neither."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("DDIM_CORE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DiskError, match=r"cannot write .*set DDIM_CORE_CACHE") as e:
        write(cache())
    assert str(tmp_path / "file") in str(e.value)
    assert "\n" not in str(e.value)
    assert e.value.exit_code == 6


def test_the_remedy_fits_the_place(monkeypatch, tmp_path):
    monkeypatch.setenv("DDIM_CORE_CACHE", str(tmp_path / "cache"))
    full, closed = OSError(28, "No space left on device"), OSError(13, "Permission denied")
    for error in (full, closed):
        assert NAMED in str(cannot_write(tmp_path / "cache" / "a" / "b", error))
    assert str(cannot_write(tmp_path / "x", full)).endswith("(No space left on device): free some space")
    assert str(cannot_write(tmp_path / "x", closed)).endswith(
        "(Permission denied): choose a folder that can be written"
    )


def test_a_folder_without_write_access_is_seen_before_a_download(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DiskError, match="Permission denied"):
        can_be_written(tmp_path)


HOMELESS = """
import os, pwd, sys

def nobody(*_):
    raise KeyError("no such user")

pwd.getpwuid = pwd.getpwnam = nobody
for name in ("HOME", "USER", "LOGNAME", "DDIM_CORE_CACHE", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
assert os.path.expanduser("~") == "~"
import ddim_core
from ddim_core import cli, data, oracle, plots, widgets, metrics, train
from ddim_core.data import kuzushiji
from ddim_core.errors import DataError, DiskError, UnavailableError, UsageError

model, schedule = ddim_core.load_pretrained("mnist")
print(tuple(ddim_core.generate(model, schedule, 1, steps=1).shape))
print(cli.main(["sample", "--weights", "mnist", "--n", "1", "--steps", "1", "--out", "x.png"]), os.path.isfile("x.png"))
print(len(data.load_dataset("mnist-10k", limit=3)), metrics.load_classifier().training)
for call, kind in (
    (lambda: data.load_dataset("mnist"), DiskError),
    (lambda: data.load_dataset("brush-kanji"), DiskError),
    (lambda: data.load_dataset("mnist", "~/here"), DataError),
    (lambda: data.load_dataset("~/here", resolution=4), DataError),
    (lambda: data.kanji.find_fonts("~/fonts"), UnavailableError),
    (lambda: kuzushiji.unpack("~/kkanji.tar", "~"), DataError),
):
    try:
        call()
    except kind as error:
        assert "\\n" not in str(error)
        print(kind.__name__)
print(cli.main(["data", "mnist"]))
"""


def test_nobody_s_home_is_needed(tmp_path):
    """A user without a home directory and without an entry in the list of users, as a container may have."""
    done = subprocess.run(
        [PYTHON, "-c", HOMELESS], env=ENV, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    expected = ["(1, 1, 28, 28)", "0 True", "3 False", "DiskError", "DiskError", "DataError", "DataError"]
    assert done.stdout.splitlines() == [*expected, "UnavailableError", "DataError", "6"]
    assert done.stderr.endswith(
        "ddim: there is no home directory to keep downloads in: set DDIM_CORE_CACHE to a folder\n"
    )
    assert sorted(os.listdir(tmp_path)) == ["x.png"]
