"""Sliders that need no kernel: the links between the widgets are what moves the picture."""

import base64
import html
import io
import re

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from ddim_core.plots import png
from ddim_core.widgets import frame, slider, two_sliders


def picture(value):
    return Image.new("L", (4, 3), value)


def value_of(widget):
    """The grey of the picture that an HTML widget shows."""
    data = re.search(r'src="data:image/png;base64,([^"]+)"', widget.value)[1]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert pixels.shape == (3, 4)
    assert len(set(pixels.flat)) == 1
    return int(pixels[0, 0])


def assert_linked(link, source, target, both):
    assert link.source == (source, "index")
    assert link.target == (target, "selected_index")
    assert type(link).__name__ == ("Link" if both else "DirectionalLink")


def test_a_frame_is_the_picture():
    widget = frame(picture(7), "a grey")
    assert isinstance(widget, ipywidgets.HTML)
    assert value_of(widget) == 7
    assert widget.value == frame(png(picture(7)), "a grey").value, "from bytes as well"
    assert "width:90px" in frame(picture(7), "a", width=90).value
    assert "max-width:100%" in widget.value


def test_an_alt_text_may_hold_anything():
    alt = "x < 1 & \"quotes\" 'too' > é"
    found = re.search(r'alt="([^"]*)"', frame(picture(0), alt).value)[1]
    assert html.unescape(found) == alt


def test_a_slider_is_linked_to_its_pictures():
    box = slider([picture(i) for i in range(5)], list("abcde"), [f"alt {i}" for i in range(5)], name="step", start=3)
    control, stack = box.children
    assert isinstance(control, ipywidgets.SelectionSlider)
    assert isinstance(stack, ipywidgets.Stack)
    assert [value_of(child) for child in stack.children] == list(range(5))
    assert [f"alt {i}" in child.value for i, child in enumerate(stack.children)] == [True] * 5
    assert control.description == "step"
    assert [label for label, _ in control.options] == list("abcde")
    assert control.index == stack.selected_index == 3
    (link,) = box.links
    assert_linked(link, control, stack, both=True)


def test_two_sliders_are_linked_to_a_table_of_pictures():
    frames = [[picture(10 * i + j) for j in range(3)] for i in range(2)]
    alts = [[f"{i} {j}" for j in range(3)] for i in range(2)]
    box = two_sliders(frames, (["x", "y"], ["a", "b", "c"]), alts, names=("first", "second"), start=(1, 2))
    first, second, outer = box.children
    assert [first.description, second.description] == ["first", "second"]
    assert (first.index, second.index, outer.selected_index) == (1, 2, 1)
    assert [[value_of(w) for w in inner.children] for inner in outer.children] == [[0, 1, 2], [10, 11, 12]]
    assert [inner.selected_index for inner in outer.children] == [2, 2]
    assert_linked(box.links[0], first, outer, both=True)
    assert len(box.links) == 3
    for link, inner in zip(box.links[1:], outer.children, strict=True):
        assert_linked(link, second, inner, both=False)


THREE = [picture(i) for i in range(3)]


@pytest.mark.parametrize(
    ("frames", "labels", "alts", "start"),
    [
        (THREE, ["a", "b"], ["", "", ""], 0),
        (THREE, ["a", "b", "c"], ["1", "2"], 0),
        (THREE[:1], ["a"], ["1"], 0),
        ([], [], [], 0),
        (THREE, ["a", "b", "c"], ["1", "2", "3"], 3),
        (THREE, ["a", "b", "c"], ["1", "2", "3"], -1),
    ],
)
def test_a_slider_that_cannot_be(frames, labels, alts, start):
    with pytest.raises(ValueError, match=r"a slider needs two pictures or more|start must lie in 0\.\.2"):
        slider(frames, labels, alts, name="x", start=start)


@pytest.mark.parametrize(
    ("rows", "labels", "alts", "start"),
    [
        (1, (["x", "y"], ["a", "b", "c"]), 2, (0, 0)),
        (2, (["x"], ["a", "b", "c"]), 2, (0, 0)),
        (2, (["x", "y"], ["a", "b"]), 2, (0, 0)),
        (2, (["x", "y"], ["a", "b", "c"]), 1, (0, 0)),
        (2, (["x", "y"], ["a", "b", "c"]), 2, (2, 0)),
        (2, (["x", "y"], ["a", "b", "c"]), 2, (0, 3)),
    ],
)
def test_two_sliders_that_cannot_be(rows, labels, alts, start):
    with pytest.raises(ValueError, match=r"rows of pictures|a slider needs|start must lie in"):
        two_sliders([THREE] * rows, labels, [["1", "2", "3"]] * alts, names=("a", "b"), start=start)


def test_labels_may_repeat():
    box = slider(THREE, ["same", "same", "same"], ["1", "2", "3"], name="x", start=1)
    assert box.children[0].index == 1
