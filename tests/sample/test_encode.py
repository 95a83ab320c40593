"""encode, lerp and slerp of ddim_core.sample."""

import math

import pytest
import torch

from ddim_core import Schedule, encode, lerp, sample, slerp
from ddim_core.oracle import GaussianDenoiser

SCHEDULE = Schedule.linear()


def last(states):
    *_, state = states
    return state.xt


def test_encode_then_decode_returns_the_image_better_with_more_steps():
    x0 = 0.3 + 0.5 * torch.randn(8, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = GaussianDenoiser(0.3, 0.5, SCHEDULE)
    errors = []
    for steps in (10, 20, 50, 100, 200, 500, 1000):
        tau = SCHEDULE.timesteps(steps)
        back = last(sample(model, SCHEDULE, encode(model, SCHEDULE, x0, tau), tau))
        errors.append((back - x0).square().mean().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5
    # an error of first order in the step: ten times the steps, about a hundredth of its square
    assert 50 < errors[3] / errors[-1] < 200


def test_encode_finds_the_latent_of_the_exact_flow():
    # for a Gaussian the flow is affine and keeps standardised values: (x_t - m_t) / s_t does not change
    mean, std = 0.3, 0.5
    x0 = mean + std * torch.randn(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    xT = encode(GaussianDenoiser(mean, std, SCHEDULE), SCHEDULE, x0, SCHEDULE.timesteps(1000))
    a = SCHEDULE.alpha[-1].item()
    exact = math.sqrt(a) * mean + math.sqrt(a * std**2 + 1 - a) * (x0 - mean) / std
    assert (xT - exact).abs().max() < 0.05 * exact.abs().max()


def test_encode_asks_for_times_from_one_to_the_last_but_one():
    asked = []

    def model(x, t):
        asked.append(t[0].item())
        return torch.zeros_like(x)

    encode(model, SCHEDULE, torch.zeros(2, 1, 2, 2), [0, 10, 200, 1000])
    assert asked == [1, 10, 200]
    with pytest.raises(ValueError, match="tau must ascend from 0"):
        encode(model, SCHEDULE, torch.zeros(1, 1), [10, 1000])


def test_ends_of_both_lines_are_the_two_starting_points():
    a, b = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for line in (lerp, slerp):
        points = line(a, b, [0.0, 1.0])
        assert points.shape == (2, 3, 8, 8)
        torch.testing.assert_close(points[0], a)
        torch.testing.assert_close(points[1], b)


def test_halfway_lerp_is_short_and_slerp_is_not():
    a, b = torch.randn(2, 28 * 28 * 100, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert (lerp(a, b, [0.5]).norm() / a.norm()).item() == pytest.approx(math.sqrt(0.5), rel=0.01)
    assert (slerp(a, b, [0.5]).norm() / a.norm()).item() == pytest.approx(1, rel=0.01)


def test_slerp_goes_round_a_circle_at_even_speed():
    a, b = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()
    points = slerp(a, b, torch.linspace(0, 1, 7).double())
    angles = torch.atan2(points[:, 1], points[:, 0])
    torch.testing.assert_close(angles, torch.linspace(0, math.pi / 2, 7).double())


def test_slerp_of_one_direction_is_a_line_and_opposites_are_refused():
    a = torch.tensor([1.0, 2.0]).double()
    torch.testing.assert_close(slerp(a, a, [0.3])[0], a)
    for wrong, message in [(-a, "opposite"), (0 * a, "direction"), (torch.zeros(3), "same shape")]:
        with pytest.raises(ValueError, match=message):
            slerp(a, wrong, [0.5])
    with pytest.raises(ValueError, match="direction"):
        slerp(0 * a, a, [0.5])
