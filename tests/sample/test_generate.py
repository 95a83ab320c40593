"""Pictures from a model and a seed: what they depend on, in which precision they are drawn, and what is refused."""

import pytest
import torch
from helpers import TINY, denoiser, randn, relative, tiny_unet

from ddim_core import Schedule, generate, image_generators, image_noise
from ddim_core.oracle import DatasetDenoiser, GaussianDenoiser
from ddim_core.sample import SIGMA_HAT

SCHEDULE = Schedule.linear()
ETAS = [0.0, 0.3, 1.0, SIGMA_HAT]
ORACLE = DatasetDenoiser(randn(12, 1, 4, 4, seed=9).clamp(-1, 1), SCHEDULE)


@pytest.mark.parametrize("eta", ETAS)
def test_a_picture_depends_on_seed_and_number_only(eta):
    def draw(n, batch_size, seed=4):
        return generate(ORACLE, SCHEDULE, n, steps=7, seed=seed, eta=eta, shape=(1, 4, 4), batch_size=batch_size)

    seven = draw(7, 64)
    assert seven.shape == (7, 1, 4, 4)
    for n, batch_size in [(7, 1), (7, 3), (3, 64), (1, 1), (9, 4)]:
        some = draw(n, batch_size)
        assert torch.equal(some[:7], seven[:n]) or relative(some[:7], seven[:n]) < 1e-6
    assert torch.equal(seven, draw(7, 64))
    assert not torch.equal(seven, draw(7, 64, seed=5))


def test_a_gaussian_gives_the_same_bytes_in_any_batch():
    """Its arithmetic is pixel by pixel, so that not even rounding may differ."""
    oracle = GaussianDenoiser(0.1, 0.4, SCHEDULE)
    draws = [
        generate(oracle, SCHEDULE, 6, steps=9, seed=1, eta=0.8, shape=(2, 3), batch_size=b) for b in (1, 2, 4, 6, 100)
    ]
    assert all(torch.equal(draws[0], d) for d in draws)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_network_gives_the_same_pictures_in_any_batch(eta):
    model = tiny_unet()
    draws = [generate(model, SCHEDULE, 5, steps=6, seed=2, eta=eta, batch_size=b) for b in (1, 2, 5)]
    assert draws[0].shape == (5, TINY.in_channels, 8, 8)
    for other in draws[1:]:  # at t = T rounding is divided by 0.006
        torch.testing.assert_close(other, draws[0], rtol=0, atol=1e-4)


def test_the_number_of_steps_does_not_change_the_starting_noise():
    starts = []

    def remember(xt, t):
        if t[0] == 1000:
            starts.append(xt.clone())
        return denoiser(xt, t)

    for steps, eta in [(1, 0.0), (10, 0.0), (10, 1.0), (250, 0.0)]:
        generate(remember, SCHEDULE, 3, steps=steps, eta=eta, seed=8, shape=(1, 4, 4))
    assert len(starts) == 4
    assert all(torch.equal(starts[0], other) for other in starts)
    assert torch.equal(starts[0], image_noise(image_generators(8, 3), (1, 4, 4)))


def test_generate_cuts_at_the_ends_of_the_range():
    pictures = generate(lambda x, t: torch.zeros_like(x), SCHEDULE, 3, steps=2, seed=0, shape=(1, 4, 4))
    assert pictures.min() == -1
    assert pictures.max() == 1


def test_generate_passes_the_spacing_on():
    seen = []
    generate(lambda x, t: seen.append(int(t[0])) or x, SCHEDULE, 1, steps=5, seed=0, shape=(2,), spacing="quadratic")
    assert seen == SCHEDULE.timesteps(5, spacing="quadratic")[:0:-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n and batch_size must be at least 1"),
        ({"n": -3}, "n and batch_size must be at least 1"),
        ({"batch_size": 0}, "n and batch_size must be at least 1"),
        ({"seed": -1}, "must not be negative"),
        ({"shape": None}, r"pass shape=\(C, H, W\)"),
        ({"steps": 0}, r"steps must lie in 1\.\.1000"),
        ({"steps": 1001}, r"steps must lie in 1\.\.1000"),
        ({"eta": 1.5}, "eta must lie in"),
        ({"spacing": "other"}, "spacing must be one of"),
    ],
    ids=str,
)
def test_generate_refuses(options, message):
    values = {"n": 2, "steps": 3, "seed": 0, "shape": (1, 2, 2)} | options
    with pytest.raises(ValueError, match=message):
        generate(denoiser, SCHEDULE, values.pop("n"), **values)
