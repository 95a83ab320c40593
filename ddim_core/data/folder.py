"""Your own images: a folder of PNG, JPEG and WebP files, at any depth, as one tensor of squares of one size.

    FOLDER/dog/a.jpg  FOLDER/dog/old/b.png  FOLDER/cat/c.webp        subfolders are classes
    FOLDER/a.jpg  FOLDER/b.png                                       or there are none

Each image becomes a square of one resolution in four steps:

1. if it is animated, its first frame is taken; 16-bit grey values are scaled to 8 bits, CMYK and palettes converted to
   RGB;
2. what is transparent is put on white, the colour of paper;
3. the largest square in the middle is cut out, then made smaller or larger (Lanczos): whatever its shape, no image
   is distorted, and a small one is enlarged;
4. it is turned as the camera recorded (EXIF), then made grey if that is asked for; otherwise it has three channels,
   grey or not.

Images come in the order of their paths relative to the folder, part by part, on every system.
"""

import os
import stat
import unicodedata
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import DataError, UsageError

__all__ = ["Found", "class_of", "find_images", "is_hidden", "open_image", "read_images", "shown", "survey"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_FORMATS = ("PNG", "JPEG", "WEBP")
_LEFT_BEHIND = ("thumbs.db", "ehthumbs.db", "desktop.ini")  # by Windows; other systems' names begin with a dot
_TURNS = {  # EXIF's orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


_PASSED_OVER = {  # what a folder may hold beside images: singular, plural
    "hidden": ("hidden file", "hidden files"),
    "other": ("other file", "other files"),
    "empty": ("folder without images", "folders without images"),
    "back": ("link to a folder already read", "links to folders already read"),
}


@dataclass
class Found:
    """What a folder contains.

    Attributes:
        folder: its name, as given.
        images: their paths relative to it, in parts, in order.
        classes: subfolders that hold images, at any depth, in order; "." stands for the folder itself.
        passed_over: how many of each kind in `_PASSED_OVER`.
        suffixes: of the other files.
    """

    folder: str
    images: list[tuple[str, ...]] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    passed_over: Counter = field(default_factory=Counter)
    suffixes: set[str] = field(default_factory=set)

    def path(self, parts: tuple[str, ...]) -> str:
        return os.path.join(os.path.expanduser(self.folder), *parts)

    def note(self) -> str:
        """What was passed over, in words; empty if nothing was."""
        counts = [f"{n} {_PASSED_OVER[k][n > 1]}{self._kinds(k)}" for k in _PASSED_OVER if (n := self.passed_over[k])]
        return f"passed over: {', '.join(counts)}" if counts else ""

    def _kinds(self, kind: str) -> str:
        suffixes = sorted(self.suffixes) if kind == "other" else []
        return (
            f" ({', '.join(shown(s) for s in suffixes[:5])}{', ...' if len(suffixes) > 5 else ''})" if suffixes else ""
        )


def class_of(parts: tuple[str, ...]) -> str:
    """The class of the image with this path."""
    return parts[0] if len(parts) > 1 else "."


def is_hidden(name: str) -> bool:
    """Whether a file is one that its owner does not normally see: with a leading dot (`._a.png`), Thumbs.db, ..."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def shown(path: str | Path) -> str:
    """A path for a one-line message: what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


def _order(parts: tuple[str, ...]) -> tuple:
    # systems write an accented letter as one code point or as two
    return tuple(unicodedata.normalize("NFC", part) for part in parts), parts


def find_images(folder: str | Path) -> Found:
    """Look for images, by their suffixes, without opening them.

    Links to folders are followed, but no folder is read twice, nor any that contains this one.

    Raises:
        DataError: no such folder, one that cannot be read, or one without images.
    """
    found = Found(str(folder))
    root = found.path(())
    if not os.path.isdir(root):
        problem = "is not a folder" if os.path.exists(root) else "is not there"
        raise DataError(f"{shown(root)} {problem}: name a folder of images")
    real = os.path.realpath(root)
    seen, folders, waiting = {real}, set(), [((), real)]
    while waiting:
        parts, place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                for entry in sorted(entries, key=lambda e: e.name):
                    name = entry.name
                    if is_hidden(name):
                        found.passed_over["hidden"] += 1
                    elif name.lower().endswith(SUFFIXES):
                        found.images.append((*parts, name))
                    elif entry.is_dir():
                        target = os.path.realpath(entry.path)
                        if target in seen or (target != entry.path and _one_in_the_other(target, real)):
                            found.passed_over["back"] += 1
                            continue
                        seen.add(target)
                        folders.add((*parts, name)[0])
                        waiting.append(((*parts, name), target))
                    else:
                        found.passed_over["other"] += 1
                        found.suffixes.add(os.path.splitext(name)[1].lower() or name)
        except OSError as error:
            raise DataError(
                f"{shown(found.path(parts))} cannot be read ({error.strerror or error}): change its permissions or move it"
            ) from error
    found.images.sort(key=_order)
    names = {class_of(parts) for parts in found.images}
    found.classes = tuple(name for (name,) in sorted([(name,) for name in names], key=_order))
    found.passed_over["empty"] = len(folders - names)
    if not found.images:
        note = f" ({found.note()})" if found.note() else ""
        raise DataError(f"{shown(root)} holds no images{note}: put PNG, JPEG or WebP files there")
    return found


def _one_in_the_other(a: str, b: str) -> bool:
    return Path(a).is_relative_to(b) or Path(b).is_relative_to(a)


def open_image(path: str | Path) -> BinaryIO:
    """Open the file of an image. Raises DataError, which names it: a folder, a pipe, a broken link, no access."""
    try:
        mode = os.stat(path).st_mode  # a pipe must not even be opened: that would wait for its other end
        if stat.S_ISREG(mode):
            return open(path, "rb")
        problem = "is a folder, not an image" if stat.S_ISDIR(mode) else "is a pipe or a device, not an image"
    except FileNotFoundError:
        problem = "is a broken link" if os.path.islink(path) else "is no longer there"
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
    raise DataError(f"{shown(path)} {problem}: remove or rename it")


def read_images(
    found: Found, *, resolution: int, grey: bool = False, limit: int | None = None
) -> tuple[Tensor, Tensor, int]:
    """Read images one by one, each as a square: (uint8 `[N, C, R, R]`, labels int64 `[N]`, how many were enlarged).

    Args:
        found: of `find_images`.
        resolution: R. grey: C is 1, else 3.
        limit: only the first so many, in order, whatever their class.

    Raises:
        UsageError: a resolution below 1. DataError: an image that cannot be read, or more pixels than half of the
            machine's memory holds.
    """
    if not isinstance(resolution, int) or resolution < 1:
        raise UsageError(f"resolution must be an integer of at least 1, got {resolution!r}")
    paths = found.images[:limit]
    shape = (len(paths), 1 if grey else 3, resolution, resolution)
    size, memory = shape[0] * shape[1] * resolution**2, _memory()
    if memory is not None and size > memory // 2:
        raise DataError(
            f"{shown(found.folder)}: {len(paths)} images of {resolution}x{resolution} take {size / 2**30:,.1f} GiB, more "
            f"than half of this machine's {memory / 2**30:,.1f}: take fewer with --limit, or a smaller --resolution"
        )
    images = np.empty(shape, np.uint8)
    number = {name: label for label, name in enumerate(found.classes)}
    labels = torch.tensor([number[class_of(parts)] for parts in paths])
    enlarged = 0
    for image, parts in zip(images, paths, strict=True):
        image[...], (width, height), _ = _read(found.path(parts), resolution, grey)
        enlarged += min(width, height) < resolution
    return torch.from_numpy(images), labels, enlarged


def survey(found: Found) -> tuple[list[tuple[int, int]], int]:
    """Read every image, keep none: (width and height of each, how many are grey). Raises DataError as `read_images`."""
    read = [_read(found.path(parts), 1, False)[1:] for parts in found.images]
    return [size for size, _ in read], sum(grey for _, grey in read)


def _read(path: str, resolution: int, grey: bool) -> tuple[np.ndarray, tuple[int, int], bool]:
    """(uint8 `[C, R, R]`, width and height of the file's image, whether the file is grey)."""
    # what Pillow warns of, such as an image's size or its EXIF, either does not matter or is an error below
    with open_image(path) as file, warnings.catch_warnings(action="ignore"):
        try:
            with Image.open(file, formats=_FORMATS) as image:
                size, is_grey = image.size, image.mode in ("1", "L", "LA") or image.mode.startswith("I")
                image.draft(None, (2 * resolution, 2 * resolution))  # JPEG: decoded at no more than is needed
                image.load()
                square = ImageOps.fit(_opaque(image), (resolution, resolution), Image.Resampling.LANCZOS)
                if (turn := _orientation(image)) in _TURNS:
                    square = square.transpose(_TURNS[turn])
                pixels = np.asarray(square.convert("L" if grey else "RGB"))
            return (pixels[None] if grey else pixels.transpose(2, 0, 1)), size, is_grey
        except UnidentifiedImageError as error:
            raise DataError(f"{shown(path)} is not a PNG, JPEG or WebP image: remove it") from error
        except Exception as error:  # Pillow raises many kinds of error for a damaged, truncated or huge image
            reason = shown(" ".join(str(error).split()) or type(error).__name__)
            raise DataError(
                f"{shown(path)} cannot be read as an image ({reason}): remove it, or get it again"
            ) from error


def _opaque(image: Image.Image) -> Image.Image:
    """The image with 8 bits per channel, of mode L or RGB, on white where it is transparent."""
    if image.mode.startswith("I"):  # 16 bits
        values = np.asarray(image).astype(np.int64)
        pixels = ((values + 128) // 257).clip(0, 255).astype(np.uint8)
        pixels[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(pixels)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged record is no record
        return 1


def _memory() -> int | None:
    """Bytes of memory that this machine has; None if it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
