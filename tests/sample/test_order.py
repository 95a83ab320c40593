"""Steps of second order: against DDIM, diffusers' DPM-Solver++, their own order, and back up again."""

import math

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from helpers import denoiser, randn, seeded, tiny_unet
from hypothesis import given
from hypothesis import strategies as st

from ddim_core import Schedule, ddim_step, encode, generate, predict_eps, predict_x0, sample
from ddim_core.cli import main
from ddim_core.oracle import GaussianDenoiser
from ddim_core.sample import SIGMA_HAT

SCHEDULE = Schedule.linear()
ALPHA, T = SCHEDULE.alpha.tolist(), SCHEDULE.T
DOUBLE = {"dtype": torch.float64}
MEAN, STD = 0.3, 0.5
GAUSS = GaussianDenoiser(MEAN, STD, SCHEDULE)
SPACINGS = ["uniform", "quadratic", "logsnr"]


def network(x, t):
    """Stands for a network: smooth, nonlinear, sensitive to t, and wrong enough for guesses to leave [-1, 1]."""
    phase = torch.as_tensor(t, dtype=x.dtype).reshape(-1, *(1,) * (x.ndim - 1)) / 150
    return (0.9 * x + 0.3 * torch.sin(3 * x.flip(-1) + phase)).tanh() * 1.2


def last(states):
    *_, state = states
    return state.xt


def on_the_path(z, t):
    """Where the exact path of the Gaussian is at t, for a standardised value z, which it keeps."""
    return math.sqrt(ALPHA[t]) * MEAN + math.sqrt(ALPHA[t] * STD**2 + 1 - ALPHA[t]) * z


# --- what it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [[0, T], [0, 400], [0, 300, T], [0, 1, T]], ids=str)
def test_on_grids_of_one_stride_or_two_it_is_ddim(tau):
    """The first step has nothing to remember, and the last lands on the guess."""
    xT = randn(3, 1, 4, 4, **DOUBLE)
    assert torch.equal(
        last(sample(network, SCHEDULE, xT, tau, order=2)), last(sample(network, SCHEDULE, xT, tau, order=1))
    )


def test_with_three_strides_it_is_not():
    xT, tau = randn(3, 1, 4, 4, **DOUBLE), [0, 200, 600, T]
    first, second = (list(sample(network, SCHEDULE, xT, tau, order=order)) for order in (1, 2))
    assert torch.equal(first[1].xt, second[1].xt)
    assert (first[2].xt - second[2].xt).abs().max() > 0.01


def test_where_the_guess_does_not_change_the_orders_agree():
    """Data of one point: its denoiser names that point wherever it is asked, and a line through equals is level."""
    one, xT, tau = GaussianDenoiser(0.4, 0.0, SCHEDULE), randn(5, 2, **DOUBLE), SCHEDULE.timesteps(7)
    for a, b in zip(
        *(sample(one, SCHEDULE, xT, tau, order=order) for order in (1, 2)),
        strict=True,
    ):
        torch.testing.assert_close(a.xt, b.xt, rtol=0, atol=1e-12)


def test_a_step_is_the_line_in_the_middle_of_the_stride():
    """Every state by hand: guesses, levels, the line read halfway, and from there a step of DDIM."""
    xT, tau = randn(2, 1, 3, 3, **DOUBLE), [0, 60, 250, 480, 810, T]
    level = [math.inf, *(math.log(a / (1 - a)) / 2 for a in ALPHA[1:])]
    x, guesses = xT, {}
    states = list(sample(network, SCHEDULE, xT, tau, order=2))
    for k, (t, s) in enumerate(zip(tau[:0:-1], tau[-2::-1], strict=True)):
        torch.testing.assert_close(states[k].xt, x, rtol=0, atol=1e-12)
        eps = network(x, torch.full((2,), t))
        guesses[t] = predict_x0(x, t, eps, SCHEDULE)
        torch.testing.assert_close(states[k].x0, guesses[t], rtol=0, atol=1e-12)
        if k > 0 and s > 0:
            r = tau[-k]
            slope = (guesses[t] - guesses[r]) / (level[t] - level[r])
            eps = predict_eps(x, t, guesses[t] + slope * (level[s] - level[t]) / 2, SCHEDULE)
        x, _ = ddim_step(x, eps, t, s, SCHEDULE)
    torch.testing.assert_close(states[-1].xt, x, rtol=0, atol=1e-12)


