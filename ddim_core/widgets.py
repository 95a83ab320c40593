"""Sliders over images that are already computed: they work in a notebook, and in a built page with no kernel.

A slider carries its images and draws itself in the browser (`widgets.js`, `widgets.css`); moving it needs no Python. If
a kernel is running, `index` follows the slider, and the slider follows `index`.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import anywidget
from PIL import Image
from traitlets import Int, List, TraitError, Unicode, validate

__all__ = ["ImageSlider", "slider", "two_sliders"]

HERE = Path(__file__).parent


class ImageSlider(anywidget.AnyWidget):
    """What `slider` and `two_sliders` return: one slider or two, and the image that belongs to their position.

    `box.index = 3` moves the first slider and `box.second_index = 1` the second, in every view of it; a TraitError says
    so if there is no such position. Both can be observed, as any trait can. All else is fixed when the slider is made.
    """

    _esm = (HERE / "widgets.js").read_text(encoding="utf-8")
    _css = (HERE / "widgets.css").read_text(encoding="utf-8")

    names = List(Unicode(), read_only=True).tag(sync=True)  # one or two
    labels = List(List(Unicode()), read_only=True).tag(sync=True)  # of each slider
    # WebP in base64, a row for each position of the first slider
    frames = List(Unicode(), read_only=True).tag(sync=True)
    alts = List(Unicode(), read_only=True).tag(sync=True)  # in the same order
    width = Int(None, allow_none=True, read_only=True).tag(sync=True)
    index = Int().tag(sync=True)
    second_index = Int().tag(sync=True)

    def __init__(self, *, index: int, second_index: int = 0, **fixed: object) -> None:
        for name, value in fixed.items():
            self.set_trait(name, value)
        super().__init__(index=index, second_index=second_index)

    @validate("index", "second_index")
    def _is_a_position(self, proposal) -> int:
        which = ("index", "second_index").index(proposal.trait.name)
        count = len(self.labels[which]) if which < len(self.labels) else 1
        if not 0 <= proposal.value < count:
            raise TraitError(f"{proposal.trait.name} must lie in 0..{count - 1}, got {proposal.value}")
        return proposal.value

    def __repr__(self) -> str:
        at = zip(self.names, self.labels, (self.index, self.second_index), strict=False)
        stand = ", ".join(f"{name} at {labels[i]}" for name, labels, i in at)
        return f"<{type(self).__name__}: {stand}; {len(self.frames)} images>"


def slider(
    frames: Sequence[Image.Image | bytes],
    labels: Sequence[str],
    alts: Sequence[str],
    *,
    name: str,
    start: int = 0,
    width: int | None = None,
) -> ImageSlider:
    """A slider with an image for each of its positions.

    Args:
        frames: the images, as PIL images or the bytes of PNGs; labels: what the slider reads at each; alts: what each
            image shows, for readers who cannot see it. All of the same length.
        name: written before the slider (plain text: mathematics is not typeset there).
        start: position shown first; later `index`. width: of the images, in CSS pixels; by default their own; less if
            the page is narrower.

    Raises:
        ValueError: lengths that differ, fewer than two images, a start outside them. TypeError: texts
            that are not strings.
    """
    _check(frames, labels, alts, start)
    _check_texts({"name": [name], "labels": labels, "alts": alts})
    return ImageSlider(
        names=[name],
        labels=[list(labels)],
        frames=[_webp(frame) for frame in frames],
        alts=list(alts),
        width=width,
        index=start,
    )


def two_sliders(
    frames: Sequence[Sequence[Image.Image | bytes]],
    labels: tuple[Sequence[str], Sequence[str]],
    alts: Sequence[Sequence[str]],
    *,
    names: tuple[str, str],
    start: tuple[int, int] = (0, 0),
    width: int | None = None,
) -> ImageSlider:
    """Two sliders over a table of images: `frames[i][j]` shows where the first is at i and the second at j.

    Arguments and errors as in `slider`, for both; their positions are `index` and `second_index`.
    """
    if len(frames) != len(labels[0]) or len(alts) != len(frames):
        raise ValueError(f"{len(frames)} rows of images for {len(labels[0])} labels and {len(alts)} rows of alts")
    _check_start(start[0], len(frames))
    for row, row_alts in zip(frames, alts, strict=True):
        _check(row, labels[1], row_alts, start[1])
    _check_texts({"names": names, "labels": [*labels[0], *labels[1]], "alts": [alt for row in alts for alt in row]})
    return ImageSlider(
        names=list(names),
        labels=[list(some) for some in labels],
        frames=[_webp(frame) for row in frames for frame in row],
        alts=[alt for row in alts for alt in row],
        width=width,
        index=start[0],
        second_index=start[1],
    )


def _webp(frame: Image.Image | bytes) -> str:
    """The image as WebP in base64, each pixel as it was: 10 % to 50 % smaller than as a PNG."""
    image = Image.open(io.BytesIO(frame)) if isinstance(frame, bytes) else frame
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", lossless=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _check(frames: Sequence, labels: Sequence, alts: Sequence, start: int) -> None:
    if not len(frames) == len(labels) == len(alts) or len(frames) < 2:
        raise ValueError(
            f"a slider needs two images or more, each with a label and an alt: got {len(frames)}, {len(labels)}, {len(alts)}"
        )
    _check_start(start, len(frames))


def _check_texts(texts: dict[str, Sequence]) -> None:
    for what, some in texts.items():
        for text in some:
            if not isinstance(text, str):
                raise TypeError(f"{what} must be strings, got {text!r} ({type(text).__name__}): write str(...)")


def _check_start(start: int, count: int) -> None:
    if not 0 <= start < count:
        raise ValueError(f"start must lie in 0..{count - 1}, got {start}")
