"""Files of weights, read once: the format is recognised by what a file holds.

Ours, as `export` writes it, describes its network. Public weights come in two formats. A: a file of tensors with the
names of our own U-Net, as in the PyTorch port of the DDPM weights; it says nothing more. B: a folder that diffusers
wrote, `diffusion_pytorch_model.safetensors` or `.bin` and `config.json`, from which the network is derived. Both hold
networks trained with 0-based timesteps 0, ..., T - 1 instead of 1, ..., T: see `Adapter`.
"""

import os
import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..adapt import DDPM_SCHEDULE, Adapter, config_of, renamed, schedule_of
from ..errors import CheckpointError
from ..files import read_tensors
from ..schedule import Schedule
from ..unet import UNet, UNetConfig

__all__ = ["CIFAR10", "build", "file_of", "load_public", "public", "read"]

KIND = "weights"
# the network of both public checkpoints (DDPM, appendix B), 35.7 M parameters
CIFAR10 = UNetConfig(32, 3, 3, ch=128, ch_mult=(1, 2, 2, 2), num_res_blocks=2, attn_resolutions=(16,), dropout=0.1)
FORMAT_B_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_HALF = tuple(name.replace(".", ".fp16.") for name in FORMAT_B_FILES)  # of variant="fp16"
_RUN = "last.safetensors"  # in the folder of a run, see `run`
_LARGEST_T = 10**6  # the tensors of a file bound its network, but not its schedule


def load_public(
    path: str | Path, device: str | torch.device | None = None, config: UNetConfig | None = None
) -> tuple[Adapter, Schedule]:
    """Load public weights that lie on this machine, as (model in evaluation mode, schedule).

    A safetensors file cannot hold code. Any other is a pickle, which torch's restricted unpickler reads: it is meant to
    run no code, so take pickles from people whom you trust.

    Args:
        path: a file in format A (.pt, .pth, .ckpt, .bin, .safetensors), or a folder in format B, alone or inside that
            of a whole pipeline, or its file of tensors. From a checkpoint of the DDIM authors' code the average is
            taken.
        device: where the model goes; by default the CPU.
        config: the network of a file in format A; by default `CIFAR10`. Format B states it in config.json, with which
            one given here must agree (apart from dropout, which plays no part in sampling).

    Raises:
        CheckpointError: no such file, a damaged one, one that holds more than tensors, tensors that are not
            finite or belong to another network, or settings that our network or schedule does not have.
    """
    path, tensors, description = read(path, config)
    if description.get("kind") == KIND and "times" not in description:
        raise CheckpointError(f"{path} holds weights of this package: load them with load_weights")
    return build(path, tensors, description, device)


def read(path: str | Path, config: UNetConfig | None = None) -> tuple[Path, dict[str, Tensor], dict]:
    """Read a file of weights: (the file, its tensors under our names, its description: "kind", "unet", "schedule").

    `build` checks that the tensors are those of the network described. Otherwise as `load_public`, for our files too.
    """
    path = file_of(path)
    if path.suffix == ".safetensors":
        (tensors, description), note = read_tensors(path), {}
        if description is not None:
            return path, tensors, description
    else:
        tensors, note = _unpickle(path)
    while tensors and (prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in tensors)), None)):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    schedule = DDPM_SCHEDULE
    if any(name.startswith(("down_blocks.", "time_embedding.")) for name in tensors):
        settings = path.with_name("config.json")
        found, schedule = config_of(settings), schedule_of(path.parent)
        if config and found != replace(config, dropout=found.dropout):
            raise CheckpointError(f"{settings} describes another network than the one asked for: {found}")
        config = config or found
        tensors = renamed(tensors, len(config.ch_mult), path)
    return path, tensors, public(config or CIFAR10, schedule) | note


def file_of(path: str | Path) -> Path:
    """The file of tensors, if a folder is given: in format B, of a pipeline, of a run; ~ is the home directory."""
    path = Path(os.path.expanduser(path))
    if not os.path.isdir(path):
        return path
    if (path / "model_index.json").is_file():
        path /= "unet"
    return next((path / f for f in (*FORMAT_B_FILES, *_HALF, _RUN) if (path / f).is_file()), path / FORMAT_B_FILES[0])


