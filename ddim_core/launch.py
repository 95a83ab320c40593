"""A run as requested: begun from a recipe or continued from where it stopped, and followed until it ends."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from . import run
from .data import DATASETS, is_folder, load_dataset, shown
from .device import choose_amp, choose_device, first_alone, processes
from .errors import UsageError
from .lock import alone
from .recipes import RECIPES, TrainConfig, fit_images, recipe
from .train import Trainer, train

__all__ = ["launch"]


def launch(
    name: str,
    out: Path,
    changes: dict,
    images: dict,
    *,
    resume: bool = False,
    init: str | None = None,
    device: str | None = None,
    amp: str | None = None,
    compile: bool = False,
    bar: bool = True,
    command: str,
    say: Callable[[str], object] = print,
) -> int:
    """Train; returns the number of the signal that stopped it, or 0.

    Args:
        name: of the recipe. changes: settings to be used in place of its own, see `TrainConfig`.
        out: the run's folder, see `run`.
        images: "data", "limit", "resolution", "grey", as in `load_dataset` (data is its root); None or False where
            nothing was asked for; a continued run then does as it was begun.
        resume: continue from the checkpoint in `out`. init: start from these weights, see `run.start_from`.
        device, amp: by name, see `device`. compile: see `Trainer`. bar: show progress.
        command: the command line, for the provenance. say: called with each line of what happens.

    Raises:
        UsageError: settings out of range, or a checkpoint in `out` when the run is to begin. CheckpointError: no
            checkpoint, or that of another run, when it is to continue. SystemExit: another process failed, see
            `first_alone`. Otherwise as `load_dataset`, `train` and `processes`.
    """
    # a folder is the same with or without the / that a shell appends
    bare = changes.get("dataset", "").rstrip(os.sep)
    if bare and bare not in DATASETS:
        changes = changes | {"dataset": bare}
    config, notes = recipe(name, **changes), []
    checkpoint = out / run.CHECKPOINT
    if checkpoint.exists() and not resume:
        raise UsageError(f"{checkpoint} exists: go on with --resume, or choose another --out")
    if resume:
        config, images, amp, notes = _as_begun(checkpoint, name, changes, images, device, amp)
    own = {"resolution": images["resolution"], "grey": images["grey"]}
    if is_folder(config.dataset):
        own["resolution"] = _resolution(config, name, own["resolution"])
        config = fit_images(config, 1 if own["grey"] else 3, own["resolution"])  # before all the images are read
    with processes(device), ExitStack() as held:
        with first_alone():
            held.enter_context(alone(out))
            data = load_dataset(config.dataset, images["data"], limit=images["limit"], **own)
        config = fit_images(config, *data.images.shape[1:3])
        trainer = Trainer(config, data.images, device=device, amp="auto" if amp is None else amp, compile=compile)
        trainer.loaded = {"recipe": name, **images}
        if resume:
            run.load(trainer, checkpoint)
        elif init is not None:
            run.start_from(trainer, init)
        if trainer.steps_done >= trainer.total_steps:
            say(f"{checkpoint} has done all {config.epochs} epochs: ask for more with --epochs")
            return 0
        with first_alone():
            if trainer.rank == 0:
                run.write_start(trainer, out, command, data)
        if trainer.rank == 0:
            for note in [*notes, *(f"{shown(data.name)}: {note}" for note in data.notes)]:
                say(note)
        with run.Stop() as stop:
            run.follow(trainer, train(trainer, out, stop=stop), out, bar=bar)
        if stop.signal and trainer.rank == 0:
            say(f"stopped at step {trainer.steps_done} of {trainer.total_steps}; go on with --resume")
    return stop.signal


def _resolution(config: TrainConfig, name: str, given: int | None) -> int:
    """The resolution for a folder's images. Raises UsageError: the recipe's network cannot halve it often enough."""
    if given is None:
        return config.unet.resolution
    if given < (least := 2 ** (len(config.unet.ch_mult) - 1) * config.unet.patch):
        raise UsageError(f"--resolution must be at least {least} for the recipe {name}, got {given}")
    return given


def _as_begun(
    checkpoint: Path, name: str, changes: dict, images: dict, device: str | None, amp: str | None
) -> tuple[TrainConfig, dict, str | None, list[str]]:
    """Settings, image options and arithmetic of a continued run, its own except for what is asked for; and a line for
    each that changes."""
    config, description = run.begun(checkpoint)
    loaded = description["loaded"]
    if not loaded:  # by a program, or an older version: the network can only be the recipe's
        config = replace(config, unet=RECIPES[name].unet)
    elif loaded["recipe"] != name:
        raise UsageError(f"{checkpoint} belongs to a run of the recipe {loaded['recipe']}, not of {name}")
    # 0 is asked for as well, and refused where it is read
    images = {k: loaded.get(k, v) if v is None or v is False else v for k, v in images.items()}
    on = choose_device(device)
    if amp is None and on.type == description.get("device"):
        amp = description["amp"]
    new = {**changes, "amp": choose_amp(on, "auto" if amp is None else amp)}
    old = {setting: getattr(config, setting) for setting in run.MAY_CHANGE} | {"amp": description["amp"]}
    notes = [
        f"{setting} {new[setting]} instead of {old[setting]}, which the run had before"
        for setting in old
        if new.get(setting, old[setting]) != old[setting]
    ]
    return replace(config, **changes), images, amp, notes
