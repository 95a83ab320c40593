"""The walk over a grid of times: against DDPM's algorithm, diffusers' schedulers, and its own promises."""

import re
import time

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from helpers import denoiser, randn, relative, seeded, tiny_unet
from hypothesis import given
from hypothesis import strategies as st

from ddim_core import Schedule, ddim_step, image_generators, sample
from ddim_core.oracle import GaussianDenoiser
from ddim_core.sample import SIGMA_HAT, predict_noise

SCHEDULE = Schedule.linear()
ALPHA, T = SCHEDULE.alpha, SCHEDULE.T
ETAS = [0.0, 0.3, 1.0, SIGMA_HAT]
DOUBLE = {"dtype": torch.float64}


@given(
    tau=st.sets(st.integers(1, 1000), min_size=1, max_size=12).map(lambda times: [0, *sorted(times)]),
    eta=st.sampled_from(ETAS),
)
def test_a_state_for_each_time_and_a_call_for_each_step(tau, eta):
    calls = []

    def counted(xt, t):
        calls.append(t)
        return denoiser(xt, t)

    xT = randn(2, 1, 3, 3)
    states = list(sample(counted, SCHEDULE, xT, tau, eta=eta, generator=seeded()))
    assert [state.t for state in states] == tau[::-1]
    assert len(calls) == len(tau) - 1
    assert all(t.dtype == torch.int64 and t.shape == (2,) for t in calls)
    assert [t[0].item() for t in calls] == tau[:0:-1]
    assert all((t == t[0]).all() for t in calls)
    assert torch.equal(states[0].xt, xT)
    last = states[-1]
    assert torch.equal(last.x0, last.xt)
    assert torch.equal(last.eps, states[-2].eps)
    assert torch.equal(last.xt, states[-2].x0)


def test_the_loop_is_its_steps():
    tau = [0, 3, 250, 400, 1000]
    xT = randn(2, 1, 3, 3, **DOUBLE)
    states = list(sample(denoiser, SCHEDULE, xT, tau, eta=0.7, generator=seeded(3), clip=True))
    x, source = xT, seeded(3)
    for state, t, s in zip(states, tau[:0:-1], tau[-2::-1], strict=False):
        eps = denoiser(x, torch.full((2,), t))
        z = torch.randn(x.shape, generator=source, **DOUBLE) if s else None
        after, x0 = ddim_step(x, eps, t, s, SCHEDULE, eta=0.7, noise=z, clip=True)
        assert torch.equal(state.xt, x)
        assert torch.equal(state.eps, eps)
        assert torch.equal(state.x0, x0)
        x = after
    assert torch.equal(states[-1].xt, x)


def test_skipping_is_another_grid():
    """Two steps by hand over any times are the loop over the grid of those times: nothing depends on T / S."""
    xT = randn(2, 1, 3, 3, **DOUBLE)
    middle, _ = ddim_step(xT, denoiser(xT, torch.full((2,), 1000)), 1000, 130, SCHEDULE)
    end, _ = ddim_step(middle, denoiser(middle, torch.full((2,), 130)), 130, 0, SCHEDULE)
    assert torch.equal([*sample(denoiser, SCHEDULE, xT, [0, 130, 1000])][-1].xt, end)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eta", ETAS)
def test_the_dtype_of_the_noise_is_kept(dtype, eta):
    for generator in (seeded(), image_generators(0, 2)):
        xT = randn(2, 1, 3, 3, dtype=dtype)
        for state in sample(denoiser, SCHEDULE, xT, SCHEDULE.timesteps(5), eta=eta, generator=generator):
            assert state.xt.dtype == state.x0.dtype == state.eps.dtype == dtype


def test_float32_is_near_float64():
    xT = randn(2, 1, 3, 3)
    single, double = ([*sample(denoiser, SCHEDULE, x, SCHEDULE.timesteps(50))][-1].xt for x in (xT, xT.double()))
    assert relative(single, double) < 1e-3


def test_sampling_is_lazy_and_leaves_inputs_and_random_state_alone():
    xT, tau, state = randn(2, 1, 3, 3), [0, 10, 1000], torch.get_rng_state()
    before = xT.clone()
    calls = []
    states = sample(lambda x, t: calls.append(t) or denoiser(x, t), SCHEDULE, xT, tau, eta=1.0, generator=seeded())
    assert not calls
    next(states)
    assert len(calls) == 1
    list(states)
    assert torch.equal(xT, before)
    assert tau == [0, 10, 1000]
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("tau", [[], [0], [5], [1, 5], [0, 5, 5], [0, 6, 5], [1000, 500, 0], [0, 1001], [-1, 0, 5]])
def test_grids_that_are_none(tau):
    with pytest.raises(ValueError, match=r"tau must ascend from 0|a time must lie in"):
        sample(denoiser, SCHEDULE, randn(1, 2), tau)


def test_the_grid_is_shown_and_a_long_one_by_its_ends():
    for tau, shown in [
        ([0, 1, 2, 3, 4, 5, 6, 6], "[0, 1, 2, 3, 4, 5, 6, 6]"),
        ([*range(9), 8], "[0, 1, 2, 3, ..., 8, 8]"),
    ]:
        with pytest.raises(ValueError, match=rf"got {re.escape(shown)}$"):
            sample(denoiser, SCHEDULE, randn(1, 2), tau)


