"""Figures made of images. Nothing here computes; it arranges.

Three colours mean the same thing everywhere: the image's share, the noise's share, what a model predicts.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .data import to_uint8

__all__ = ["NOISE", "PREDICTION", "SIGNAL", "png", "sheet_size", "show", "strip", "tile"]

# the colours of the image's share (blue), the noise's share (red), and what a model predicts (green)
SIGNAL, NOISE, PREDICTION = "#2166ac", "#d6604d", "#1b7837"


def tile(images: Tensor, columns: int = 8, *, pad: int = 2, scale: int = 1) -> Image.Image:
    """Arrange images in rows on a grey background.

    Args:
        images: `[N, 1 or 3, H, W]`, pixels in [-1, 1] (values outside are clipped), or uint8.
        columns: images per row. pad: grey pixels around each. scale: side of a pixel in the result.

    Raises:
        ValueError: a tensor of another shape, or columns < 1.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(f"images must be [N, 1 or 3, H, W] with N >= 1, got {tuple(images.shape)}")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    pixels = images if images.dtype == torch.uint8 else to_uint8(images.detach().float())
    pixels = pixels.cpu().numpy().transpose(0, 2, 3, 1)
    n, h, w, c = pixels.shape
    columns, (width, height) = min(columns, n), sheet_size(n, h, w, columns, pad)
    sheet = np.full((height, width, c), 128, np.uint8)
    for i in range(n):
        top, left = pad + i // columns * (h + pad), pad + i % columns * (w + pad)
        sheet[top : top + h, left : left + w] = pixels[i]
    image = Image.fromarray(sheet.squeeze(2) if c == 1 else sheet)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def sheet_size(n: int, height: int, width: int, columns: int, pad: int) -> tuple[int, int]:
    """(width, height) in pixels of what `tile` makes of n images of this height and width, before it is scaled."""
    columns = min(columns, n)
    return columns * (width + pad) + pad, -(-n // columns) * (height + pad) + pad


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG file, the same for the same image."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def show(images: Tensor, columns: int = 8, *, ax=None, title: str | None = None, pad: int = 2):
    """Draw images `[N, 1 or 3, H, W]` as `tile` arranges them, on matplotlib axes without ticks; returns the axes."""
    import matplotlib.pyplot as plt

    image = tile(images, columns, pad=pad)
    if ax is None:
        width = min(8.0, 0.9 * min(columns, len(images)))
        ax = plt.subplots(figsize=(width, width * image.height / image.width + (0.3 if title else 0)))[1]
    ax.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_axis_off()
    if title:
        ax.set_title(title)
    return ax


def strip(rows: Sequence[Tensor], labels: Sequence[str], *, names: Sequence[str] | None = None):
    """Rows of images, a label above each column, such as x_t at several times with x0_hat below; returns the figure.

    Args:
        rows: each `[N, 1 or 3, H, W]`, the same N.
        labels: N, above the columns. names: one per row, to its left.

    Raises:
        ValueError: counts that do not match.
    """
    import matplotlib.pyplot as plt

    n = len(labels)
    if any(len(row) != n for row in rows) or (names is not None and len(names) != len(rows)):
        raise ValueError(f"{n} labels need rows of {n} images, and as many names as rows, if any")
    side = 9.0 / (n + (0.8 if names else 0))
    figure, axes = plt.subplots(
        len(rows), n, figsize=(9.0, side * len(rows) + 0.25), squeeze=False, layout="compressed"
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)  # inches: the same gap on all sides
    for i, row in enumerate(rows):
        for ax, image in zip(axes[i], row, strict=True):
            ax.imshow(np.asarray(tile(image[None], pad=0)), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
        if names:
            axes[i, 0].set_ylabel(names[i], rotation=0, ha="right", va="center", fontsize=10)
    for ax, label in zip(axes[0], labels, strict=True):
        ax.set_title(label, fontsize=9)
    return figure
