"""Other people's networks as denoisers in our convention: `model(x_t, t) -> eps`, with t in 1..T.

Two conventions differ. Most networks, those of diffusers among them, were trained with 0-based timesteps 0, ..., T - 1,
where ours are 1, ..., T: the same noise, numbered one lower. And some return their prediction inside an object.
`Adapter` settles both.

Their files differ in two more ways: in the names of the same network's tensors, and in how its settings are written.
`renamed`, `config_of` and `schedule_of` turn those of diffusers into ours; `weights` reads the files.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from .errors import CheckpointError
from .unet import UNetConfig

__all__ = ["Adapter", "Denoiser", "as_denoiser", "config_of", "image_shape", "renamed", "schedule_of"]

# what can be sampled from: `model(x_t, t) -> eps`, x_t and eps `[B, ...]`, t int64 `[B]`
Denoiser = Callable[[Tensor, Tensor], Tensor]


class Adapter(nn.Module):
    """A noise predictor for the times 0, ..., T - 1 as a denoiser for 1, ..., T: `model(x_t, t) -> net(x_t, t - 1)`.

    Only the time that the network is told is shifted; the schedule and its alpha_t stay as they are.

    Args:
        net: a module or function that takes x_t `[B, C, H, W]` and times int64 `[B]`, and returns eps of the shape of
            x_t: as a tensor, as the attribute `sample` (diffusers), or first in a tuple.
        shape: `(C, H, W)` of an image; by default, what the network's configuration says.

    Raises:
        ValueError: (when called) a time below 1, unless the times are in the memory of a GPU, where they are not
            checked; images that a network of diffusers cannot halve as many times as its levels require.
    """

    def __init__(self, net: Callable, shape: tuple[int, ...] | None = None):
        super().__init__()
        self.net = net
        self.shape = image_shape(net) if shape is None else tuple(shape)

    @property
    def config(self):
        """The network's configuration; None if it has none."""
        return getattr(self.net, "config", None)

    @property
    def training(self) -> bool:
        """Whether the network is in training mode: it may have been put there without going through the adapter."""
        return isinstance(self.net, nn.Module) and self.net.training

    @training.setter
    def training(self, mode: bool) -> None:
        pass  # nn.Module.train and eval pass the mode on to the network

    def forward(self, xt: Tensor, t: Tensor) -> Tensor:
        if t.device.type == "cpu" and bool((t < 1).any()):
            raise ValueError(f"times must be at least 1, got {t.min().item()}")
        if isinstance(self.config, Mapping) and "block_out_channels" in self.config:
            self._check_size(*xt.shape[2:])
        answer = self.net(xt, t - 1)
        if isinstance(answer, tuple):
            return answer[0]
        return answer if isinstance(answer, Tensor) else answer.sample

    def _check_size(self, height: int, width: int) -> None:
        levels = len(self.config["block_out_channels"])
        if height % (unit := 2 ** (levels - 1)) or width % unit or height * width == 0:
            raise ValueError(
                f"images of {height}x{width} do not fit a network of {levels} levels: height and width must be "
                f"multiples of {unit}"
            )


def as_denoiser(model: Callable) -> Denoiser:
    """The model itself; a network of diffusers (UNet2DModel and its kin) behind an `Adapter`.

    Such a network is recognised by its configuration, a mapping with `sample_size`, and its `register_to_config`.
    """
    config = getattr(model, "config", None)
    theirs = isinstance(config, Mapping) and "sample_size" in config and hasattr(model, "register_to_config")
    return Adapter(model) if theirs else model


def image_shape(model: Callable) -> tuple[int, ...] | None:
    """The shape `(C, H, W)` of the images that a model works on; None if it does not say.

    It says so by an attribute `shape` (`Adapter`, `oracle.DatasetDenoiser`), or by a configuration: that of our U-Net,
    with `in_channels` and `resolution`, or that of diffusers, with `in_channels` and `sample_size`.
    """
    shape, config = getattr(model, "shape", None), getattr(model, "config", None)
    if shape is not None:
        return tuple(shape)
    if isinstance(config, Mapping):
        channels, size = config.get("in_channels"), config.get("sample_size")
    else:
        channels, size = getattr(config, "in_channels", None), getattr(config, "resolution", None)
    if channels is None or size is None:
        return None
    return (channels, size, size) if isinstance(size, int) else (channels, *size)


def first_parameter(model: Callable) -> Tensor | None:
    """The first floating-point parameter of a network: its device and dtype are those that the network works in."""
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    return next((p for p in parameters if p.is_floating_point()), None)


# --- the files of diffusers ------------------------------------------------------------------------------------------

