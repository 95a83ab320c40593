"""The loop: equal to one written by hand, in every draw, rate and average."""

import json
import math
import os
import time
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from helpers import IMAGES, QUIET, TINY_RUN, assert_same, losses, randn, trainer
from torch.nn.functional import mse_loss

from ddim_core import UNet
from ddim_core.errors import UsageError
from ddim_core.run import CHECKPOINT, METRICS
from ddim_core.train import Trainer, train

# --- the loop ----------------------------------------------------------------------------------------------------


def test_the_loop_is_six_lines():
    """Written by hand in other words: the same losses, parameters and averages."""
    config = replace(QUIET, ema_decay=0.6, clip_norm=0.5)
    t = trainer(config)
    model = UNet(config.unet)
    model.load_state_dict(t.model.state_dict())
    average = {k: v.detach().double().clone() for k, v in model.named_parameters()}
    alpha = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    first, second = (dict.fromkeys(average, 0.0) for _ in range(2))
    clipped = 0
    for k in range(15):
        x0, time, eps = t.batch(k)
        a = alpha[time - 1].float().view(-1, 1, 1, 1)
        loss = mse_loss(model(a.sqrt() * x0 + (1 - a).sqrt() * eps, time), eps)
        model.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters()))
        clipped += norm > 0.5
        lr = 3e-3 * min(1, (k + 1) / 3) * 0.5 * (1 + math.cos(math.pi * k / 15))
        d = min(0.6, (1 + k) / (10 + k))
        for name, p in model.named_parameters():  # Adam (Kingma and Ba, algorithm 1)
            g = p.grad.double() * min(1, 0.5 / norm)
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g * g
            m, v = first[name] / (1 - 0.9 ** (k + 1)), second[name] / (1 - 0.999 ** (k + 1))
            p.data -= (lr * m / (v.sqrt() + 1e-8)).float()
            average[name] = d * average[name] + (1 - d) * p.detach().double()
        step = t.step()
        assert step.lr == pytest.approx(lr, rel=1e-12)
        assert step.loss.item() == pytest.approx(loss.item(), rel=1e-4)
    assert clipped > 2, "or clipping was not tried"
    for (name, mine), theirs in zip(model.named_parameters(), t.model.parameters(), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(t.ema.get_parameter(name).double(), average[name], rtol=1e-3, atol=1e-4)


def test_training_learns():
    config = replace(QUIET, epochs=60, warmup=20, lr=5e-3)
    found = losses(train(trainer(config)))
    assert sum(found[:5]) / 5 > 0.9, "a new network says zero"
    assert sum(found[-20:]) / 20 < 0.5


def test_steps_and_epochs(tmp_path):
    t = trainer()
    assert (t.steps_per_epoch, t.total_steps, t.batch_size) == (5, 15, 8)
    steps = list(train(t, tmp_path))
    assert [s.step for s in steps] == list(range(1, 16))
    assert [s.epoch for s in steps] == [1] * 5 + [2] * 5 + [3] * 5
    assert [s.step for s in steps if s.metrics] == [5, 10, 15]
    for e in range(3):
        mean = sum(losses(steps[5 * e : 5 * e + 5])) / 5
        assert steps[5 * e + 4].metrics["loss"] == pytest.approx(mean, abs=1e-6)
    written = [json.loads(line) for line in (tmp_path / METRICS).read_text(encoding="utf-8").splitlines()]
    assert written == t.record.epochs == [s.metrics for s in steps if s.metrics]
    assert [m["epoch"] for m in written] == [1, 2, 3]
    assert written[0]["images_per_second"] > 0
    assert sorted(os.listdir(tmp_path)) == [CHECKPOINT, METRICS]
    assert list(train(t, tmp_path)) == [], "it is done"


def test_the_seconds_of_an_epoch_are_those_of_its_steps():
    """Not what happens between them."""
    t, draw = trainer(replace(QUIET, epochs=1)), trainer(QUIET).batch
    t.batch = lambda step: time.sleep(0.1) or draw(step)
    start = time.perf_counter()
    for step in train(t):
        metrics, passed = step.metrics, time.perf_counter() - start
        time.sleep(0.3)
    assert 0.5 <= metrics["seconds"] < passed - 1.1
    assert metrics["images_per_second"] == pytest.approx(40 / metrics["seconds"], rel=0.15)


def test_every_epoch_is_a_new_order_of_the_images():
    marked = torch.arange(43, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    t = trainer(images=marked)
    orders = []
    for epoch in range(3):
        seen = torch.cat([t.batch(5 * epoch + k)[0][:, 0, 0, 0] for k in range(5)])
        numbers = ((seen + 1) * 127.5).round().int().tolist()
        assert len(set(numbers)) == 40, "none twice; three are left out"
        orders.append(numbers)
    assert orders[0] != orders[1] != orders[2]


def test_times_and_noise_are_drawn_for_each_image():
    t = trainer(replace(TINY_RUN, batch_size=40))
    draws = [t.batch(k) for k in range(100)]
    times = torch.cat([time for _, time, _ in draws])
    assert times.dtype == torch.int64
    assert 1 <= times.min() < 10
    assert 990 < times.max() <= 1000
    assert times.float().mean().item() == pytest.approx(500.5, abs=20)
    eps = torch.cat([e for *_, e in draws])
    assert eps.mean().item() == pytest.approx(0, abs=0.01)
    assert eps.std().item() == pytest.approx(1, abs=0.01)
    assert draws[0][0].shape == eps[:40].shape == (40, 1, 8, 8)


def test_times_reach_both_ends():
    t = trainer(replace(TINY_RUN, T=3, batch_size=40))
    assert set(torch.cat([t.batch(k)[1] for k in range(5)]).tolist()) == {1, 2, 3}


def test_draws_depend_on_seed_and_step_only():
    a, b, other = trainer(), trainer(), trainer(replace(TINY_RUN, seed=1))
    for k in (11, 3, 7, 3):  # in any order
        again = b.batch(k)
        assert all(torch.equal(x, y) for x, y in zip(a.batch(k), again, strict=True))
        assert not torch.equal(other.batch(k)[2], again[2])
    assert not torch.equal(a.batch(3)[2], a.batch(4)[2])


def test_the_same_seed_gives_the_same_network():
    assert_same(trainer(), trainer())
    a, b = trainer().model.state_dict(), trainer(replace(TINY_RUN, seed=1)).model.state_dict()
    assert not torch.equal(a["conv_in.weight"], b["conv_in.weight"])


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    t = trainer()
    t.step()
    assert torch.equal(before, torch.get_rng_state())


def test_dropout_is_on_and_drawn_anew_each_step():
    t = trainer()
    x0, time, _ = t.batch(0)
    for p in t.model.parameters():
        p.data.add_(0.05)
    with torch.no_grad():
        answers = []
        for k in (0, 0, 1):
            with t._dropout_seed(k):
                answers.append(t.model(x0, time))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])
    assert t.model.training
    assert not t.ema.training


