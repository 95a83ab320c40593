"""Images as they are drawn, and the files that they become."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ENV, PYTHON, TINY, tiny_unet
from PIL import Image

from ddim_core import drawing, generate
from ddim_core.drawing import Drawing, write
from ddim_core.errors import DDIMError, DiskError, NonFiniteError, UsageError
from ddim_core.files import save_tensors
from ddim_core.schedule import Schedule


def save(path, net):
    """As `export` writes it, but for the provenance."""
    schedule = {"T": 1000, "beta_1": 1e-4, "beta_T": 0.02}
    save_tensors(path, net.state_dict(), {"kind": "weights", "unet": net.config.to_dict(), "schedule": schedule})
    return str(path)


@pytest.fixture
def weights(tmp_path):
    return save(tmp_path / "w.safetensors", tiny_unet())


def hidden(folder):
    return [p.name for p in Path(folder).iterdir() if p.name.startswith(".")]


def test_batches_are_the_images_that_generate_draws(weights):
    one = Drawing(weights, 5, batch_size=2, steps=3, seed=4, eta=0.5, clip=True)
    assert (one.shape, one.amp, one.note) == ((1, 8, 8), "fp32", "")
    batches = list(one.batches())
    assert [len(b) for b in batches] == [2, 2, 1]
    expected = generate(tiny_unet(), Schedule.linear(), 5, steps=3, seed=4, eta=0.5, clip=True, batch_size=2)
    assert torch.equal(torch.cat(batches), expected)


def test_both_kinds_of_file_hold_them(weights, tmp_path):
    one = Drawing(weights, 5, batch_size=2, steps=3)
    images = torch.cat(list(one.batches()))
    write(one, tmp_path / "new" / "a.npy")
    assert np.array_equal(np.load(tmp_path / "new" / "a.npy"), images.numpy())
    write(one, str(tmp_path / "a.png"), columns=5)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (2 * (5 * 10 + 2), 2 * 12)


def test_the_home_directory(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    one = Drawing("~/w.safetensors", 1, steps=1)
    for name in ("a.npy", "a.png"):
        write(one, f"~/deep/{name}")
        assert (tmp_path / "deep" / name).is_file()


@pytest.mark.parametrize(("n", "batch_size"), [(0, 1), (-1, 1), (1, 0)])
def test_numbers_out_of_range(weights, n, batch_size):
    with pytest.raises(UsageError, match="n and batch_size must be at least 1"):
        Drawing(weights, n, batch_size=batch_size)


@pytest.mark.parametrize("n", [10**9, 10**18, 10**30, 10**400], ids=lambda n: f"10^{len(str(n)) - 1}")
@pytest.mark.parametrize("name", ["x.npy", "x.png"])
def test_more_images_than_can_be(weights, tmp_path, monkeypatch, n, name):
    """Refused before the first is drawn; what the message names can be done."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drawing.shutil, "disk_usage", lambda folder: Free)
    with pytest.raises(DDIMError, match=r"--n|n must be at most") as e:
        write(Drawing(weights, n, steps=1), name)
    assert "\n" not in str(e.value)
    assert sorted(os.listdir()) == ["w.safetensors"]


class Free:
    free = 10**11


