"""A run's folder: the checkpoint from which it goes on exactly, its metrics, how it was started; and how it is followed
and stopped.

    last.safetensors          the whole state, replaced in one go
    metrics.jsonl             a line for each epoch
    samples_epoch_NNN.png     64 samples from the same noise
    config.json               the resolved configuration
    starts.jsonl              a line for each start of the run
    .lock                     while a process trains there, see `lock`
"""

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from .data import DATASETS, Dataset
from .device import widest
from .errors import CheckpointError, NonFiniteError, UsageError
from .files import load_tensors, save_tensors, sweep_unfinished, write_atomically
from .recipes import TrainConfig
from .unet import UNet, UNetConfig

__all__ = [
    "CHECKPOINT",
    "METRICS",
    "Record",
    "Stop",
    "begun",
    "follow",
    "load",
    "save",
    "start_from",
    "write_metrics",
    "write_start",
]

CHECKPOINT = "last.safetensors"  # from which a run goes on
METRICS = "metrics.jsonl"  # a line for each epoch
_WRITTEN = (CHECKPOINT, METRICS, "samples_epoch_*.png", "config.json", "starts.jsonl")
MAY_CHANGE = ("epochs", "lr")  # settings with which a run may go on in another way than it began
_CHECK_EVERY = 20  # steps between looks at the loss: each makes a GPU wait
_SHEETS_APART = 10  # seconds between sheets of samples: on a GPU an epoch may take a second
_SHEET_STEPS = 20


class Record:
    """What a run has measured: a line for each epoch, and the sums of the one under way.

    Attributes:
        epochs: the lines of the metrics file.
        loss_sum: of the epoch's steps, a scalar tensor on the device. seconds: that they took.
    """

    def __init__(self, device: torch.device):
        self.epochs: list[dict] = []
        self.loss_sum = torch.zeros((), dtype=widest(device), device=device)
        self.seconds = 0.0

    def add(self, trainer, loss: Tensor, started: float) -> dict | None:
        """Enter the step that `trainer` has done since `started`, a time of `perf_counter`; at the end of an epoch, its line.

        A GPU computes while the next steps are asked for; the time that it takes is waited for here, where it is looked at.

        Raises:
            NonFiniteError: the loss is no longer finite (looked at every 20 steps).
        """
        self.loss_sum += loss
        at_end = trainer.steps_done % trainer.steps_per_epoch == 0
        if at_end or trainer.steps_done % _CHECK_EVERY == 0:
            self.check(trainer)
        self.seconds += time.perf_counter() - started
        if not at_end:
            return None
        done = trainer.steps_per_epoch
        line = {
            "epoch": trainer.steps_done // done,
            "step": trainer.steps_done,
            "loss": round(self.loss_sum.item() / done, 6),
            "lr": trainer.lr(trainer.steps_done - 1),
            "seconds": round(self.seconds, 1),
            "images_per_second": round(done * trainer.batch_size / max(self.seconds, 1e-9), 1),
            "processes": trainer.world,
            "device": trainer.device.type,
            "amp": trainer.amp,
            "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        }
        self.epochs.append(line)
        self.loss_sum.zero_()
        self.seconds = 0.0
        return line

    def check(self, trainer) -> None:
        """Raise NonFiniteError if the sum of the losses is not finite."""
        if not math.isfinite(self.loss_sum.item()):
            raise _not_finite("the loss is", trainer)


def _not_finite(what: str, trainer) -> NonFiniteError:
    remedy = "a smaller --lr" + ("" if trainer.amp == "fp32" else " or --amp fp32")
    advice = (
        f"the last checkpoint is untouched; go on from it with --resume and {remedy}"
        if trainer.saved
        else f"nothing was saved yet; begin again with {remedy}"
    )
    at = f"lr {trainer.lr(trainer.steps_done - 1):.2g}, {trainer.amp}"
    return NonFiniteError(f"{what} not finite by step {trainer.steps_done} ({at}): {advice}")


def start_from(trainer, name: str) -> None:
    """Begin with the weights of this name or path instead of random ones; only before the first step.

    Raises:
        UsageError: weights of another network or schedule than the run's, or steps were done. Else as `weights.load`.
    """
    from .weights import describe, load

    if trainer.steps_done:
        raise UsageError(f"after {trainer.steps_done} steps a run cannot begin anew: leave --init out")
    model, schedule = load(name)
    other = None
    if not isinstance(model, UNet):
        other = "counting of time"  # public weights, behind an adapter
    elif replace(model.config, dropout=trainer.config.unet.dropout) != trainer.config.unet:
        other = "network"
    elif not torch.equal(schedule.alpha, trainer.schedule.alpha):
        other = "schedule"
    if other:
        raise UsageError(
            f"--init {name}: these weights are of another {other} than the run: choose their recipe, resolution and colours"
        )
    trainer.model.load_state_dict(model.state_dict())
    trainer.ema.load_state_dict(model.state_dict())
    description = describe(name)
    trainer.origin = {"weights": name, "sha256": description["sha256"], "provenance": description["provenance"]}


def save(trainer, path: str | Path) -> None:
    """Write the whole state, atomically. Raises DiskError; NonFiniteError rather than saving a broken state."""
    trainer.record.check(trainer)
    if not all(bool(p.isfinite().all()) for p in trainer.model.parameters()):
        raise _not_finite("a parameter is", trainer)
    tensors = {f"model.{k}": v for k, v in trainer.model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in trainer.ema.state_dict().items()}
    for i, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
    tensors |= {"loss_sum": trainer.record.loss_sum, "loss_by_time": trainer.loss_by_time.sums}
    description = {
        "kind": "training",
        "config": asdict(trainer.config),
        "steps_done": trainer.steps_done,
        "seconds": trainer.record.seconds,
        "history": trainer.record.epochs,
        "data_sha256": trainer.data_sha256,
        "images": len(trainer.images),
        "origin": trainer.origin,
        "amp": trainer.amp,
        "device": trainer.device.type,
        "scaler": trainer.scaler.state_dict(),
        "loaded": trainer.loaded,
    }
    save_tensors(path, tensors, description)
    trainer.saved = True


def begun(path: str | Path) -> tuple[TrainConfig, dict]:
    """The settings of the run that wrote a checkpoint, and the rest of its description.

    In it, "loaded" is what `trainer.loaded` was: how the command line found the images; empty where a program gave them.

    Raises:
        CheckpointError: no such file, a damaged one, or one with settings that there are not.
    """
    description = {"loaded": {}} | load_tensors(path, kind="training")[1]  # with its tensors: all of it is verified
    saved = description["config"]
    known = {f.name: saved[f.name] for f in fields(TrainConfig) if f.name in saved}
    try:
        return TrainConfig(**{**known, "unet": UNetConfig(**saved["unet"])}), description
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is of a run with unknown settings ({error}): use the version that wrote it"
        ) from error


