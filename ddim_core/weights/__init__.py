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

from ..files import load_tensors, save_tensors, sha256_file
from ..schedule import Schedule
from ..unet import UNet
from .formats import KIND, build, read
from .registry import find, manifest, resolve, ship, verified

__all__ = ["describe", "export", "load", "load_pretrained", "load_weights", "manifest", "ship", "verified"]


def load_pretrained(name: str, device: str | torch.device | None = None) -> tuple[nn.Module, Schedule]:
    """Load weights by name, verified, as (model in evaluation mode, schedule).

    Args:
        name: "mnist" and "kanji" come with the package. "cifar10", the original model's weights of 143 MB, is
            downloaded once; so are "google/ddpm-cifar10-32", the same network from the Hugging Face hub, and its
            larger kin, as "google/ddpm-celebahq-256", with @REVISION if a certain one is wanted.
        device: where the model goes; the CPU if left out.

    Raises:
        UsageError: an unknown name. CheckpointError: the file is missing, damaged, or not the manifest's.
        UnavailableError: the file has to be downloaded and cannot be. DiskError: the cache cannot be written.
    """
    return build(*read(resolve(name, "public", "shipped")), device)


def load(name: str, device: str | torch.device | None = None) -> tuple[nn.Module, Schedule]:
    """Load weights by name, or from a path: a file that `export` wrote, or public weights in either format.

    Raises as `load_pretrained`, `load_weights` and `load_public`.
    """
    return build(*read(resolve(name)), device)


def load_weights(path: str | Path, device: str | torch.device | None = None) -> tuple[UNet, Schedule]:
    """Load a file that `export` wrote, as (model in evaluation mode, schedule).

    Raises:
        CheckpointError: no such file, a damaged one, or one of another network than it says.
    """
    path = Path(os.path.expanduser(path))
    return build(path, *load_tensors(path), device)


def describe(name: str) -> dict:
    """Configuration, provenance and sha256 of weights by name or path. Downloads nothing; else raises as `load`."""
    place = find(name)
    path, description = place.cached(), place.about
    if description:
        description["provenance"]["file"] = path and str(path)
    else:
        _, tensors, description = read(path)
        if description.get("kind") == KIND:  # a checkpoint, the classifier have other networks
            build(path, tensors, description)
    return {**description, "sha256": path and sha256_file(path)}


def export(checkpoint: str | Path, out: str | Path, *, average: bool = True) -> dict:
    """Turn a training checkpoint into a file of weights; returns its description.

    Args:
        checkpoint: `last.safetensors` of a run; `starts.jsonl` beside it, if there, goes into the provenance.
        average: take the averaged weights (EMA), else those of the last step.

    Raises:
        CheckpointError: the checkpoint is missing or damaged. DiskError: `out` cannot be written.
    """
    checkpoint, out = Path(os.path.expanduser(checkpoint)), Path(os.path.expanduser(out))
    tensors, training = load_tensors(checkpoint, kind="training")
    config = training["config"]
    prefix = "ema." if average else "model."
    weights = {k.removeprefix(prefix): v.half() for k, v in tensors.items() if k.startswith(prefix)}
    starts = checkpoint.with_name("starts.jsonl")
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
            "starts": [json.loads(line) for line in starts.read_text(encoding="utf-8").splitlines()]
            if starts.exists()
            else [],
            **({"origin": training["origin"]} if training.get("origin") else {}),
            "exported": time.strftime("%Y-%m-%d", time.gmtime()),
        },
    }
    save_tensors(out, weights, description)
    return description
