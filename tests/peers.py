"""The U-Net of another library (diffusers' UNet2DModel), and the two ways of naming the same parameters.

Format A is ours, as the public PyTorch port of the DDPM weights has it; format B is diffusers', with newer and older
names in its attention.
"""

import json
import re
from pathlib import Path

import torch
from diffusers import UNet2DModel
from helpers import randomised
from torch import Tensor

from ddim_core import UNetConfig

# (ours, diffusers') with i the level, j the block; up levels are counted from the other end there
_TABLE = [
    (r"temb\.dense\.0\.", r"time_embedding.linear_1."),
    (r"temb\.dense\.1\.", r"time_embedding.linear_2."),
    (r"norm_out\.", r"conv_norm_out."),
    (r"down\.(\d+)\.block\.(\d+)\.", r"down_blocks.\1.resnets.\2."),
    (r"down\.(\d+)\.attn\.(\d+)\.", r"down_blocks.\1.attentions.\2."),
    (r"down\.(\d+)\.downsample\.conv\.", r"down_blocks.\1.downsamplers.0.conv."),
    (r"up\.(\d+)\.block\.(\d+)\.", r"up_blocks.\1.resnets.\2."),
    (r"up\.(\d+)\.attn\.(\d+)\.", r"up_blocks.\1.attentions.\2."),
    (r"up\.(\d+)\.upsample\.conv\.", r"up_blocks.\1.upsamplers.0.conv."),
    (r"mid\.block_1\.", r"mid_block.resnets.0."),
    (r"mid\.block_2\.", r"mid_block.resnets.1."),
    (r"mid\.attn_1\.", r"mid_block.attentions.0."),
]
_INSIDE = [("temb_proj", "time_emb_proj"), ("nin_shortcut", "conv_shortcut")]
_ATTENTION = {
    "new": [("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")],
    "old": [("norm", "group_norm"), ("q", "query"), ("k", "key"), ("v", "value"), ("proj_out", "proj_attn")],
}


# settings under which diffusers takes the tensors of our network without a word, and the least relative change of its
# answer at t = 500
SILENT = [
    ({"norm_eps": 1e-5}, 2e-5),
    ({"freq_shift": 0}, 1e-3),
    ({"flip_sin_to_cos": True}, 1e-3),
    ({"downsample_padding": 1}, 1e-2),
    ({"attention_head_dim": 8}, 1e-3),
    ({"attention_head_dim": 16}, 1e-3),
    ({"center_input_sample": True}, 1e-3),
    ({"act_fn": "gelu"}, 1e-3),
    ({"mid_block_scale_factor": 2}, 1e-3),
    ({"attn_norm_num_groups": 16}, 1e-4),
]

# config.json of google/ddpm-celebahq-256 and its kin, in the words of an early version of diffusers
LARGER = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "center_input_sample": False,
    "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 256,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
}


def format_b(name: str, levels: int, attention: str = "new") -> str:
    """The name in format B of a parameter of format A."""
    for ours, theirs in _TABLE:
        found = re.match(ours, name)
        if not found:
            continue
        head, tail = found.expand(theirs), name[found.end() :]
        head = re.sub(r"^up_blocks\.(\d+)", lambda m: f"up_blocks.{levels - 1 - int(m[1])}", head)
        for a, b in _ATTENTION[attention] if "attentions" in head else _INSIDE:
            if tail.startswith(f"{a}."):
                tail = b + tail[len(a) :]
                break
        return head + tail
    return name  # conv_in, conv_out


def to_format_b(state: dict[str, Tensor], levels: int, attention: str = "new") -> dict[str, Tensor]:
    """Names of format B; attention's 1x1 convolutions become dense layers."""
    result = {}
    for name, tensor in state.items():
        theirs = format_b(name, levels, attention)
        result[theirs] = tensor[:, :, 0, 0] if "attentions" in theirs and tensor.ndim == 4 else tensor
    return result


def to_format_a(state: dict[str, Tensor], like: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """The way back; `like` gives the names and shapes of format A."""
    return {name: state[format_b(name, levels)].reshape(tensor.shape) for name, tensor in like.items()}


def peer(config: UNetConfig, **different) -> UNet2DModel:
    """Diffusers' network of the same configuration, in evaluation mode."""
    has = [r in config.attn_resolutions for r in config.resolutions]
    settings = {
        "sample_size": config.resolution,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "freq_shift": 1,
        "flip_sin_to_cos": False,
        "down_block_types": tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in has),
        "up_block_types": tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(has)),
        "block_out_channels": tuple(config.ch * m for m in config.ch_mult),
        "layers_per_block": config.num_res_blocks,
        "downsample_padding": 0,
        "mid_block_scale_factor": 1,
        "act_fn": "silu",
        "attention_head_dim": None,
        "norm_num_groups": config.norm_groups,
        "norm_eps": 1e-6,
    }
    return UNet2DModel(**(settings | different)).eval()


def made_by_diffusers(settings: dict, folder: Path) -> UNet2DModel:
    """Their network, with random weights, and its folder with just these settings in config.json."""
    other = UNet2DModel(**{k: v for k, v in settings.items() if not k.startswith("_")}).eval()
    randomised(other, seed=6).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return other


def answer(model: torch.nn.Module, xt: Tensor, t: int) -> Tensor:
    """eps from either network."""
    with torch.no_grad():
        out = model(xt, torch.full((len(xt),), t))
    return out if isinstance(out, Tensor) else out.sample
