"""The loop: equal to one written by hand, exact after every kind of interruption, and careful with what it saves."""

import json
import math
import os
from dataclasses import asdict, fields, replace

import pytest
import torch
from helpers import TINY, TINY_RUN, randn, scenario, tiny_images
from torch.nn.functional import mse_loss

from ddim_core import UNet, run
from ddim_core import train as training
from ddim_core.errors import CheckpointError, DiskError, NonFiniteError, UsageError
from ddim_core.files import save_tensors
from ddim_core.recipes import RECIPES, TrainConfig, choose_amp, choose_device, recipe
from ddim_core.run import CHECKPOINT, METRICS
from ddim_core.train import Trainer, train
from ddim_core.weights import describe, export, load_weights
from ddim_core.weights.formats import CIFAR10

IMAGES = tiny_images()
QUIET = replace(TINY_RUN, unet=replace(TINY, dropout=0.0))


def trainer(config=TINY_RUN, images=IMAGES, amp="fp32"):
    return Trainer(config, images, device="cpu", amp=amp)


def losses(steps):
    return [step.loss.item() for step in steps]


def state(t):
    """All that a run is, to the last bit."""
    tensors = {f"model.{k}": v.clone() for k, v in t.model.state_dict().items()}
    tensors |= {f"ema.{k}": v.clone() for k, v in t.ema.state_dict().items()}
    for i, s in t.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v.clone() for k, v in s.items()}
    return tensors


def assert_same(a, b):
    a, b = state(a), state(b)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a), [k for k in a if not torch.equal(a[k], b[k])]


# --- the loop ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", ["cosine", "constant"])
def test_the_loop_is_six_lines(decay):
    """Written by hand in other words: the same losses, parameters and averages."""
    config = replace(QUIET, lr_decay=decay, ema_decay=0.6, clip_norm=0.5)
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
        lr = 3e-3 * min(1, (k + 1) / 3) * (0.5 * (1 + math.cos(math.pi * k / 15)) if decay == "cosine" else 1)
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
    written = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert written == t.record.epochs == [s.metrics for s in steps if s.metrics]
    assert [m["epoch"] for m in written] == [1, 2, 3]
    assert written[0]["images_per_second"] > 0
    assert sorted(os.listdir(tmp_path)) == [CHECKPOINT, METRICS]
    assert list(train(t, tmp_path)) == [], "it is done"


def test_every_epoch_is_a_new_order_of_the_pictures():
    marked = torch.arange(43, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    t = trainer(images=marked)
    orders = []
    for epoch in range(3):
        seen = torch.cat([t.batch(5 * epoch + k)[0][:, 0, 0, 0] for k in range(5)])
        numbers = ((seen + 1) * 127.5).round().int().tolist()
        assert len(set(numbers)) == 40, "none twice; three are left out"
        orders.append(numbers)
    assert orders[0] != orders[1] != orders[2]


def test_times_and_noise_are_drawn_for_each_picture():
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


@pytest.mark.parametrize("warmup", [0, 1, 10, 100])
def test_the_learning_rate(warmup):
    t = trainer(replace(TINY_RUN, warmup=warmup, epochs=10, lr=1.0))
    rates = [t.lr(k) for k in range(50)]
    for k in range(50):
        warm = (k + 1) / warmup if k + 1 < warmup else 1
        assert rates[k] == pytest.approx(warm * (1 + math.cos(math.pi * k / 50)) / 2, rel=1e-12)
    assert rates[-1] < 0.01
    constant = trainer(replace(TINY_RUN, warmup=warmup, epochs=10, lr=1.0, lr_decay="constant"))
    assert constant.lr(49) == (0.5 if warmup == 100 else 1)


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


# --- interrupted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amp", ["fp32", "bf16"])
@pytest.mark.parametrize("stop_at", [1, 5, 7, 14])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, stop_at, amp):
    """With dropout, in the middle of an epoch and at its end: every loss and every tensor, bit by bit."""
    straight = trainer(amp=amp)
    expected = losses(train(straight))

    first = trainer(amp=amp)
    found = losses(train(first, tmp_path, stop=lambda: first.steps_done >= stop_at))
    assert first.steps_done == stop_at
    torch.manual_seed(stop_at)  # what happens in between does not matter
    second = trainer(amp=amp)
    run.load(second, tmp_path / CHECKPOINT)
    assert_same(first, second)
    found += losses(train(second, tmp_path))
    assert found == expected
    assert_same(second, straight)
    assert [m["loss"] for m in second.record.epochs] == [m["loss"] for m in straight.record.epochs]
    assert len((tmp_path / METRICS).read_text().splitlines()) == 3


