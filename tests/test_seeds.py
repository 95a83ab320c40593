"""Seeds, and noise per image."""

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddim_core import Schedule, generate
from ddim_core.oracle import GaussianDenoiser
from ddim_core.seeds import derive_seed, image_generators, image_noise, threefry


def test_a_seed_is_the_same_for_ever():
    """Pinned: another value would change every image that the book shows."""
    assert derive_seed(0, 1) == 2918264622725855778
    assert derive_seed(123, 4, 5) == 5379214002083371770


def test_seeds_of_neighbours_are_unrelated():
    seeds = {derive_seed(*key) for key in itertools.product(range(1, 21), repeat=3)}
    assert len(seeds) == 20**3
    assert all(0 <= s < 2**63 for s in seeds)
    ones = sum(bin(s).count("1") for s in seeds) / (63 * len(seeds))
    assert ones == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("key", [(-1,), (0, -1), (3, -2, 5)])
def test_negative_seeds_are_refused(key):
    with pytest.raises(ValueError, match="must not be negative"):
        derive_seed(*key)


@given(seed=st.integers(0, 2**31), n=st.integers(1, 6), first=st.integers(0, 100))
def test_noise_of_an_image_depends_on_seed_and_number_only(seed, n, first):
    noise = image_noise(image_generators(seed, n, first), (1, 3, 2))
    for i in range(n):
        alone = image_noise(image_generators(seed, 1, first + i), (1, 3, 2))
        assert torch.equal(noise[i], alone[0])
    assert noise.shape == (n, 1, 3, 2)
    assert noise.dtype == torch.float32


def test_noise_is_standard_normal_and_differs_by_image_and_seed():
    noise = image_noise(image_generators(3, 64), (1, 28, 28))
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    correlation = torch.corrcoef(torch.cat([noise, image_noise(image_generators(4, 64), (1, 28, 28))]).flatten(1))
    assert (correlation - torch.eye(128)).abs().max() < 0.2


def test_float64_noise_is_the_same_noise():
    single = image_noise(image_generators(0, 2), (5,))
    double = image_noise(image_generators(0, 2), (5,), torch.empty(0, dtype=torch.float64))
    assert double.dtype == torch.float64
    assert torch.equal(double.float(), single)


def test_generators_go_on():
    generators = image_generators(0, 2)
    first, second = image_noise(generators, (4,)), image_noise(generators, (4,))
    assert not torch.equal(first, second)


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    image_noise(image_generators(0, 3), (4,))
    assert torch.equal(before, torch.get_rng_state())


# --- the noise that browsers have too ------------------------------------------------------------------------------

# of the generator's authors (Random123, kat_vectors): counter, key, result
KNOWN = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_threefry_gives_the_known_answers(counter, key, result):
    x, y = threefry(key, *(np.array([c], np.uint32) for c in counter))
    assert (int(x[0]), int(y[0])) == result


def test_noise_for_browsers_is_the_same_for_ever():
    """Pinned: book/_static/live/core.js must draw these, and every seed in a reader's notes would change."""
    (first,) = image_generators(5, 1, 2, "js")
    assert first.normal((4,)).tolist() == pytest.approx([-1.5051292, 1.565024, 0.03229725, -0.1073737], abs=1e-6)
    assert first.normal((3,)).tolist() == pytest.approx([0.06175694, 0.18308727, 0.85436237], abs=1e-6)


def test_noise_for_browsers_is_standard_normal_and_differs_by_image_seed_and_draw():
    generators = image_generators(3, 64, noise="js")
    noise, later = (image_noise(generators, (1, 28, 28)) for _ in range(2))
    other = image_noise(image_generators(4, 64, noise="js"), (1, 28, 28))
    assert noise.dtype == torch.float32
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert (noise.abs() < 1).float().mean().item() == pytest.approx(0.6827, abs=0.01)
    correlation = torch.corrcoef(torch.cat([noise, later, other]).flatten(1))
    assert (correlation - torch.eye(192)).abs().max() < 0.2


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 4), first=st.integers(0, 100))
def test_noise_for_browsers_depends_on_seed_and_number_only(seed, n, first):
    noise = image_noise(image_generators(seed, n, first, "js"), (1, 3, 2))
    for i in range(n):
        assert torch.equal(noise[i], image_noise(image_generators(seed, 1, first + i, "js"), (1, 3, 2))[0])


def test_generate_takes_it():
    model, schedule = GaussianDenoiser(0.0, 0.5, s := Schedule.linear()), s
    options = {"steps": 4, "seed": 7, "eta": 1.0, "shape": (1, 2, 2), "noise": "js"}
    images = generate(model, schedule, 5, batch_size=2, **options)
    assert torch.allclose(images, generate(model, schedule, 5, **options), atol=1e-6)
    assert torch.allclose(images[3:], generate(model, schedule, 2, first=3, **options), atol=1e-6)
    assert not torch.allclose(images, generate(model, schedule, 5, **{**options, "noise": "torch"}), atol=0.1)


@pytest.mark.parametrize(
    ("options", "says"), [({"noise": "jax"}, "must be one of torch, js"), ({"seed": 2**32}, "2^32")]
)
def test_noise_that_there_is_not_is_refused(options, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        image_generators(**{"seed": 0, "n": 1, "noise": "js", **options})
    with pytest.raises(ValueError, match=re.escape("2^32")):
        image_generators(-1, 1, noise="js")
