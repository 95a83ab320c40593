"""Pixels there and back, and what can be asked for."""

import pytest
import torch
from helpers import seeded
from hypothesis import given
from hypothesis import strategies as st

from ddim_core.data import fingerprint, from_model, load_dataset, to_model, to_uint8
from ddim_core.errors import UsageError

ALL = torch.arange(256, dtype=torch.uint8)


def test_all_256_values_come_back_exactly():
    assert torch.equal(to_uint8(to_model(ALL)), ALL)
    assert torch.equal(to_uint8(to_model(ALL.float() / 255)), ALL)
    assert torch.equal(to_uint8(to_model(ALL.double() / 255)), ALL)
    assert torch.equal((from_model(to_model(ALL)) * 255).round().to(torch.uint8), ALL)


def test_black_is_minus_one_and_white_is_one():
    x = to_model(ALL)
    assert x.dtype == torch.float32
    assert x[0] == -1
    assert x[255] == 1
    torch.testing.assert_close(x, torch.linspace(-1, 1, 256), rtol=0, atol=1e-6)
    torch.testing.assert_close(from_model(x), ALL / 255, rtol=0, atol=1e-6)


def test_the_range_is_changed_in_a_copy():
    for pixels in (ALL.clone(), torch.rand(5, generator=seeded())):
        before = pixels.clone()
        to_model(pixels)
        assert torch.equal(pixels, before)
    x = torch.tensor([-3.0, 3.0])
    from_model(x), to_uint8(x)
    assert x.tolist() == [-3, 3]


@given(st.floats(-1e6, 1e6))
def test_what_lies_outside_is_cut_off(value):
    x = torch.tensor(value)
    assert 0 <= from_model(x) <= 1
    assert int(to_uint8(x)) == round(min(max((value + 1) / 2, 0), 1) * 255) or abs(value) < 1


def test_float64_stays_float64():
    x = to_model(torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64))
    assert x.dtype == from_model(x).dtype == torch.float64


def test_a_fingerprint_tells_bytes_and_shapes_apart():
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    assert fingerprint(images) == fingerprint(images.clone())
    other = images.clone()
    other[3, 0, 1, 1] = 1
    assert (
        len({fingerprint(x) for x in (images, other, images[:3], images.view(4, 1, 4, 1), images.view(2, 2, 2, 2))})
        == 5
    )
    # how the tensor lies in memory does not count
    turned = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).mT
    assert fingerprint(turned) == fingerprint(turned.contiguous())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mnits"}, "unknown data set 'mnits': choose one of mnist, mnist-10k"),
        ({"name": ""}, "unknown data set ''"),
        (
            {"name": "mnist-10k", "root": "x"},
            "--data is for data sets in a folder, and mnist-10k comes with the package",
        ),
        ({"name": "mnist-10k", "split": "test"}, "has no split 'test'"),
        ({"name": "mnist", "split": "valid"}, "has no split 'valid'"),
        ({"name": "mnist-10k", "limit": 0}, "limit must be at least 1, got 0"),
        ({"name": "mnist-10k", "limit": -5}, "limit must be at least 1, got -5"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for(options, message):
    with pytest.raises(UsageError, match=message):
        load_dataset(**options)
