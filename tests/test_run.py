"""A run: exact after every kind of interruption, and careful with what it saves and goes on from."""

import math
import os
from dataclasses import fields, replace

import pytest
import torch
from helpers import IMAGES, TINY, TINY_RUN, assert_same, losses, randomised, run_state, scenario, trainer

from ddim_core import UNet, generate, run
from ddim_core import train as training
from ddim_core.errors import CheckpointError, DiskError, NonFiniteError, UsageError
from ddim_core.files import load_tensors, save_tensors
from ddim_core.plots import png, tile
from ddim_core.recipes import TrainConfig
from ddim_core.run import CHECKPOINT, METRICS
from ddim_core.train import Trainer, train
from ddim_core.weights import describe, export, load_weights
from ddim_core.weights.formats import CIFAR10

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
    assert len((tmp_path / METRICS).read_text(encoding="utf-8").splitlines()) == 3


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


def test_a_fault_of_the_first_process_is_said_once(tmp_path):
    """And the other ends with the same code, without a word."""
    result = scenario("two_commands", tmp_path)
    for name, code, said in (
        ("data", 3, f"no readable MNIST under {tmp_path}/none/MNIST/raw "),
        ("lock", 2, f"{tmp_path}/held belongs to a run that is under way "),
        ("disk", 6, f"cannot write {tmp_path}/file/run/config.json "),
    ):
        codes, (first, other) = result[name]
        assert (codes, other) == ([code, code], "")
        assert first.startswith(f"ddim: {said}")
        assert first.count("\n") == 1
    assert result["none"] == [[0, 0], ["", ""]]
    codes, both = result["gpus"]
    assert (codes, both) == (
        [2, 2],
        ["ddim: cuda:0 is one GPU for several processes: --device cuda gives one to each\n"] * 2,
    )


def test_more_epochs_than_planned(tmp_path):
    one, more, straight = (trainer(replace(TINY_RUN, epochs=n)) for n in (1, 2, 2))
    one.lr = straight.lr  # as if the second epoch had been planned
    list(train(one, tmp_path))
    run.load(more, tmp_path / CHECKPOINT)
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


@pytest.mark.parametrize(("apart", "saved_at"), [(-1, [5, 10, 15]), (3600, [15])])
def test_the_ends_of_short_epochs_are_saved_with_time_between_them_and_the_last_one_always(
    tmp_path, monkeypatch, apart, saved_at
):
    monkeypatch.setattr(training, "_SAVE_APART", apart)
    t, found, before = trainer(), [], None
    for step in train(t, tmp_path):
        path = tmp_path / CHECKPOINT
        if (
            path.exists() and (now := path.stat().st_ino) != before
        ):  # each is written anew and takes the old one's place
            before = now
            found.append(step.step)
    assert found == saved_at


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    t = trainer()
    list(train(t, stop=lambda: t.steps_done >= 6))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("apart", [0, 10])
def test_sheets_are_drawn_from_the_average(tmp_path, monkeypatch, apart):
    """At the end of the run and, of short epochs, every ten seconds: 64 images from the same noise, of the averaged network."""
    monkeypatch.setattr(run, "_SHEETS_APART", apart)
    monkeypatch.setattr(run, "_SHEET_STEPS", 3)
    t = trainer()
    randomised(t.model), randomised(t.ema, seed=1)
    run.follow(t, train(t), tmp_path, bar=False)
    sheets = sorted(p.name for p in tmp_path.iterdir())
    first = (
        ["samples_epoch_001.png", "samples_epoch_003.png"] if apart else [f"samples_epoch_00{i}.png" for i in (1, 2, 3)]
    )
    assert sheets == first
    expected = {
        name: png(tile(generate(net, t.schedule, 64, steps=3, batch_size=8)))
        for name, net in (("ema", t.ema), ("raw", t.model))
    }
    assert expected["ema"] != expected["raw"]
    assert (tmp_path / "samples_epoch_003.png").read_bytes() == expected["ema"]


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="tells of open files by /proc/self/maps")
def test_a_checkpoint_that_was_loaded_can_be_replaced(tmp_path):
    """On Windows a file that some tensor still looks into cannot: after loading, nothing does."""
    t = trainer()
    list(train(t, tmp_path, stop=lambda: t.steps_done == 7))
    again = trainer()
    run.load(again, tmp_path / CHECKPOINT)
    with open("/proc/self/maps", encoding="utf-8") as maps:
        assert not [line for line in maps if line.rstrip().endswith(CHECKPOINT)]
    again.step()
    run.save(again, tmp_path / CHECKPOINT)


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


@pytest.mark.parametrize("name", [f.name for f in fields(TrainConfig) if f.name not in run.MAY_CHANGE])
def test_a_run_with_other_settings_is_not_continued(saved, name):
    other = trainer(replace(TINY_RUN, **{name: CHANGES[name]}))
    before = run_state(other)
    with pytest.raises(CheckpointError, match=f"is of a run with another {name}: use its settings") as e:
        run.load(other, saved)
    assert str(saved) in str(e.value)
    after = run_state(other)
    assert other.steps_done == 0
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_run_on_other_images_is_not_continued(saved):
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


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'\\"config\\"', b'\\"donfig\\"'), (b'\\"ch\\": 8', b'\\"cg\\": 8'), (b'\\"amp\\"', b'\\"bmp\\"')],
    ids=["without settings", "of another network", "without arithmetic"],
)
def test_a_damaged_description_is_not_begun_from(saved, tmp_path, old, new):
    raw = saved.read_bytes()
    assert old in raw
    (tmp_path / CHECKPOINT).write_bytes(raw.replace(old, new))
    with pytest.raises(CheckpointError, match=r"last\.safetensors is damaged"):
        run.begun(tmp_path / CHECKPOINT)


def test_settings_of_another_version_are_not_begun_from(saved, tmp_path):
    tensors, description = load_tensors(saved)
    for changes in ({"unet": description["config"]["unet"] | {"heads": 4}}, {"loss_weight": "later"}):
        save_tensors(tmp_path / CHECKPOINT, tensors, {**description, "config": description["config"] | changes})
        with pytest.raises(CheckpointError, match=r"unknown settings \(.*\): use the version that wrote it"):
            run.begun(tmp_path / CHECKPOINT)


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
def test_images_that_do_not_fit_the_network(images):
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
    # all of it learns but what makes no difference: the softmax cancels what all keys have in common
    learns = {k: v for k, v in expected.items() if not k.endswith(".k.bias")}
    assert len(learns) == len(expected) - 4, "of four attentions"
    assert all((t.model.state_dict()[k] != v).any() for k, v in learns.items())
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
    before = run_state(t)
    with pytest.raises(UsageError, match=f"--init .*: these weights are of another {what} than the run"):
        run.start_from(t, given)
    assert t.origin is None
    assert all(torch.equal(before[k], v) for k, v in run_state(t).items())


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
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DiskError, match=f"cannot write {tmp_path}/file/run/{CHECKPOINT}"):
        list(train(trainer(), tmp_path / "file" / "run"))
