"""Weights by name: found, verified, loaded; and how a run becomes a file of weights.

A file of weights holds the averaged parameters, rounded to fp16 once and computed with in float32, the network's
configuration, the schedule, and the provenance: commands, data, epochs, seed, losses, commit.
"""

import hashlib
import json
import os
import time
from importlib import resources
from pathlib import Path

import torch
from torch import nn

from ..errors import CheckpointError, UsageError
from ..files import has_description, load_tensors, read_description, save_tensors, sha256_file, write_atomically
from ..schedule import Schedule
from ..unet import UNet, UNetConfig
from .download import describe_hub, fetch_hub, is_hub
from .formats import HUB, SOURCES, describe_public, describe_source, fetch, load_public, source

__all__ = ["describe", "export", "is_path", "load", "load_pretrained", "load_weights", "manifest", "ship", "verified"]

KIND = "weights"


def manifest() -> dict:
    """What comes with the package: name -> {"file", "sha256"} for weights, file name -> {"sha256"} for data."""
    return json.loads((_assets() / "manifest.json").read_text())


def load_pretrained(name: str, device: str | torch.device | None = None) -> tuple[nn.Module, Schedule]:
    """Load weights by name, verified, as (model in evaluation mode, schedule).

    Args:
        name: "mnist" and "kanji" come with the package. "cifar10", the original model's weights of 143 MB, is
            downloaded once; so is "google/ddpm-cifar10-32", the same network from the Hugging Face hub, with
            @REVISION if a certain one is wanted.
        device: where the model goes; the CPU if left out.

    Raises:
        UsageError: an unknown name. CheckpointError: the file is missing, damaged, or not the manifest's.
        UnavailableError: the file has to be downloaded and cannot be. DiskError: the cache cannot be written.
    """
    if name in SOURCES:
        return load_public(fetch(source(name)), device)
    if is_hub(name):
        return load_public(fetch_hub(name), device)
    return load_weights(verified(name), device)


def is_path(name: str) -> bool:
    """Whether this names a file or folder, rather than weights that are known by name."""
    if name in SOURCES or name in manifest() or is_hub(name):
        return False
    file = os.sep in name or Path(name).suffix in (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
    return file or (name != "" and Path(name).expanduser().exists())


def load(name: str, device: str | torch.device | None = None) -> tuple[nn.Module, Schedule]:
    """Load weights by name, or from a path: a file that `export` wrote, or public weights in either format.

    Raises as `load_pretrained`, `load_weights` and `load_public`.
    """
    if not is_path(name):
        return load_pretrained(name, device)
    return (load_weights if _exported(name) else load_public)(name, device)


def load_weights(path: str | Path, device: str | torch.device | None = None) -> tuple[UNet, Schedule]:
    """Load a file that `export` wrote, as (model in evaluation mode, schedule).

    Raises:
        CheckpointError: no such file, a damaged one, or one of another network than it says.
    """
    tensors, description = load_tensors(path, kind=KIND)
    try:
        model = UNet(UNetConfig(**description["unet"]))
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        schedule = Schedule.linear(**description["schedule"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} does not hold the weights of the network it describes ({reason})") from error
    return model.to(device or "cpu").eval().requires_grad_(False), schedule


def describe(name: str) -> dict:
    """Configuration, provenance and sha256 of weights by name or path. Downloads nothing; else raises as `load`."""
    if name in SOURCES:
        return describe_source(name)
    if is_hub(name):
        return describe_hub(name)
    if is_path(name) and not _exported(name):
        return describe_public(name)
    path = Path(name) if is_path(name) else verified(name)
    return {**read_description(path), "sha256": sha256_file(path)}


def export(checkpoint: str | Path, out: str | Path, *, average: bool = True) -> dict:
    """Turn a training checkpoint into a file of weights; returns its description.

    Args:
        checkpoint: `last.safetensors` of a run; `starts.jsonl` beside it, if there, goes into the provenance.
        average: take the averaged weights (EMA), else those of the last step.

    Raises:
        CheckpointError: the checkpoint is missing or damaged. DiskError: `out` cannot be written.
    """
    tensors, training = load_tensors(checkpoint, kind="training")
    config = training["config"]
    prefix = "ema." if average else "model."
    weights = {k.removeprefix(prefix): v.half() for k, v in tensors.items() if k.startswith(prefix)}
    starts = Path(checkpoint).with_name("starts.jsonl")
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
            "starts": [json.loads(line) for line in starts.read_text().splitlines()] if starts.exists() else [],
            **({"origin": training["origin"]} if training.get("origin") else {}),
            "exported": time.strftime("%Y-%m-%d", time.gmtime()),
        },
    }
    save_tensors(out, weights, description)
    return description


def ship(file: str | Path, name: str) -> Path:
    """Copy a file of weights into the package under a name, and enter its sha256 in the manifest; returns the copy.

    For maintainers, in a checkout. Raises CheckpointError for a damaged file, DiskError.
    """
    load_tensors(file)
    content = Path(file).read_bytes()
    target = _assets() / f"{name}.safetensors"
    write_atomically(target, content)
    entries = manifest() | {name: {"file": target.name, "sha256": hashlib.sha256(content).hexdigest()}}
    write_atomically(_assets() / "manifest.json", (json.dumps(entries, indent=1, sort_keys=True) + "\n").encode())
    return target


def _exported(path: str) -> bool:
    return path.endswith(".safetensors") and has_description(path)


def _assets() -> Path:
    return Path(str(resources.files("ddim_core"))) / "assets"


def verified(name: str) -> Path:
    """The file of weights that comes with the package under this name, its sha256 compared with the manifest's.

    Raises:
        UsageError: an unknown name. CheckpointError: the file is missing or differs.
    """
    entry = manifest().get(name)
    if entry is None or "file" not in entry:
        names = ", ".join([*(k for k, v in manifest().items() if "file" in v), *SOURCES, HUB])
        raise UsageError(f"unknown weights {name!r}: choose one of {names}")
    path = _assets() / entry["file"]
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file: install the package again")
    if sha256_file(path) != entry["sha256"]:
        raise CheckpointError(f"{path} is damaged (sha256 differs from the manifest): install the package again")
    return path
