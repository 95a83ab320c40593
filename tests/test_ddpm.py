"""eta, sigma-hat, clipping, the last step and foreign grids: against DDPM's own formulas, and against diffusers."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from helpers import randn, seeded

from ddim_core import Schedule, ddim_step, predict_eps, predict_x0, sample
from ddim_core.oracle import GaussianDenoiser

SCHEDULE = Schedule.linear()
ALPHA, T = SCHEDULE.alpha, SCHEDULE.T
SIGMA_HAT = "sigma-hat"
JUMPS = [*pairwise(range(T + 1)), *pairwise(range(0, T + 1, 50)), (0, 1000), (1, 1000), (17, 730)]


def coefficients(t, s, eta):
    """Of x_t, of eps and of fresh noise in a step, as floats."""
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    cases = ((one, zero, zero), (zero, one, zero), (zero, zero, one))
    return [ddim_step(x, e, t, s, SCHEDULE, eta=eta, noise=z)[0].item() for x, e, z in cases]


# --- DDPM


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


def test_a_thousand_steps_at_eta_1_are_algorithm_2_of_ddpm():
    model = GaussianDenoiser(0.3, 0.5, SCHEDULE)
    x = xT = randn(4, 1, 3, 3, seed=2, dtype=torch.float64)
    draw = seeded(5)
    for t in range(T, 0, -1):
        beta = 1 - ALPHA[t] / ALPHA[t - 1]
        eps = model(x, torch.full((4,), t))
        x = (x - beta / (1 - ALPHA[t]).sqrt() * eps) / (1 - beta).sqrt()
        if t > 1:
            sigma = ((1 - ALPHA[t - 1]) / (1 - ALPHA[t]) * beta).sqrt()
            x = x + sigma * torch.randn(x.shape, generator=draw, dtype=x.dtype)
    *_, end = sample(model, SCHEDULE, xT, range(T + 1), eta=1, generator=seeded(5))
    torch.testing.assert_close(end.xt, x, rtol=0, atol=1e-10)


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
def test_variances_that_are_exact_for_pure_noise_and_for_a_single_picture(std, eta, steps):
    model = GaussianDenoiser(0.0, std, SCHEDULE)
    variance = (ALPHA[T] * std**2 + 1 - ALPHA[T]).item()
    for s, t in reversed(list(pairwise(SCHEDULE.timesteps(steps)[1:]))):
        of_xt, of_eps, of_z = coefficients(t, s, eta)
        slope = model(torch.ones(1, 1, dtype=torch.float64), t).item()
        variance = (of_xt + of_eps * slope) ** 2 * variance + of_z**2
        assert variance == pytest.approx((ALPHA[s] * std**2 + 1 - ALPHA[s]).item(), abs=1e-9)


# --- clipping and the last step


@pytest.mark.parametrize("eta", [0, 0.5, 1, SIGMA_HAT])
def test_clipping_recomputes_the_noise_so_that_equation_1_still_holds(eta):
    xt, eps, z = 2 * randn(3, 6, 4, seed=3, dtype=torch.float64)
    for t, s in ((1000, 900), (500, 499), (100, 0)):
        x0 = predict_x0(xt, t, eps, SCHEDULE).clamp(-1, 1)
        step, guess = ddim_step(xt, eps, t, s, SCHEDULE, eta=eta, noise=z, clip=True)
        plain, _ = ddim_step(xt, predict_eps(xt, t, x0, SCHEDULE), t, s, SCHEDULE, eta=eta, noise=z)
        assert guess.abs().max() == 1
        torch.testing.assert_close(guess, x0)
        torch.testing.assert_close(step, plain, rtol=0, atol=1e-9)


@pytest.mark.parametrize("eta", [0, 0.5, 1, SIGMA_HAT])
@pytest.mark.parametrize("tau", [[0, 1000], [0, 100, 1000], [0, 1, 101, 901]])
def test_the_last_step_lands_on_the_guess(eta, tau):
    model = GaussianDenoiser(0.3, 0.5, SCHEDULE)
    xT = randn(3, 1, 2, 2, seed=4, dtype=torch.float64)
    *_, before, end = sample(model, SCHEDULE, xT, tau, eta=eta, generator=seeded(1))
    assert (before.t, end.t) == (tau[1], 0)
    torch.testing.assert_close(end.xt, before.x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(end.xt, model.x0(before.xt, tau[1]), rtol=0, atol=1e-9)


# --- diffusers


def network(x, t):
    """Stands for a network: smooth, nonlinear, sensitive to t, and wrong enough for guesses to leave [-1, 1]."""
    phase = torch.as_tensor(t, dtype=x.dtype).reshape(-1, *(1,) * (x.ndim - 1)) / 150
    return (0.9 * x + 0.3 * torch.sin(3 * x.flip(-1) + phase)).tanh() * 1.2


def ours(spacing, steps, offset):
    if spacing == "trailing":
        return SCHEDULE.timesteps(steps)
    return [0, *(k * (T // steps) + 1 + offset for k in range(steps))]


def peer(kind, steps, spacing, offset, clip, precise, **options):
    """A scheduler of diffusers, with our float64 table of alphas where `precise`."""
    scheduler = kind(
        T,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=clip,
        timestep_spacing=spacing,
        steps_offset=offset,
        **options,
    )
    if precise:
        scheduler.alphas_cumprod = SCHEDULE.alpha[1:].clone()
    scheduler.set_timesteps(steps)
    return scheduler


def walk(scheduler, xT, seed, **options):
    """States of the peer at each of its times, which count from 0, and the last one."""
    states, x, draw = [], xT, seeded(seed)
    for t in scheduler.timesteps:
        states.append((t.item() + 1, x))
        x = scheduler.step(network(x, t + 1), t, x, generator=draw, **options).prev_sample
    return [*states, (0, x)]


def agree(theirs, states, precise):
    assert [t for t, _ in theirs] == [state.t for state in states]
    # 1e-10 of what it adds at last steps that should add nothing: its variances are at least 1e-20
    tolerance = {"rtol": 1e-10, "atol": 1e-9} if precise else {"rtol": 2e-4, "atol": 2e-4}
    for (_, x), state in zip(theirs, states, strict=True):
        torch.testing.assert_close(state.xt, x, **tolerance)


GRIDS = [("trailing", 0), ("leading", 0), ("leading", 1)]


@pytest.mark.parametrize("precise", [True, False], ids=["float64", "float32"])
@pytest.mark.parametrize("clip", [False, True], ids=["free", "clip"])
@pytest.mark.parametrize(("spacing", "offset"), GRIDS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_states_are_those_of_the_ddim_scheduler(eta, spacing, offset, clip, precise):
    xT = randn(2, 1, 4, 4, seed=6, dtype=torch.float64 if precise else torch.float32)
    for steps in (1, 4, 10, 50):
        scheduler = peer(DDIMScheduler, steps, spacing, offset, clip, precise)
        theirs = walk(scheduler, xT, 7, eta=eta, use_clipped_model_output=clip)
        states = list(
            sample(network, SCHEDULE, xT, ours(spacing, steps, offset), eta=eta, generator=seeded(7), clip=clip)
        )
        agree(theirs, states, precise)


@pytest.mark.parametrize("precise", [True, False], ids=["float64", "float32"])
@pytest.mark.parametrize("clip", [False, True], ids=["free", "clip"])
@pytest.mark.parametrize(("spacing", "offset"), GRIDS)
@pytest.mark.parametrize(("eta", "variance"), [(1, "fixed_small"), (SIGMA_HAT, "fixed_large")])
def test_states_are_those_of_the_ddpm_scheduler(eta, variance, spacing, offset, clip, precise):
    xT = randn(2, 1, 4, 4, seed=8, dtype=torch.float64 if precise else torch.float32)
    for steps in (1, 3, 10, 50):
        if spacing == "leading" and T % steps:
            continue
        scheduler = peer(DDPMScheduler, steps, spacing, offset, clip, precise, variance_type=variance)
        theirs = walk(scheduler, xT, 9)
        tau = ours(spacing, steps, offset)
        states = list(sample(network, SCHEDULE, xT, tau, eta=eta, generator=seeded(9), clip=clip))
        if eta == SIGMA_HAT and tau[1] > 1:
            # it adds noise at the last step, too, unless that is at its time 0
            draw = seeded(9)
            z = [torch.randn(xT.shape, generator=draw, dtype=xT.dtype) for _ in range(steps)][-1]
            slip = (1 - ALPHA[tau[1]]).sqrt().item() * z
            theirs[-1] = (0, theirs[-1][1] - slip)
        agree(theirs, states, precise)


def test_clipping_without_new_noise_is_another_sampler():
    xT = randn(2, 1, 4, 4, seed=6, dtype=torch.float64)
    scheduler = peer(DDIMScheduler, 10, "trailing", 0, True, True)
    theirs = walk(scheduler, xT, 0, use_clipped_model_output=False)
    *_, end = sample(network, SCHEDULE, xT, SCHEDULE.timesteps(10), clip=True)
    assert (theirs[-1][1] - end.xt).abs().max() > 1e-2


def test_the_quadratic_grid_of_the_ddim_authors_can_be_walked():
    tau = [0, *(int(v) + 1 for v in np.linspace(0, (0.8 * T) ** 0.5, 10) ** 2)]
    states = list(sample(network, SCHEDULE, randn(1, 1, 2, 2), tau))
    assert [state.t for state in states] == [801, 633, 484, 356, 247, 159, 89, 40, 10, 1, 0]