@given(
    tau=st.sets(st.integers(1, 1000), min_size=1, max_size=12).map(lambda times: [0, *sorted(times)]),
    clip=st.booleans(),
)
def test_one_call_a_step_and_the_end_is_the_last_guess(tau, clip):
    calls = []
    states = list(
        sample(lambda x, t: calls.append(int(t[0])) or denoiser(x, t), SCHEDULE, randn(2, 3), tau, order=2, clip=clip)
    )
    assert calls == tau[:0:-1]
    assert [state.t for state in states] == tau[::-1]
    assert torch.equal(states[-1].xt, states[-2].x0)
    assert all(state.xt.dtype == torch.float32 and bool(state.xt.isfinite().all()) for state in states)
    if clip:
        assert max(state.x0.abs().max() for state in states) <= 1


# --- diffusers -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # diffusers
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [5, 10, 20, 50])
def test_states_are_those_of_the_multistep_scheduler(steps, spacing):
    """Its noise levels are float32, and so are its states: as closely as these allow."""
    tau = SCHEDULE.timesteps(steps, spacing=spacing)
    scheduler = DPMSolverMultistepScheduler(
        T,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        algorithm_type="dpmsolver++",
        solver_type="midpoint",
        solver_order=2,
        final_sigmas_type="zero",
        timestep_spacing="trailing",
    )
    scheduler.alphas_cumprod = SCHEDULE.alpha[1:].clone()
    scheduler.set_timesteps(timesteps=[t - 1 for t in tau[:0:-1]])
    xT = randn(2, 1, 4, 4, seed=6)
    ours, first_order = (list(sample(network, SCHEDULE, xT, tau, order=order)) for order in (2, 1))
    x, apart = xT, 0.0
    assert [int(t) + 1 for t in scheduler.timesteps] == [state.t for state in ours[:-1]]
    for t, state, other in zip(scheduler.timesteps, ours, first_order, strict=False):
        torch.testing.assert_close(state.xt, x, rtol=1e-4, atol=3e-4)
        apart = max(apart, (other.xt - x).abs().max().item())
        x = scheduler.step(network(x, t + 1), t, x).prev_sample
    torch.testing.assert_close(ours[-1].xt, x, rtol=1e-4, atol=3e-4)
    assert apart > 0.02  # a tolerance that tells the orders apart


# --- the order -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "slope"), [(1, -1), (2, -2)])
def test_the_error_falls_with_the_power_of_the_order(order, slope):
    """At t = 200, where the uniform grids of all these steps pass; at 0 the last step, of first order, has its say."""
    z, counts, errors = torch.linspace(-2, 2, 9, **DOUBLE)[:, None], (20, 50, 100, 200, 500), []
    for steps in counts:
        states = sample(GAUSS, SCHEDULE, on_the_path(z, T), SCHEDULE.timesteps(steps), order=order)
        (there,) = (state.xt for state in states if state.t == 200)
        errors.append((there - on_the_path(z, 200)).abs().max().item())
    slopes = np.diff(np.log(errors)) / np.diff(np.log(counts))
    assert slopes == pytest.approx([slope] * 4, abs=0.05)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [10, 20, 50, 100])
def test_second_order_ends_nearer_to_the_exact_map(steps, spacing):
    z, tau = torch.linspace(-2, 2, 9, **DOUBLE)[:, None], SCHEDULE.timesteps(steps, spacing=spacing)
    first, second = (
        (last(sample(GAUSS, SCHEDULE, on_the_path(z, T), tau, order=order)) - on_the_path(z, 0)).abs().max().item()
        for order in (1, 2)
    )
    assert second < 0.75 * first


# --- the options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.3, 1, SIGMA_HAT])
def test_second_order_is_for_eta_0(eta):
    with pytest.raises(ValueError, match="order = 2 follows the path without noise: it needs eta = 0, got"):
        sample(denoiser, SCHEDULE, randn(2, 2), [0, 5], order=2, eta=eta, generator=seeded())
    with pytest.raises(ValueError, match="it needs eta = 0"):
        generate(denoiser, SCHEDULE, 1, steps=3, shape=(2,), order=2, eta=eta)


@pytest.mark.parametrize("order", [0, 3, -1, 1.5, "2", True, None], ids=repr)
def test_other_orders_are_refused_at_once(order):
    for ask in (
        lambda: sample(denoiser, SCHEDULE, randn(2, 2), [0, 5], order=order),
        lambda: generate(denoiser, SCHEDULE, 1, steps=3, shape=(2,), order=order),
        lambda: encode(denoiser, SCHEDULE, randn(2, 2), [0, 5], order=order),
    ):
        with pytest.raises(ValueError, match="order must be 1 or 2, got"):
            ask()


