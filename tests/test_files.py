"""Files of tensors: whole or not there, whatever happens while they are written, and no damage unseen."""

import json
import os
import pickle
import re
import subprocess
import time

import pytest
import torch
from helpers import ENV, PYTHON, randn
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from ddim_core import files
from ddim_core.errors import CheckpointError, DiskError
from ddim_core.files import (
    load_tensors,
    save_tensors,
    sha256_file,
    sweep,
    temporary_name,
    write_atomically,
)

TENSORS = {
    "a": randn(3, 2),
    "b": torch.tensor([1, -(2**62)]),
    "c.weight": randn(2, seed=1).half(),
    "scalar": torch.tensor(0.1),
}
DESCRIPTION = {
    "kind": "training",
    "steps_done": 7,
    "nested": {"lr": 1e-3, "list": [1, None, True]},
    "text": 'Grüße\n"{',
}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, DESCRIPTION)
    return path


# --- there and back ----------------------------------------------------------------------------------------------


def test_what_is_saved_comes_back(file):
    tensors, description = load_tensors(file, kind="training")
    assert same(tensors, TENSORS)
    assert {k: description[k] for k in DESCRIPTION} == DESCRIPTION
    assert os.listdir(file.parent) == [file.name], "nothing is left beside it"


def test_descriptions_come_back_as_json_has_them(tmp_path):
    save_tensors(tmp_path / "x", {}, {"tuple": (1, 2), "keys": {10: "a", 9: "b"}})
    tensors, description = load_tensors(tmp_path / "x")
    assert tensors == {}
    assert description["tuple"] == [1, 2]
    assert description["keys"] == {"10": "a", "9": "b"}


