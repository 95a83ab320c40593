"""What the chapter "In the plane" shows beyond its equations (those are held in test_equations.py)."""

import pytest
import torch
from helpers import randn
from hypothesis import given
from hypothesis import strategies as st

from ddim_core import Schedule, image_generators, sample
from ddim_core.oracle import DatasetDenoiser

SCHEDULE = Schedule.linear()
ALPHA = SCHEDULE.alpha


def points(n: int, dimensions: int, seed: int) -> torch.Tensor:
    return randn(n, dimensions, seed=seed, dtype=torch.float64).clamp(-1, 1)


def walk(model, xT: torch.Tensor, tau: list[int], **options) -> torch.Tensor:
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
def test_with_one_picture_the_bound_is_attained_and_the_grid_does_not_matter(tau, seed):
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
def test_each_picture_gets_its_share_of_the_noise(eta):
    # the last picture stands twice in the data: twice the share
    y = torch.tensor([[0.9, 0.35], [0.25, 0.85], [-0.7, 0.7], [-0.35, 0.05], [0.15, -0.8], [0.15, -0.8]]).double()
    xT = randn(4000, 2, seed=3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    ends = walk(DatasetDenoiser(y, SCHEDULE), xT, SCHEDULE.timesteps(200), eta=eta, generator=generator)[-1]
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
