"""One step: against DDPM's posterior, its own formula number by number, and its promises."""

import math
from itertools import pairwise

import pytest
import torch
from helpers import denoiser, randn, seeded
from hypothesis import given
from hypothesis import strategies as st

from ddim_core import Schedule, ddim_step, predict_eps, sample
from ddim_core.oracle import GaussianDenoiser
from ddim_core.sample import SIGMA_HAT, check_eta

SCHEDULE = Schedule.linear()
ALPHA, T = SCHEDULE.alpha, SCHEDULE.T
ETAS = [0.0, 0.3, 1.0, SIGMA_HAT]
DOUBLE = {"dtype": torch.float64}
JUMPS = [*pairwise(range(T + 1)), *pairwise(range(0, T + 1, 50)), (0, 1000), (1, 1000), (17, 730)]


def coefficients(t, s, eta):
    """Of x_t, of eps and of fresh noise in a step, as floats."""
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    cases = ((one, zero, zero), (zero, one, zero), (zero, zero, one))
    return [ddim_step(x, e, t, s, SCHEDULE, eta=eta, noise=z)[0].item() for x, e, z in cases]


def test_eta_1_is_the_posterior_of_ddpm_for_every_step_and_for_jumps():
    x0, xt, z = randn(3, 5, seed=1, dtype=torch.float64)
    for s, t in JUMPS:
        a, b = ALPHA[t], ALPHA[s]
        beta = 1 - a / b
        mean = (b.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - b) * xt) / (1 - a)  # DDPM, eq. 7
        expected = mean + ((1 - b) / (1 - a) * beta).sqrt() * z
        step, guess = ddim_step(xt, predict_eps(xt, t, x0, SCHEDULE), t, s, SCHEDULE, eta=1, noise=z)
        torch.testing.assert_close(guess, x0, rtol=0, atol=1e-10)
        torch.testing.assert_close(step, expected, rtol=0, atol=1e-10)


@given(t=st.integers(1, 1000), data=st.data(), eta=st.sampled_from(ETAS))
def test_equation_12(t, data, eta):
    """DDIM, eq. 12 and 16 and appendix D.3, number by number."""
    s = data.draw(st.integers(0, t - 1))
    xt, eps, z = 0.7, -0.4, 1.3
    a, b = SCHEDULE.alpha[t].item(), SCHEDULE.alpha[s].item()
    sigma = (1.0 if eta == SIGMA_HAT else eta) * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
    x0 = (xt - math.sqrt(1 - a) * eps) / math.sqrt(a)
    deviation = math.sqrt(1 - a / b) if eta == SIGMA_HAT else sigma
    expected = math.sqrt(b) * x0 + math.sqrt(max(0.0, 1 - b - sigma**2)) * eps + (deviation * z if s > 0 else 0)
    one = torch.tensor([[xt]], **DOUBLE)
    found = ddim_step(one, torch.full_like(one, eps), t, s, SCHEDULE, eta=eta, noise=torch.full_like(one, z))
    assert found[0].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert found[1].item() == pytest.approx(x0, rel=1e-12)


@pytest.mark.parametrize("eta", [0, 0.2, 0.5, 1])
def test_old_and_fresh_noise_fill_the_budget_and_eta_scales_the_deviation(eta):
    for s, t in JUMPS:
        sigma = eta * ((1 - ALPHA[s]) / (1 - ALPHA[t]) * (1 - ALPHA[t] / ALPHA[s])).sqrt().item()
        of_xt, of_eps, of_z = coefficients(t, s, eta)
        old = of_eps + of_xt * (1 - ALPHA[t]).sqrt().item()  # eps of x_t is also inside x0_hat
        assert of_z == pytest.approx(sigma, abs=1e-12)
        assert old**2 + of_z**2 == pytest.approx(1 - ALPHA[s].item(), abs=1e-9)


def test_sigma_hat_has_the_mean_of_eta_1_and_a_wider_noise_but_none_at_the_end():
    for s, t in JUMPS:
        hat, one = coefficients(t, s, SIGMA_HAT), coefficients(t, s, 1)
        assert hat[:2] == one[:2]
        expected = (1 - ALPHA[t] / ALPHA[s]).sqrt().item() if s > 0 else 0.0
        assert hat[2] == pytest.approx(expected, abs=1e-12)
        assert hat[2] >= one[2]


