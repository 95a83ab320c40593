"""What a slider carries, how Python moves it, and what it refuses. tests/book/test_slider.py moves it in a browser."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from traitlets import TraitError

from ddim_core.plots import png
from ddim_core.widgets import ImageSlider, slider, two_sliders


def grey(value):
    return Image.new("L", (4, 3), value)


def grey_of(frame):
    """The grey of an image that a slider carries."""
    image = Image.open(io.BytesIO(base64.b64decode(frame, validate=True)))
    assert image.format == "WEBP"
    pixels = np.asarray(image.convert("L"))
    assert pixels.shape == (3, 4)
    assert len(set(pixels.flat)) == 1
    return int(pixels[0, 0])


def five(**options):
    return slider([grey(i) for i in range(5)], list("abcde"), [f"alt {i}" for i in range(5)], name="step", **options)


def table(**options):
    frames = [[grey(10 * i + j) for j in range(3)] for i in range(2)]
    alts = [[f"{i} {j}" for j in range(3)] for i in range(2)]
    return two_sliders(frames, (["x", "y"], ["a", "b", "c"]), alts, names=("first", "second"), **options)


def test_a_slider_carries_its_images():
    box = five(start=3)
    state = box.get_state()
    assert state["names"] == ["step"]
    assert state["labels"] == [list("abcde")]
    assert [grey_of(frame) for frame in state["frames"]] == list(range(5))
    assert state["alts"] == [f"alt {i}" for i in range(5)]
    assert (state["index"], state["second_index"], state["width"]) == (3, 0, None)
    assert five(width=90).get_state()["width"] == 90
    assert five().index == 0


def test_two_sliders_carry_a_table_row_by_row():
    state = table(start=(1, 2)).get_state()
    assert state["names"] == ["first", "second"]
    assert state["labels"] == [["x", "y"], ["a", "b", "c"]]
    assert [grey_of(frame) for frame in state["frames"]] == [0, 1, 2, 10, 11, 12]
    assert state["alts"] == ["0 0", "0 1", "0 2", "1 0", "1 1", "1 2"]
    assert (state["index"], state["second_index"]) == (1, 2)
    assert table(width=90).get_state()["width"] == 90


def test_an_image_may_be_the_bytes_of_a_png():
    images = [grey(i) for i in range(3)]
    ways = [slider(some, list("abc"), list("123"), name="x").frames for some in (images, [png(i) for i in images])]
    assert ways[0] == ways[1]


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_no_pixel_changes(mode):
    noisy = Image.merge("RGB", [Image.effect_noise((40, 30), 90) for _ in range(3)]).quantize(48).convert(mode)
    for carried in slider([noisy, png(noisy)], list("ab"), list("12"), name="x").frames:
        image = Image.open(io.BytesIO(base64.b64decode(carried)))
        assert np.array_equal(np.asarray(image.convert("RGBA")), np.asarray(noisy.convert("RGBA")))


def test_labels_may_repeat():
    assert slider([grey(0)] * 3, ["same"] * 3, list("123"), name="x", start=1).index == 1


def test_python_moves_it_and_the_browser_hears(monkeypatch):
    sent = []
    monkeypatch.setattr(ImageSlider, "_send", lambda self, message, buffers=None: sent.append(message))
    box = table()
    sent.clear()
    box.index, box.second_index = 1, 2
    assert [message["state"] for message in sent if message["method"] == "update"] == [
        {"index": 1},
        {"second_index": 2},
    ]


def test_the_browser_moves_it_and_python_hears():
    box, heard = table(), []
    box.observe(lambda change: heard.append((change.name, change.new)), ["index", "second_index"])
    box.set_state({"index": 1})  # what a message from the browser calls
    box.set_state({"second_index": 2})
    assert heard == [("index", 1), ("second_index", 2)]
    assert (box.index, box.second_index) == (1, 2)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("index", 2, r"index must lie in 0\.\.1, got 2"),
        ("index", -1, r"index must lie in 0\.\.1, got -1"),
        ("index", "y", "expected an int"),
        ("index", 0.5, "expected an int"),
        ("index", None, "expected an int"),
        ("second_index", 3, r"second_index must lie in 0\.\.2, got 3"),
        ("second_index", -1, r"second_index must lie in 0\.\.2, got -1"),
    ],
)
@pytest.mark.parametrize("where", ["python", "browser"])
def test_there_is_no_such_position(where, name, value, says):
    box = table(start=(1, 1))
    with pytest.raises(TraitError, match=says):
        setattr(box, name, value) if where == "python" else box.set_state({name: value})
    assert (box.index, box.second_index) == (1, 1), "it stays where it was"


def test_one_slider_has_no_second():
    box = five()
    with pytest.raises(TraitError, match="second_index"):
        box.second_index = 1
    assert box.second_index == 0


@pytest.mark.parametrize("name", ["names", "labels", "frames", "alts", "width"])
def test_all_but_the_position_is_fixed(name):
    box = five()
    with pytest.raises(TraitError, match="read-only"):
        setattr(box, name, getattr(box, name))


def test_in_a_terminal_it_is_one_line():
    noisy = Image.effect_noise((200, 200), 60)
    box = slider([noisy] * 3, ["10", "20", "30"], ["", "", ""], name="steps S", start=1)
    assert len(box.frames[0]) > 10_000
    assert repr(box) == "<ImageSlider: steps S at 20; 3 images>"
    assert repr(table(start=(1, 2))) == "<ImageSlider: first at y, second at c; 6 images>"
    data = box._repr_mimebundle_()[0]
    assert data["text/plain"] == repr(box)
    assert len(str(data)) < 400


def test_the_state_holds_each_image_once_and_no_layout_of_its_own():
    box = five()
    state = str(box.get_state())
    assert [state.count(frame) for frame in box.frames] == [1] * 5
    assert not {key: value for key, value in box.layout.get_state().items() if key[0] != "_" and value is not None}


THREE = [grey(i) for i in range(3)]


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
    with pytest.raises(ValueError, match=r"a slider needs two images or more|start must lie in 0\.\.2"):
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
        (0, ([], ["a", "b", "c"]), 0, (0, 0)),
    ],
)
def test_two_sliders_that_cannot_be(rows, labels, alts, start):
    with pytest.raises(ValueError, match=r"rows of images|a slider needs|start must lie in"):
        two_sliders([THREE] * rows, labels, [["1", "2", "3"]] * alts, names=("a", "b"), start=start)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": ["a", 2, "c"]}, r"labels must be strings, got 2 \(int\): write str"),
        ({"labels": [0.5, "b", "c"]}, r"labels must be strings, got 0.5 \(float\)"),
        ({"labels": np.arange(3)}, r"labels must be strings, got np.int64\(0\) \(int64\)|got 0 \(int64\)"),
        ({"alts": ["1", None, "3"]}, r"alts must be strings, got None \(NoneType\)"),
        ({"name": 7}, r"name must be strings, got 7 \(int\)"),
    ],
)
def test_what_is_no_text_is_said_in_one_line(change, says):
    given = {"labels": list("abc"), "alts": list("123"), "name": "x"} | change
    with pytest.raises(TypeError, match=says) as e:
        slider(THREE, given["labels"], given["alts"], name=given["name"])
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": (["x", 1], list("abc"))},
        {"labels": (["x", "y"], [1, 2, 3])},
        {"alts": [["1", "2", 3]] * 2},
        {"names": ("a", 2)},
    ],
    ids=str,
)
def test_nor_in_two_sliders(change):
    given = {"labels": (["x", "y"], list("abc")), "alts": [list("123")] * 2, "names": ("a", "b")} | change
    with pytest.raises(TypeError, match=f"{next(iter(change))} must be strings, got"):
        two_sliders([THREE] * 2, given["labels"], given["alts"], names=given["names"])