@given(
    shapes=st.dictionaries(st.text("abc.01", min_size=1), st.lists(st.integers(0, 3), max_size=3), max_size=4),
    dtype=st.sampled_from(
        [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    ),
)
def test_any_shapes_and_dtypes(tmp_path_factory, shapes, dtype):
    tensors = {name: (randn(*shape) * 3).to(dtype) for name, shape in shapes.items()}
    path = tmp_path_factory.mktemp("any") / "x.safetensors"
    save_tensors(path, tensors, {})
    assert same(load_tensors(path)[0], tensors)


def test_views_and_parameters_are_saved_by_value(tmp_path):
    x = randn(4, 4)
    tensors = {"turned": x.T, "part": x[1:3, ::2], "all": x, "parameter": torch.nn.Parameter(randn(2))}
    save_tensors(tmp_path / "x", tensors, {})
    assert same(load_tensors(tmp_path / "x")[0], {k: v.detach() for k, v in tensors.items()})


def test_the_same_content_gives_the_same_bytes(tmp_path):
    save_tensors(tmp_path / "x", TENSORS, DESCRIPTION)
    save_tensors(tmp_path / "y", dict(reversed(TENSORS.items())), dict(reversed(DESCRIPTION.items())))
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert sha256_file(tmp_path / "x") == sha256_file(tmp_path / "y")


def test_folders_are_made_and_old_files_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "x.txt"
    write_atomically(path, b"one")
    write_atomically(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["x.txt"]


# --- damage ------------------------------------------------------------------------------------------------------


def test_no_flipped_bit_goes_unseen(file):
    """One bit after another through the whole file: an error that names the file, or the very same content."""
    raw = file.read_bytes()
    expected, messages = load_tensors(file), []
    assert len(raw) < 2000
    for position in range(len(raw)):
        broken = bytearray(raw)
        broken[position] ^= 1 << position % 8
        file.write_bytes(broken)
        try:
            found = load_tensors(file)
        except CheckpointError as error:
            messages.append(str(error))
        else:  # as 1e-3 and 1E-3 are the same number
            assert same(found[0], expected[0])
            assert found[1] == expected[1]
    assert all(message.startswith(str(file)) for message in messages)
    assert len(messages) > 0.99 * len(raw)


def test_no_cut_goes_unseen(file):
    raw = file.read_bytes()
    for length in range(len(raw)):
        file.write_bytes(raw[:length])
        with pytest.raises(CheckpointError, match=r"x\.safetensors is damaged or not a safetensors file"):
            load_tensors(file)
    file.write_bytes(raw + b"\0")
    with pytest.raises(CheckpointError, match=r"x\.safetensors is damaged"):
        load_tensors(file)


def test_swapped_tensors_and_edited_descriptions_are_seen(file):
    raw = file.read_bytes()
    for old, new in [(b'\\"steps_done\\": 7', b'\\"steps_done\\": 8'), (b'"a"', b'"d"'), (b"[3,2]", b"[2,3]")]:
        assert raw.count(old) == 1
        file.write_bytes(raw.replace(old, new))
        with pytest.raises(CheckpointError, match="does not match its sha256"):
            load_tensors(file)


def test_files_of_other_makers(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    contents = {
        "empty": b"",
        "text": b"hello" * 100,
        "zeros": bytes(1000),
        "pickle": pickle.dumps({"model": Trap()}),
        "header": (10**12).to_bytes(8, "little") + b"{}",
    }
    torch.save({"a": torch.zeros(3)}, tmp_path / "torch")
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in [*contents, "torch"]:
        with pytest.raises(CheckpointError, match="is damaged or not a safetensors file") as e:
            load_tensors(tmp_path / name)
        assert str(tmp_path / name) in str(e.value)
        assert "\n" not in str(e.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "metadata", [None, {}, {"format": "pt"}, {"ddim_core": "{"}, {"ddim_core": "[1]"}, {"ddim_core": "3"}]
)
def test_safetensors_of_other_makers(tmp_path, metadata):
    save_file({"a": torch.zeros(2)}, tmp_path / "x", metadata=metadata)
    with pytest.raises(CheckpointError, match="was not written by ddim_core"):
        load_tensors(tmp_path / "x")


def test_a_description_without_a_sum(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "x", metadata={"ddim_core": json.dumps({"kind": "training"})})
    with pytest.raises(CheckpointError, match="does not match its sha256"):
        load_tensors(tmp_path / "x")


def test_another_kind(file):
    with pytest.raises(CheckpointError, match=r"x\.safetensors holds 'training', not 'weights'"):
        load_tensors(file, kind="weights")


def test_no_file(tmp_path):
    for path in (tmp_path / "x", tmp_path, tmp_path / "no" / "x"):
        with pytest.raises(CheckpointError, match="no such file"):
            load_tensors(path)


# --- faults while writing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), OSError(5, "Input/output error")], ids=str)
def test_a_fault_between_write_and_rename(file, monkeypatch, step, fault):
    before = file.read_bytes()

    def fail(*_):
        raise fault

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(DiskError) as e:
        save_tensors(file, {"a": torch.ones(1000)}, {})
    remedy = "free some space" if fault.errno == 28 else "choose a folder that can be written"
    assert str(e.value) == f"cannot write {file} ({fault.strerror}): {remedy}"
    monkeypatch.undo()
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


def test_the_content_is_on_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda f: (calls.append("fsync"), fsync(f)))
    monkeypatch.setattr(files.os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    write_atomically(tmp_path / "x", b"content")
    assert calls == ["fsync", "replace", "fsync"], "the file, its new name, the folder"


def test_a_file_in_parts_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "x"
    write_atomically(path, (part for part in [b"one ", b"", b"two"]))
    assert path.read_bytes() == b"one two"
    for fault in (ValueError("of what makes the parts"), KeyboardInterrupt()):

        def parts(fault=fault):
            yield b"three"
            raise fault

        with pytest.raises(type(fault)):
            write_atomically(path, parts())
        assert path.read_bytes() == b"one two"
        assert os.listdir(tmp_path) == ["x"]


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("here already", encoding="utf-8")
    for path in (tmp_path / "file" / "x", tmp_path / "file" / "deeper" / "x"):
        with pytest.raises(DiskError, match=r"cannot write .*: choose a folder that can be written"):
            write_atomically(path, b"content")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "here already"
    with pytest.raises(DiskError, match="cannot write"):
        write_atomically(tmp_path, b"a folder has this name")
    assert sorted(os.listdir(tmp_path)) == ["file"]


FULL = """
import resource, signal, sys
import torch
from ddim_core.files import save_tensors
from ddim_core.errors import DiskError

path = sys.argv[1]
save_tensors(path, {"a": torch.ones(10)}, {"n": 1})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_tensors(path, {"a": torch.ones(100_000)}, {"n": 2})
except DiskError as error:
    print(error, error.exit_code)
"""

KILLED = """
import os, random, signal, sys, time
import torch
from ddim_core.files import load_tensors, save_tensors

folder, kills = sys.argv[1], int(sys.argv[2])
path = os.path.join(folder, "x.safetensors")
tensors = [{"a": torch.full((300_000,), float(i))} for i in range(4)]
chance, seen, interrupted, kill, end = random.Random(0), set(), 0, 0, time.monotonic() + 120
temporary = lambda: [f for f in os.listdir(folder) if f.endswith(".tmp")]
while (kill < kills or interrupted < 3 or len(seen) < 2) and time.monotonic() < end:
    kill += 1
    child = os.fork()
    if child == 0:
        i = kill % 4  # each begins with another content
        while True:
            i = (i + 1) % 4
            save_tensors(path, tensors[i], {"i": i})
    for _ in range(chance.randint(1, 3)):  # kill it while one of its first files is written
        while not temporary() and time.monotonic() < end:
            pass
        time.sleep(chance.uniform(0, 0.003))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    left = temporary()
    interrupted += bool(left)
    for f in left:
        os.unlink(os.path.join(folder, f))
    if os.path.exists(path):
        loaded, description = load_tensors(path)
        assert torch.equal(loaded["a"], tensors[description["i"]]["a"])
        seen.add(description["i"])
print(len(seen), interrupted)
"""


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path):
    """A limit on the size of files stands for the disk: the write fails in the middle."""
    path = tmp_path / "x.safetensors"
    done = subprocess.run([PYTHON, "-c", FULL, str(path)], env=ENV, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"cannot write {path} (File too large)")
    assert done.stdout.strip().endswith("6")
    tensors, description = load_tensors(path)
    assert description["n"] == 1
    assert torch.equal(tensors["a"], torch.ones(10))
    assert os.listdir(tmp_path) == [path.name]


WAITS = """
import sys, time
from ddim_core.data.kanji import new_folder
from ddim_core.files import write_atomically
from pathlib import Path

def parts():
    yield b"half"
    print("begun", flush=True)
    time.sleep(600)

path = Path(sys.argv[1])
if sys.argv[2] == "file":
    write_atomically(path, parts())
else:
    with new_folder(path) as folder:
        (folder / "a").mkdir()
        list(parts())
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_writer_left_goes_with_the_next_one(tmp_path, kind):
    path = tmp_path / "x[1].npy"
    with subprocess.Popen(
        [PYTHON, "-c", WAITS, path, kind], env=ENV, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as writer:
        assert writer.stdout.readline() == "begun\n"
        (left,) = tmp_path.iterdir()
        assert re.fullmatch(rf"\.x\[1\]\.npy\.{writer.pid}\.[0-9a-f]{{8}}\.tmp", left.name)
        long_ago = (time.time() - 100,) * 2
        os.utime(left, long_ago)
        write_atomically(path, b"of another process")
        assert left.exists(), "its writer lives"
        writer.kill()
    os.utime(left, (time.time() - 10,) * 2)
    write_atomically(path, b"again")
    assert left.exists(), "it may be a process of another machine, a moment ago"
    os.utime(left, long_ago)
    write_atomically(tmp_path / "y", b"another file")
    assert left.exists()
    write_atomically(path, b"again")
    assert sorted(os.listdir(tmp_path)) == ["x[1].npy", "y"]


def test_writers_with_one_number_do_not_meet(tmp_path):
    """Threads, or containers with a process 1 each: what one writes, the other neither takes nor removes."""
    path = tmp_path / "x"

    def parts():
        yield b"one "
        write_atomically(path, b"of another writer")
        yield b"two"

    write_atomically(path, parts())
    assert path.read_bytes() == b"one two"
    half = temporary_name(path)
    half.touch()
    os.utime(half, (time.time() - 100,) * 2)
    assert temporary_name(path) != half
    assert half.exists(), "its writer, which has this process's number, may be slow"


def test_names_without_a_process_are_left_for_an_hour(tmp_path):
    token = "0123abcd"
    for name in ("tmp12345678", ".x.soon.tmp", f".x.9999999999.{token}.tmp", f".x.{os.getppid()}.{token}.tmp"):
        (tmp_path / name).touch()
        for age, left in ((3500, True), (3700, False)):
            os.utime(tmp_path / name, (time.time() - age,) * 2)
            sweep(tmp_path, name)
            assert (tmp_path / name).exists() == left, name


def test_killed_while_writing_again_and_again(tmp_path):
    """kill -9 at 40 random moments or more of a process that only saves: the file loads, or is not there yet."""
    done = subprocess.run(
        [PYTHON, "-c", KILLED, str(tmp_path), "40"], env=ENV, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    seen, interrupted = map(int, done.stdout.split())
    assert seen >= 2, "files were written"
    assert interrupted >= 3, "and some kills fell into the middle of a write"