@pytest.mark.parametrize(("std", "eta"), [(1.0, SIGMA_HAT), (0.0, 0), (0.0, 0.5), (0.0, 1)])
@pytest.mark.parametrize("steps", [2, 7, 100])
def test_variances_that_are_exact_for_pure_noise_and_for_a_single_image(std, eta, steps):
    model = GaussianDenoiser(0.0, std, SCHEDULE)
    variance = (ALPHA[T] * std**2 + 1 - ALPHA[T]).item()
    for s, t in reversed(list(pairwise(SCHEDULE.timesteps(steps)[1:]))):
        of_xt, of_eps, of_z = coefficients(t, s, eta)
        slope = model(torch.ones(1, 1, dtype=torch.float64), t).item()
        variance = (of_xt + of_eps * slope) ** 2 * variance + of_z**2
        assert variance == pytest.approx((ALPHA[s] * std**2 + 1 - ALPHA[s]).item(), abs=1e-9)


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("t", [1, 7, 100, 1000])
@pytest.mark.parametrize("clip", [False, True])
def test_the_last_step_lands_on_x0_hat(eta, t, clip):
    """However long it is, and although sigma-hat is not zero there: noise is neither needed nor added."""
    xt, eps = randn(2, 5, **DOUBLE), randn(2, 5, seed=1, **DOUBLE)
    xs, x0 = ddim_step(xt, eps, t, 0, SCHEDULE, eta=eta, clip=clip)
    assert torch.equal(xs, x0)
    assert torch.equal(xs, ddim_step(xt, eps, t, 0, SCHEDULE, eta=eta, clip=clip, noise=randn(2, 5, **DOUBLE))[0])


@given(t=st.integers(1, 1000), seed=st.integers(0, 1000), eta=st.sampled_from(ETAS))
def test_clipping_recomputes_the_noise_so_that_equation_1_still_holds(t, seed, eta):
    """With the clipped x0_hat, and the noise that goes with it in plain floats, it is the step without clipping."""
    xt, eps, z = 2 * randn(3, 4, 3, seed=seed, **DOUBLE)
    s = t // 2
    xs, x0 = ddim_step(xt, eps, t, s, SCHEDULE, eta=eta, noise=z, clip=True)
    a = SCHEDULE.alpha[t].item()
    plain = (xt - math.sqrt(1 - a) * eps) / math.sqrt(a)
    torch.testing.assert_close(x0, plain.clamp(-1, 1), rtol=1e-9, atol=1e-9)
    recomputed = (xt - math.sqrt(a) * x0) / math.sqrt(1 - a)
    expected, _ = ddim_step(xt, recomputed, t, s, SCHEDULE, eta=eta, noise=z)
    torch.testing.assert_close(xs, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("clip", [False, True])
def test_a_step_changes_none_of_its_inputs(eta, clip):
    tensors = [randn(2, 1, 4, 4, seed=i) for i in range(3)]
    before, state = [x.clone() for x in tensors], torch.get_rng_state()
    xt, eps, z = tensors
    first = ddim_step(xt, eps, 500, 400, SCHEDULE, eta=eta, noise=z, clip=clip)
    second = ddim_step(xt, eps, 500, 400, SCHEDULE, eta=eta, noise=z, clip=clip)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert first[0].dtype == first[1].dtype == torch.float32


@pytest.mark.parametrize(("t", "s"), [(5, 5), (5, 6), (0, 0), (1001, 5), (5, -1), (-1, -2)])
def test_times_out_of_order_or_range(t, s):
    with pytest.raises(ValueError, match=r"must be below t|a time must lie in"):
        ddim_step(randn(1, 2), randn(1, 2), t, s, SCHEDULE)


@pytest.mark.parametrize(("t", "s"), [(5.0, 4), (5, 4.0), (5, 0.5), (True, 0), (5, False), (torch.tensor(5.0), 4)])
def test_times_that_are_no_integers(t, s):
    with pytest.raises(TypeError, match="a time must be an integer"):
        ddim_step(randn(1, 2), randn(1, 2), t, s, SCHEDULE)


@pytest.mark.parametrize("eta", [-0.1, 1.0001, 2, float("nan"), float("inf"), True, "sigma", "0.5"])
def test_eta_out_of_range(eta):
    for call in (
        lambda: check_eta(eta),
        lambda: ddim_step(randn(1, 2), randn(1, 2), 5, 4, SCHEDULE, eta=eta, noise=randn(1, 2)),
        lambda: sample(denoiser, SCHEDULE, randn(1, 2), [0, 5], eta=eta, generator=seeded()),
    ):
        with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\]"):
            call()


def test_missing_or_misshapen_noise():
    with pytest.raises(ValueError, match="pass noise"):
        ddim_step(randn(2, 2), randn(2, 2), 5, 4, SCHEDULE, eta=0.5)
    with pytest.raises(ValueError, match="noise must have the shape of xt"):
        ddim_step(randn(2, 2), randn(2, 2), 5, 4, SCHEDULE, eta=0.5, noise=randn(1, 2))
    with pytest.raises(ValueError, match="must have the same shape"):
        ddim_step(randn(2, 2), randn(1, 2), 5, 4, SCHEDULE)
