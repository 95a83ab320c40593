"""The shipped digits, and MNIST in torchvision's layout, whole and broken."""

import gzip
import hashlib
import io
import struct
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest
import torch
from helpers import listening, seeded

from ddim_core import cli
from ddim_core.data import load_dataset, mnist
from ddim_core.errors import DataError, UnavailableError
from ddim_core.files import sha256_file

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


def test_too_few_images(folder):
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
    with pytest.raises(DataError, match=r"is not of the right length|is not an MNIST file") as e:
        load_dataset("mnist", root, split="test")
    assert str(e.value).startswith(f"{path} is not ")
    assert str(e.value).endswith(": get it again")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("file", ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_file_of_something_else(folder, file):
    root, *_ = folder
    (root / "MNIST/raw" / file).write_bytes(b"<html>not found</html>" * 1000)
    with pytest.raises(DataError, match=f"{file} is not an MNIST file"):
        load_dataset("mnist", root, split="test")


@pytest.mark.parametrize("file", ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_file_that_is_a_folder(folder, file):
    root, *_ = folder
    (root / "MNIST/raw" / file).unlink()
    (root / "MNIST/raw" / file).mkdir()
    with pytest.raises(DataError, match=f"no readable MNIST under .*{file} is not there"):
        load_dataset("mnist", root, split="test")


def test_other_digits_are_taken_and_named(folder):
    """Somebody means them: all is read, and it is said that they are not the original."""
    root, *_ = folder
    (note,) = load_dataset("mnist", root, split="test").notes
    both = "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"
    assert note == f"{root}/MNIST/raw: not the original MNIST ({both}: another sha256)"


def test_ddim_data_does_not_call_other_digits_mnist(folder, monkeypatch, capsys):
    root, *_ = folder
    monkeypatch.setattr(mnist, "COUNT", {"train": 10_000, "test": 10_000})
    for kind in ("images-idx3", "labels-idx1"):
        raw = root / "MNIST" / "raw"
        (raw / f"train-{kind}-ubyte").write_bytes((raw / f"t10k-{kind}-ubyte").read_bytes())
    assert cli.main(["data", "mnist", "--data", str(root)]) == 0
    out = capsys.readouterr().out
    assert out.count("not the original MNIST") == 2
    assert "LeCun" not in out
    for split, files in mnist.FILES.items():
        monkeypatch.setitem(mnist.FILES, split, {name: sha256_file(raw / name) for name in files})
    assert cli.main(["data", "mnist", "--data", str(root)]) == 0
    assert capsys.readouterr().out.endswith("10 classes\nMNIST, Y. LeCun, C. Cortes, C. Burges; CC BY-SA 3.0\n")


def test_labels_that_are_no_digits(folder):
    root, _, labels = folder
    labels[77] = 10
    (root / "MNIST/raw/t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte has labels up to 10, not 0 to 9: get it again"):
        load_dataset("mnist", root, split="test")


def test_labels_that_do_not_match(tmp_path):
    images = torch.zeros(10_000, 28, 28, dtype=torch.uint8)
    write_folder(tmp_path, images, images[:9_999, 0, 0])
    with pytest.raises(DataError, match="and 9999 labels instead of"):
        load_dataset("mnist", tmp_path, split="test")


def test_images_of_another_size(tmp_path):
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
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
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


# --- the cache: the original, or nothing -------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A mirror of a small original on loopback: (cache, its raw folder, what was asked for, how to answer)."""
    files, asked, ways = {}, [], ["whole"]
    for split, prefix in PREFIX.items():
        images = torch.randint(0, 256, (40, 28, 28), generator=seeded(len(prefix)), dtype=torch.uint8)
        labels = torch.arange(40, dtype=torch.uint8) % 10
        names = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
        files |= dict(zip(names, (idx(images), idx(labels)), strict=True))
        monkeypatch.setitem(mnist.FILES, split, {n: hashlib.sha256(files[n]).hexdigest() for n in names})
    monkeypatch.setattr(mnist, "COUNT", {"train": 40, "test": 40})
    monkeypatch.setenv("DDIM_CORE_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(mnist.urllib.request, "_opener", None)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.strip("/").removesuffix(".gz")
            asked.append(name)
            body = gzip.compress(files[name] if ways[0] != "other" else files[name][:-1] + b"\7")
            body = b"<html>sign in</html>" if ways[0] == "page" else body
            self.send_response(ways[0] if isinstance(ways[0], int) else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if ways[0] == "cut" else body)

        def log_message(self, *args):
            pass

    with listening(Handler) as address:
        monkeypatch.setattr(mnist, "MIRRORS", (f"{address}/",))
        yield tmp_path / "cache" / "MNIST" / "raw", files, asked, ways
    mnist.urllib.request._opener = None


def test_a_download_is_verified_and_kept(host):
    raw, files, asked, _ = host
    digits = load_dataset("mnist")
    assert (len(digits), digits.notes) == (40, ())
    assert asked == ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
    assert {p.name: p.read_bytes() for p in raw.iterdir()} == {n: files[n] for n in asked}, "and nothing else is left"
    assert torch.equal(load_dataset("mnist").images, digits.images)
    assert len(asked) == 2, "once"


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 3], lambda b: b[:-1] + b"\7", lambda b: b""])
@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
def test_what_is_broken_in_the_cache_is_fetched_anew(host, kind, damage):
    raw, files, asked, ways = host
    load_dataset("mnist", split="test")
    name = f"t10k-{kind}-ubyte"
    (raw / name).write_bytes(damage(files[name]))
    asked.clear()
    ways[0] = 503
    with pytest.raises(UnavailableError, match=f"{name}: Service Unavailable; {raw / name} is damaged"):
        load_dataset("mnist", split="test")
    assert (raw / name).read_bytes() == damage(files[name]), "as it was, until there is a better one"
    ways[0] = "whole"
    assert load_dataset("mnist", split="test").labels.tolist() == [i % 10 for i in range(40)]
    assert asked == [name, name], "the other file is whole"
    assert (raw / name).read_bytes() == files[name]


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("other", "another file arrived"),
        ("page", "Not a gzipped file"),
        ("cut", "Compressed file ended"),
        (404, "Not Found"),
    ],
    ids=str,
)
def test_something_else_than_the_original_is_not_kept(host, way, reason):
    raw, _, _, ways = host
    ways[0] = way
    with pytest.raises(UnavailableError, match=rf"MNIST cannot be downloaded \(train-images-idx3-ubyte: {reason}") as e:
        load_dataset("mnist")
    assert "\n" not in str(e.value)
    assert list(raw.iterdir()) == []


