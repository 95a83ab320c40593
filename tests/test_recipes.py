"""Recipes: what a setting may be, and that shipped weights are of theirs."""

import json
import math
from dataclasses import asdict, replace

import pytest
from helpers import TINY_RUN

from ddim_core import UNetConfig
from ddim_core.errors import UsageError
from ddim_core.recipes import RECIPES, recipe
from ddim_core.weights import describe

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
        ({"lr": 1e300}, r"lr must be at most 3e\+38, the largest number in float32, got 1e\+300"),
        ({"epochs": 10**20}, "epochs must be at most 1000000, got a number of more than 20 digits"),
        ({"epochs": 10**6 + 1}, "epochs must be at most 1000000, got 1000001"),
        ({"epochs": 10**5000}, "epochs must be at most 1000000, got a number of more than 20 digits"),
        ({"batch_size": 10**7}, "batch_size must be at most 1000000, got 10000000"),
        ({"warmup": 10**10}, "warmup must be at most 1000000000"),
        ({"T": 10**7}, "T must be at most 1000000"),
        ({"seed": 2**63}, "seed must be at most 9223372036854775807"),
        ({"clip_norm": 0.0}, "clip_norm must be positive or None"),
        ({"clip_norm": math.nan}, "clip_norm must be positive or None"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in \[0, 1\)"),
        ({"ema_decay": -0.1}, r"ema_decay must lie in \[0, 1\)"),
    ],
    ids=lambda x: None if isinstance(x, dict) else x,
)
def test_settings_out_of_range(values, message):
    with pytest.raises(UsageError, match=message):
        replace(TINY_RUN, **values)


def test_the_largest_settings_are_settings():
    replace(TINY_RUN, lr=3e38, epochs=10**6, batch_size=10**6, warmup=10**9, T=10**6, seed=2**63 - 1)


def test_recipes():
    assert recipe("mnist", epochs=2) == replace(RECIPES["mnist"], epochs=2)
    with pytest.raises(UsageError, match="unknown recipe 'cifar': choose one of mnist, mnist-large"):
        recipe("cifar")
    with pytest.raises(UsageError, match="epochs must be"):
        recipe("mnist", epochs=0)


@pytest.mark.parametrize(("name", "but", "done"), [("mnist", {"epochs"}, 50), ("kanji", {"epochs", "seed"}, None)])
def test_shipped_weights_are_of_their_recipe(name, but, done):
    """All settings but the number of epochs, of both runs each; the second of kanji had another seed.

    The second run of mnist was stopped after 50 of its 55 epochs.
    """
    description = describe(name)
    settings = json.loads(json.dumps(asdict(RECIPES[name])))
    trained = {
        "loss_weight": "plain",
        **description["provenance"]["training"],
        "unet": {"patch": 1, **description["unet"]},
    }
    assert trained.pop("lr_decay", "cosine") == "cosine", "when there was a choice; now it is always so"
    assert {k for k in settings if settings[k] != trained[k]} == but
    assert settings.keys() == trained.keys()
    assert len(description["provenance"]["history"]) == (done or trained["epochs"])
    first = description["provenance"]["origin"]["provenance"]["training"]
    shared = settings.keys() & first.keys() - but
    assert len(shared) > 8
    assert all(first[k] == settings[k] for k in shared)


def test_the_settings_of_the_large_network():
    """Of which no weights are shipped: those of the authors for CIFAR-10, but for images of 28x28."""
    c = RECIPES["mnist-large"]
    assert (c.lr, c.warmup, c.batch_size, c.epochs, c.ema_decay, c.clip_norm) == (2e-4, 1000, 256, 30, 0.9995, 1.0)
    assert (c.T, c.beta_1, c.beta_T, c.loss_weight, c.seed, c.dataset) == (1000, 1e-4, 0.02, "plain", 0, "mnist")
    assert c.unet == UNetConfig(28, 1, 1, 128, (1, 2, 2), 2, (14,), 0.1, 32)


def test_the_schedule_of_a_run():
    schedule = replace(TINY_RUN, T=10, beta_1=0.1, beta_T=0.2).schedule
    assert schedule.T == 10
    assert schedule.alpha[1].item() == pytest.approx(0.9)
    assert replace(TINY_RUN).schedule.alpha[-1].item() == pytest.approx(4.0358e-5, rel=1e-4)
