"""alpha_t, grids of times, equation 1 and its inverses."""

import math
from decimal import Decimal, getcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from helpers import randn
from hypothesis import given
from hypothesis import strategies as st

from ddim_core import Schedule, add_noise, predict_eps, predict_x0, sample
from ddim_core.oracle import GaussianDenoiser
from ddim_core.schedule import authors_grid

SCHEDULE = Schedule.linear()
NOT_INTEGERS = [1.0, 2.5, True, "3", None, torch.tensor(1.0), torch.tensor(True), np.float64(2), np.bool_(True)]


# --- alpha ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("T", "beta_1", "beta_T"), [(1000, "0.0001", "0.02"), (50, "0.002", "0.4"), (2, "0.5", "0.1")])
def test_alpha_is_the_product_of_one_minus_beta(T, beta_1, beta_T):
    getcontext().prec = 50
    first, last, product, expected = Decimal(beta_1), Decimal(beta_T), Decimal(1), [1.0]
    for i in range(T):
        product *= 1 - (first + (last - first) * i / (T - 1))
        expected.append(float(product))
    alpha = Schedule.linear(T, float(beta_1), float(beta_T)).alpha
    assert alpha.dtype == torch.float64
    assert alpha.shape == (T + 1,)
    np.testing.assert_allclose(alpha.numpy(), expected, rtol=1e-12)


def test_alpha_of_the_book():
    alpha = SCHEDULE.alpha
    assert SCHEDULE.T == 1000
    assert alpha[0] == 1
    assert alpha[1] == pytest.approx(1 - 1e-4, abs=1e-15)
    assert alpha[-1] == pytest.approx(4.0358e-5, rel=1e-4)
    assert alpha[259] > 0.5 > alpha[260]


def test_one_time_is_enough():
    assert Schedule.linear(1, 0.1, 0.9).alpha.tolist() == [1.0, 0.9]


@pytest.mark.parametrize(
    "alpha",
    [
        [],
        [1.0],
        [[1.0, 0.5]],
        [0.9, 0.5],
        [1.0, 0.5, 0.5],
        [1.0, 0.4, 0.5],
        [1.0, 0.5, 0.0],
        [1.0, 0.5, -0.1],
        [1.0, float("nan")],
        [1.0, 0.5, float("nan")],
    ],
)
def test_what_is_no_schedule_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must"):
        Schedule(torch.tensor(alpha))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        *(({"T": T}, "T must be at least 1") for T in (0, -5)),
        *(({beta: value}, "must lie in") for beta in ("beta_1", "beta_T") for value in (0, 1, 1.5, -1e-4, math.nan)),
    ],
)
def test_linear_refuses_values_out_of_range(bad, message):
    with pytest.raises(ValueError, match=message):
        Schedule.linear(**bad)


def test_linear_refuses_a_fractional_T():
    with pytest.raises(TypeError, match="T must be an integer"):
        Schedule.linear(10.0)


def test_a_schedule_keeps_its_own_copy():
    alpha = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)
    schedule = Schedule(alpha)
    alpha[1] = 0.9
    assert schedule.alpha[1] == 0.5


# --- grids ---------------------------------------------------------------------------------------------------------


def assert_grid(tau, S, T):
    assert len(tau) == S + 1
    assert all(type(t) is int for t in tau)
    assert tau[0] == 0
    assert tau[-1] == T
    assert all(s < t for s, t in pairwise(tau))


@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "logsnr"])
def test_every_number_of_steps_gives_exactly_that_many(spacing):
    for S in range(1, 1001):
        assert_grid(SCHEDULE.timesteps(S, spacing=spacing), S, 1000)


@given(data=st.data(), T=st.integers(1, 3000), spacing=st.sampled_from(["uniform", "quadratic", "logsnr"]))
def test_grids_for_other_T(data, T, spacing):
    S = data.draw(st.integers(1, T))
    schedule = Schedule(torch.linspace(1, 0.01, T + 1, dtype=torch.float64))
    assert_grid(schedule.timesteps(steps=S, spacing=spacing), S, T)


def test_uniform_times_are_the_nearest_integers():
    for S in (1, 3, 7, 10, 300, 333, 999, 1000):
        tau = SCHEDULE.timesteps(S)
        assert max(abs(t - i * 1000 / S) for i, t in enumerate(tau)) <= 0.5
    assert SCHEDULE.timesteps(10) == list(range(0, 1001, 100))


