"""Data sets as uint8 tensors `[N, C, H, W]`, and the one place where pixels change their range.

MNIST is read by torchvision: downloaded on demand, or taken from a folder in its layout (`FOLDER/MNIST/raw/...`).
`mnist-10k` is the first 10,000 of MNIST's training images and comes with the package, for machines with no network.
`brush-kanji` and `kuzushiji` are folders of 64x64 pictures, see `kanji`.
"""

import gzip
import hashlib
import io
import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, UnavailableError, UsageError
from .kanji import read_folder

__all__ = ["DATASETS", "Dataset", "fingerprint", "from_model", "load_dataset", "to_model", "to_uint8"]

DATASETS = ("mnist", "mnist-10k", "brush-kanji", "kuzushiji")
# what is downloaded or made, weights too; another folder in the environment is read at import
CACHE = Path(os.environ.get("DDIM_CORE_CACHE") or "~/.cache/ddim_core").expanduser()
ATTRIBUTION = {
    "mnist": "MNIST, Y. LeCun, C. Cortes, C. Burges; CC BY-SA 3.0",
    "mnist-10k": "MNIST, Y. LeCun, C. Cortes, C. Burges; CC BY-SA 3.0",
    "brush-kanji": "Brush fonts by Kouzan and Soseki Aoyagi; public domain",
    "kuzushiji": '"KMNIST Dataset" (created by CODH), adapted from "Kuzushiji Dataset" (created by NIJL and others), '
    "doi:10.20676/00000341; CC BY-SA 4.0",
}
_MNIST_COUNT = {"train": 60_000, "test": 10_000}
_SHIPPED = "mnist_train_10k.npy.gz"


@dataclass(frozen=True)
class Dataset:
    """Pictures and what is known of them.

    Attributes:
        images: uint8 `[N, C, H, W]`, 0 black to 255 white.
        labels: int64 `[N]`.
        name, split: which data, "train" or "test".
        classes: what each label stands for: a digit, a character.
    """

    images: Tensor
    labels: Tensor
    name: str
    split: str
    classes: tuple[str, ...] = tuple("0123456789")

    def __len__(self) -> int:
        return len(self.images)


def to_model(pixels: Tensor) -> Tensor:
    """Pixels to the range in which the network works: uint8 0..255 or floats in [0, 1] to floats in [-1, 1]."""
    if pixels.dtype == torch.uint8:
        return pixels.float().div_(127.5).sub_(1)
    return pixels * 2 - 1


def from_model(x: Tensor) -> Tensor:
    """The way back: [-1, 1] to [0, 1]. What lies outside, as samples may, is cut off."""
    return ((x + 1) / 2).clamp(0, 1)


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] to uint8 0..255, rounded; `to_uint8(to_model(p))` is p again."""
    return (from_model(x) * 255).round().to(torch.uint8)


def fingerprint(images: Tensor) -> str:
    """sha256 of shape and bytes of uint8 images, to tell data sets apart in provenance and on resume."""
    digest = hashlib.sha256(repr(tuple(images.shape)).encode())
    digest.update(images.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def load_dataset(
    name: str, root: str | Path | None = None, *, split: str = "train", limit: int | None = None
) -> Dataset:
    """Load a data set by name.

    Args:
        name: "mnist", "mnist-10k" (shipped), "brush-kanji" or "kuzushiji". All but MNIST have a training split only.
        root: folder in the data set's layout: torchvision's for MNIST, one that holds `kkanji2` for kanji. Without it
            MNIST is downloaded into a cache in the home directory, and kanji are looked for where `ddim data` puts them.
        split: "train" or "test".
        limit: keep the first `limit` pictures.

    Raises:
        UsageError: unknown name or split, limit < 1. DataError: files missing under `root`, or not the data they
        should be. UnavailableError: MNIST has to be downloaded and cannot be.
    """
    if name not in DATASETS:
        raise UsageError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    if split not in _MNIST_COUNT or (name != "mnist" and split != "train"):
        raise UsageError(f"data set {name!r} has no split {split!r}")
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1, got {limit}")
    if name in ("brush-kanji", "kuzushiji"):
        images, labels, characters = read_folder(CACHE / name if root is None else root, limit)
        return Dataset(images, labels, name, split, tuple(characters))
    images, labels = _shipped_mnist() if name == "mnist-10k" else _mnist(root, split)
    return Dataset(images[:limit], labels[:limit], name, split)


def _mnist(root: str | Path | None, split: str) -> tuple[Tensor, Tensor]:
    from torchvision.datasets import MNIST  # half a second of imports, needed here only

    folder = CACHE if root is None else Path(root).expanduser()
    try:
        mnist = MNIST(str(folder), train=split == "train", download=root is None)
    except Exception as error:  # torchvision raises many kinds for a missing, cut or foreign file
        reason = " ".join(str(error).split()) or type(error).__name__
        if root is None:
            raise UnavailableError(
                f"MNIST cannot be downloaded ({reason}): give a folder that has it with --data FOLDER, "
                "or use the 10,000 images that come with the package (--dataset mnist-10k)"
            ) from error
        raise DataError(
            f"no readable MNIST under {folder}/MNIST/raw ({reason}): it should hold the four idx files, "
            "as torchvision lays them out"
        ) from error
    images, labels = mnist.data[:, None], mnist.targets
    if tuple(images.shape) != (_MNIST_COUNT[split], 1, 28, 28) or len(labels) != len(images):
        raise DataError(
            f"{folder}/MNIST/raw: the {split} files hold {tuple(images.shape)} images and {len(labels)} labels instead of "
            f"{_MNIST_COUNT[split]} of 28x28: get them anew"
        )
    return images, labels


def _shipped_mnist() -> tuple[Tensor, Tensor]:
    assets = resources.files("ddim_core") / "assets"
    expected = json.loads((assets / "manifest.json").read_text())[_SHIPPED]["sha256"]
    raw = (assets / _SHIPPED).read_bytes()
    if hashlib.sha256(raw).hexdigest() != expected:
        raise DataError(f"{assets / _SHIPPED} is damaged (sha256 differs from the manifest): install the package again")
    table = torch.from_numpy(np.load(io.BytesIO(gzip.decompress(raw)), allow_pickle=False).copy())
    return table[:, 1:].reshape(-1, 1, 28, 28).contiguous(), table[:, 0].long()


def pack_shipped_mnist(root: str | Path) -> bytes:
    """The bytes of the shipped file: label and 784 pixels of each of the first 10,000 training images, gzipped."""
    data = load_dataset("mnist", root, limit=10_000)
    table = torch.cat([data.labels[:, None].to(torch.uint8), data.images.flatten(1)], dim=1)
    buffer = io.BytesIO()
    np.save(buffer, table.numpy())
    return gzip.compress(buffer.getvalue(), 9, mtime=0)
