"""Pixels there and back, the shipped digits, and folders in torchvision's layout, whole and broken."""

import gzip
import hashlib
import io
import struct

import numpy as np
import pytest
import torch
from helpers import seeded
from hypothesis import given
from hypothesis import strategies as st

from ddim_core import data
from ddim_core.data import fingerprint, from_model, load_dataset, to_model, to_uint8
from ddim_core.errors import DataError, UnavailableError, UsageError

ALL = torch.arange(256, dtype=torch.uint8)
COUNTS_10K = [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
PREFIX = {"train": "train", "test": "t10k"}


# --- pixels ------------------------------------------------------------------------------------------------------


def test_all_256_values_come_back_exactly():
    assert torch.equal(to_uint8(to_model(ALL)), ALL)
    assert torch.equal(to_uint8(to_model(ALL.float() / 255)), ALL)
    assert torch.equal(to_uint8(to_model(ALL.double() / 255)), ALL)
    assert torch.equal((from_model(to_model(ALL)) * 255).round().to(torch.uint8), ALL)


def test_black_is_minus_one_and_white_is_one():
    x = to_model(ALL)
    assert x.dtype == torch.float32
    assert x[0] == -1
    assert x[255] == 1
    torch.testing.assert_close(x, torch.linspace(-1, 1, 256), rtol=0, atol=1e-6)
    torch.testing.assert_close(from_model(x), ALL / 255, rtol=0, atol=1e-6)


def test_the_range_is_changed_in_a_copy():
    for pixels in (ALL.clone(), torch.rand(5, generator=seeded())):
        before = pixels.clone()
        to_model(pixels)
        assert torch.equal(pixels, before)
    x = torch.tensor([-3.0, 3.0])
    from_model(x), to_uint8(x)
    assert x.tolist() == [-3, 3]


@given(st.floats(-1e6, 1e6))
def test_what_lies_outside_is_cut_off(value):
    x = torch.tensor(value)
    assert 0 <= from_model(x) <= 1
    assert int(to_uint8(x)) == round(min(max((value + 1) / 2, 0), 1) * 255) or abs(value) < 1


def test_float64_stays_float64():
    x = to_model(torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64))
    assert x.dtype == from_model(x).dtype == torch.float64


def test_a_fingerprint_tells_bytes_and_shapes_apart():
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    assert fingerprint(images) == fingerprint(images.clone())
    other = images.clone()
    other[3, 0, 1, 1] = 1
    assert (
        len({fingerprint(x) for x in (images, other, images[:3], images.view(4, 1, 4, 1), images.view(2, 2, 2, 2))})
        == 5
    )
    # how the tensor lies in memory does not count
    turned = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).mT
    assert fingerprint(turned) == fingerprint(turned.contiguous())


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
    source = data.resources.files("ddim_core") / "assets"
    folder = tmp_path / "assets"
    folder.mkdir()
    (folder / "manifest.json").write_bytes((source / "manifest.json").read_bytes())
    raw = bytearray((source / "mnist_train_10k.npy.gz").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "mnist_train_10k.npy.gz").write_bytes(raw)
    monkeypatch.setattr(data.resources, "files", lambda name: tmp_path)
    with pytest.raises(DataError, match=r"mnist_train_10k\.npy\.gz is damaged .* install the package again"):
        load_dataset("mnist-10k")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mnits"}, "unknown data set 'mnits': choose one of mnist, mnist-10k"),
        ({"name": ""}, "unknown data set ''"),
        ({"name": "mnist-10k", "split": "test"}, "has no split 'test'"),
        ({"name": "mnist", "split": "valid"}, "has no split 'valid'"),
        ({"name": "mnist-10k", "limit": 0}, "limit must be at least 1, got 0"),
        ({"name": "mnist-10k", "limit": -5}, "limit must be at least 1, got -5"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for(options, message):
    with pytest.raises(UsageError, match=message):
        load_dataset(**options)


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
        mnist = load_dataset("mnist", where, split="test")
        assert torch.equal(mnist.images, images[:, None])
        assert torch.equal(mnist.labels, labels.long())
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


def test_packing_what_ships(monkeypatch):
    """The shipped file is this packing of MNIST's first 10,000 training images: label, then 784 pixels."""
    some = load_dataset("mnist-10k", limit=20)
    monkeypatch.setattr(data, "load_dataset", lambda name, root, limit: some)
    packed = data.pack_shipped_mnist("unused")
    assert packed == data.pack_shipped_mnist("unused")
    table = np.load(io.BytesIO(gzip.decompress(packed)))
    assert table.dtype == np.uint8
    assert table[:, 0].tolist() == some.labels.tolist()
    np.testing.assert_array_equal(table[:, 1:].reshape(-1, 1, 28, 28), some.images.numpy())