def test_quadratic_times_are_the_nearest_integers_where_those_differ():
    for S in (1, 3, 7, 10, 31):
        assert (
            max(abs(t - (i / S) ** 2 * 1000) for i, t in enumerate(SCHEDULE.timesteps(S, spacing="quadratic")))
            <= 0.5 + 1e-9
        )
    for S in (40, 300, 1000):  # the first ones would coincide: they are moved up, and no further than needed
        for i, t in enumerate(SCHEDULE.timesteps(S, spacing="quadratic")):
            assert t == i or abs(t - (i / S) ** 2 * 1000) <= 0.5 + 1e-9
    assert SCHEDULE.timesteps(10, spacing="quadratic") == [0, 10, 40, 90, 160, 250, 360, 490, 640, 810, 1000]


def test_log_snr_is_half_the_logarithm_of_the_ratio():
    alpha = SCHEDULE.alpha.tolist()
    expected = [math.log(math.sqrt(alpha[t]) / math.sqrt(1 - alpha[t])) for t in (1, 259, 1000)]
    assert SCHEDULE.log_snr([1, 259, 1000]).tolist() == pytest.approx(expected, rel=1e-12)
    assert SCHEDULE.log_snr([0]).item() == math.inf
    assert bool((SCHEDULE.log_snr(range(1001)).diff() < 0).all())
    with pytest.raises(ValueError, match=r"a time must lie in 0\.\.1000"):
        SCHEDULE.log_snr([1001])


def test_logsnr_strides_are_even_where_times_are_dense_enough():
    level = SCHEDULE.log_snr(range(1001)).tolist()
    for S in (2, 5, 10, 50, 300):
        tau = SCHEDULE.timesteps(S, spacing="logsnr")
        even = np.linspace(level[1], level[1000], S)
        for i in range(1, S + 1):
            # half a time away at most, or as far down as i distinct times allow
            lower, upper = level[min(tau[i] + 1, 1000)], level[max(tau[i] - 1, 1)]
            assert lower <= even[i - 1] <= upper or tau[i] == tau[i - 1] + 1
    assert SCHEDULE.timesteps(1, spacing="logsnr") == [0, 1000]
    assert SCHEDULE.timesteps(2, spacing="logsnr") == [0, 1, 1000]
    assert SCHEDULE.timesteps(10, spacing="logsnr") == [0, 1, 6, 23, 74, 203, 411, 604, 758, 887, 1000]
    assert SCHEDULE.timesteps(1000, spacing="logsnr") == list(range(1001))


def test_of_two_equal_times_one_is_moved_on():
    """Where the level falls off a cliff, several even strides end at the same time: here at 5, the last but one, too."""
    level = torch.tensor([0.0, 1, 2, 3, 30, 31, 32, 33, 34, 35], dtype=torch.float64)
    cliff = Schedule(torch.cat([torch.ones(1, dtype=torch.float64), torch.sigmoid(-2 * level)]))
    assert cliff.timesteps(5, spacing="logsnr") == [0, 1, 4, 5, 6, 10]


