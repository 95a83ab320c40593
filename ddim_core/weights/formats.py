"""The public weights of the original model for CIFAR-10, fetched, verified and given our names.

They exist in two formats. A: a file of tensors with the names of our own U-Net, as the PyTorch port of the DDPM
weights has it. B: a folder as diffusers writes it, `config.json` and `diffusion_pytorch_model.safetensors` or `.bin`;
`download` fetches one. Both hold the network of `CIFAR10`, trained on times 0, ..., T - 1 instead of 1, ..., T: see `ShiftedTime`.
"""

import json
import os
import pickle
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import data
from ..errors import CheckpointError, DiskError, UnavailableError, UsageError
from ..files import read_tensors, sha256_file
from ..schedule import Schedule
from ..unet import UNet, UNetConfig

__all__ = [
    "CIFAR10",
    "ShiftedTime",
    "Source",
    "authors_grid",
    "describe_public",
    "describe_source",
    "fetch",
    "load_public",
    "source",
]

CIFAR10 = UNetConfig(32, 3, 3, ch=128, ch_mult=(1, 2, 2, 2), num_res_blocks=2, attn_resolutions=(16,), dropout=0.1)
FORMAT_B_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
HUB = "google/ddpm-cifar10-32"  # the name of the folder on the Hugging Face hub
RETRIES = 2
TIMEOUT = 30  # seconds without an answer


@dataclass(frozen=True)
class Source:
    """Where weights are fetched from, and what the file must be.

    Args:
        url: http or https.
        hash: "md5:..." or "sha256:..." of the file, in hexadecimal.

    Raises:
        UsageError: not such a URL or hash.
    """

    url: str
    hash: str

    def __post_init__(self):
        if not re.fullmatch(r"https?://\S+", self.url):
            raise UsageError(f"cannot fetch weights from {self.url!r}: give a URL that starts with https:// or http://")
        if not re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", self.hash):
            raise UsageError(f"{self.hash!r} is no hash of a file: give md5: or sha256: and its lower-case hexadecimal")

    @property
    def path(self) -> Path:
        """Its place in the cache, another one for another file."""
        return data.CACHE / "weights" / f"{self.hash.split(':')[1][:16]}.pt"


SOURCES = {
    # the averaged weights of the PyTorch port, format A
    "cifar10": Source(
        "https://heibox.uni-heidelberg.de/f/2e4f01e2d9ee49bab1d5/?dl=1", "md5:1fa350b952534ae442b1d5235cce5cd3"
    )
}


class ShiftedTime(nn.Module):
    """A network trained on times 0, ..., T - 1, as a denoiser of 1, ..., T: `model(x_t, t) -> net(x_t, t - 1)`.

    Only what the network is told is shifted; the schedule keeps alpha_t.

    Raises:
        ValueError: a time below 1 (not looked for in the memory of a GPU); and as the network.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    @property
    def config(self) -> UNetConfig:
        """The network's."""
        return self.net.config

    def forward(self, xt: Tensor, t: Tensor) -> Tensor:
        if t.device.type == "cpu" and bool((t < 1).any()):
            raise ValueError(f"the network knows times from 1 on, got {t.min().item()}")
        return self.net(xt, t - 1)


def load_public(
    path: str | Path, device: str | torch.device | None = None, config: UNetConfig = CIFAR10
) -> tuple[ShiftedTime, Schedule]:
    """Load public weights that lie on this machine, as (model in evaluation mode, schedule).

    Args:
        path: a file in format A (.pt, .ckpt, .bin, .safetensors), or a folder in format B, or its file of tensors.
        device: where the model goes; the CPU if left out.
        config: the network that they belong to.

    Raises:
        CheckpointError: no such file, a damaged one, one that holds more than tensors (it is never run), or the
            tensors or settings of another network.
    """
    with torch.device("meta"):
        net = UNet(config)
    net.load_state_dict(_tensors_for(net, _file(Path(path).expanduser())), assign=True)
    return ShiftedTime(net).to(device or "cpu").eval().requires_grad_(False), Schedule.linear()


def describe_public(path: str | Path) -> dict:
    """Configuration of public weights that lie on this machine, and sha256 of their file. Raises as `load_public`."""
    load_public(path)
    return {**DESCRIPTION, "sha256": sha256_file(_file(Path(path).expanduser()))}


def source(name: str) -> Source:
    """Where the weights of that name come from.

    The environment may name a mirror: DDIM_CORE_CIFAR10_URL for the same file elsewhere, together with
    DDIM_CORE_CIFAR10_HASH ("sha256:..." or "md5:...") for another file of the same network, in format A as torch saves
    it. There is no way to go without a hash.

    Raises:
        UsageError: an unknown name, a URL or hash in the environment that is none.
    """
    if name not in SOURCES:
        raise UsageError(f"unknown public weights {name!r}: choose one of {', '.join(SOURCES)}, {HUB}")
    known, prefix = SOURCES[name], f"DDIM_CORE_{name.upper()}"
    return Source(os.environ.get(f"{prefix}_URL") or known.url, os.environ.get(f"{prefix}_HASH") or known.hash)


