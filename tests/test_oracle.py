"""The exact denoisers against closed forms, brute force and each other."""

import math
from itertools import pairwise
from statistics import NormalDist

import pytest
import torch
from helpers import randn, relative, seeded
from hypothesis import given
from hypothesis import strategies as st

from ddim_core import Schedule, add_noise, image_generators, sample
from ddim_core.data import load_dataset, to_model
from ddim_core.oracle import DatasetDenoiser, GaussianDenoiser

SCHEDULE = Schedule.linear()
ALPHA = SCHEDULE.alpha


# --- Gaussian ------------------------------------------------------------------------------------------------------


def exact_map(tau, mean, std):
    """(factor, offset) of x_0 = factor x_T + offset under DDIM: the product of its steps.

    With d = x_t - sqrt(alpha_t) mean and v_t = alpha_t std^2 + 1 - alpha_t, one step multiplies d by
    (sqrt(alpha_s alpha_t) std^2 + sqrt((1 - alpha_s) (1 - alpha_t))) / v_t.
    """
    alpha = [SCHEDULE.alpha[t].item() for t in tau]
    factor = 1.0
    for s, t in pairwise(alpha):
        v = t * std**2 + 1 - t
        factor *= (math.sqrt(s * t) * std**2 + math.sqrt((1 - s) * (1 - t))) / v
    return factor, mean - factor * math.sqrt(alpha[-1]) * mean


def last(model, xT, tau, **options):
    *_, state = sample(model, SCHEDULE, xT, tau, **options)
    return state.xt


@given(
    grid=st.one_of(
        st.tuples(st.integers(1, 60), st.sampled_from(["uniform", "quadratic"])).map(
            lambda g: SCHEDULE.timesteps(g[0], spacing=g[1])
        ),
        st.sets(st.integers(1, 1000), min_size=1, max_size=30).map(lambda times: [0, *sorted(times)]),
    ),
    mean=st.floats(-2, 2),
    std=st.floats(0, 3),
)
def test_the_whole_map_is_known_for_every_grid(grid, mean, std):
    xT = randn(3, 2, dtype=torch.float64)
    factor, offset = exact_map(grid, mean, std)
    x0 = last(GaussianDenoiser(mean, std, SCHEDULE), xT, grid)
    # the first x0_hat divides by sqrt(alpha_t), 0.006 at most: two digits of the sixteen
    torch.testing.assert_close(x0, factor * xT + offset, rtol=1e-10, atol=1e-10)


def test_the_map_on_the_full_grid_and_its_limit():
    std, tau = 0.5, SCHEDULE.timesteps(1000)
    factor, offset = exact_map(tau, 0.3, std)
    xT = randn(5, 1, dtype=torch.float64)
    torch.testing.assert_close(
        last(GaussianDenoiser(0.3, std, SCHEDULE), xT, tau), factor * xT + offset, rtol=1e-10, atol=1e-10
    )
    # DDIM is Euler on an ordinary differential equation, whose own map scales by std / sqrt(v_T)
    alpha_T = SCHEDULE.alpha[-1].item()
    limit = std / math.sqrt(alpha_T * std**2 + 1 - alpha_T)
    errors = [abs(exact_map(SCHEDULE.timesteps(S), 0.3, std)[0] - limit) for S in (10, 100, 1000)]
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
    assert errors[2] < 1e-2 * limit


def test_ddpm_samples_have_the_mean_and_deviation_of_the_data():
    xT = randn(1, 5_000, dtype=torch.float64)
    x0 = last(GaussianDenoiser(0.4, 0.5, SCHEDULE), xT, SCHEDULE.timesteps(1000), eta=1.0, generator=seeded(1))
    assert x0.mean().item() == pytest.approx(0.4, abs=0.03)
    assert x0.std().item() == pytest.approx(0.5, rel=0.04)


@given(t=st.integers(1, 1000), mean=st.floats(-2, 2), std=st.floats(0, 3))
def test_a_gaussian_of_known_noise(t, mean, std):
    """E[eps | x_t] straight from the joint Gaussian of eps and x_t: cov(eps, x_t) / var(x_t) times the deviation."""
    a = SCHEDULE.alpha[t].item()
    xt = randn(4, 3, dtype=torch.float64)
    eps = GaussianDenoiser(mean, std, SCHEDULE)(xt, torch.full((4,), t))
    expected = math.sqrt(1 - a) / (a * std**2 + 1 - a) * (xt - math.sqrt(a) * mean)
    torch.testing.assert_close(eps, expected, rtol=1e-9, atol=1e-9)


def test_mean_and_deviation_per_pixel_and_a_time_per_image():
    mean, std = randn(2, 3, 3, seed=1), randn(2, 3, 3, seed=2).abs()
    whole, t = GaussianDenoiser(mean, std, SCHEDULE), torch.tensor([1, 500, 1000])
    xt = randn(3, 2, 3, 3, dtype=torch.float64)
    eps = whole(xt, t)
    for i in range(3):
        one = GaussianDenoiser(mean[1, 2, 0].item(), std[1, 2, 0].item(), SCHEDULE)
        torch.testing.assert_close(eps[i, 1, 2, 0], one(xt[i : i + 1, 1, 2, 0], int(t[i]))[0])


