"""MNIST: four files, downloaded on demand or taken from a folder (`FOLDER/MNIST/raw/...`, as torchvision lays them out).

Downloads are verified by their sha256. A folder that you name may hold other digits in the same format; a note then
says so. The first 10,000 training images come with the package, for machines without a network connection.
"""

import gzip
import hashlib
import io
import json
import os
import urllib.request
import zlib
from http.client import HTTPException
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..cache import can_be_written
from ..errors import DataError, UnavailableError
from ..files import sha256_file, write_atomically

__all__ = ["COUNT", "FILES", "pack_shipped", "read_mnist", "read_shipped"]

COUNT = {"train": 60_000, "test": 10_000}  # images of each split
FILES = {  # of each split: images, labels; with the sha256 of each
    "train": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    },
    "test": {
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
}
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
TIMEOUT = 30  # seconds without an answer
_SHIPPED = "mnist_train_10k.npy.gz"


def read_mnist(folder: str | Path, split: str, *, download: bool) -> tuple[Tensor, Tensor, str]:
    """(uint8 `[N, 1, 28, 28]`, labels int64 `[N]`, a note on them) of a split, "train" or "test".

    Args:
        folder: one that holds `MNIST/raw`.
        download: fetch what is missing or is not the original; otherwise take what is there, with a note if it is not
            the original (an empty note means that it is).

    Raises:
        UnavailableError: it has to be downloaded and cannot be. DiskError: it cannot be written. DataError: files are
            missing or not what they should be.
    """
    raw = Path(os.path.expanduser(folder)) / "MNIST" / "raw"
    if not download and (missing := [n for part in FILES.values() for n in part if not (raw / n).is_file()]):
        raise DataError(
            f"no readable MNIST under {raw} ({missing[0]} is not there): it should hold the four idx files, as torchvision "
            "lays them out"
        )
    other = [name for name, digest in FILES[split].items() if _digest(raw / name) != digest]
    if download:
        for name in other:
            _fetch(raw / name, FILES[split][name])
        other = []
    images, labels = (_read_idx(raw / name, ndim) for name, ndim in zip(FILES[split], (3, 1), strict=True))
    if tuple(images.shape) != (COUNT[split], 28, 28) or len(labels) != len(images):
        raise DataError(
            f"{raw}: the {split} files hold {(len(images), 1, *images.shape[1:])} images and {len(labels)} labels instead "
            f"of {COUNT[split]} of 28x28: get them again"
        )
    if labels.max() > 9:
        name = list(FILES[split])[1]
        raise DataError(f"{raw / name} has labels up to {labels.max()}, not 0 to 9: get it again")
    note = f"{raw}: not the original MNIST ({' and '.join(other)}: another sha256)" if other else ""
    return torch.from_numpy(images)[:, None], torch.from_numpy(labels).long(), note


def _digest(path: Path) -> str | None:
    try:
        return sha256_file(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}): change its permissions or move it"
        ) from error


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """The bytes of an idx file, uint8 with `ndim` dimensions: a magic number, the sizes, the values."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): get it again") from error
    head = 4 + 4 * ndim
    shape = tuple(np.frombuffer(content[4:head], ">u4").tolist()) if len(content) >= head else ()
    if content[:4] != bytes([0, 0, 8, ndim]) or len(shape) != ndim:
        raise DataError(f"{path} is not an MNIST file (it does not begin like one): get it again")
    expected = int(np.prod(shape, dtype=object))
    if len(content) - head != expected:
        found = f"{len(content) - head} bytes of values instead of {expected}"
        raise DataError(f"{path} is not of the right length ({found}): get it again")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape).copy()


def _fetch(path: Path, digest: str) -> None:
    """Download one file, which takes its place once it is complete and verified. Raises UnavailableError, DiskError."""
    can_be_written(path.parent)
    reasons = []
    for mirror in MIRRORS:
        try:
            content = gzip.decompress(_download(f"{mirror}{path.name}.gz"))
        except (OSError, HTTPException, EOFError, zlib.error) as error:
            reasons.append(" ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__)
            continue
        if hashlib.sha256(content).hexdigest() == digest:
            write_atomically(path, content)
            return
        reasons.append("another file arrived")
    damaged = f"; {path} is damaged" if path.exists() else ""
    raise UnavailableError(
        f"MNIST cannot be downloaded ({path.name}: {reasons[0]}{damaged}): give a folder that has it with --data FOLDER, "
        "or use the 10,000 images that come with the package (--dataset mnist-10k)"
    )


def _download(url: str) -> bytes:
    from tqdm import tqdm

    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        size = int(answer.headers.get("Content-Length") or 0) or None
        blocks = []
        name = url.rpartition("/")[2]
        with tqdm(total=size, unit="B", unit_scale=True, desc=name, disable=None) as bar:  # shown on a terminal only
            while block := answer.read(1 << 20):
                blocks.append(block)
                bar.update(len(block))
    return b"".join(blocks)


def read_shipped() -> tuple[Tensor, Tensor]:
    """(uint8 `[10000, 1, 28, 28]`, labels int64 `[10000]`), verified. Raises DataError: the file is damaged."""
    assets = resources.files("ddim_core") / "assets"
    try:
        expected = json.loads((assets / "manifest.json").read_text(encoding="utf-8"))[_SHIPPED]["sha256"]
        raw = (assets / _SHIPPED).read_bytes()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{assets} is incomplete ({type(error).__name__}: {reason}): install the package again"
        ) from error
    if hashlib.sha256(raw).hexdigest() != expected:
        raise DataError(f"{assets / _SHIPPED} is damaged (sha256 differs from the manifest): install the package again")
    table = torch.from_numpy(np.load(io.BytesIO(gzip.decompress(raw)), allow_pickle=False).copy())
    return table[:, 1:].reshape(-1, 1, 28, 28).contiguous(), table[:, 0].long()


def pack_shipped(images: Tensor, labels: Tensor) -> bytes:
    """The bytes of the shipped file: label and 784 pixels of each of the first 10,000 training images, gzipped.

    images: uint8 `[N, 1, 28, 28]`; labels: `[N]`.
    """
    table = torch.cat([labels[:10_000, None].to(torch.uint8), images[:10_000].flatten(1)], dim=1)
    buffer = io.BytesIO()
    np.save(buffer, table.numpy())
    return gzip.compress(buffer.getvalue(), 9, mtime=0)