def test_every_kth_time():
    for k in range(1, 1001):
        tau = SCHEDULE.timesteps(every=k)
        assert_grid(tau, -(-1000 // k), 1000)
        assert tau[:-1] == [i * k for i in range(len(tau) - 1)]
    assert SCHEDULE.timesteps(every=300) == [0, 300, 600, 900, 1000]


@pytest.mark.parametrize("value", [0, -1, 1001, 10**30])
@pytest.mark.parametrize("name", ["steps", "every"])
def test_grids_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} must lie in 1\.\.1000"):
        SCHEDULE.timesteps(**{name: value})


@pytest.mark.parametrize("value", [v for v in NOT_INTEGERS if v is not None], ids=repr)
@pytest.mark.parametrize("name", ["steps", "every"])
def test_fractional_grids_are_refused(name, value):
    with pytest.raises(TypeError, match=f"{name} must be an integer"):
        SCHEDULE.timesteps(**{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either steps=S or every=k"),
        ({"steps": 5, "every": 5}, "either steps=S or every=k"),
        ({"steps": 5, "spacing": "cubic"}, "spacing must be one of uniform, quadratic, logsnr"),
        ({"every": 5, "spacing": "quadratic"}, "uniform grid: use steps=S with spacing='quadratic'"),
        ({"every": 5, "spacing": "logsnr"}, "uniform grid: use steps=S with spacing='logsnr'"),
    ],
)
def test_unclear_grids_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SCHEDULE.timesteps(**options)


def test_numpy_and_tensor_integers_are_integers():
    assert SCHEDULE.timesteps(np.int64(4)) == SCHEDULE.timesteps(torch.tensor(4)) == SCHEDULE.timesteps(4)


def test_the_grids_of_the_authors():
    assert authors_grid(SCHEDULE, 10) == [0, 1, 10, 40, 89, 159, 247, 356, 484, 633, 801]
    assert authors_grid(SCHEDULE, 10, "uniform") == [0, *range(1, 1000, 100)]
    for S in (1, 7, 10, 50, 100, 1000):
        scheduler = DDIMScheduler(1000, timestep_spacing="leading", steps_offset=0)
        scheduler.set_timesteps(S)
        assert authors_grid(SCHEDULE, S, "uniform")[1 : S + 1] == [int(t) + 1 for t in scheduler.timesteps.flip(0)]
        theirs = [int(t) + 1 for t in np.linspace(0, np.sqrt(800), S) ** 2]
        assert authors_grid(SCHEDULE, S) == [0, *sorted(set(theirs))]
    assert [len(authors_grid(SCHEDULE, S)) - 1 for S in (29, 30)] == [29, 29]
    model = GaussianDenoiser(0.0, 0.5, SCHEDULE)
    for S in (1, 10, 100):
        assert len(list(sample(model, SCHEDULE, randn(1, 1, 2, 2), authors_grid(SCHEDULE, S)))) > 1
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=r"1\.\.1000"):
            authors_grid(SCHEDULE, steps)
    with pytest.raises(ValueError, match="quadratic or uniform"):
        authors_grid(SCHEDULE, 10, "leading")


# --- times ---------------------------------------------------------------------------------------------------------

X = randn(3, 2, 4, 4)
FUNCTIONS = [add_noise, predict_x0, predict_eps]


def call(function, t, x=X):
    return function(x, t, torch.ones_like(x), SCHEDULE)


@pytest.mark.parametrize("t", [-1, 1001, -1000, torch.tensor(-1), torch.tensor(1001), np.int64(-1)], ids=repr)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_time_out_of_range_is_refused_and_not_wrapped(function, t):
    with pytest.raises(ValueError, match=r"a time must lie in 0\.\.1000"):
        call(function, t)


@pytest.mark.parametrize("t", [[-1, 5, 5], [5, 5, 1001], [-1000, 5, 5], [2**62, 5, 5]], ids=repr)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_tensors_of_times_out_of_range_are_refused_and_not_wrapped(function, t):
    with pytest.raises(ValueError, match=r"times must lie in 0\.\.1000"):
        call(function, torch.tensor(t))


@pytest.mark.parametrize("t", NOT_INTEGERS, ids=repr)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_time_that_is_no_integer_is_refused(function, t):
    with pytest.raises(TypeError, match="a time must be an integer"):
        call(function, t)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool, torch.int32, torch.uint8])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_tensors_of_times_must_be_int64(function, dtype):
    with pytest.raises(TypeError, match="times must be int64"):
        call(function, torch.ones(3, dtype=dtype))


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), (1, 3), (0,)])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_times_of_another_shape_are_refused(function, shape):
    with pytest.raises(ValueError, match="do not fit a batch of 3"):
        call(function, torch.ones(shape, dtype=torch.int64))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_shapes_that_differ_are_refused_and_not_broadcast(function):
    with pytest.raises(ValueError, match=r"must have the same shape, got \(3, 2, 4, 4\) and \(1, 2, 4, 4\)"):
        function(X, 5, X[:1], SCHEDULE)


@pytest.mark.parametrize("t", [0, torch.tensor(0), torch.tensor([5, 0, 5])], ids=repr)
def test_no_noise_can_be_found_at_time_zero(t):
    with pytest.raises(ValueError, match="t >= 1"):
        predict_eps(X, t, X, SCHEDULE)


@pytest.mark.parametrize("lowest", [0, 1])
def test_check_time(lowest):
    assert SCHEDULE.check_time(lowest, lowest) == lowest
    assert type(SCHEDULE.check_time(torch.tensor(7))) is int
    with pytest.raises(ValueError, match="a time must lie in"):
        SCHEDULE.check_time(lowest - 1, lowest)


# --- equation 1 ----------------------------------------------------------------------------------------------------

shapes = st.lists(st.integers(1, 4), min_size=0, max_size=3).map(tuple)
dtypes = st.sampled_from([torch.float32, torch.float64])