def test_gaussian_keeps_the_dtype_and_refuses_a_negative_std():
    assert GaussianDenoiser(0.0, 1.0, SCHEDULE)(randn(2, 3), 5).dtype == torch.float32
    for std in (-0.1, torch.tensor([1.0, -1.0])):
        with pytest.raises(ValueError, match="std must not be negative"):
            GaussianDenoiser(0.0, std, SCHEDULE)


# --- a finite set of images ---------------------------------------------------------------------------------------


def brute_force(images, xt, t):
    """w_i and E[x_0 | x_t], one image and one image after another, in float64."""
    a = SCHEDULE.alpha[t].item()
    weights = []
    for x in xt.double():
        logits = torch.stack([-((x - math.sqrt(a) * y.double()) ** 2).sum() / (2 * (1 - a)) for y in images])
        weights.append((logits - logits.logsumexp(0)).exp())
    weights = torch.stack(weights)
    return weights, torch.einsum("bn,n...->b...", weights, images.double())


@given(t=st.integers(1, 1000), n=st.integers(1, 7), seed=st.integers(0, 1000))
def test_the_weights_are_the_posterior(t, n, seed):
    images = randn(n, 1, 2, 3, seed=seed, dtype=torch.float64).clamp(-1, 1)
    xt = randn(3, 1, 2, 3, seed=seed + 1, dtype=torch.float64)
    oracle, times = DatasetDenoiser(images, SCHEDULE), torch.full((3,), t)
    weights, x0 = brute_force(images, xt, t)
    a = SCHEDULE.alpha[t].item()
    torch.testing.assert_close(oracle.weights(xt, times), weights, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(oracle.x0(xt, times), x0, rtol=1e-7, atol=1e-9)
    eps = (xt - math.sqrt(a) * x0) / math.sqrt(1 - a)
    torch.testing.assert_close(oracle(xt, times), eps, rtol=1e-7, atol=1e-7)


def test_a_time_per_image():
    oracle, xt, t = (
        DatasetDenoiser(randn(6, 1, 4, 4), SCHEDULE),
        randn(3, 1, 4, 4, seed=1),
        torch.tensor([1, 400, 1000]),
    )
    together = oracle(xt, t)
    for i in range(3):
        torch.testing.assert_close(together[i], oracle(xt[i : i + 1], int(t[i]))[0])


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [10, 50, 250])
def test_samples_land_on_data_points(eta, steps):
    images = to_model(load_dataset("mnist-10k", limit=40).images).double()
    xT = randn(8, 1, 28, 28, dtype=torch.float64)
    generators = image_generators(0, 8)
    x0 = last(DatasetDenoiser(images, SCHEDULE), xT, SCHEDULE.timesteps(steps), eta=eta, generator=generators)
    distance = torch.cdist(x0.flatten(1), images.flatten(1), compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert distance.values.max() < 1e-8
    assert len(set(distance.indices.tolist())) > 2


def test_ten_thousand_digits_in_float32():
    """At t = 1 one weight is 1 and the squared distances are near 1e7; at t = T all weights count."""
    images = to_model(load_dataset("mnist-10k").images)
    oracle = DatasetDenoiser(images, SCHEDULE)
    for t in (1, 300, 1000):
        xt = add_noise(images[[17, 4242]], t, randn(2, 1, 28, 28), SCHEDULE)
        assert xt.dtype == torch.float32
        times = torch.full((2,), t)
        weights, eps, x0 = oracle.weights(xt, times), oracle(xt, times), oracle.x0(xt, times)
        assert weights.isfinite().all()
        torch.testing.assert_close(weights.sum(1), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)
        assert eps.dtype == x0.dtype == torch.float32
        assert eps.isfinite().all()
        assert relative(eps, oracle(xt.double(), times)) < 1e-6
        exact_weights, exact_x0 = brute_force(images, xt, t)
        torch.testing.assert_close(weights, exact_weights, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(x0.double(), exact_x0, rtol=0, atol=1e-6)
        if t == 1:
            torch.testing.assert_close(x0, images[[17, 4242]], rtol=0, atol=1e-6)
        if t == 1000:
            assert weights.max() < 0.1


def test_many_points_of_a_gaussian_are_the_gaussian():
    n = 20_000
    quantiles = [0.3 + 0.5 * NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)]
    finite = DatasetDenoiser(torch.tensor(quantiles, dtype=torch.float64)[:, None], SCHEDULE)
    gaussian = GaussianDenoiser(0.3, 0.5, SCHEDULE)
    xt = torch.linspace(-1, 1.2, 9, dtype=torch.float64)[:, None]
    for t in (50, 300, 1000):
        torch.testing.assert_close(finite(xt, t), gaussian(xt, t), rtol=1e-3, atol=1e-3)


def test_one_image_is_always_the_answer():
    image = randn(1, 1, 3, 3, dtype=torch.float64)
    xt = randn(2, 1, 3, 3, seed=1, dtype=torch.float64)
    torch.testing.assert_close(DatasetDenoiser(image, SCHEDULE).x0(xt, 700), image.expand(2, 1, 3, 3))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(0, 1, 2, 2), "N >= 1"),
        (torch.zeros(5), "must be"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), "to_model"),
    ],
)
def test_images_that_are_none_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        DatasetDenoiser(images, SCHEDULE)