def test_memory_does_not_grow_with_n(weights, tmp_path):
    """70 MB more of images, and no more memory for it (VmHWM, the most that a process ever had); for speed the images are black."""
    code = """
import sys
from ddim_core import drawing
from ddim_core.drawing import Drawing, write
import torch

sys.modules["ddim_core.sample"].generate = lambda model, schedule, n, **options: torch.zeros(n, 1, 8, 8)
one = Drawing(sys.argv[1], int(sys.argv[2]), batch_size=1000)
write(one, sys.argv[3])
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    most = []
    for n in (1000, 300_000):
        argv = [PYTHON, "-c", code, weights, str(n), str(tmp_path / "x.npy")]
        done = subprocess.run(argv, env=ENV, capture_output=True, text=True, check=True, encoding="utf-8")
        most.append(int(done.stdout) / 1000)  # MB
    assert (tmp_path / "x.npy").stat().st_size > 70e6
    assert most[1] - most[0] < 35


@pytest.mark.parametrize("steps", [2, 1], ids=["on the way", "in the last step"])
@pytest.mark.parametrize("amp", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["x.npy", "x.png"])
def test_images_that_are_not_finite_are_not_written(tmp_path, monkeypatch, amp, name, steps):
    """Every number of the network is finite, and it gives infinities all the same."""
    monkeypatch.chdir(tmp_path)
    net = tiny_unet()
    with torch.no_grad():
        net.conv_out.bias.fill_(3e38)
        net.conv_out.weight.mul_(1e38)
    one = Drawing(save("w.safetensors", net), 2, steps=steps, amp=amp)
    with pytest.raises(
        NonFiniteError, match=r"w\.safetensors are not finite .*3e\+38, in 'conv_out\.bias'\): use "
    ) as e:
        write(one, name)
    assert str(e.value).endswith("use other weights" if amp == "fp32" else "use --amp fp32, or other weights")
    assert os.listdir() == ["w.safetensors"]


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "terminated")],
)
def test_a_long_file_that_is_stopped_leaves_nothing(weights, tmp_path, number, code, said):
    argv = ["sample", "--weights", weights, "--n", "200000", "--batch-size", "4", "--steps", "2", "--out", "x.npy"]
    # under nohup or in the background of a shell the signal is ignored, and would stay so
    start = "import os, signal, sys; signal.signal(int(sys.argv[1]), signal.SIG_DFL); " + (
        "os.execv(sys.executable, [sys.executable, '-m', 'ddim_core', *sys.argv[2:]])"
    )
    process = subprocess.Popen(
        [PYTHON, "-c", start, str(int(number)), *argv],
        env=ENV,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        # not at the very moment when the file is opened: Python would warn of it
        while process.poll() is None and not any((tmp_path / name).stat().st_size for name in hidden(tmp_path)):
            time.sleep(0.02)
        assert hidden(tmp_path), "it writes"
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (code, "", f"ddim: {said}\n")
    assert os.listdir(tmp_path) == ["w.safetensors"]


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("x.jpg", UsageError, r"--out must end in \.png or \.npy, got x\.jpg"),
        ("file/x.png", DiskError, r"cannot write file/x\.png "),
        ("new/file.png/x.npy", DiskError, r"cannot write new/file\.png/x\.npy "),
        ("folder.png", DiskError, r"cannot write folder\.png \(Is a directory\)"),
        ("new/" + "x" * 300 + ".png", DiskError, r"File name too long"),
    ],
    ids=["jpg", "png", "npy", "folder", "long"],
)
def test_nothing_is_drawn_for_a_file_that_cannot_be(weights, tmp_path, monkeypatch, name, kind, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    if name.startswith("new/file"):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "file.png").touch()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(sys.modules["ddim_core.sample"], "generate", lambda *args, **options: 1 / 0)
    with pytest.raises(kind, match=said):
        write(Drawing(weights, 1), name)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_sheet_of_images_that_are_neither_grey_nor_in_colour(tmp_path, monkeypatch):
    net = tiny_unet(config=replace(TINY, in_channels=2, out_channels=2))
    two = Drawing(save(tmp_path / "two.safetensors", net), 1, steps=1)
    with pytest.raises(UsageError, match=r"1 or 3 channels, .*two\.safetensors draws 2: --out FILE\.npy"):
        write(two, tmp_path / "x.png")
    assert sorted(os.listdir(tmp_path)) == ["two.safetensors"]
    write(two, tmp_path / "x.npy")


@pytest.mark.parametrize("columns", [None, 1, 7, 100])
def test_the_largest_sheet_is_opened_without_a_warning(weights, tmp_path, monkeypatch, columns):
    """As many images as the message names, and not one more: with borders, and empty places in the last row."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    with pytest.raises(UsageError, match="too many for one PNG") as e:
        write(Drawing(weights, 60, steps=1), tmp_path / "x.png", columns)
    most = int(re.search(r"--n (\d+) at most", str(e.value))[1])
    write(Drawing(weights, most, steps=1), tmp_path / "x.png", columns)
    with Image.open(tmp_path / "x.png") as image:
        image.load()
    with pytest.raises(UsageError, match=f"--n {most} at most"):
        write(Drawing(weights, most + 1, steps=1), tmp_path / "y.png", columns)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(UsageError, match=r"1 images are too many for one PNG: --out FILE\.npy$"):
        write(Drawing(weights, 1, steps=1), tmp_path / "y.png", columns)
