"""Weights of the loss by t: each bin of times contributes the same, whatever it loses, and the mean stays."""

from dataclasses import replace

import pytest
import torch
from helpers import TINY, TINY_RUN, seeded, tiny_images

from ddim_core import Schedule, add_noise, run
from ddim_core.errors import UsageError
from ddim_core.recipes import recipe
from ddim_core.run import CHECKPOINT
from ddim_core.train import Trainer, train
from ddim_core.weighting import LossByTime, min_snr

QUIET = replace(TINY_RUN, unet=replace(TINY, dropout=0.0))


def observed(by_time, loss_of, batches=400, B=64):
    g = seeded()
    for _ in range(batches):
        t = torch.randint(1, by_time.T + 1, (B,), generator=g)
        by_time.add(by_time.measured(t, loss_of(t)), B)
    return by_time


def test_it_learns_the_loss_of_each_bin():
    by_time = observed(LossByTime(1000), lambda t: 1.0 / t)
    t = torch.arange(1, 1001)
    for i in (0, 3, 25, 49):
        inside = t[by_time.bin(t) == i]
        assert len(inside) == 20
        assert by_time.mean()[i].item() == pytest.approx((1.0 / inside).mean().item(), rel=0.35 if i == 0 else 0.05)


def test_every_bin_gets_the_same_share_and_the_mean_stays():
    loss = lambda t: 0.2 * torch.exp(-t / 100)  # noqa: E731
    by_time = observed(LossByTime(1000), loss)
    t = torch.arange(1, 1001)
    weighted = by_time.weight(t) * loss(t)
    shares = torch.stack([weighted[by_time.bin(t) == i].mean() for i in range(50)])
    assert shares.max() / shares.min() < 1.2
    assert loss(t).max() / loss(t).min() > 1000, "which the plain loss is far from"
    assert weighted.mean().item() == pytest.approx(loss(t).mean().item(), rel=0.1)


def test_a_new_one_weighs_all_times_the_same_and_the_first_image_counts():
    by_time = LossByTime(1000)
    assert torch.equal(by_time.weight(torch.arange(1, 1001)), torch.ones(1000))
    t = torch.tensor([500])
    by_time.add(by_time.measured(t, torch.tensor([0.01])), 1)
    assert by_time.mean()[by_time.bin(t)].item() == pytest.approx(0.011, rel=0.01)


def test_what_is_old_fades():
    by_time = observed(LossByTime(10, memory=640), lambda t: torch.ones_like(t).float(), batches=50)
    observed(by_time, lambda t: torch.full(t.shape, 0.5), batches=10)  # 640 images: 1/e of the ones is left
    torch.testing.assert_close(by_time.mean(), torch.full((10,), 0.5 + 0.5 * 0.9**10), rtol=0.1, atol=0)


@pytest.mark.parametrize("T", [1, 7, 50, 1000])
def test_every_time_has_a_bin(T):
    by_time = LossByTime(T)
    bins = by_time.bin(torch.arange(1, T + 1))
    assert bins.unique().tolist() == list(range(min(50, T)))


def test_min_snr_by_hand():
    schedule = Schedule.linear()
    t = torch.tensor([1, 100, 250, 500, 1000])
    snr = schedule.alpha[t] / (1 - schedule.alpha[t])
    torch.testing.assert_close(min_snr(t, schedule).double(), snr.clamp(max=5) / snr, rtol=1e-4, atol=0)
    assert (snr[:2] > 5).all(), "both sides of the limit"
    assert (snr[3:] < 5).all()


@pytest.mark.parametrize("kind", ["balanced", "min-snr"])
def test_the_gradient_is_of_the_weighted_loss_and_the_record_of_the_plain_one(kind):
    config = replace(QUIET, loss_weight=kind, clip_norm=None)
    t = Trainer(config, tiny_images(), device="cpu", amp="fp32")
    list(zip(range(7), train(t), strict=False))  # weights that differ
    x0, times, eps = t.batch(t.steps_done)
    xt = add_noise(x0, times, eps, t.schedule)
    losses = (t.model(xt, times) - eps).square().flatten(1).mean(1)
    weight = t.weight(times)
    assert weight.std() > 0.01
    expected = torch.autograd.grad((weight * losses).mean(), list(t.model.parameters()), allow_unused=True)
    step = t.step()
    assert step.loss.item() == pytest.approx(losses.mean().item(), rel=1e-5)
    for p, g in zip(t.model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=1e-6)


def test_balance_survives_an_interruption(tmp_path):
    config = replace(TINY_RUN, loss_weight="balanced")
    straight, cut = (Trainer(config, tiny_images(), device="cpu", amp="fp32") for _ in range(2))
    losses = [step.loss.item() for step in train(straight)]
    done = [step.loss.item() for step in train(cut, tmp_path, stop=lambda: cut.steps_done == 6)]
    again = Trainer(config, tiny_images(), device="cpu", amp="fp32")
    run.load(again, tmp_path / CHECKPOINT)
    assert done + [step.loss.item() for step in train(again)] == losses
    assert torch.equal(again.loss_by_time.sums, straight.loss_by_time.sums)


def test_an_unknown_weight_is_refused():
    with pytest.raises(UsageError, match="loss_weight must be one of plain, balanced, min-snr"):
        recipe("mnist", loss_weight="none")
