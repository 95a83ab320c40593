"""Data sets as uint8 tensors `[N, C, H, W]`, and the one place where pixels change their range.

MNIST is downloaded on demand into the cache, or taken from a folder; `mnist-10k` is the part of it that comes with the
package: see `mnist`. `brush-kanji` and `kuzushiji` are folders of 64x64 images: see `kanji`. Any other folder of images
is a data set, too: see `folder`.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..cache import cache
from ..errors import DataError, UsageError
from .folder import find_images, read_images, shown
from .kanji import read_folder
from .mnist import read_mnist, read_shipped

__all__ = [
    "DATASETS",
    "Dataset",
    "fingerprint",
    "from_model",
    "is_folder",
    "load_dataset",
    "shown",
    "to_model",
    "to_uint8",
]

# the data sets that are known by name
DATASETS = ("mnist", "mnist-10k", "brush-kanji", "kuzushiji")
ATTRIBUTION = {
    "mnist": "MNIST, Y. LeCun, C. Cortes, C. Burges; CC BY-SA 3.0",
    "mnist-10k": "MNIST, Y. LeCun, C. Cortes, C. Burges; CC BY-SA 3.0",
    "brush-kanji": "Brush fonts by Kouzan and Soseki Aoyagi; public domain",
    "kuzushiji": '"KMNIST Dataset" (created by CODH), adapted from "Kuzushiji Dataset" (created by NIJL and others), '
    "doi:10.20676/00000341; CC BY-SA 4.0",
}


@dataclass(frozen=True)
class Dataset:
    """Images, and what is known about them.

    Attributes:
        images: uint8 `[N, C, H, W]`, 0 black to 255 white.
        labels: int64 `[N]`.
        name, split: which data, "train" or "test". A folder's name is the one that was asked for.
        classes: what each label stands for: a digit, a character, a subfolder ("." for the folder itself).
        notes: what is worth saying: what was passed over in a folder, and how many of its images were enlarged; that
            files in the layout of MNIST are not the original.
    """

    images: Tensor
    labels: Tensor
    name: str
    split: str
    classes: tuple[str, ...] = tuple("0123456789")
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)


def to_model(pixels: Tensor) -> Tensor:
    """Pixels in the range that the network works in: uint8 0..255 or floats in [0, 1] to floats in [-1, 1], of any shape."""
    if pixels.dtype == torch.uint8:
        return pixels.float().div_(127.5).sub_(1)
    return pixels * 2 - 1


def from_model(x: Tensor) -> Tensor:
    """The way back: [-1, 1] to [0, 1], of any shape. Values outside, which samples may have, are clipped."""
    return ((x + 1) / 2).clamp(0, 1)


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] to uint8 0..255, rounded, of any shape; `to_uint8(to_model(p))` is p again."""
    return (from_model(x) * 255).round().to(torch.uint8)


def fingerprint(images: Tensor) -> str:
    """sha256 of shape and bytes of uint8 images, to tell data sets apart in provenance and on resume."""
    digest = hashlib.sha256(repr(tuple(images.shape)).encode())
    digest.update(images.contiguous().cpu().numpy())
    return digest.hexdigest()


def is_folder(name: str | Path) -> bool:
    """Whether a data set is a folder of images rather than known by its name.

    Known names take precedence over folders of that name; a path with a separator in it (`./mnist`), or a `Path`, is a
    folder.

    Raises:
        DataError: it can only be a folder, and is not one. UsageError: it is neither a known name nor a folder.
    """
    if name in DATASETS:
        return False
    place = os.path.expanduser(name)
    if name and os.path.isdir(place):
        return True
    if name and os.path.exists(place):
        raise DataError(f"{shown(place)} is not a folder: name the folder that holds the images")
    if isinstance(name, Path) or any(s in name for s in (os.sep, os.altsep) if s):
        raise DataError(f"{shown(place)} is not there: name a folder of images")
    raise UsageError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}, or name a folder of images")


def load_dataset(
    name: str | Path,
    root: str | Path | None = None,
    *,
    split: str = "train",
    limit: int | None = None,
    resolution: int | None = None,
    grey: bool = False,
) -> Dataset:
    """Load a data set by name, or a folder of images.

    Args:
        name: "mnist", "mnist-10k" (shipped), "brush-kanji" or "kuzushiji", or a folder, see `is_folder` and `folder`.
            All but MNIST have a training split only.
        root: folder in the layout of MNIST (torchvision's) or of kanji (one that holds `kkanji2`), for no other. By
            default MNIST is downloaded into the cache, and again if it is damaged there; kanji are looked for where
            `ddim data` puts them. In a folder given here, other digits in MNIST's files are accepted, with a note.
        split: "train" or "test".
        limit: keep the first `limit` images, in order, whatever their class.
        resolution, grey: for the images of a folder, which has no resolution of its own; for nothing else.

    Raises:
        UsageError: unknown name or split, limit < 1, a folder without a resolution, or options that do not apply to
            this data set. DataError: files missing under `root`, or not the data they should be; an image that cannot
            be read. UnavailableError: MNIST has to be downloaded and cannot be. DiskError: it cannot be written.
    """
    folder = is_folder(name)
    if split not in ("train", "test") or (name != "mnist" and split != "train"):
        raise UsageError(f"data set {str(name)!r} has no split {split!r}")
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1, got {limit}")
    if folder:
        if root is not None:
            raise UsageError(f"--data is for a data set known by name, not for the folder {shown(name)}: leave it out")
        if resolution is None:
            raise UsageError(f"the images of {shown(name)} need a resolution: give resolution=N")
        return _own_images(name, limit, resolution, grey)
    if resolution is not None or grey:
        raise UsageError(f"--resolution and --grey are for a folder of images, not for {name!r}: leave them out")
    if name in ("brush-kanji", "kuzushiji"):
        images, labels, characters = read_folder(cache() / name if root is None else root, limit)
        return Dataset(images, labels, name, split, tuple(characters))
    note = ""
    if name == "mnist-10k":
        if root is not None:
            raise UsageError("--data is for data sets in a folder, and mnist-10k comes with the package: leave it out")
        images, labels = read_shipped()
    else:
        images, labels, note = read_mnist(cache() if root is None else root, split, download=root is None)
    return Dataset(images[:limit], labels[:limit], name, split, notes=(note,) if note else ())


def _own_images(name: str | Path, limit: int | None, resolution: int, grey: bool) -> Dataset:
    found = find_images(name)
    images, labels, enlarged = read_images(found, resolution=resolution, grey=grey, limit=limit)
    size = f"{resolution}x{resolution}"
    notes = [found.note(), f"enlarged: {enlarged} of {len(images)} images, smaller than {size}" if enlarged else ""]
    return Dataset(images, labels, str(name), "train", found.classes, tuple(note for note in notes if note))