def describe_source(name: str) -> dict:
    """Configuration and origin of public weights, and sha256 of the file if it is in the cache; downloads nothing.

    Raises:
        UsageError: as `source`.
    """
    origin = source(name)
    path = origin.path if origin.path.is_file() else None
    provenance = {"url": origin.url, "hash": origin.hash, "file": path and str(path), "of": _ORIGIN}
    return {**DESCRIPTION, "provenance": provenance, "sha256": path and sha256_file(path)}


def fetch(source: Source) -> Path:
    """The file of a source, from the cache if it is there; its hash is compared every time.

    Shows progress on a terminal only. The file takes its place when it is whole and verified.

    Raises:
        UnavailableError: it has to be downloaded and cannot be, or something else comes. DiskError: the cache cannot
            be written.
    """
    import pooch  # with requests, a fifth of a second of imports, needed here only
    import requests
    from tqdm import tqdm

    path, algorithm = source.path, source.hash.split(":")[0]

    def download(url: str, file: str, cache: pooch.Pooch) -> None:
        """To a temporary file of pooch's, which it moves to its place, or removes if this raises."""
        with requests.get(url, stream=True, timeout=TIMEOUT) as response, open(file, "wb") as f:
            response.raise_for_status()
            size = int(response.headers.get("Content-Length", 0)) or None
            # shown on a terminal only
            with tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
                for chunk in response.iter_content(1 << 20):
                    if f.tell() == 0 and chunk.lstrip().startswith(b"<"):
                        raise UnavailableError(_unavailable(source, "a web page came instead of the file"))
                    bar.update(f.write(chunk))
        if f"{algorithm}:{pooch.file_hash(file, algorithm)}" != source.hash:  # here: to try again would be no use
            raise UnavailableError(_unavailable(source, f"another file came: its {algorithm} differs"))

    cache = pooch.create(
        path.parent, "", registry={path.name: source.hash}, urls={path.name: source.url}, retry_if_failed=RETRIES
    )
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        return Path(cache.fetch(path.name, downloader=download))
    except (requests.RequestException, ValueError) as error:
        cause = getattr(next(iter(error.args), None), "reason", error)  # without urllib3's account of its retries
        raise UnavailableError(_unavailable(source, " ".join(str(cause).split()))) from error
    except OSError as error:
        reason = " ".join(str(error.strerror or error).split())
        raise DiskError(f"cannot write {path} ({reason}): free some space or set DDIM_CORE_CACHE") from error
    finally:
        logger.setLevel(level)


def _unavailable(source: Source, reason: str) -> str:
    return f"weights cannot be downloaded from {source.url} ({reason}): {by_other_means()}"


def by_other_means() -> str:
    """What to do where a download is not possible."""
    return (
        f"try again later, or get that file, or the folder of {HUB}, by other means and name it: "
        "load_public(PATH), or --weights PATH"
    )


