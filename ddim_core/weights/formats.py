"""Files of weights, read once: the format is seen from what a file holds.

Ours, as `export` writes it, describes its network. Public weights come in two formats. A: a file of tensors with the
names of our own U-Net, as the PyTorch port of the DDPM weights has it; it says nothing more. B: a folder as diffusers
writes it, `diffusion_pytorch_model.safetensors` or `.bin` and `config.json`, from which the network is derived. Both
hold networks trained on times 0, ..., T - 1 instead of 1, ..., T: see `Adapter`.
"""

import json
import os
import pickle
import re
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..adapt import Adapter
from ..errors import CheckpointError
from ..files import read_tensors
from ..schedule import Schedule
from ..unet import UNet, UNetConfig

__all__ = ["CIFAR10", "build", "file_of", "load_public", "public", "read"]

KIND = "weights"
CIFAR10 = UNetConfig(32, 3, 3, ch=128, ch_mult=(1, 2, 2, 2), num_res_blocks=2, attn_resolutions=(16,), dropout=0.1)
_LARGEST_T = 10**6  # the tensors of a file bound its network, but not its schedule
FORMAT_B_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def load_public(
    path: str | Path, device: str | torch.device | None = None, config: UNetConfig | None = None
) -> tuple[Adapter, Schedule]:
    """Load public weights that lie on this machine, as (model in evaluation mode, schedule).

    Args:
        path: a file in format A (.pt, .ckpt, .bin, .safetensors), or a folder in format B, or its file of tensors.
        device: where the model goes; the CPU if left out.
        config: the network of a file in format A; left out, `CIFAR10`. Format B says it in config.json, which must
            agree if it is given here too (dropout, which plays no part in sampling, aside).

    Raises:
        CheckpointError: no such file, a damaged one, one that holds more than tensors (it is never run), the tensors
            of another network, or settings that our network does not have.
    """
    path, tensors, description = read(path, config)
    if "times" not in description:
        raise CheckpointError(f"{path} holds weights of this package: load them with load_weights")
    return build(path, tensors, description, device)


def read(path: str | Path, config: UNetConfig | None = None) -> tuple[Path, dict[str, Tensor], dict]:
    """Read a file of weights: (the file, its tensors under our names, its description: "kind", "unet", "schedule").

    Whether the tensors are those of the network described is seen by `build`.

    Args:
        path: of a file in any of the formats, or the folder of format B.
        config: as in `load_public`.

    Raises:
        CheckpointError: as `load_public`, but for tensors of another network.
    """
    path = file_of(path)
    tensors, description = read_tensors(path) if path.suffix == ".safetensors" else (_unpickle(path), None)
    if description is not None:
        return path, tensors, description
    tensors = _without_prefixes(tensors)
    if any(name.startswith(("down_blocks.", "time_embedding.")) for name in tensors):
        settings = path.with_name("config.json")
        found = config_of(settings)
        if config and found != replace(config, dropout=found.dropout):
            raise CheckpointError(f"{settings} describes another network than the one asked for: {found}")
        config = config or found
        tensors = _in_format_a(tensors, len(config.ch_mult), path)
    return path, tensors, public(config or CIFAR10)


def file_of(path: str | Path) -> Path:
    """The file of tensors, where a folder in format B is named; ~ is the home directory."""
    path = Path(os.path.expanduser(path))
    if not os.path.isdir(path):
        return path
    return next((path / f for f in FORMAT_B_FILES if (path / f).is_file()), path / FORMAT_B_FILES[0])


def public(config: UNetConfig) -> dict:
    """The description of public weights of this network, all of which were trained on one schedule."""
    schedule = {"T": 1000, "beta_1": 1e-4, "beta_T": 0.02}
    return {"kind": KIND, "unet": config.to_dict(), "schedule": schedule, "times": "the network is told t - 1"}