def load(trainer, path: str | Path) -> None:
    """Go on from a state that `save` wrote: the next step is the one that would have come.

    Raises:
        CheckpointError: no such file, a damaged one, or one of another run (other network, data or settings; the number
        of epochs and the learning rate may differ).
    """
    tensors, description = load_tensors(path, kind="training")
    saved = {"loss_weight": "plain"} | description["config"]  # of a time when there was no other
    mine = json.loads(json.dumps(asdict(trainer.config)))
    if (
        mine["dataset"] not in DATASETS and saved["dataset"] not in DATASETS
    ):  # spelt in another way or moved: its images decide
        mine["dataset"] = saved["dataset"]
        trainer.config = replace(trainer.config, dataset=saved["dataset"])
    different = sorted(k for k in mine if k not in MAY_CHANGE and mine[k] != saved.get(k))
    if different:
        raise CheckpointError(
            f"{path} is of a run with another {', '.join(different)}: use its settings or another --out"
        )
    if description["data_sha256"] != trainer.data_sha256:
        raise CheckpointError(f"{path} is of a run on other images: use its data or another --out")

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    trainer.model.load_state_dict(part("model."))
    trainer.ema.load_state_dict(part("ema."))
    parameters = list(trainer.model.parameters())
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part("optimizer.").items():
        i, key = name.split(".")
        like = parameters[int(i)] if tensor.ndim else tensor  # in the memory layout of its parameter
        state.setdefault(int(i), {})[key] = torch.empty_like(like, device=tensor.device).copy_(tensor)
    trainer.optimizer.load_state_dict({**trainer.optimizer.state_dict(), "state": state})
    trainer.replay.forget()
    if trainer.scaler.is_enabled() and description["scaler"]:
        trainer.scaler.load_state_dict(description["scaler"])
    trainer.record.loss_sum.copy_(tensors["loss_sum"])
    if "loss_by_time" in tensors:
        trainer.loss_by_time.sums.copy_(tensors["loss_by_time"])
    trainer.record.seconds = description["seconds"]
    trainer.steps_done = description["steps_done"]
    trainer.record.epochs = description["history"]
    trainer.origin = description.get("origin")
    trainer.saved = True