@st.composite
def cases(draw, lowest):
    """x0, eps and times: one int for all, or one per image."""
    batch, dtype, seed = draw(st.integers(1, 5)), draw(dtypes), draw(st.integers(0, 2**31))
    shape = (batch, *draw(shapes))
    each = draw(st.booleans())
    times = draw(st.lists(st.integers(lowest, 1000), min_size=batch if each else 1, max_size=batch if each else 1))
    t = torch.tensor(times) if each else times[0]
    return randn(*shape, seed=seed, dtype=dtype), t, randn(*shape, seed=seed + 1, dtype=dtype)


def bound(scale, t, x):
    """Rounding of numbers below about 6, grown by the division by sqrt(alpha_t) or sqrt(1 - alpha_t)."""
    scales = scale[torch.as_tensor(t).reshape(-1)]
    return 64 * torch.finfo(x.dtype).eps / scales.view(-1, *[1] * (x.ndim - 1))


@given(cases(lowest=0))
def test_equation_1(case):
    x0, t, eps = case
    xt = add_noise(x0, t, eps, SCHEDULE)
    assert xt.shape == x0.shape
    assert xt.dtype == x0.dtype
    for i in range(len(x0)):
        a = SCHEDULE.alpha[t if isinstance(t, int) else t[i]].item()
        expected = a**0.5 * x0[i].double() + (1 - a) ** 0.5 * eps[i].double()
        torch.testing.assert_close(xt[i].double(), expected, rtol=0, atol=32 * torch.finfo(x0.dtype).eps)


@given(cases(lowest=0))
def test_predict_x0_inverts_equation_1(case):
    x0, t, eps = case
    found = predict_x0(add_noise(x0, t, eps, SCHEDULE), t, eps, SCHEDULE)
    assert found.dtype == x0.dtype
    assert ((found - x0).abs() <= bound(SCHEDULE.alpha.sqrt(), t, x0)).all()


@given(cases(lowest=1))
def test_predict_eps_inverts_equation_1(case):
    x0, t, eps = case
    found = predict_eps(add_noise(x0, t, eps, SCHEDULE), t, x0, SCHEDULE)
    assert found.dtype == x0.dtype
    assert ((found - eps).abs() <= bound((1 - SCHEDULE.alpha).sqrt(), t, x0)).all()


@given(cases(lowest=1))
def test_add_noise_inverts_both(case):
    xt, t, eps = case
    again = add_noise(predict_x0(xt, t, eps, SCHEDULE), t, eps, SCHEDULE)
    assert ((again - xt).abs() <= 64 * torch.finfo(xt.dtype).eps).all()
    x0 = eps
    again = add_noise(x0, t, predict_eps(xt, t, x0, SCHEDULE), SCHEDULE)
    assert ((again - xt).abs() <= 64 * torch.finfo(xt.dtype).eps).all()


def test_equation_1_changes_neither_its_inputs_nor_its_answer():
    x0, eps, t = randn(2, 3), randn(2, 3, seed=1), torch.tensor([3, 900])
    before = x0.clone(), eps.clone(), t.clone()
    first = add_noise(x0, t, eps, SCHEDULE)
    assert torch.equal(first, add_noise(x0, t, eps, SCHEDULE))
    assert all(torch.equal(a, b) for a, b in zip((x0, eps, t), before, strict=True))


def test_one_time_in_a_tensor_serves_a_batch():
    x0, eps = randn(4, 3), randn(4, 3, seed=1)
    torch.testing.assert_close(
        add_noise(x0, torch.tensor([70]), eps, SCHEDULE), add_noise(x0, 70, eps, SCHEDULE), rtol=0, atol=1e-6
    )


def test_coefficients_lie_where_the_state_does():
    """Asked for on one device and then on another, in the same dtype; "meta" is a device that every machine has."""
    schedule, t = Schedule.linear(10), torch.tensor([3, 9])
    for device in ("cpu", "meta", "cpu"):
        for dtype in (torch.float32, torch.float64):
            like = torch.empty(2, 3, dtype=dtype, device=device)
            for scale in schedule.scales(t, like):
                assert (scale.device.type, scale.dtype, scale.shape) == (device, dtype, (2, 1))
    signal, noise = schedule.scales(t, torch.empty(2, 3))
    assert torch.equal(signal.flatten(), schedule.alpha[t].sqrt().float())
    assert torch.equal(noise.flatten(), (1 - schedule.alpha[t]).sqrt().float())