# format B > format A, in this order; the last row holds the names in older files
_RENAMED = """
time_embedding.linear_1. > temb.dense.0.   time_embedding.linear_2. > temb.dense.1.   conv_norm_out. > norm_out.
mid_block.resnets.0. > mid.block_1.   mid_block.resnets.1. > mid.block_2.   mid_block.attentions.0. > mid.attn_1.
down_blocks. > down.   .resnets. > .block.   .downsamplers.0. > .downsample.   .upsamplers.0. > .upsample.
.time_emb_proj. > .temb_proj.   .conv_shortcut. > .nin_shortcut.   .attentions. > .attn.   .group_norm. > .norm.
.to_q. > .q.   .to_k. > .k.   .to_v. > .v.   .to_out.0. > .proj_out.
.query. > .q.   .key. > .k.   .value. > .v.   .proj_attn. > .proj_out.
"""
_FREE = dict.fromkeys(("sample_size", "in_channels", "out_channels", "layers_per_block", "norm_num_groups"), int)
_FREE |= dict.fromkeys(("block_out_channels", "down_block_types", "up_block_types"), list)
# fixed in our network: with other values the tensors would load all the same, and every prediction would be wrong
_NEEDED = json.loads("""{
"norm_eps": 1e-6, "freq_shift": 1, "flip_sin_to_cos": false, "downsample_padding": 0, "attention_head_dim": null
}""")
# where these are absent, diffusers takes the same values
_OPTIONAL = json.loads("""{
"center_input_sample": false, "time_embedding_type": "positional", "time_embedding_dim": null, "act_fn": "silu",
"mid_block_type": "UNetMidBlock2D", "mid_block_scale_factor": 1, "downsample_type": "conv", "upsample_type": "conv",
"attn_norm_num_groups": null, "resnet_time_scale_shift": "default", "add_attention": true, "class_embed_type": null,
"num_class_embeds": null, "num_train_timesteps": null
}""")
_SCHEDULER = json.loads("""{
"beta_schedule": "linear", "trained_betas": null, "prediction_type": "epsilon", "rescale_betas_zero_snr": false
}""")
DDPM_SCHEDULE = {"T": 1000, "beta_1": 1e-4, "beta_T": 0.02}  # for networks that state no other


def renamed(state: dict[str, Tensor], levels: int, path: Path) -> dict[str, Tensor]:
    """The tensors of a diffusers network with so many levels, under our names.

    Raises:
        CheckpointError: two tensors have the same name.
    """
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


def config_of(path: Path) -> UNetConfig:
    """The network that a config.json of diffusers' UNet2DModel describes, without its dropout.

    Raises:
        CheckpointError: no such file, or it asks for something that our network does not have.
    """
    given = _settings(path, "weights with diffusers' tensor names need the config.json beside them")
    for field, kind in _FREE.items():
        wanted = "a whole number" if kind is int else "a list"
        _check(path, given, field, type(given.get(field)) is kind, wanted)
    # dropout plays no part in sampling; keys that start with _ say what wrote the file
    if unknown := {k for k in given if not k.startswith("_")} - {*_FREE, *_NEEDED, *_OPTIONAL, "dropout"}:
        raise CheckpointError(f"{path} has an unknown setting {min(unknown)!r}: it belongs to another network")
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
        raise CheckpointError(f"{path} describes no network ({error}): use another copy") from error
    attention = ["Attn" * (r in config.attn_resolutions) for r in config.resolutions]
    fixed = {
        "block_out_channels": [config.ch * m for m in config.ch_mult],
        "down_block_types": [f"{a}DownBlock2D" for a in attention],
        "up_block_types": [f"{a}UpBlock2D" for a in reversed(attention)],
        **_NEEDED,
    }
    for field, value in (fixed | _OPTIONAL).items():
        _check(path, given, field, (_OPTIONAL | given).get(field, given) == value, json.dumps(value))
    return config


def schedule_of(folder: Path) -> dict:
    """The schedule that diffusers put beside a network or into the folder of its pipeline; DDPM's if it put none there.

    Raises:
        CheckpointError: a schedule that ours cannot represent.
    """
    places = (folder / "scheduler_config.json", folder.parent / "scheduler" / "scheduler_config.json")
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        return DDPM_SCHEDULE
    given = _settings(path, "get the folder again")
    for field, value in _SCHEDULER.items():
        _check(path, given, field, given.get(field, value) == value, json.dumps(value))
    theirs = {"T": "num_train_timesteps", "beta_1": "beta_start", "beta_T": "beta_end"}
    return {ours: given.get(field, DDPM_SCHEDULE[ours]) for ours, field in theirs.items()}


def _settings(path: Path, remedy: str) -> dict:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is missing or not readable: {remedy}") from error
    if not isinstance(given, dict):
        raise CheckpointError(f"{path} holds no settings: use another copy")
    return given


def _check(path: Path, given: dict, field: str, right: bool, wanted: str) -> None:
    if right:
        return
    if field not in given:
        raise CheckpointError(f"{path} lacks {field!r}, which must be {wanted}: it belongs to another network")
    found = json.dumps(given[field])
    found = found if len(found) <= 200 else found[:200] + "..."
    raise CheckpointError(f"{path}: {field!r} is {found} instead of {wanted}: it belongs to another network")
