"""Recipes: everything that fixes a training run except the machine."""

import math
from dataclasses import dataclass, replace

from .errors import UsageError
from .schedule import Schedule
from .unet import UNetConfig
from .weighting import LOSS_WEIGHTS

__all__ = ["RECIPES", "TrainConfig", "fit_images", "recipe"]


# more than any run needs, and what a machine can still count, store and print
_RANGES = {
    "epochs": (1, 10**6),
    "batch_size": (1, 10**6),
    "warmup": (0, 10**9),
    "T": (1, 10**6),
    "seed": (0, 2**63 - 1),
}
_LARGEST = 3e38


@dataclass(frozen=True)
class TrainConfig:
    """Everything that fixes a training run except the machine.

    Args:
        dataset: name of the data for the provenance, see `data.load_dataset`; recipes name theirs.
        unet: the network.
        epochs: passes over the data. A resumed run may have a different number.
        batch_size: images per step, over all processes. An incomplete last batch of an epoch is dropped.
        lr: learning rate of Adam after `warmup` steps, from which half a cosine takes it to zero at the last step.
        clip_norm: largest norm of the gradient, None for no limit.
        loss_weight: how much each t counts, see `weighting`: "plain", all the same; "balanced", by the inverse of
            the recent loss at that t; "min-snr".
        ema_decay: decay d of the averaged weights; at step k it is min(d, (1 + k) / (10 + k)).
        T, beta_1, beta_T: the schedule.
        seed: of all random draws.

    Raises:
        UsageError: a value out of range.
    """

    unet: UNetConfig
    dataset: str = "unnamed"
    epochs: int = 30
    batch_size: int = 128
    lr: float = 1e-3
    warmup: int = 200
    clip_norm: float | None = 1.0
    loss_weight: str = "plain"
    ema_decay: float = 0.999
    T: int = 1000
    beta_1: float = 1e-4
    beta_T: float = 0.02
    seed: int = 0

    def __post_init__(self):
        for name, (lowest, highest) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < lowest:
                raise UsageError(f"{name} must be an integer of at least {lowest}, got {value!r}")
            if value > highest:
                raise UsageError(f"{name} must be at most {highest}, got {_short(value)}")
        if not 0 < self.lr < math.inf:
            raise UsageError(f"lr must be positive, got {self.lr}")
        if self.lr > _LARGEST:
            raise UsageError(f"lr must be at most {_LARGEST:.0e}, the largest number in float32, got {self.lr}")
        if self.loss_weight not in LOSS_WEIGHTS:
            raise UsageError(f"loss_weight must be one of {', '.join(LOSS_WEIGHTS)}, got {self.loss_weight!r}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UsageError(f"clip_norm must be positive or None, got {self.clip_norm}")
        if not 0 <= self.ema_decay < 1:
            raise UsageError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")

    @property
    def schedule(self) -> Schedule:
        return Schedule.linear(self.T, self.beta_1, self.beta_T)


# what `ddim train NAME` knows by name
RECIPES: dict[str, TrainConfig] = {
    # 1.62 M parameters: small enough to sample in a browser and to train on a CPU
    "mnist": TrainConfig(
        UNetConfig(28, ch=32, ch_mult=(1, 2, 2), attn_resolutions=(14,), dropout=0.0, norm_groups=8),
        dataset="mnist",
        loss_weight="balanced",
    ),
    # 25.8 M parameters, the channels of the original model: for a GPU
    "mnist-large": TrainConfig(
        UNetConfig(28, ch=128, ch_mult=(1, 2, 2), attn_resolutions=(14,), dropout=0.1, norm_groups=32),
        dataset="mnist",
        batch_size=256,
        lr=2e-4,
        warmup=1000,
        ema_decay=0.9995,
    ),
    # 3.1 M parameters, for 64x64: one residual block per level and small batches, which learn more per hour on a CPU
    "kanji": TrainConfig(
        UNetConfig(
            64, ch=32, ch_mult=(1, 1, 2, 2, 4), num_res_blocks=1, attn_resolutions=(16,), dropout=0.0, norm_groups=8
        ),
        dataset="brush-kanji",
        batch_size=16,
    ),
}


def _short(value: int) -> str:
    return str(value) if value < 10**20 else "a number of more than 20 digits"


def recipe(name: str, **changes) -> TrainConfig:
    """A recipe by name, with some settings changed.

    Raises:
        UsageError: no such recipe, or a value out of range.
    """
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return replace(RECIPES[name], **changes)


def fit_images(config: TrainConfig, channels: int, resolution: int) -> TrainConfig:
    """The run with its network adapted to other images: as many levels as before, and attention at the same ones.

    Raises:
        UsageError: the network has too many levels for images this small.
    """
    old = config.unet
    attended = [old.resolutions.index(r) for r in old.attn_resolutions]
    try:
        bare = replace(old, resolution=resolution, in_channels=channels, out_channels=channels, attn_resolutions=())
    except ValueError as error:
        # those that would do: a recipe may have fewer levels and still too many
        fewer = [name for name, other in RECIPES.items() if 2 ** (len(other.unet.ch_mult) - 1) <= resolution]
        remedy = f", or a recipe with fewer levels ({', '.join(fewer)})" if fewer else ""
        raise UsageError(f"{error}: choose a larger --resolution{remedy}") from error
    return replace(config, unet=replace(bare, attn_resolutions=tuple(bare.resolutions[i] for i in attended)))