def public(config: UNetConfig, schedule: dict = DDPM_SCHEDULE) -> dict:
    """The description of public weights of this network."""
    return {"kind": KIND, "unet": config.to_dict(), "schedule": schedule, "times": "the network is told t - 1"}


def build(
    path: Path, tensors: dict[str, Tensor], description: dict, device: str | torch.device | None = None
) -> tuple[nn.Module, Schedule]:
    """The network that is described, with these tensors, as (model in evaluation mode, schedule).

    It takes no memory before the tensors, those of the file `path`, are known to fit. Raises CheckpointError: the
    description is of something else, defines no network, or one with other tensors; or a tensor is not finite.
    """
    if description.get("kind") != KIND:
        training = description.get("kind") == "training"
        remedy = f": turn it into weights with `ddim export {path} --out FILE.safetensors`" if training else ""
        raise CheckpointError(f"{path} holds {description.get('kind')!r}, not {KIND!r}{remedy}")
    shifted = "times" in description
    verdict = "it belongs to another network" if shifted else "it does not hold the weights of the network it describes"
    try:
        config, times = UNetConfig(**description["unet"]), description["schedule"]
        if times["T"] > _LARGEST_T:
            raise ValueError(f"T = {times['T']}")
        schedule = Schedule.linear(**times)
        if (blocks := len(config.ch_mult) * config.num_res_blocks) > len(tensors):  # each of which has at least eight
            raise ValueError(f"{blocks} residual blocks, {len(tensors)} tensors")
        with torch.device("meta"):
            net = UNet(config)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{path}: {verdict} ({_first_line(error)}): use another copy") from error
    net.load_state_dict(_matched(net, tensors, path, verdict), assign=True)
    model = Adapter(net) if shifted else net
    return model.to("cpu" if device is None else device).eval().requires_grad_(False), schedule


def _matched(net: UNet, tensors: dict[str, Tensor], path: Path, verdict: str) -> dict[str, Tensor]:
    """The tensors in float32: all that the network has, and no more."""
    expected, result = {name: tensor.shape for name, tensor in net.state_dict().items()}, {}
    differences = {"lacks": expected.keys() - tensors.keys(), "has unknown": tensors.keys() - expected.keys()}
    for problem, names in differences.items():
        if names:
            raise CheckpointError(f"{path} {problem} {min(names)!r} ({len(names)} such tensors): {verdict}")
    for name, shape in expected.items():
        tensor, problem = tensors[name], None
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta:
            problem = "is no plain tensor, but sparse, nested or without values: use another copy"
        elif not tensor.is_floating_point():
            problem = f"holds {tensor.dtype}, not floating-point numbers: use another copy"
        # format B has attention's 1x1 convolutions as dense layers
        elif tensor.shape != shape and (*tensor.shape, 1, 1) != tuple(shape):
            problem = f"has shape {tuple(tensor.shape)} instead of {tuple(shape)}: {verdict}"
        # a copy: one that is float32 already would keep the file mapped, which on Windows cannot then be replaced
        elif not (tensor := tensor.to(torch.float32, copy=True)).isfinite().all():
            problem = "holds numbers that are not finite: use other weights"
        if problem:
            raise CheckpointError(f"{path}: {name!r} {problem}")
        result[name] = tensor.reshape(shape)
    return result


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# --- tensors and their names -------------------------------------------------------------------------------------

_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile


def _unpickle(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors of a file that torch saved, and a note if it holds more of them than one network's."""
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that torch did not write: they are refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of error for a truncated or foreign file
        reason = f"not a file of tensors ({_first_line(error)})"
        if isinstance(error, pickle.UnpicklingError):
            reason = "holds more than tensors (torch's restricted unpickler refuses it)"
        raise CheckpointError(f"{path} is damaged or {reason}: use another copy") from error
    note = {}
    if isinstance(state, list) and len(state) in (4, 5):
        # the DDIM authors' [network, optimiser, epoch, step], and the average of the network where there is one
        note = {
            "note": f"a checkpoint of the DDIM authors' code, its {'average' if state[4:] else 'last step'} is taken"
        }
        state = state[4] if state[4:] else state[0]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"{path} does not hold only named tensors: it belongs to another network")
    return dict(state), note
