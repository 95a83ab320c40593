"""Images in rows: every pixel where it belongs."""

import io

import matplotlib as mpl
import numpy as np
import pytest
import torch
from helpers import randn
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ddim_core import plots
from ddim_core.data import to_uint8
from ddim_core.plots import png, show, strip, tile

mpl.use("agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def numbered(n, channels=1, h=3, w=2):
    """uint8 images of one value each."""
    return torch.arange(1, n + 1, dtype=torch.uint8).view(-1, 1, 1, 1).expand(n, channels, h, w).contiguous()


@given(
    n=st.integers(1, 12),
    columns=st.integers(1, 15),
    pad=st.integers(0, 3),
    scale=st.integers(1, 3),
    channels=st.sampled_from([1, 3]),
)
def test_every_pixel_is_an_image_or_the_background(n, columns, pad, scale, channels):
    images = torch.from_numpy(np.random.default_rng(n).integers(0, 256, (n, channels, 3, 2), dtype=np.uint8))
    sheet = tile(images, columns, pad=pad, scale=scale)
    c = min(columns, n)
    rows = -(-n // c)
    assert sheet.size == (scale * (c * (2 + pad) + pad), scale * (rows * (3 + pad) + pad))
    assert sheet.mode == ("L" if channels == 1 else "RGB")
    pixels = np.asarray(sheet).reshape(sheet.height, sheet.width, channels).copy()
    # each pixel is a square of its size
    small = pixels[::scale, ::scale].copy()
    np.testing.assert_array_equal(small.repeat(scale, 0).repeat(scale, 1), pixels)
    for i in range(n):
        top, left = pad + i // c * (3 + pad), pad + i % c * (2 + pad)
        np.testing.assert_array_equal(small[top : top + 3, left : left + 2], images[i].permute(1, 2, 0).numpy())
        small[top : top + 3, left : left + 2] = 128
    assert (small == 128).all(), "and the rest is grey"


def test_floats_are_cut_off_and_rounded():
    x = torch.tensor([-9.0, -1.0, 0.0, 0.5, 1.0, 9.0]).view(6, 1, 1, 1).requires_grad_()
    np.testing.assert_array_equal(np.asarray(tile(x, 6, pad=0))[0], to_uint8(x.detach()).flatten().numpy())
    assert np.asarray(tile(x.detach().double(), 6, pad=0))[0, [0, -1]].tolist() == [0, 255]


def test_tiling_leaves_the_images_alone():
    x = randn(2, 1, 4, 4)
    before = x.clone()
    tile(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", [(3, 4, 4), (0, 1, 4, 4), (2, 2, 4, 4), (2, 4, 4, 4), (4,)])
def test_what_is_no_image(shape):
    with pytest.raises(ValueError, match=r"images must be \[N, 1 or 3, H, W\]"):
        tile(torch.zeros(shape))


@pytest.mark.parametrize("columns", [0, -2])
def test_no_columns(columns):
    with pytest.raises(ValueError, match=f"columns must be at least 1, got {columns}"):
        tile(torch.zeros(2, 1, 4, 4), columns)


def test_png_bytes_are_the_image_and_the_same_each_time():
    sheet = tile(randn(5, 3, 4, 4), 3)
    data = png(sheet)
    assert data == png(tile(randn(5, 3, 4, 4), 3))
    assert data.startswith(b"\x89PNG")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(sheet))


def test_show_draws_what_tile_arranges():
    images = numbered(5)
    ax = show(images, 3, title="five")
    assert ax.get_title() == "five"
    assert not ax.axison
    np.testing.assert_array_equal(ax.images[0].get_array(), np.asarray(tile(images, 3)))
    assert ax.images[0].get_clim() == (0, 255), "values mean the same in every figure"
    own = plt.subplots()[1]
    assert show(images, ax=own) is own


def test_a_strip_has_an_image_for_each_label_and_row():
    rows = [numbered(3), numbered(3) + 10]
    figure = strip(rows, ["a", "b", "c"], names=["first", "second"])
    axes = np.array(figure.axes).reshape(2, 3)
    assert [ax.get_title() for ax in axes[0]] == ["a", "b", "c"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["first", "second"]
    for i, row in enumerate(rows):
        for j in range(3):
            assert (np.asarray(axes[i, j].images[0].get_array()) == row[j, 0].numpy()).all()
    assert len(strip([numbered(2, 3)], ["a", "b"]).axes) == 2


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_a_strip_has_the_same_gap_everywhere(rows):
    figure = strip([numbered(8)] * rows, [""] * 8, names=["a long name"] * rows)
    figure.canvas.draw()
    boxes = np.array([ax.get_window_extent().extents for ax in figure.axes]).reshape(rows, 8, 4)
    gaps = [*(boxes[:, 1:, 0] - boxes[:, :-1, 2]).ravel(), *(boxes[:-1, :, 1] - boxes[1:, :, 3]).ravel()]
    assert min(gaps) > 3
    assert max(gaps) < 6


@pytest.mark.parametrize(
    ("rows", "labels", "names"),
    [
        ([numbered(3)], ["a", "b"], None),
        ([numbered(2), numbered(3)], ["a", "b"], None),
        ([numbered(2)], ["a", "b"], ["x", "y"]),
    ],
)
def test_numbers_that_do_not_match(rows, labels, names):
    with pytest.raises(ValueError, match="labels need rows of"):
        strip(rows, labels, names=names)


def test_the_three_colours_differ():
    assert len({plots.SIGNAL, plots.NOISE, plots.PREDICTION}) == 3
    for colour in (plots.SIGNAL, plots.NOISE, plots.PREDICTION):
        luminance = 0.05 + sum(
            w * ((v / 12.92) if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4)
            for w, v in zip((0.2126, 0.7152, 0.0722), mpl.colors.to_rgb(colour), strict=True)
        )
        assert 1.05 / luminance > 3, "seen on white (WCAG's ratio for graphics)"