def build(
    path: Path, tensors: dict[str, Tensor], description: dict, device: str | torch.device | None = None
) -> tuple[nn.Module, Schedule]:
    """The network that is described, with these tensors, as (model in evaluation mode, schedule).

    It takes no memory before its tensors are known to be those of the file `path`.

    Raises:
        CheckpointError: the description is of something else, makes no network, or one of other tensors.
    """
    if description.get("kind") != KIND:
        raise CheckpointError(f"{path} holds {description.get('kind')!r}, not {KIND!r}")
    shifted = "times" in description
    verdict = "it is of another network" if shifted else "it does not hold the weights of the network it describes"
    try:
        config, times = UNetConfig(**description["unet"]), description["schedule"]
        if times["T"] > _LARGEST_T:
            raise ValueError(f"T = {times['T']}")
        schedule = Schedule.linear(**times)
        if (blocks := len(config.ch_mult) * config.num_res_blocks) > len(tensors):  # which have eight each at the least
            raise ValueError(f"{blocks} residual blocks, {len(tensors)} tensors")
        with torch.device("meta"):
            net = UNet(config)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: {verdict} ({reason}): use another copy") from error
    net.load_state_dict(_matched(net, tensors, path, verdict), assign=True)
    model = Adapter(net) if shifted else net
    return model.to(device or "cpu").eval().requires_grad_(False), schedule


def _matched(net: UNet, tensors: dict[str, Tensor], path: Path, verdict: str) -> dict[str, Tensor]:
    """The tensors in float32: all that the network has, and no more."""
    expected, result = {name: tensor.shape for name, tensor in net.state_dict().items()}, {}
    differences = {"lacks": expected.keys() - tensors.keys(), "has unknown": tensors.keys() - expected.keys()}
    for problem, names in differences.items():
        if names:
            raise CheckpointError(f"{path} {problem} {min(names)!r} ({len(names)} such tensors): {verdict}")
    for name, shape in expected.items():
        tensor = tensors[name]
        if not tensor.is_floating_point():
            found = f"holds {tensor.dtype}, not floating-point numbers"
            raise CheckpointError(f"{path}: {name!r} {found}: use another copy")
        # format B has attention's 1x1 convolutions as dense layers
        if tensor.shape != shape and (*tensor.shape, 1, 1) != tuple(shape):
            found = f"has shape {tuple(tensor.shape)} instead of {tuple(shape)}"
            raise CheckpointError(f"{path}: {name!r} {found}: {verdict}")
        result[name] = tensor.reshape(shape).float()
    return result


# --- tensors and their names -------------------------------------------------------------------------------------

_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile
# format B > format A, in this order; the last row as older files have them
_RENAMED = """
time_embedding.linear_1. > temb.dense.0.   time_embedding.linear_2. > temb.dense.1.   conv_norm_out. > norm_out.
mid_block.resnets.0. > mid.block_1.   mid_block.resnets.1. > mid.block_2.   mid_block.attentions.0. > mid.attn_1.
down_blocks. > down.   .resnets. > .block.   .downsamplers.0. > .downsample.   .upsamplers.0. > .upsample.
.time_emb_proj. > .temb_proj.   .conv_shortcut. > .nin_shortcut.   .attentions. > .attn.   .group_norm. > .norm.
.to_q. > .q.   .to_k. > .k.   .to_v. > .v.   .to_out.0. > .proj_out.
.query. > .q.   .key. > .k.   .value. > .v.   .proj_attn. > .proj_out.
"""


def _unpickle(path: Path) -> dict[str, Tensor]:
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that torch did not write: they are refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "holds more than tensors (code in it is never run)"
        raise CheckpointError(f"{path} is damaged or {reason}: use another copy") from error
    except Exception as error:  # torch raises many kinds for a cut or foreign file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged or not a file of tensors ({reason}): use another copy") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"{path} does not hold named tensors alone: it is of another network")
    return dict(state)


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while state and (prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in state)), None)):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _in_format_a(state: dict[str, Tensor], levels: int, path: Path) -> dict[str, Tensor]:
    result = {}
    for name, tensor in state.items():
        # the levels on the way up are counted from the other end
        new = re.sub(r"^up_blocks\.(\d{1,9})\.", lambda m: f"up.{levels - 1 - int(m[1])}.", name)
        for theirs, ours in re.findall(r"(\S+) > (\S+)", _RENAMED):
            new = new.replace(theirs, ours)
        if new in result:
            raise CheckpointError(f"{path} has {name!r} under two names: use another copy")
        result[new] = tensor
    return result