def test_killed_again_and_again(tmp_path):
    """kill -9 at random steps until the run has come to its end: the losses and tensors of a run left in peace."""
    result = scenario("killed_in_training", tmp_path)
    assert result["code"] == 0
    assert result["kills"] >= 3
    assert result["steps"] == 40
    assert result["steps_with_repeats"] > 40, "steps after the last checkpoint were done again"
    assert result["every_loss_equal"]
    assert result["same_tensors"]


def test_two_processes_train_as_one(tmp_path):
    result = scenario("two_processes", tmp_path)
    assert result["alone"] == 10
    assert result["pair"] == [10, 10]
    alone, first, second = result["losses"]
    assert len(alone) == 10
    assert first == second, "both see the loss of the whole batch"
    assert first == pytest.approx(alone, rel=1e-5)
    assert result["distance"] < 1e-4
    assert result["files"] == ["losses"], "only the first one writes"
    assert result["stopped"] == [4, 4], "one was told at step 2; they agree at step 4"
    assert result["steps_saved"] == 4
    assert result["unshareable"] == [2, 2]


def test_more_epochs_than_planned(tmp_path):
    config = replace(TINY_RUN, epochs=1, lr_decay="constant")
    list(train(trainer(config), tmp_path))
    more = trainer(replace(config, epochs=2))
    run.load(more, tmp_path / CHECKPOINT)
    straight = trainer(replace(config, epochs=2))
    expected = losses(train(straight))
    assert losses(train(more)) == expected[5:]
    assert_same(more, straight)


def test_a_long_epoch_is_saved_from_time_to_time(tmp_path, monkeypatch):
    t = trainer()
    steps = train(t, tmp_path)
    next(steps)
    assert not (tmp_path / CHECKPOINT).exists()
    monkeypatch.setattr(training, "_SAVE_EVERY", 0)
    next(steps)
    assert t.steps_done < t.steps_per_epoch
    again = trainer()
    run.load(again, tmp_path / CHECKPOINT)
    assert again.steps_done == t.steps_done
    assert_same(again, t)


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    t = trainer()
    list(train(t, stop=lambda: t.steps_done >= 6))
    assert not os.listdir(tmp_path)


# --- what does not fit -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / CHECKPOINT
    t = trainer(replace(TINY_RUN, epochs=1))
    list(train(t))
    run.save(t, path)
    return path


CHANGES = {
    "dataset": "mnist-10k",
    "batch_size": 4,
    "lr": 1e-4,
    "lr_decay": "constant",
    "warmup": 4,
    "clip_norm": None,
    "loss_weight": "balanced",
    "ema_decay": 0.9,
    "T": 999,
    "beta_1": 2e-4,
    "beta_T": 0.03,
    "seed": 1,
    "unet": replace(TINY, dropout=0.2),
}