def test_generate_passes_the_order_on_and_the_batch_size_does_not_matter():
    model = tiny_unet()
    five = generate(model, SCHEDULE, 5, steps=6, seed=3, order=2, dtype=torch.float64, batch_size=2)
    for i in (0, 4):
        alone = generate(model, SCHEDULE, 1, first=i, steps=6, seed=3, order=2, dtype=torch.float64)
        torch.testing.assert_close(alone[0], five[i], rtol=0, atol=1e-5)
    first = generate(model, SCHEDULE, 5, steps=6, seed=3, order=1, dtype=torch.float64)
    assert (five - first).abs().max() > 1e-3


def test_the_command_line_has_order_and_spacing(tmp_path, capsys):
    argv = ["sample", "--weights", "mnist", "--n", "1", "--steps", "3", "--seed", "1", "--device", "cpu"]
    argv += ["--order", "2", "--spacing", "logsnr", "--out", str(tmp_path / "x.npy")]
    assert main(argv) == 0
    from ddim_core import load_pretrained

    model, schedule = load_pretrained("mnist")
    expected = generate(model, schedule, 1, steps=3, seed=1, order=2, spacing="logsnr")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected.numpy())
    for wrong, says in [
        (["--eta", "0.5"], "it needs eta = 0, got 0.5"),
        (["--order", "3"], "order must be 1 or 2, got 3"),
        (["--spacing", "cubic"], "spacing must be one of uniform, quadratic, logsnr, got 'cubic'"),
    ]:
        capsys.readouterr()
        assert main([*argv, *wrong]) == 2
        assert capsys.readouterr().err.strip().endswith(says)


# --- upwards ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [10, 50])
def test_up_and_down_by_second_order_loses_less(steps, spacing):
    z, tau = torch.linspace(-2, 2, 9, **DOUBLE)[:, None], SCHEDULE.timesteps(steps, spacing=spacing)
    x0 = on_the_path(z, 0)
    lost = {}
    for up, down in ((1, 1), (2, 1), (2, 2)):
        xT = encode(GAUSS, SCHEDULE, x0, tau, order=up)
        lost[up, down] = (last(sample(GAUSS, SCHEDULE, xT, tau, order=down)) - x0).abs().max().item()
    assert lost[2, 2] < lost[2, 1] < lost[1, 1]
    if steps == 50:
        assert lost[2, 2] < 0.25 * lost[1, 1]


def test_the_error_of_the_way_up_falls_with_the_power_of_the_order():
    """In even strides of the level, from where the first one, 0 to 1, has led: that one is the same in all grids."""
    level = torch.linspace(4, -4, 801, **DOUBLE)
    fine = Schedule(torch.cat([torch.ones(1, **DOUBLE), torch.sigmoid(2 * level)]))
    model, x0 = GaussianDenoiser(MEAN, STD, fine), on_the_path(torch.linspace(-2, 2, 9, **DOUBLE)[:, None], 0)

    def mean_and_std(t):
        a = fine.alpha[t].item()
        return math.sqrt(a) * MEAN, math.sqrt(a * STD**2 + 1 - a)

    mean, std = mean_and_std(1)
    z = (encode(model, fine, x0, [0, 1]) - mean) / std
    mean, std = mean_and_std(801)
    counts = (100, 200, 400)
    for order, slope in ((1, -1), (2, -2)):
        found = [encode(model, fine, x0, [0, *range(1, 802, 800 // n)], order=order) for n in counts]
        errors = [(xT - mean - std * z).abs().max().item() for xT in found]
        assert np.diff(np.log(errors)) / np.diff(np.log(counts)) == pytest.approx([slope] * 2, abs=0.15)


def test_the_first_two_steps_up_are_of_first_order():
    x0 = randn(3, 4, **DOUBLE)
    for tau in ([0, T], [0, 300, T]):
        assert torch.equal(encode(network, SCHEDULE, x0, tau, order=2), encode(network, SCHEDULE, x0, tau))
    for three in ([0, 100, 500, T], [0, 1, 500, T]):  # a guess at time 1 is one to remember
        assert (encode(network, SCHEDULE, x0, three, order=2) - encode(network, SCHEDULE, x0, three)).abs().max() > 0.01
