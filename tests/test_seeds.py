"""Seeds, and noise per image."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddim_core.seeds import derive_seed, image_generators, image_noise


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