@pytest.mark.parametrize("name", [f.name for f in fields(TrainConfig) if f.name != "epochs"])
def test_a_run_with_other_settings_is_not_continued(saved, name):
    other = trainer(replace(TINY_RUN, **{name: CHANGES[name]}))
    before = state(other)
    with pytest.raises(CheckpointError, match=f"is of a run with another {name}: use its settings") as e:
        run.load(other, saved)
    assert str(saved) in str(e.value)
    after = state(other)
    assert other.steps_done == 0
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_run_on_other_pictures_is_not_continued(saved):
    other = IMAGES.clone()
    other[40, 0, 3, 3] ^= 1
    for images in (other, IMAGES[:42], IMAGES.flip(0)):
        with pytest.raises(CheckpointError, match="is of a run on other images"):
            run.load(trainer(images=images), saved)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-3], lambda b: b[:5], lambda b: b"", lambda b: b[:-99] + b"\xff" + b[-98:]]
)
def test_a_damaged_checkpoint_is_not_continued(saved, tmp_path, damage):
    path = tmp_path / CHECKPOINT
    path.write_bytes(damage(saved.read_bytes()))
    with pytest.raises(CheckpointError, match="is damaged") as e:
        run.load(trainer(), path)
    assert str(path) in str(e.value)


def test_something_else_is_not_continued(saved, tmp_path):
    save_tensors(tmp_path / "weights", {"a": torch.zeros(1)}, {"kind": "weights"})
    with pytest.raises(CheckpointError, match="holds 'weights', not 'training'"):
        run.load(trainer(), tmp_path / "weights")
    with pytest.raises(CheckpointError, match="no such file"):
        run.load(trainer(), tmp_path / "nothing")


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(9, 1, 8, 8),
        torch.zeros(9, 8, 8, dtype=torch.uint8),
        torch.zeros(9, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(9, 1, 8, 9, dtype=torch.uint8),
        torch.zeros(9, 1, 28, 28, dtype=torch.uint8),
    ],
    ids=lambda x: f"{x.dtype} {tuple(x.shape)}",
)
def test_pictures_that_do_not_fit_the_network(images):
    with pytest.raises(UsageError, match=r"images must be uint8 \[N, 1, 8, 8\]"):
        trainer(images=images)


# --- begun with given weights ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given(saved, tmp_path_factory):
    """Weights of a run of one epoch."""
    path = tmp_path_factory.mktemp("given") / "w.safetensors"
    export(saved, path)
    return str(path)


def test_a_run_may_begin_with_given_weights(given, tmp_path):
    expected = load_weights(given)[0].state_dict()
    config = replace(TINY_RUN, seed=5, unet=replace(TINY, dropout=0.0))
    t = trainer(config)
    run.start_from(t, given)
    for net in (t.model, t.ema):
        assert all(torch.equal(net.state_dict()[k], v) for k, v in expected.items())
    assert t.model.training
    assert all(p.requires_grad for p in t.model.parameters())
    assert t.origin == {
        "weights": given,
        "sha256": describe(given)["sha256"],
        "provenance": describe(given)["provenance"],
    }
    t.step()
    assert all((t.model.state_dict()[k] != v).any() for k, v in expected.items()), "all of it learns"
    # where it began is kept by checkpoint, resumed run and exported weights
    run.save(t, tmp_path / CHECKPOINT)
    again = trainer(config)
    run.load(again, tmp_path / CHECKPOINT)
    assert again.origin == t.origin
    assert export(tmp_path / CHECKPOINT, tmp_path / "w.safetensors")["provenance"]["origin"] == t.origin


def test_a_run_from_random_weights_names_none(saved, tmp_path):
    assert "origin" not in export(saved, tmp_path / "w.safetensors")["provenance"]
    again = trainer(replace(TINY_RUN, epochs=1))
    run.load(again, saved)
    assert again.origin is None


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"unet": replace(TINY, ch=16)}, "network"),
        ({"unet": replace(TINY, num_res_blocks=2)}, "network"),
        ({"T": 999}, "schedule"),
        ({"beta_T": 0.03}, "schedule"),
    ],
)
def test_weights_of_another_run_are_no_beginning(given, changes, what):
    t = trainer(replace(TINY_RUN, **changes))
    before = state(t)
    with pytest.raises(UsageError, match=f"--init .*: these weights are of another {what} than the run"):
        run.start_from(t, given)
    assert t.origin is None
    assert all(torch.equal(before[k], v) for k, v in state(t).items())


