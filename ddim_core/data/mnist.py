"""MNIST: read by torchvision, downloaded on demand or taken from a folder in its layout (`FOLDER/MNIST/raw/...`).

The first 10,000 of its training images come with the package, for machines with no network.
"""

import gzip
import hashlib
import io
import json
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, UnavailableError

__all__ = ["COUNT", "pack_shipped", "read_mnist", "read_shipped"]

COUNT = {"train": 60_000, "test": 10_000}
_SHIPPED = "mnist_train_10k.npy.gz"


def read_mnist(folder: str | Path, split: str, *, download: bool) -> tuple[Tensor, Tensor]:
    """(uint8 `[N, 1, 28, 28]`, labels int64 `[N]`) of a split, "train" or "test".

    Args:
        folder: in torchvision's layout. download: fetch what is missing there.

    Raises:
        UnavailableError: it has to be downloaded and cannot be. DataError: files missing or not what they should be.
    """
    from torchvision.datasets import MNIST  # half a second of imports, needed here only

    folder = Path(folder).expanduser()
    try:
        mnist = MNIST(str(folder), train=split == "train", download=download)
    except Exception as error:  # torchvision raises many kinds for a missing, cut or foreign file
        reason = " ".join(str(error).split()) or type(error).__name__
        if download:
            raise UnavailableError(
                f"MNIST cannot be downloaded ({reason}): give a folder that has it with --data FOLDER, "
                "or use the 10,000 images that come with the package (--dataset mnist-10k)"
            ) from error
        raise DataError(
            f"no readable MNIST under {folder}/MNIST/raw ({reason}): it should hold the four idx files, "
            "as torchvision lays them out"
        ) from error
    images, labels = mnist.data[:, None], mnist.targets
    if tuple(images.shape) != (COUNT[split], 1, 28, 28) or len(labels) != len(images):
        raise DataError(
            f"{folder}/MNIST/raw: the {split} files hold {tuple(images.shape)} images and {len(labels)} labels instead of "
            f"{COUNT[split]} of 28x28: get them anew"
        )
    return images, labels


def read_shipped() -> tuple[Tensor, Tensor]:
    """(uint8 `[10000, 1, 28, 28]`, labels int64 `[10000]`), verified. Raises DataError: the file is damaged."""
    assets = resources.files("ddim_core") / "assets"
    expected = json.loads((assets / "manifest.json").read_text())[_SHIPPED]["sha256"]
    raw = (assets / _SHIPPED).read_bytes()
    if hashlib.sha256(raw).hexdigest() != expected:
        raise DataError(f"{assets / _SHIPPED} is damaged (sha256 differs from the manifest): install the package again")
    table = torch.from_numpy(np.load(io.BytesIO(gzip.decompress(raw)), allow_pickle=False).copy())
    return table[:, 1:].reshape(-1, 1, 28, 28).contiguous(), table[:, 0].long()


def pack_shipped(images: Tensor, labels: Tensor) -> bytes:
    """The bytes of the shipped file: label and 784 pixels of each of the first 10,000 training images, gzipped."""
    table = torch.cat([labels[:10_000, None].to(torch.uint8), images[:10_000].flatten(1)], dim=1)
    buffer = io.BytesIO()
    np.save(buffer, table.numpy())
    return gzip.compress(buffer.getvalue(), 9, mtime=0)