def test_each_process_draws_its_own_dropout():
    """Else the shares of a batch would lose the same units, and a batch of two processes would have half the noise."""
    t, masks = trainer(), []
    for t.rank in (0, 1, 0):
        with t._dropout_seed(3):
            masks.append(torch.nn.functional.dropout(torch.ones(64)))
    assert torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], masks[1])


@pytest.mark.parametrize("warmup", [0, 1, 10, 100])
def test_the_learning_rate(warmup):
    t = trainer(replace(TINY_RUN, warmup=warmup, epochs=10, lr=1.0))
    rates = [t.lr(k) for k in range(50)]
    for k in range(50):
        warm = (k + 1) / warmup if k + 1 < warmup else 1
        assert rates[k] == pytest.approx(warm * (1 + math.cos(math.pi * k / 50)) / 2, rel=1e-12)
    assert rates[-1] < 0.01


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_average_warms_up(decay):
    t = trainer(replace(TINY_RUN, ema_decay=decay))
    expected = t.ema.conv_in.weight.double().clone()
    assert torch.equal(t.ema.conv_in.weight, t.model.conv_in.weight)
    for k in range(12):
        t.step()
        d = min(decay, (1 + k) / (10 + k))
        expected = d * expected + (1 - d) * t.model.conv_in.weight.detach().double()
        torch.testing.assert_close(t.ema.conv_in.weight.double(), expected, rtol=1e-5, atol=1e-7)
    assert all(not p.requires_grad for p in t.ema.parameters())