def test_images_of_another_shape_are_refused():
    oracle = DatasetDenoiser(torch.zeros(3, 1, 2, 2), SCHEDULE)
    for shape in [(4, 1, 2, 3), (4, 4), (4, 1, 1, 4)]:
        with pytest.raises(ValueError, match=r"xt must be \[B, 1, 2, 2\]"):
            oracle(torch.zeros(shape), 5)


@pytest.mark.parametrize("oracle", [GaussianDenoiser(0.0, 1.0, SCHEDULE), DatasetDenoiser(torch.zeros(3, 4), SCHEDULE)])
def test_oracles_refuse_times_out_of_range(oracle):
    for t in (0, torch.tensor([0, 1]), -1, 1001, torch.tensor([1001, 1])):
        with pytest.raises(ValueError, match=r"t >= 1|must lie in 0\.\.1000"):
            oracle(torch.zeros(2, 4), t)


# --- paths: what the chapter "In the plane" shows beyond its equations -------------------------------------------


def points(n, dimensions, seed):
    return randn(n, dimensions, seed=seed, dtype=torch.float64).clamp(-1, 1)


def walk(model, xT, tau, **options):
    return torch.stack([state.xt for state in sample(model, SCHEDULE, xT, tau, **options)])


grids = st.one_of(
    st.sets(st.integers(1, 999), max_size=30).map(lambda inner: [0, *sorted(inner), 1000]),
    st.integers(1, 60).map(SCHEDULE.timesteps),
)


@given(tau=grids, seed=st.integers(0, 1000), dimensions=st.integers(1, 3))
def test_paths_keep_their_distance_for_any_points_and_any_grid(tau, seed, dimensions):
    xT = randn(12, dimensions, seed=seed + 1, dtype=torch.float64)
    run = walk(DatasetDenoiser(points(5, dimensions, seed), SCHEDULE), xT, tau)
    for t, xt in zip(reversed(tau), run, strict=True):
        bound = ((1 - ALPHA[t]) / (1 - ALPHA[1000])).sqrt()
        assert (torch.pdist(xt) >= bound * torch.pdist(xT) * (1 - 1e-9) - 1e-12).all()


@given(tau=grids, seed=st.integers(0, 1000))
def test_with_one_image_the_bound_is_attained_and_the_grid_does_not_matter(tau, seed):
    y, xT = points(1, 2, seed), randn(8, 2, seed=seed + 1, dtype=torch.float64)
    run = walk(DatasetDenoiser(y, SCHEDULE), xT, tau)
    for t, xt in zip(reversed(tau), run, strict=True):
        factor = ((1 - ALPHA[t]) / (1 - ALPHA[1000])).sqrt()
        expected = ALPHA[t].sqrt() * y + factor * (xT - ALPHA[1000].sqrt() * y)
        torch.testing.assert_close(xt, expected, rtol=1e-9, atol=1e-10)


def test_on_a_line_order_is_kept_in_few_steps_and_in_many():
    y = torch.tensor([[-0.8], [0.1], [0.9]], dtype=torch.float64)
    xT = torch.linspace(-2.5, 2.5, 501, dtype=torch.float64)[:, None]
    for steps in (2, 7, 300):
        run = walk(DatasetDenoiser(y, SCHEDULE), xT, SCHEDULE.timesteps(steps))[..., 0]
        assert (run[:-1].diff(dim=1) > 0).all()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_each_image_gets_its_share_of_the_noise(eta):
    # the last image stands twice in the data: twice the share
    y = torch.tensor([[0.9, 0.35], [0.25, 0.85], [-0.7, 0.7], [-0.35, 0.05], [0.15, -0.8], [0.15, -0.8]]).double()
    xT = randn(4000, 2, seed=3, dtype=torch.float64)
    ends = walk(DatasetDenoiser(y, SCHEDULE), xT, SCHEDULE.timesteps(200), eta=eta, generator=seeded(0))[-1]
    share = torch.bincount(torch.cdist(ends, y[:5]).argmin(1), minlength=5) / len(xT)
    expected = torch.tensor([1, 1, 1, 1, 2]) / 6
    assert (share - expected).abs().max() < 0.025  # four standard errors


def test_one_start_has_one_end_only_without_fresh_noise():
    y = points(7, 2, 0)
    xT = randn(50, 2, dtype=torch.float64)
    tau, oracle = SCHEDULE.timesteps(100), DatasetDenoiser(y, SCHEDULE)
    assert torch.equal(walk(oracle, xT, tau), walk(oracle, xT, tau))
    first, second = (
        walk(oracle, xT, tau, eta=1, generator=image_generators(seed, 50))[-1].sub(y[:, None]).norm(dim=2).argmin(0)
        for seed in (1, 2)
    )
    assert 0 < (first == second).float().mean() < 0.5
