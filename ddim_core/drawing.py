"""Images drawn from weights and written as they are drawn: a sheet (PNG), or an array (.npy) of any length."""

import copy
import io
import math
import os
import shutil
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .adapt import image_shape
from .device import choose_amp, choose_device, enough_memory
from .errors import DiskError, NonFiniteError, UsageError
from .files import check_writable, write_atomically
from .plots import png, sheet_size, tile
from .weights.formats import build, read
from .weights.registry import resolve

__all__ = ["Drawing", "write"]

_PAD, _SCALE = 2, 2  # of the images in a PNG


class Drawing:
    """n images for one seed, drawn batch by batch.

    Args:
        weights: a name or path, see `weights.load`. n: how many images.
        batch_size: images drawn at once. device, amp: by name, see `device`.
        options: steps, seed, noise, eta, order, spacing, clip, as in `generate`.

    Attributes:
        shape: `(C, H, W)` of one. device, amp: which were chosen.
        note: what is to be said of the weights, or "".

    Raises:
        UsageError: numbers out of range, a device or arithmetic that is not available. Otherwise as `weights.load`.
    """

    def __init__(
        self, weights: str, n: int, *, batch_size: int = 64, device: str | None = None, amp: str = "fp32", **options
    ):
        if n < 1 or batch_size < 1:
            raise UsageError(f"n and batch_size must be at least 1, got {n} and {batch_size}")
        if n > sys.maxsize:
            raise UsageError(f"n must be at most {sys.maxsize}")
        self.weights, self.n, self.batch_size, self.options = weights, n, batch_size, options
        self.device = choose_device(device)
        self.amp = choose_amp(self.device, amp)
        path, tensors, description = read(resolve(weights))
        self.model, self.schedule = build(path, tensors, description, self.device)
        self.shape = image_shape(self.model)
        self.note = f"{path}: {description['note']}" if "note" in description else ""

    def with_options(self, n: int, **options) -> "Drawing":
        """n images of the same network, drawn with other options."""
        other = copy.copy(self)
        other.n, other.options = n, options
        return other

    @property
    def calls(self) -> int:
        """How many times the network is called, for a batch each."""
        return -(-self.n // self.batch_size) * self.options.get("steps", 50)

    def batches(self, progress: Callable[[], object] | None = None) -> Iterator[Tensor]:
        """The images, `[B, C, H, W]` on the CPU, pixels in [-1, 1].

        Args:
            progress: called after each call of the network; left out, a bar shows where standard error is a terminal.

        Raises:
            NonFiniteError: an image with values that are not finite. UsageError: memory runs out. Otherwise as
                `generate`.
        """
        from tqdm import tqdm

        from .sample import generate

        options = {**self.options, "amp": self.amp, "batch_size": self.batch_size}
        with tqdm(total=self.calls, unit="step", disable=True if progress else None, dynamic_ncols=True) as bar:
            for first in range(0, self.n, self.batch_size):
                n = min(self.batch_size, self.n - first)
                with enough_memory("draw fewer images at once with --batch-size"):
                    images = generate(
                        self.model, self.schedule, n, first=first, progress=progress or bar.update, **options
                    ).cpu()
                if not bool(images.isfinite().all()):
                    raise self._not_finite()
                yield images

    def _not_finite(self) -> NonFiniteError:
        name, tensor = max(self.model.state_dict().items(), key=lambda item: item[1].abs().max().item())
        cause = f"{self.amp}; the largest number in the network is {tensor.abs().max().item():.3g}, in {name!r}"
        remedy = "use other weights" if self.amp == "fp32" else "use --amp fp32, or other weights"
        return NonFiniteError(f"the images of {self.weights} are not finite ({cause}): {remedy}")


def write(drawing: Drawing, out: str | Path, columns: int | None = None) -> None:
    """Draw into a file, which appears once all images are in it.

    Args:
        out: FILE.png, a sheet of all images; or FILE.npy, float32 `[n, C, H, W]` in [-1, 1], one batch at a time
            in memory. ~ is the home directory.
        columns: images per row of the sheet; by default, as many as rows.

    Raises:
        UsageError: another kind of file, columns < 1, more images than a sheet holds, or such as are not grey or in
            colour. DiskError: it cannot be written; unless the disk runs full, that is known before anything is drawn.
            Otherwise as `Drawing.batches`.
    """
    out = check_out(out, columns)
    if _is_png(out):
        _check_sheet(drawing, columns)
    check_writable(out)
    with closing(drawing.batches()) as batches:
        write_atomically(out, _png(drawing, batches, columns) if _is_png(out) else _npy(drawing, batches, out))


def check_out(out: str | Path, columns: int | None = None) -> Path:
    """The file to write to. Raises UsageError as `write`."""
    out = Path(os.path.expanduser(out))
    if not _is_png(out) and out.suffix.lower() != ".npy":
        raise UsageError(f"--out must end in .png or .npy, got {out}")
    if columns is not None and columns < 1:
        raise UsageError(f"--columns must be at least 1, got {columns}")
    return out


def _is_png(out: Path) -> bool:
    return out.suffix.lower() == ".png"


def _check_sheet(drawing: Drawing, columns: int | None) -> None:
    """Raise UsageError unless the images can be tiled, and the sheet is one that Pillow opens without a warning."""
    channels, height, width = drawing.shape
    if channels not in (1, 3):
        raise UsageError(f"a PNG holds images of 1 or 3 channels, {drawing.weights} draws {channels}: --out FILE.npy")

    def pixels(n: int) -> int:
        return _SCALE**2 * math.prod(sheet_size(n, height, width, _columns(n, columns), _PAD))

    if pixels(drawing.n) > Image.MAX_IMAGE_PIXELS:
        most = bisect_right(range(1, drawing.n), Image.MAX_IMAGE_PIXELS, key=pixels)
        fewer = f"--n {most} at most, or " if most else ""
        raise UsageError(f"{drawing.n} images are too many for one PNG: {fewer}--out FILE.npy")


def _columns(n: int, given: int | None) -> int:
    return math.isqrt(n - 1) + 1 if given is None else given  # the square root of n, rounded up


def _png(drawing: Drawing, batches: Iterator[Tensor], columns: int | None) -> bytes:
    with enough_memory("draw fewer with --n, or write --out FILE.npy"):
        images = torch.cat(list(batches))
        return png(tile(images, columns=_columns(drawing.n, columns), pad=_PAD, scale=_SCALE))


def _npy(drawing: Drawing, batches: Iterator[Tensor], out: Path) -> Iterator[bytes]:
    """The parts of a .npy file, its header first."""
    shape = (drawing.n, *drawing.shape)
    size, folder = 4 * math.prod(shape), next(p for p in out.absolute().parents if p.exists())
    if size > (free := shutil.disk_usage(folder).free):
        raise DiskError(f"cannot write {out} ({size / 1e9:.1f} GB, and {free / 1e9:.1f} are free): draw fewer with --n")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    first = next(batches)  # before the file is opened: an option out of range is noticed here
    return chain([header.getvalue()], (batch.numpy().astype("<f4").tobytes() for batch in chain([first], batches)))