def test_a_set_smaller_than_a_batch_is_one_batch():
    t = trainer(replace(TINY_RUN, batch_size=128), images=IMAGES[:5])
    assert (t.batch_size, t.steps_per_epoch) == (5, 1)
    assert len(list(train(t))) == 3


def test_memory_that_does_not_suffice_is_one_line(tmp_path):
    t = trainer()
    t.batch = lambda step: torch.empty(10**15)  # torch's own words for it
    with pytest.raises(
        UsageError, match=r"^out of memory: train with a smaller --batch-size, or smaller images \(--reso"
    ):
        list(train(t, tmp_path))
    assert os.listdir(tmp_path) == []


# --- arithmetic --------------------------------------------------------------------------------------------------


def test_fp16_needs_a_gpu():
    with pytest.raises(UsageError, match="fp16 needs a CUDA GPU"):
        trainer(amp="fp16")


def test_gradients_are_clipped_as_they_are_and_not_as_fp16_scales_them():
    """The scaler of fp16, which multiplies the loss by 1,024 here, on a CPU: it changes no step."""
    config = replace(QUIET, clip_norm=0.5)
    plain, scaled = trainer(config), trainer(config)
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=True)
    clipped = 0
    for _ in range(6):
        plain.step(), scaled.step()
        norms = [torch.stack([p.grad.norm() for p in t.model.parameters()]).norm().item() for t in (plain, scaled)]
        assert norms[1] == pytest.approx(norms[0], rel=1e-3)
        assert max(norms) < 0.501
        clipped += norms[0] > 0.49
    assert clipped > 1, "or clipping was not tried"
    for a, b in zip(plain.model.parameters(), scaled.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_bf16_trains_nearly_as_fp32():
    a, b = (losses(train(trainer(QUIET, amp=amp))) for amp in ("fp32", "bf16"))
    assert a != b
    assert a == pytest.approx(b, rel=0.05)


@pytest.mark.parametrize("amp", ["fp32", "bf16"])
def test_what_serves_a_gpu_alone_is_off_on_a_cpu(amp):
    """The scaler of fp16, and the layout that a GPU's convolutions work in."""
    t = trainer(amp=amp)
    assert not t.scaler.is_enabled()
    for net in (t.model, t.ema):
        assert all(p.is_contiguous() for p in net.parameters())
        assert not net.mid.block_1.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_step_is_a_record():
    with pytest.raises(FrozenInstanceError):
        trainer().step().loss = 0.0


def test_the_compiled_network_is_the_same_one():
    """Compiled is what a step calls; what is trained, averaged and saved keeps its tensors and their names."""
    t = Trainer(TINY_RUN, IMAGES, device="cpu", amp="fp32", compile=True)
    assert isinstance(t.parallel, torch._dynamo.OptimizedModule)
    assert t.parallel._orig_mod is t.model
    assert not isinstance(t.model, torch._dynamo.OptimizedModule)
    assert_same(t, trainer())


def test_gradients_are_of_the_whole_loss_and_start_at_zero_each_step():
    t = trainer(replace(QUIET, clip_norm=None))
    t.step()
    t.step()
    once = [p.grad.clone() for p in t.model.parameters()]
    t2 = trainer(replace(QUIET, clip_norm=None))
    t2.step()
    for p in t2.model.parameters():
        p.grad = randn(*p.shape)
    t2.step()
    assert all(torch.equal(a, p.grad) for a, p in zip(once, t2.model.parameters(), strict=True))
