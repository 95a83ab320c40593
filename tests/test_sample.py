"""One step and the loop: against DDPM's posterior, diffusers' schedulers, and its own promises."""

import math
import time

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from helpers import TINY, randn, relative, seeded, tiny_unet
from hypothesis import given
from hypothesis import strategies as st

from ddim_core import Schedule, add_noise, ddim_step, generate, image_generators, image_noise, sample
from ddim_core.oracle import DatasetDenoiser, GaussianDenoiser
from ddim_core.sample import SIGMA_HAT, check_eta, predict_noise

SCHEDULE = Schedule.linear()
BETA = [0.0] + [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
ETAS = [0.0, 0.3, 1.0, SIGMA_HAT]
DOUBLE = {"dtype": torch.float64}


def denoiser(xt, t):
    """Some smooth function of picture and time, in place of a network."""
    return torch.sin(3 * xt) * 0.7 + 0.3 * torch.cos(t.to(xt.dtype) / 100).view(-1, *[1] * (xt.ndim - 1))


# --- one step ----------------------------------------------------------------------------------------------------


def test_eta_1_with_every_step_is_the_ddpm_posterior():
    """DDPM, eq. 6 and 7, in DDPM's own letters: beta_t, and alpha-bar_t as their product."""
    xt, eps, z = (randn(2, 3, seed=i, **DOUBLE) for i in range(3))
    alpha_bar = [1.0]
    for t in range(1, 1001):
        alpha_bar.append(alpha_bar[-1] * (1 - BETA[t]))
    for t in range(1, 1001):
        before, after, beta = alpha_bar[t - 1], alpha_bar[t], BETA[t]
        x0 = (xt - math.sqrt(1 - after) * eps) / math.sqrt(after)
        mean = math.sqrt(before) * beta / (1 - after) * x0 + math.sqrt(1 - beta) * (1 - before) / (1 - after) * xt
        deviation = math.sqrt((1 - before) / (1 - after) * beta)
        xs, x0_hat = ddim_step(xt, eps, t, t - 1, SCHEDULE, eta=1.0, noise=z)
        torch.testing.assert_close(x0_hat, x0, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(xs, mean + deviation * z, rtol=1e-10, atol=1e-10)


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


def scheduler(kind, S, *, exact, clip):
    """Diffusers' scheduler on our uniform grid, whose times are one less than ours."""
    options = {"variance_type": "fixed_small"} if kind is DDPMScheduler else {"set_alpha_to_one": True}
    peer = kind(1000, 1e-4, 0.02, "linear", clip_sample=clip, timestep_spacing="trailing", **options)
    if exact:  # it computes alpha in float32; the formulas can be compared more sharply with ours
        peer.alphas_cumprod = torch.from_numpy(np.cumprod(1 - np.array(BETA[1:])))
        peer.final_alpha_cumprod = peer.one = torch.tensor(1.0, **DOUBLE)
    peer.set_timesteps(S)
    assert [int(t) + 1 for t in peer.timesteps] == SCHEDULE.timesteps(S)[:0:-1]
    return peer


@pytest.mark.parametrize(("exact", "tolerance"), [(False, 2e-5), (True, 1e-12)], ids=["as it is", "in float64"])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("S", [1, 10, 50, 1000])
def test_every_step_is_that_of_diffusers_ddim(S, eta, clip, exact, tolerance):
    peer = scheduler(DDIMScheduler, S, exact=exact, clip=clip)
    tau = SCHEDULE.timesteps(S)
    for i in range(S, 0, -max(1, S // 50)):
        t, s = tau[i], tau[i - 1]
        x0, eps, z = (randn(2, 1, 4, 4, seed=3 * i + k, **DOUBLE) for k in range(3))
        xt = add_noise(x0, t, eps, SCHEDULE)
        guess = eps + 0.1 * randn(2, 1, 4, 4, seed=i, **DOUBLE)
        xs, x0_hat = ddim_step(xt, guess, t, s, SCHEDULE, eta=eta, noise=z, clip=clip)
        theirs = peer.step(guess, t - 1, xt, eta=eta, use_clipped_model_output=clip, variance_noise=z)
        assert relative(xs, theirs.prev_sample) < tolerance, (t, s)
        assert relative(x0_hat, theirs.pred_original_sample) < tolerance, (t, s)
        if clip:
            assert x0_hat.abs().max() == 1


@pytest.mark.parametrize(("exact", "tolerance"), [(False, 2e-5), (True, 1e-9)], ids=["as it is", "in float64"])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(("eta", "variance"), [(1.0, "fixed_small"), (SIGMA_HAT, "fixed_large")])
@pytest.mark.parametrize("S", [1, 10, 50, 1000])
def test_every_step_is_that_of_diffusers_ddpm(S, eta, variance, clip, exact, tolerance):
    peer = scheduler(DDPMScheduler, S, exact=exact, clip=clip)
    peer.register_to_config(variance_type=variance)
    tau = SCHEDULE.timesteps(S)
    for i in range(S, 0, -max(1, S // 50)):
        t, s = tau[i], tau[i - 1]
        if s == 0 and eta == SIGMA_HAT:
            continue  # diffusers leaves noise in the picture there, unless S = T; see the test of the last step
        x0, eps = (randn(2, 1, 4, 4, seed=3 * i + k, **DOUBLE) for k in range(2))
        xt = add_noise(x0, t, eps, SCHEDULE)
        guess = eps + 0.1 * randn(2, 1, 4, 4, seed=i, **DOUBLE)
        z = torch.randn(xt.shape, generator=seeded(i), **DOUBLE)
        xs, x0_hat = ddim_step(xt, guess, t, s, SCHEDULE, eta=eta, noise=z, clip=clip)
        theirs = peer.step(guess, t - 1, xt, generator=seeded(i))
        assert relative(xs, theirs.prev_sample) < tolerance, (t, s)
        assert relative(x0_hat, theirs.pred_original_sample) < tolerance, (t, s)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_a_whole_chain_is_that_of_diffusers(eta):
    peer = scheduler(DDIMScheduler, 20, exact=True, clip=False)
    xT = randn(3, 1, 4, 4, **DOUBLE)
    source, x = seeded(5), xT
    for t in peer.timesteps:
        # drawn by both where noise is added: not at the last step
        z = torch.randn(xT.shape, generator=source, **DOUBLE) if eta and t > 49 else torch.zeros_like(xT)
        x = peer.step(denoiser(x, torch.full((3,), int(t) + 1)), int(t), x, eta=eta, variance_noise=z).prev_sample
    *_, last = sample(denoiser, SCHEDULE, xT, SCHEDULE.timesteps(20), eta=eta, generator=seeded(5))
    torch.testing.assert_close(last.xt, x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("t", [1, 7, 100, 1000])
@pytest.mark.parametrize("clip", [False, True])
def test_the_last_step_lands_on_x0_hat(eta, t, clip):
    """However long it is, and although sigma-hat is not zero there: noise is neither needed nor added."""
    xt, eps = randn(2, 5, **DOUBLE), randn(2, 5, seed=1, **DOUBLE)
    xs, x0 = ddim_step(xt, eps, t, 0, SCHEDULE, eta=eta, clip=clip)
    assert torch.equal(xs, x0)
    assert torch.equal(xs, ddim_step(xt, eps, t, 0, SCHEDULE, eta=eta, clip=clip, noise=randn(2, 5, **DOUBLE))[0])


@given(t=st.integers(1, 1000), seed=st.integers(0, 1000))
def test_clipping_keeps_equation_1(t, seed):
    """A deterministic step from t to s is equation 1 at s with the clipped x0_hat and the noise that goes with it."""
    xt, eps = 2 * randn(4, 3, seed=seed, **DOUBLE), randn(4, 3, seed=seed + 1, **DOUBLE)
    s = t // 2
    xs, x0 = ddim_step(xt, eps, t, s, SCHEDULE, clip=True)
    a = SCHEDULE.alpha[t].item()
    plain = (xt - math.sqrt(1 - a) * eps) / math.sqrt(a)
    assert torch.equal(x0, ddim_step(xt, eps, t, s, SCHEDULE)[1].clamp(-1, 1))
    torch.testing.assert_close(x0, plain.clamp(-1, 1), rtol=1e-9, atol=1e-9)
    recomputed = (xt - math.sqrt(a) * x0) / math.sqrt(1 - a)
    torch.testing.assert_close(xs, add_noise(x0, s, recomputed, SCHEDULE), rtol=1e-9, atol=1e-9)


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
    with pytest.raises(ValueError, match="must have one shape"):
        ddim_step(randn(2, 2), randn(1, 2), 5, 4, SCHEDULE)


# --- the loop ----------------------------------------------------------------------------------------------------


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
    torch.testing.assert_close(last.xt, states[-2].x0, rtol=1e-4, atol=1e-5)


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


def test_mistakes_are_told_at_once_and_not_at_the_first_state():
    for options, message in [
        ({"eta": 0.5}, "pass a generator"),
        ({"eta": SIGMA_HAT}, "pass a generator"),
        ({"eta": 0.5, "generator": image_generators(0, 3)}, "3 generators for 2 pictures"),
    ]:
        with pytest.raises(ValueError, match=message):
            sample(denoiser, SCHEDULE, randn(2, 2), [0, 5], **options)
    with pytest.raises(TypeError, match="a time must be an integer"):
        sample(denoiser, SCHEDULE, randn(2, 2), [0, 5.5])


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


# --- generate ----------------------------------------------------------------------------------------------------

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


def test_the_loop_itself_costs_little():
    """Processor time a step around a network that does nothing; a step of the book's network takes some 10 ms."""
    xT, nothing = randn(1, 1, 28, 28), torch.zeros(1, 1, 28, 28)
    for _ in sample(lambda x, t: nothing, SCHEDULE, xT, SCHEDULE.timesteps(50)):
        pass
    start = time.process_time()
    for _ in sample(lambda x, t: nothing, SCHEDULE, xT, SCHEDULE.timesteps(1000)):
        pass
    assert (time.process_time() - start) / 1000 < 1e-3
