"""The shipped digits, and MNIST in torchvision's layout, whole and broken."""

import gzip
import hashlib
import io
import struct

import numpy as np
import pytest
import torch
from helpers import seeded

from ddim_core.data import load_dataset, mnist
from ddim_core.errors import DataError, UnavailableError

COUNTS_10K = [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
PREFIX = {"train": "train", "test": "t10k"}


# --- the shipped digits ------------------------------------------------------------------------------------------


def test_the_shipped_digits():
    digits = load_dataset("mnist-10k")
    assert len(digits) == 10_000
    assert digits.images.shape == (10_000, 1, 28, 28)
    assert digits.images.dtype == torch.uint8
    assert digits.labels.dtype == torch.int64
    assert digits.labels.bincount().tolist() == COUNTS_10K
    assert digits.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]  # as MNIST's training set begins
    assert (digits.name, digits.split) == ("mnist-10k", "train")
    assert (
        hashlib.sha256(digits.images.numpy().tobytes()).hexdigest()
        == "2f7182bf021ffc5c1f62db987487f14d899b5c639f421a80f3095affc09a7db2"
    )
    assert (
        hashlib.sha256(digits.labels.to(torch.uint8).numpy().tobytes()).hexdigest()
        == "2f345bad07338ec537641465e169cc4b7288a44244f251211c7f842641e7d927"
    )


def test_limit_takes_the_first():
    whole, some = load_dataset("mnist-10k"), load_dataset("mnist-10k", limit=7)
    assert len(some) == len(some.labels) == 7
    assert torch.equal(some.images, whole.images[:7])
    assert len(load_dataset("mnist-10k", limit=10**9)) == 10_000


def test_damage_to_the_shipped_file_is_seen(tmp_path, monkeypatch):
    source = mnist.resources.files("ddim_core") / "assets"
    folder = tmp_path / "assets"
    folder.mkdir()
    (folder / "manifest.json").write_bytes((source / "manifest.json").read_bytes())
    raw = bytearray((source / "mnist_train_10k.npy.gz").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "mnist_train_10k.npy.gz").write_bytes(raw)
    monkeypatch.setattr(mnist.resources, "files", lambda name: tmp_path)
    with pytest.raises(DataError, match=r"mnist_train_10k\.npy\.gz is damaged .* install the package again"):
        load_dataset("mnist-10k")


# --- a folder in torchvision's layout ----------------------------------------------------------------------------


def idx(array) -> bytes:
    """The bytes of an idx file: magic number, sizes, values (the format of the MNIST page)."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.numpy().tobytes()


def write_folder(root, test_images, test_labels):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    few = torch.zeros(3, 28, 28, dtype=torch.uint8)
    for split, images, labels in [("test", test_images, test_labels), ("train", few, few[:, 0, 0])]:
        (raw / f"{PREFIX[split]}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{PREFIX[split]}-labels-idx1-ubyte").write_bytes(idx(labels))
    return raw


@pytest.fixture
def folder(tmp_path):
    images = torch.randint(0, 256, (10_000, 28, 28), generator=seeded(), dtype=torch.uint8)
    labels = torch.randint(0, 10, (10_000,), generator=seeded(1), dtype=torch.uint8)
    write_folder(tmp_path, images, labels)
    return tmp_path, images, labels


def test_a_folder_is_read(folder):
    root, images, labels = folder
    for where in (root, str(root)):
        digits = load_dataset("mnist", where, split="test")
        assert torch.equal(digits.images, images[:, None])
        assert torch.equal(digits.labels, labels.long())
    assert torch.equal(load_dataset("mnist", root, split="test", limit=3).images, images[:3, None])


def test_too_few_pictures(folder):
    root, *_ = folder
    with pytest.raises(
        DataError, match=r"the train files hold \(3, 1, 28, 28\) images and 3 labels instead of 60000"
    ) as e:
        load_dataset("mnist", root)
    assert f"{root}/MNIST/raw" in str(e.value)


@pytest.mark.parametrize("file", ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("keep", [0, 3, 10, 5_000], ids="cut to {}".format)
def test_a_file_cut_short(folder, file, keep):
    root, *_ = folder
    path = root / "MNIST/raw" / file
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="no readable MNIST under") as e:
        load_dataset("mnist", root, split="test")
    assert str(root) in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("file", ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_file_of_something_else(folder, file):
    root, *_ = folder
    (root / "MNIST/raw" / file).write_bytes(b"<html>not found</html>" * 1000)
    with pytest.raises(DataError, match="no readable MNIST under"):
        load_dataset("mnist", root, split="test")


def test_labels_that_do_not_match(tmp_path):
    images = torch.zeros(10_000, 28, 28, dtype=torch.uint8)
    write_folder(tmp_path, images, images[:9_999, 0, 0])
    with pytest.raises(DataError, match="and 9999 labels instead of"):
        load_dataset("mnist", tmp_path, split="test")


def test_pictures_of_another_size(tmp_path):
    images = torch.zeros(10_000, 27, 28, dtype=torch.uint8)
    write_folder(tmp_path, images, images[:, 0, 0])
    with pytest.raises(DataError, match=r"hold \(10000, 1, 27, 28\) images"):
        load_dataset("mnist", tmp_path, split="test")


@pytest.mark.parametrize(
    "file", [f"{p}-{k}" for p in ("train", "t10k") for k in ("images-idx3-ubyte", "labels-idx1-ubyte")]
)
def test_a_file_missing(folder, file):
    root, *_ = folder
    (root / "MNIST/raw" / file).unlink()
    with pytest.raises(DataError, match="it should hold the four idx files"):
        load_dataset("mnist", root, split="test")


def test_no_folder_at_all(tmp_path):
    with pytest.raises(DataError, match=r"no readable MNIST under .*nowhere/MNIST/raw"):
        load_dataset("mnist", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="no readable MNIST under"):
        load_dataset("mnist", tmp_path / "file")


def test_a_download_that_is_not_possible(offline):
    with pytest.raises(UnavailableError) as e:
        load_dataset("mnist")
    message = str(e.value)
    assert message.startswith("MNIST cannot be downloaded (")
    assert "\n" not in message
    assert "--data FOLDER" in message
    assert "--dataset mnist-10k" in message
    assert e.value.exit_code == 7


def test_packing_what_ships():
    """The shipped file is this packing of MNIST's first 10,000 training images: label, then 784 pixels."""
    whole = load_dataset("mnist-10k")
    packed = mnist.pack_shipped(whole.images[:20], whole.labels[:20])
    assert packed == mnist.pack_shipped(whole.images[:20], whole.labels[:20])
    table = np.load(io.BytesIO(gzip.decompress(packed)))
    assert table.dtype == np.uint8
    assert table[:, 0].tolist() == whole.labels[:20].tolist()
    np.testing.assert_array_equal(table[:, 1:].reshape(-1, 1, 28, 28), whole.images[:20].numpy())
