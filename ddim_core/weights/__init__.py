"""Weights by name: found, verified, loaded; and how a run becomes a file of weights.

A file of weights holds the averaged parameters, rounded to fp16 once and computed with in float32, the network's
configuration, the schedule, and the provenance: commands, data, epochs, seed, losses, commit.
"""

import json
import os
import time
from pathlib import Path

import torch
from torch import nn

from ..errors import CheckpointError, UsageError
from ..files import load_tensors, save_tensors, sha256_file
from ..schedule import Schedule
from ..shipped import manifest, ship
from ..unet import UNet
from .formats import KIND, build, file_of, read
from .registry import find, resolve

__all__ = ["describe", "export", "load", "load_pretrained", "load_weights", "manifest", "ship", "verified"]


def load_pretrained(name: str, device: str | torch.device | None = None) -> tuple[nn.Module, Schedule]:
    """Load weights by name, verified, as (model in evaluation mode, schedule).

    Args:
        name: "mnist" and "kanji" come with the package. "cifar10", the original model's weights of 143 MB, is
            downloaded once; so are "google/ddpm-cifar10-32", the same network from the Hugging Face hub, and its
            larger relatives such as "google/ddpm-celebahq-256", with @REVISION for a particular one.
        device: where the model goes; by default the CPU.

    Raises:
        UsageError: an unknown name. CheckpointError: the file is missing, damaged, or not the manifest's.
        UnavailableError: the file has to be downloaded and cannot be. DiskError: the cache cannot be written.
    """
    return build(*read(resolve(name, "public", "shipped")), device)


def load(name: str | Path, device: str | torch.device | None = None) -> tuple[nn.Module, Schedule]:
    """Load weights by name, or from a path (a `Path` is never a name): a file that `export` wrote, or public weights in
    either format.

    Raises as `load_pretrained`, `load_weights` and `load_public`.
    """
    return build(*read(resolve(name)), device)


def load_weights(path: str | Path, device: str | torch.device | None = None) -> tuple[UNet, Schedule]:
    """Load a file that `export` wrote, as (model in evaluation mode, schedule).

    Raises CheckpointError: no such file, a damaged one, or one whose tensors are not those of the network it describes.
    """
    path = Path(os.path.expanduser(path))
    return build(path, *load_tensors(path), device)


def verified(name: str) -> Path:
    """The verified file of weights that come with the package. Raises as `load_pretrained`."""
    return resolve(name, "shipped")


def describe(name: str | Path) -> dict:
    """Configuration, provenance and sha256 of weights, by name or path. Downloads nothing; else raises as `load`."""
    place = find(name)
    path, description = place.cached(), place.about
    if description:
        description["provenance"]["file"] = path and str(path)
    else:
        _, tensors, description = read(path)
        if description.get("kind") == KIND:  # a checkpoint and the classifier hold other networks
            build(path, tensors, description)
    return {**description, "sha256": path and sha256_file(path)}


def export(checkpoint: str | Path, out: str | Path, *, average: bool = True) -> dict:
    """Turn a training checkpoint into a file of weights; returns its description.

    Args:
        checkpoint: `last.safetensors` of a run, or the run's folder; `starts.jsonl` beside it, if present, goes into
            the provenance.
        average: take the averaged weights (EMA), or those of the last step.

    Raises:
        UsageError: `out` is the checkpoint itself. CheckpointError: the checkpoint is missing or damaged, or
            `starts.jsonl` is damaged, or a number is not finite in fp16. DiskError: `out` cannot be written.
    """
    checkpoint, out = file_of(checkpoint), Path(os.path.expanduser(out))
    if os.path.exists(out) and os.path.exists(checkpoint) and os.path.samefile(checkpoint, out):
        raise UsageError(f"{out} is the checkpoint itself, from which the run goes on: choose another --out")
    tensors, training = load_tensors(checkpoint, kind="training")
    config = training["config"]
    prefix = "ema." if average else "model."
    weights = {k.removeprefix(prefix): v.half() for k, v in tensors.items() if k.startswith(prefix)}
    if broken := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        largest = tensors[prefix + broken[0]].abs().max().item()
        raise CheckpointError(
            f"{checkpoint}: {broken[0]!r} reaches {largest:.3g}, and fp16, which weights are stored in, only reaches 65504: "
            "train it again with a smaller --lr"
        )
    description = {
        "kind": KIND,
        "unet": config["unet"],
        "schedule": {k: config[k] for k in ("T", "beta_1", "beta_T")},
        "provenance": {
            "training": {k: v for k, v in config.items() if k != "unet"},
            "averaged": average,
            "steps": training["steps_done"],
            "data_sha256": training["data_sha256"],
            "images": training["images"],
            "history": training["history"],
            "starts": _starts(checkpoint.with_name("starts.jsonl")),
            **({"origin": training["origin"]} if training.get("origin") else {}),
            "exported": time.strftime("%Y-%m-%d", time.gmtime()),
        },
    }
    save_tensors(out, weights, description)
    return description


def _starts(path: Path) -> list[dict]:
    """How a run was started, each time; none if there is no such file. Raises CheckpointError: it is damaged."""
    if not path.exists():
        return []
    try:
        starts = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} is not readable ({reason}): use another copy, or move it away") from error
    if not all(isinstance(start, dict) for start in starts):
        raise CheckpointError(f"{path} does not describe starts of a run: use another copy, or move it away")
    return starts