@pytest.mark.parametrize("eta", [0.5, SIGMA_HAT])
def test_the_last_step_draws_no_noise(eta):
    """What the generator gives next is what comes after S - 1 draws for S steps."""
    source, other = seeded(4), seeded(4)
    list(sample(denoiser, SCHEDULE, randn(2, 1, 3, 3), [0, 5, 50, 1000], eta=eta, generator=source))
    for _ in range(2):
        torch.randn(2, 1, 3, 3, generator=other)
    assert torch.equal(torch.randn(3, generator=source), torch.randn(3, generator=other))


def test_mistakes_are_told_at_once_and_not_at_the_first_state():
    for options, message in [
        ({"eta": 0.5}, "pass a generator"),
        ({"eta": SIGMA_HAT}, "pass a generator"),
        ({"eta": 0.5, "generator": image_generators(0, 3)}, "3 generators for 2 images"),
    ]:
        with pytest.raises(ValueError, match=message):
            sample(denoiser, SCHEDULE, randn(2, 2), [0, 5], **options)
    with pytest.raises(TypeError, match="a time must be an integer"):
        sample(denoiser, SCHEDULE, randn(2, 2), [0, 5.5])


def test_the_loop_itself_costs_little():
    """Processor time per step around a network that does nothing; a step of the book's network takes some 10 ms."""
    xT, nothing = randn(1, 1, 28, 28), torch.zeros(1, 1, 28, 28)
    for _ in sample(lambda x, t: nothing, SCHEDULE, xT, SCHEDULE.timesteps(50)):
        pass
    start = time.process_time()
    for _ in sample(lambda x, t: nothing, SCHEDULE, xT, SCHEDULE.timesteps(1000)):
        pass
    assert (time.process_time() - start) / 1000 < 1e-3


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


# --- networks ----------------------------------------------------------------------------------------------------


def test_a_network_in_training_is_asked_in_evaluation_and_put_back():
    model = tiny_unet()
    xT, tau = randn(2, 1, 8, 8), [0, 100, 1000]
    quiet = [s.xt for s in sample(model, SCHEDULE, xT, tau)]
    model.train()
    noisy = []
    for state in sample(model, SCHEDULE, xT, tau):
        assert all(m.training for m in model.modules())  # between the calls it is as it was
        noisy.append(state)
    assert all(torch.equal(a, b.xt) for a, b in zip(quiet, noisy, strict=True))
    assert not any(x.requires_grad for s in noisy for x in (s.xt, s.x0, s.eps))
    assert all(p.grad is None for p in model.parameters())


def test_a_network_that_fails_is_put_back_too():
    model = tiny_unet().train()
    with pytest.raises(ValueError, match="xt must be"):
        predict_noise(model, randn(2, 3, 8, 8), 5)
    assert model.training


def test_a_network_in_evaluation_stays_there():
    model = tiny_unet()
    predict_noise(model, randn(2, 1, 8, 8), 5)
    assert not model.training


# --- diffusers ---------------------------------------------------------------------------------------------------


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
    """(t, x_t, x0_hat) of the peer at each of its times, which count from 0, and the last state."""
    states, x, draw = [], xT, seeded(seed)
    for t in scheduler.timesteps:
        step = scheduler.step(network(x, t + 1), t, x, generator=draw, **options)
        states.append((t.item() + 1, x, step.pred_original_sample))
        x = step.prev_sample
    return [*states, (0, x, x)]


def agree(theirs, states, precise):
    assert [t for t, _, _ in theirs] == [state.t for state in states]
    # 1e-10 of what it adds at last steps that should add nothing: its variances are at least 1e-20
    tolerance = {"rtol": 1e-10, "atol": 1e-9} if precise else {"rtol": 2e-4, "atol": 2e-4}
    for (_, x, x0), state in zip(theirs, states, strict=True):
        torch.testing.assert_close(state.xt, x, **tolerance)
        torch.testing.assert_close(state.x0, x0, **tolerance)


GRIDS = [("trailing", 0), ("leading", 0), ("leading", 1)]


@pytest.mark.parametrize("precise", [True, False], ids=["float64", "float32"])
@pytest.mark.parametrize("clip", [False, True], ids=["free", "clip"])
@pytest.mark.parametrize(("spacing", "offset"), GRIDS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_states_are_those_of_the_ddim_scheduler(eta, spacing, offset, clip, precise):
    xT = randn(2, 1, 4, 4, seed=6, dtype=torch.float64 if precise else torch.float32)
    for steps in (1, 4, 10, 50, 1000)[: 5 if precise and spacing == "trailing" else 4]:
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
    for steps in (1, 3, 10, 50, 1000)[: 5 if precise and spacing == "trailing" else 4]:
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
            theirs[-1] = (0, theirs[-1][1] - slip, theirs[-1][1] - slip)
        agree(theirs, states, precise)


def test_clipping_without_new_noise_is_another_sampler():
    xT = randn(2, 1, 4, 4, seed=6, dtype=torch.float64)
    scheduler = peer(DDIMScheduler, 10, "trailing", 0, True, True)
    theirs = walk(scheduler, xT, 0, use_clipped_model_output=False)
    *_, end = sample(network, SCHEDULE, xT, SCHEDULE.timesteps(10), clip=True)
    assert (theirs[-1][1] - end.xt).abs().max() > 1e-2