def test_a_second_mirror_is_asked(host, monkeypatch):
    monkeypatch.setattr(mnist, "MIRRORS", ("http://127.0.0.1:9/", *mnist.MIRRORS))
    assert len(load_dataset("mnist", split="test")) == 40


@pytest.mark.parametrize(
    "manifest", [None, "", "{", "[]", "{}", "[" * 10**5], ids=["missing", "empty", "cut", "list", "no entry", "nested"]
)
def test_a_manifest_that_is_none(tmp_path, monkeypatch, manifest):
    (tmp_path / "assets").mkdir()
    if manifest is not None:
        (tmp_path / "assets" / "manifest.json").write_text(manifest, encoding="utf-8")
    monkeypatch.setattr(mnist.resources, "files", lambda name: tmp_path)
    with pytest.raises(DataError, match=r"assets is incomplete \(.+\): install the package again"):
        load_dataset("mnist-10k")


def test_packing_what_ships():
    """The shipped file is this packing of MNIST's first 10,000 training images: label, then 784 pixels."""
    whole = load_dataset("mnist-10k")
    packed = mnist.pack_shipped(whole.images[:20], whole.labels[:20])
    assert packed == mnist.pack_shipped(whole.images[:20], whole.labels[:20])
    table = np.load(io.BytesIO(gzip.decompress(packed)))
    assert table.dtype == np.uint8
    assert table[:, 0].tolist() == whole.labels[:20].tolist()
    np.testing.assert_array_equal(table[:, 1:].reshape(-1, 1, 28, 28), whole.images[:20].numpy())