# --- the settings of format B ------------------------------------------------------------------------------------

_FREE = dict.fromkeys(("sample_size", "in_channels", "out_channels", "layers_per_block", "norm_num_groups"), int)
_FREE |= dict.fromkeys(("block_out_channels", "down_block_types", "up_block_types"), list)
# what our network has built in: the tensors would load under other values too, and every answer would be wrong
_NEEDED = json.loads("""{
"norm_eps": 1e-6, "freq_shift": 1, "flip_sin_to_cos": false, "downsample_padding": 0, "attention_head_dim": null
}""")
# left out, these have this value in diffusers too
_OPTIONAL = json.loads("""{
"center_input_sample": false, "time_embedding_type": "positional", "time_embedding_dim": null, "act_fn": "silu",
"mid_block_type": "UNetMidBlock2D", "mid_block_scale_factor": 1, "downsample_type": "conv", "upsample_type": "conv",
"attn_norm_num_groups": null, "resnet_time_scale_shift": "default", "add_attention": true, "class_embed_type": null,
"num_class_embeds": null, "num_train_timesteps": null
}""")


def config_of(path: Path) -> UNetConfig:
    """The network that a config.json of diffusers' UNet2DModel asks for, without its dropout.

    Raises:
        CheckpointError: no such file, or one that asks for what our network does not have.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        remedy = "weights with the names of diffusers need the config.json beside them"
        raise CheckpointError(f"{path} is missing or not readable: {remedy}") from error
    if not isinstance(given, dict):
        raise CheckpointError(f"{path} holds no settings: use another copy")

    def check(field: str, right: bool, wanted: str) -> None:
        if field not in given and not right:
            raise CheckpointError(f"{path} lacks {field!r}, which must be {wanted}: it is of another network")
        if not right:
            found = _brief(given[field])
            raise CheckpointError(f"{path}: {field!r} is {found} instead of {wanted}: it is of another network")

    for field, kind in _FREE.items():
        check(field, type(given.get(field)) is kind, "a whole number" if kind is int else "a list")
    for field, value in (_NEEDED | _OPTIONAL).items():
        check(field, given[field] == value if field in given else field in _OPTIONAL, json.dumps(value))
    # dropout plays no part in sampling; what starts with _ tells who wrote the file
    if unknown := {k for k in given if not k.startswith("_")} - {*_FREE, *_NEEDED, *_OPTIONAL, "dropout"}:
        raise CheckpointError(f"{path} has an unknown setting {min(unknown)!r}: it is of another network")
    size, widths, kinds = (given[k] for k in ("sample_size", "block_out_channels", "down_block_types"))
    try:
        config = UNetConfig(
            resolution=size,
            in_channels=given["in_channels"],
            out_channels=given["out_channels"],
            ch=next(iter(widths), 0),
            ch_mult=tuple(w // widths[0] for w in widths),
            num_res_blocks=given["layers_per_block"],
            attn_resolutions=tuple(size >> i for i, kind in enumerate(kinds) if kind == "AttnDownBlock2D"),
            norm_groups=given["norm_num_groups"],
        )
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{path} makes no network ({error}): use another copy") from error
    attention = ["Attn" * (r in config.attn_resolutions) for r in config.resolutions]
    lists = {
        "block_out_channels": [config.ch * m for m in config.ch_mult],
        "down_block_types": [f"{a}DownBlock2D" for a in attention],
        "up_block_types": [f"{a}UpBlock2D" for a in reversed(attention)],
    }
    for field, value in lists.items():
        check(field, given[field] == value, json.dumps(value))
    return config


def _brief(value: object) -> str:
    """A setting as it stands in the file, cut where it is long."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = str(type(value))
    return text if len(text) <= 200 else text[:200] + "..."