def write_metrics(trainer, out: Path) -> None:
    """A line for each epoch. Raises DiskError."""
    lines = "".join(json.dumps(line) + "\n" for line in trainer.record.epochs)
    write_atomically(out / METRICS, lines.encode())


def follow(trainer, steps: Iterator, out: Path, *, bar: bool = True) -> None:
    """Show progress; at the end of each epoch, print its metrics and draw a grid of samples (of short epochs, a grid
    every ten seconds)."""
    from tqdm import tqdm

    from .plots import png, tile
    from .sample import generate

    progress = tqdm(
        total=trainer.total_steps * trainer.batch_size,
        initial=trainer.steps_done * trainer.batch_size,
        unit=" images",
        unit_scale=True,
        mininterval=1.0,
        disable=not bar or trainer.rank > 0,
        dynamic_ncols=True,
        bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
    )
    drawn = -math.inf
    with progress:
        for step in steps:
            progress.update(trainer.batch_size)
            if step.step % 20 == 0:
                progress.set_description_str(f"epoch {step.epoch}/{trainer.config.epochs}", refresh=False)
                progress.set_postfix_str(f"loss {step.loss.item():.4f}", refresh=False)
            if step.metrics and trainer.rank == 0:
                if time.monotonic() - drawn > _SHEETS_APART or step.step == trainer.total_steps:
                    at_once = min(64, trainer.batch_size)  # no more memory than training takes
                    samples = generate(trainer.ema, trainer.schedule, 64, steps=_SHEET_STEPS, batch_size=at_once)
                    write_atomically(out / f"samples_epoch_{step.epoch:03d}.png", png(tile(samples)))
                    drawn = time.monotonic()
                progress.write(
                    f"epoch {step.epoch}: loss {step.metrics['loss']:.5f}, "
                    f"{step.metrics['images_per_second']:.0f} images/s",
                    file=sys.stdout,
                )
                sys.stdout.flush()


def write_start(trainer, out: Path, command: str, data: Dataset) -> None:
    """Beside the checkpoint: the resolved configuration, and one line for every start of the run on `data`.

    Raises:
        UsageError: a new run, and another one has left a checkpoint here meanwhile. DiskError.
    """
    from . import __version__

    if not trainer.saved and (out / CHECKPOINT).exists():
        raise UsageError(f"{out / CHECKPOINT} exists: go on with --resume, or choose another --out")

    sweep_unfinished(out, *_WRITTEN)
    config = {"config": asdict(trainer.config), "data_sha256": trainer.data_sha256, "images": len(trainer.images)}
    write_atomically(out / "config.json", (json.dumps(config, indent=1) + "\n").encode())
    start = {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "from_step": trainer.steps_done,
        **({"init": trainer.origin["sha256"]} if trainer.origin else {}),
        "command": command,
        "data": {
            "dataset": data.name,
            "images": len(data),
            "sha256": trainer.data_sha256,
            "resolution": trainer.config.unet.resolution,
            "colour": trainer.config.unet.in_channels == 3,
            "classes": len(data.labels.unique()),
        },
        "commit": _commit(),
        "version": __version__,
        "torch": torch.__version__,
        "processes": trainer.world,
        "device": str(trainer.device),
        "amp": trainer.amp,
    }
    starts = out / "starts.jsonl"
    before = starts.read_bytes() if starts.exists() else b""
    write_atomically(starts, before + (json.dumps(start) + "\n").encode())


def _commit() -> str | None:
    """The commit of the code, where it runs from its repository; with a + where files differ from it."""

    def git(*args: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(
            ["git", *args], cwd=here, capture_output=True, text=True, check=True, encoding="utf-8"
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # installed inside another project, it is not tracked
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


class Stop:
    """Turns SIGINT and SIGTERM into an answer to `stop()`; a second SIGINT interrupts at once, as usual."""

    signal = 0

    def __enter__(self):
        self.old = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception):
        for s, handler in self.old.items():
            signal.signal(s, handler)

    def __call__(self) -> bool:
        return self.signal != 0

    def _note(self, number, frame):
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