def authors_grid(schedule: Schedule, steps: int, spacing: str = "quadratic") -> list[int]:
    """The grid of times on which the DDIM authors sampled (appendix D.2), counted from 1 as ours are, for `sample`.

    "quadratic", theirs for CIFAR-10: the squares of `steps` evenly spaced numbers from 0 to sqrt(0.8 T), rounded down,
    plus 1. From 30 steps of T = 1000 on some are equal, which are given once (a step from a time to itself changes
    nothing). "uniform": 1, 1 + k, 1 + 2k, ... with k = T // steps, which may be more than `steps` of them. Neither
    starts at T.

    Returns:
        Ascending times from 0.

    Raises:
        ValueError: steps outside 1..T, or another spacing. TypeError: steps that are not an integer.
    """
    S, T = schedule.check_time(steps, lowest=1), schedule.T
    if spacing == "uniform":
        return [0, *range(1, T + 1, T // S)]
    if spacing != "quadratic":
        raise ValueError(f"spacing must be quadratic or uniform, got {spacing!r}")
    times = torch.linspace(0, (0.8 * T) ** 0.5, S, dtype=torch.float64) ** 2
    return [0, *sorted({int(t) + 1 for t in times})]


_ORIGIN = "DDPM (Ho, Jain, Abbeel 2020) on CIFAR-10, averaged weights, as ported to PyTorch by pesser/pytorch_diffusion"
DESCRIPTION = {
    "kind": "weights",
    "unet": CIFAR10.to_dict(),
    "schedule": {"T": 1000, "beta_1": 1e-4, "beta_T": 0.02},
    "times": "the network is told t - 1",
}

# --- reading -----------------------------------------------------------------------------------------------------

_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile
_RENAMED = [  # format B, format A; in this order
    ("time_embedding.linear_1.", "temb.dense.0."),
    ("time_embedding.linear_2.", "temb.dense.1."),
    ("conv_norm_out.", "norm_out."),
    ("mid_block.resnets.0.", "mid.block_1."),
    ("mid_block.resnets.1.", "mid.block_2."),
    ("mid_block.attentions.0.", "mid.attn_1."),
    ("down_blocks.", "down."),
    (".resnets.", ".block."),
    (".attentions.", ".attn."),
    (".downsamplers.0.", ".downsample."),
    (".upsamplers.0.", ".upsample."),
    (".time_emb_proj.", ".temb_proj."),
    (".conv_shortcut.", ".nin_shortcut."),
    (".group_norm.", ".norm."),
    (".to_out.0.", ".proj_out."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".proj_attn.", ".proj_out."),  # from here on as older files have them
    (".query.", ".q."),
    (".key.", ".k."),
    (".value.", ".v."),
]


def _tensors_for(net: UNet, path: Path) -> dict[str, Tensor]:
    """The tensors of a file of either format under our names, in float32: all that the network has, and no more."""
    state = _without_prefixes(_read(path))
    if any(name.startswith(("down_blocks.", "time_embedding.")) for name in state):
        _check_settings(path.with_name("config.json"), net.config)
        state = _format_a(state, len(net.config.ch_mult), path)
    expected = {name: tensor.shape for name, tensor in net.state_dict().items()}
    for problem, names in [("lacks", expected.keys() - state.keys()), ("has unknown", state.keys() - expected.keys())]:
        if names:
            raise CheckpointError(
                f"{path} {problem} {min(names)!r} ({len(names)} such tensors): it is of another network"
            )
    for name, shape in expected.items():
        tensor = state[name]
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{path}: {name!r} holds {tensor.dtype}, not floating-point numbers: use another copy"
            )
        # format B has attention's 1x1 convolutions as dense layers
        if tensor.shape != shape and (*tensor.shape, 1, 1) != tuple(shape):
            raise CheckpointError(
                f"{path}: {name!r} has shape {tuple(tensor.shape)} instead of {tuple(shape)}: it is of another network"
            )
        state[name] = tensor.reshape(shape).float()
    return state


def _file(path: Path) -> Path:
    """The file of tensors, where a folder is named."""
    if not path.is_dir():
        return path
    return next((path / f for f in FORMAT_B_FILES if (path / f).is_file()), path / FORMAT_B_FILES[0])


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_tensors(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that torch did not write: they are refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors (code in it is never run): use another copy"
        ) from error
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


def _format_a(state: dict[str, Tensor], levels: int, path: Path) -> dict[str, Tensor]:
    result = {}
    for name, tensor in state.items():
        new = re.sub(r"^up_blocks\.(\d+)\.", lambda m: f"up.{levels - 1 - int(m[1])}.", name)
        for theirs, ours in _RENAMED:
            new = new.replace(theirs, ours)
        if new in result:
            raise CheckpointError(f"{path} has {name!r} under two names: use another copy")
        result[new] = tensor
    return result


def _check_settings(path: Path, config: UNetConfig) -> None:
    """Refuse a config.json of format B that asks for another network than ours: many would load without a complaint."""
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is missing or not readable: weights with the names of diffusers need the config.json beside them"
        ) from error
    attention = [r in config.attn_resolutions for r in config.resolutions]
    needed = {
        "sample_size": config.resolution,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)],
        "block_out_channels": [config.ch * m for m in config.ch_mult],
        "layers_per_block": config.num_res_blocks,
        "norm_num_groups": config.norm_groups,
        "norm_eps": 1e-6,
        "freq_shift": 1,
        "flip_sin_to_cos": False,
        "downsample_padding": 0,
        "attention_head_dim": None,
    }
    # left out, these have this value in diffusers too
    optional = {
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "time_embedding_dim": None,
        "mid_block_type": "UNetMidBlock2D",
        "mid_block_scale_factor": 1,
        "downsample_type": "conv",
        "upsample_type": "conv",
        "act_fn": "silu",
        "attn_norm_num_groups": None,
        "resnet_time_scale_shift": "default",
        "add_attention": True,
        "class_embed_type": None,
        "num_class_embeds": None,
        "num_train_timesteps": None,
    }
    if not isinstance(given, dict):
        raise CheckpointError(f"{path} holds no settings: use another copy")
    for field, value in (needed | optional).items():
        if field not in given and field in needed:
            raise CheckpointError(
                f"{path} lacks {field!r}, which must be {json.dumps(value)}: it is of another network"
            )
        if given.get(field, value) != value:
            raise CheckpointError(
                f"{path}: {field!r} is {json.dumps(given[field])} instead of {json.dumps(value)}: it is of another network"
            )
    # dropout plays no part in sampling; what starts with _ tells who wrote the file
    if unknown := {k for k in given if not k.startswith("_")} - needed.keys() - optional.keys() - {"dropout"}:
        raise CheckpointError(f"{path} has an unknown setting {min(unknown)!r}: it is of another network")
