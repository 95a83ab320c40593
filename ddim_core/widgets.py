"""Sliders over pictures that are already computed: they move in a built page, with no kernel behind it.

A slider does not call Python. It is linked, in the browser, to a stack of pictures of which one shows.
"""

import base64
import html
from collections.abc import Sequence

import ipywidgets
from PIL import Image

from .plots import png

__all__ = ["frame", "slider", "two_sliders"]


def frame(image: Image.Image | bytes, alt: str, *, width: int | None = None) -> ipywidgets.HTML:
    """One picture as a widget.

    Args:
        image: a PIL image or the bytes of a PNG. alt: what it shows, for readers who do not see it.
        width: in CSS pixels, the picture's own if left out; narrower where the page is.
    """
    data = image if isinstance(image, bytes) else png(image)
    # nearest neighbour keeps pixels square where a picture is enlarged, and breaks letters where it is made narrower
    style = f"width:{width}px;image-rendering:pixelated;" if width else ""
    return ipywidgets.HTML(
        f'<img class="frame" alt="{html.escape(alt, quote=True)}" style="{style}max-width:100%;height:auto" '
        f'src="data:image/png;base64,{base64.b64encode(data).decode()}">'
    )


def slider(
    frames: Sequence[Image.Image | bytes],
    labels: Sequence[str],
    alts: Sequence[str],
    *,
    name: str,
    start: int = 0,
    width: int | None = None,
) -> ipywidgets.VBox:
    """A slider with a picture for each of its positions.

    Args:
        frames: the pictures; labels: what the slider reads at each; alts: what each picture shows. All of one length.
        name: written before the slider (plain text: mathematics is not typeset there).
        start: position shown first. width: of the pictures, in CSS pixels.

    Raises:
        ValueError: lengths that differ, fewer than two pictures, a start outside them.
    """
    stack = _stack([frame(f, a, width=width) for f, a in _matched(frames, labels, alts)], start)
    control = _control(labels, name, start)
    link = ipywidgets.jslink((control, "index"), (stack, "selected_index"))
    return _box([control], stack, [link])


def two_sliders(
    frames: Sequence[Sequence[Image.Image | bytes]],
    labels: tuple[Sequence[str], Sequence[str]],
    alts: Sequence[Sequence[str]],
    *,
    names: tuple[str, str],
    start: tuple[int, int] = (0, 0),
    width: int | None = None,
) -> ipywidgets.VBox:
    """Two sliders over a table of pictures: `frames[i][j]` shows where the first is at i and the second at j.

    Arguments as in `slider`, for both. Raises ValueError as there.
    """
    if len(frames) != len(labels[0]) or len(alts) != len(frames):
        raise ValueError(f"{len(frames)} rows of pictures for {len(labels[0])} labels and {len(alts)} rows of alts")
    inner = [
        _stack([frame(f, a, width=width) for f, a in _matched(row, labels[1], row_alts)], start[1])
        for row, row_alts in zip(frames, alts, strict=True)
    ]
    outer = _stack(inner, start[0])
    first, second = _control(labels[0], names[0], start[0]), _control(labels[1], names[1], start[1])
    links = [ipywidgets.jslink((first, "index"), (outer, "selected_index"))]
    links += [ipywidgets.jsdlink((second, "index"), (stack, "selected_index")) for stack in inner]
    return _box([first, second], outer, links)


def _matched(frames, labels, alts):
    if not len(frames) == len(labels) == len(alts) or len(frames) < 2:
        raise ValueError(
            f"a slider needs two pictures or more, each with a label and an alt: got {len(frames)}, {len(labels)}, {len(alts)}"
        )
    return zip(frames, alts, strict=True)


def _stack(children: list[ipywidgets.Widget], start: int) -> ipywidgets.Stack:
    if not 0 <= start < len(children):
        raise ValueError(f"start must lie in 0..{len(children) - 1}, got {start}")
    return ipywidgets.Stack(children, selected_index=start)


def _control(labels: Sequence[str], name: str, start: int) -> ipywidgets.SelectionSlider:
    return ipywidgets.SelectionSlider(
        options=[(label, i) for i, label in enumerate(labels)],
        value=start,
        description=name,
        continuous_update=True,
        style={"description_width": "initial"},
        layout=ipywidgets.Layout(width="100%", max_width="560px"),
    )


def _box(controls: list[ipywidgets.Widget], picture: ipywidgets.Widget, links: list) -> ipywidgets.VBox:
    box = ipywidgets.VBox([*controls, picture])
    box.links = links  # a link dies with its last reference
    return box