def test_public_weights_are_no_beginning(tmp_path):
    """They count time from 0: trained further with ours, they would be spoilt without a word."""
    torch.save(UNet(CIFAR10).state_dict(), tmp_path / "ema.pt")
    t = Trainer(replace(TINY_RUN, unet=CIFAR10), torch.zeros(8, 3, 32, 32, dtype=torch.uint8), device="cpu", amp="fp32")
    with pytest.raises(UsageError, match="another counting of time"):
        run.start_from(t, str(tmp_path / "ema.pt"))


def test_only_the_first_step_can_have_a_beginning(given):
    t = trainer()
    t.step()
    with pytest.raises(UsageError, match="after 1 step"):
        run.start_from(t, given)


# --- not finite, no room -----------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    t = trainer(replace(TINY_RUN, lr=1e30, warmup=0))
    run.save(t, tmp_path / CHECKPOINT)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(
        NonFiniteError,
        match=r"the loss is not finite by step 5 \(lr 8.*e\+29, fp32\): the last checkpoint is untouched",
    ):
        list(train(t, tmp_path))
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert os.listdir(tmp_path) == [CHECKPOINT]
    assert NonFiniteError.exit_code == 5


def test_it_is_seen_within_twenty_steps():
    t = trainer(replace(TINY_RUN, batch_size=1))
    for p in t.model.parameters():
        p.data.fill_(math.inf)
    with pytest.raises(NonFiniteError, match="by step 20 "):
        list(train(t))


def test_a_stop_does_not_save_what_is_not_finite(tmp_path):
    t = trainer(replace(TINY_RUN, lr=1e30, warmup=0))
    with pytest.raises(NonFiniteError, match="the loss is not finite by step 3"):
        list(train(t, tmp_path, stop=lambda: t.steps_done >= 3))
    t = trainer()
    t.record.loss_sum.fill_(math.nan)  # as where a gradient scaler kept it out of the parameters
    with pytest.raises(NonFiniteError, match="the loss is not finite"):
        run.save(t, tmp_path / CHECKPOINT)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_parameters_that_are_not_finite_are_not_saved(tmp_path, value):
    """The loss of a step is of the parameters before it: a good loss may come with a broken update."""
    t = trainer()
    t.step()
    run.save(t, tmp_path / CHECKPOINT)
    before = (tmp_path / CHECKPOINT).read_bytes()
    t.model.mid.block_1.conv1.bias.data[3] = value
    with pytest.raises(NonFiniteError, match="a parameter is not finite by step 1"):
        run.save(t, tmp_path / CHECKPOINT)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_no_room_for_a_checkpoint(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=f"cannot write {tmp_path}/file/run/{CHECKPOINT}"):
        list(train(trainer(), tmp_path / "file" / "run"))


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must be an integer of at least 1"),
        ({"epochs": 1.5}, "epochs must be an integer"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"warmup": -1}, "warmup must be an integer of at least 0"),
        ({"T": 0}, "T must be an integer of at least 1"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": -1.0}, "lr must be positive"),
        ({"lr": math.nan}, "lr must be positive"),
        ({"lr": math.inf}, "lr must be positive"),
        ({"lr_decay": "linear"}, "lr_decay must be cosine or constant"),
        ({"clip_norm": 0.0}, "clip_norm must be positive or None"),
        ({"clip_norm": math.nan}, "clip_norm must be positive or None"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in \[0, 1\)"),
        ({"ema_decay": -0.1}, r"ema_decay must lie in \[0, 1\)"),
    ],
    ids=str,
)
def test_settings_out_of_range(values, message):
    with pytest.raises(UsageError, match=message):
        replace(TINY_RUN, **values)


def test_recipes():
    assert recipe("mnist", epochs=2) == replace(RECIPES["mnist"], epochs=2)
    with pytest.raises(UsageError, match="unknown recipe 'cifar': choose one of mnist, mnist-large"):
        recipe("cifar")
    with pytest.raises(UsageError, match="epochs must be"):
        recipe("mnist", epochs=0)


@pytest.mark.parametrize(("name", "but"), [("mnist", set()), ("kanji", {"epochs", "seed"})])
def test_shipped_weights_are_of_their_recipe(name, but):
    """All settings; those of kanji came in two runs of a few epochs, the second under another seed."""
    description = describe(name)
    settings = json.loads(json.dumps(asdict(RECIPES[name])))
    trained = {
        "loss_weight": "plain",
        **description["provenance"]["training"],
        "unet": {"patch": 1, **description["unet"]},
    }
    assert {k for k in settings if settings[k] != trained[k]} == but
    assert settings.keys() == trained.keys()
    assert len(description["provenance"]["history"]) == trained["epochs"]


def test_settings_survive_json():
    for config in (TINY_RUN, *RECIPES.values()):
        assert TrainConfig.from_dict(json.loads(json.dumps(asdict(config)))) == config


def test_the_schedule_of_a_run():
    schedule = replace(TINY_RUN, T=10, beta_1=0.1, beta_T=0.2).schedule
    assert schedule.T == 10
    assert schedule.alpha[1].item() == pytest.approx(0.9)
    assert replace(TINY_RUN).schedule.alpha[-1].item() == pytest.approx(4.0358e-5, rel=1e-4)


# --- device and arithmetic ---------------------------------------------------------------------------------------

CPU = torch.device("cpu")


def test_arithmetic_on_the_cpu(monkeypatch):
    assert choose_amp(CPU, "fp32") == "fp32"
    assert choose_amp(CPU, "bf16") == "bf16"
    for avx, amx, expected in [(0, 0, "fp32"), (1, 0, "bf16"), (0, 1, "bf16"), (1, 1, "bf16")]:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda x=avx: bool(x), raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda x=amx: bool(x), raising=False)
        assert choose_amp(CPU) == expected
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert choose_amp(CPU) == "fp32", "a torch that cannot say"


@pytest.mark.parametrize(("generation", "expected"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_arithmetic_on_a_gpu(monkeypatch, generation, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: generation)
    assert choose_amp(torch.device("cuda")) == expected
    assert choose_amp(torch.device("cuda"), "fp16") == "fp16"


@pytest.mark.parametrize("name", ["fp64", "", "AUTO", "bfloat16"])
def test_unknown_arithmetic(name):
    with pytest.raises(UsageError, match="amp must be auto, fp32, bf16 or fp16"):
        choose_amp(CPU, name)


def test_fp16_needs_a_gpu():
    with pytest.raises(UsageError, match="fp16 needs a CUDA GPU"):
        choose_amp(CPU, "fp16")
    with pytest.raises(UsageError, match="fp16 needs a CUDA GPU"):
        trainer(amp="fp16")


def test_devices():
    assert choose_device("cpu") == CPU
    assert choose_device().type in ("cpu", "cuda", "mps")
    for name in ("gpu", "cuda:99", "", "cpu cpu"):
        with pytest.raises(UsageError, match=r"cannot be used \(.*\): leave --device out") as e:
            choose_device(name)
        assert "\n" not in str(e.value)


def test_bf16_trains_nearly_as_fp32():
    a, b = (losses(train(trainer(QUIET, amp=amp))) for amp in ("fp32", "bf16"))
    assert a != b
    assert a == pytest.approx(b, rel=0.05)


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


def test_one_process_alone_joins_nothing():
    with training.processes(), training.first_alone():
        assert not torch.distributed.is_initialized()
