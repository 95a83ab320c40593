"""The public weights for CIFAR-10: both formats against diffusers, their download, and what is wrong with either."""

import copy
import hashlib
import inspect
import json
import os
import pickle
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from helpers import ENV, PYTHON, randn, randomised, relative, served, tiny_unet
from peers import LARGER, SILENT, answer, format_b, made_by_diffusers, peer, to_format_b
from PIL import Image
from safetensors.torch import save_file

from ddim_core import (
    Adapter,
    Schedule,
    UNet,
    UNetConfig,
    cli,
    encode,
    generate,
    load_pretrained,
    load_public,
    sample,
)
from ddim_core.adapt import config_of
from ddim_core.errors import CheckpointError
from ddim_core.oracle import GaussianDenoiser
from ddim_core.plots import tile
from ddim_core.weights import describe, load
from ddim_core.weights.formats import CIFAR10

TOLERANCE = 1e-5
# the structure of the public network, small: four levels, channels that double once, attention on the second level
SMALL = UNetConfig(16, 3, 3, ch=16, ch_mult=(1, 2, 2, 2), num_res_blocks=2, attn_resolutions=(8,), norm_groups=4)
TENSORS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def small():
    return randomised(UNet(SMALL), seed=3).eval()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The network in its full size, none of its parameters without effect, and its file in format A."""
    net = randomised(UNet(CIFAR10), seed=4).eval()
    path = tmp_path_factory.mktemp("large") / "ema.ckpt"
    torch.save(net.state_dict(), path)
    return net, path


def ddim(*argv):
    return cli.main([str(a) for a in argv])


def sha256(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def same(model, net):
    state = model.net.state_dict()
    return state.keys() == net.state_dict().keys() and all(
        torch.equal(state[k], v) for k, v in net.state_dict().items()
    )


def contiguous(state):
    return {k: v.contiguous() for k, v in state.items()}


def folder_b(folder, net, attention="new", **settings):
    """Format B, as diffusers has it."""
    config = net.config
    state = contiguous(to_format_b(net.state_dict(), len(config.ch_mult), attention))
    folder.mkdir(exist_ok=True)
    save_file(state, folder / TENSORS)
    (folder / "config.json").write_text(json.dumps(settings_b(config) | settings), encoding="utf-8")
    return folder


@cache
def settings_b(config):
    """All that diffusers would write into config.json."""
    return json.loads(peer(config).to_json_string())


# --- the network, in its full size -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full(large, tmp_path_factory):
    """`load_pretrained` with a file of the real names and shapes from a server."""
    content = large[1].read_bytes()
    with pytest.MonkeyPatch.context() as patch, served(content, "whole") as (url, _):
        patch.setenv("DDIM_CORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("DDIM_CORE_CIFAR10_URL", url)
        patch.setenv("DDIM_CORE_CIFAR10_HASH", sha256(content))
        return load_pretrained("cifar10", "cpu")


def test_the_public_network_answers_as_in_diffusers_one_time_earlier(full, large):
    model, schedule = full
    other = peer(CIFAR10)
    other.load_state_dict(to_format_b(large[0].state_dict(), 4), strict=True)
    xt = randn(1, 3, 32, 32, seed=7)
    ours = [answer(model, xt, t) for t in (1, 2, 501, 1000)]
    theirs = [answer(other, xt, t) for t in (0, 1, 500, 999)]
    assert [relative(a, b) < TOLERANCE for a, b in zip(ours, theirs, strict=True)] == [True] * 4
    assert relative(ours[0], theirs[1]) > 100 * TOLERANCE, "the shift is seen"
    assert (schedule.T, schedule.alpha[1].item()) == (1000, pytest.approx(1 - 1e-4))


def test_the_public_network_is_whole_and_ready(full, large):
    model, _ = full
    assert same(model, large[0])
    assert len(model.net.state_dict()) == 328
    assert sum(p.numel() for p in model.parameters()) == 35_746_307
    assert not model.training
    assert not any(p.requires_grad or p.is_meta for p in model.parameters())
    assert not any(b.is_meta for b in model.buffers())


def test_a_folder_that_diffusers_wrote(large, tmp_path):
    other = peer(CIFAR10)
    other.load_state_dict(to_format_b(large[0].state_dict(), 4), strict=True)
    other.save_pretrained(tmp_path / "ddpm-cifar10-32")
    model, _ = load(str(tmp_path / "ddpm-cifar10-32"))
    assert same(model, large[0])


# --- both formats, on a small network of the same structure ------------------------------------------------------

WRITERS = {
    "A, .ckpt": lambda f, net: torch.save(net.state_dict(), f / "w.ckpt") or f / "w.ckpt",
    "A, .pt of before 2020": lambda f, net: (
        torch.save(net.state_dict(), f / "w.pt", _use_new_zipfile_serialization=False) or f / "w.pt"
    ),
    "A, .safetensors": lambda f, net: save_file(net.state_dict(), f / "w.safetensors") or f / "w.safetensors",
    "A, float64": lambda f, net: (
        torch.save({k: v.double() for k, v in net.state_dict().items()}, f / "w.pth") or f / "w.pth"
    ),
    "B": lambda f, net: folder_b(f / "b", net),
    "B, older names": lambda f, net: folder_b(f / "b", net, "old"),
    "B, its file": lambda f, net: folder_b(f / "b", net) / TENSORS,
    "B, .bin": lambda f, net: as_bin(folder_b(f / "b", net, "old")),
}


def as_bin(folder):
    from safetensors.torch import load_file

    torch.save(load_file(folder / TENSORS), folder / "diffusion_pytorch_model.bin")
    (folder / TENSORS).unlink()
    return folder


@pytest.mark.parametrize("name", WRITERS)
def test_every_way_of_writing_gives_the_same_network(small, tmp_path, name):
    model, _ = load_public(WRITERS[name](tmp_path, small), config=SMALL)
    assert same(model, small)
    other = peer(SMALL)
    other.load_state_dict(to_format_b(small.state_dict(), 4), strict=True)
    xt = randn(2, 3, 16, 16, seed=1)
    for t in (0, 1, 500, 999):
        assert relative(answer(model, xt, t + 1), answer(other, xt, t)) < TOLERANCE


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("names", ["A", "B"])
def test_prefixes(small, tmp_path, prefix, names):
    state = small.state_dict() if names == "A" else contiguous(to_format_b(small.state_dict(), 4))
    folder = folder_b(tmp_path / "b", small)
    save_file({prefix + k: v for k, v in state.items()}, folder / TENSORS)
    assert same(load_public(folder, config=SMALL)[0], small)
    save_file({(prefix if "conv_in" in k else "") + k: v for k, v in state.items()}, folder / TENSORS)
    with pytest.raises(CheckpointError, match=r"lacks 'conv_in.bias' \(2 such tensors\)"):
        load_public(folder, config=SMALL)


def test_the_half_precision_variant(small, tmp_path):
    other = peer(SMALL)
    other.load_state_dict(to_format_b(small.state_dict(), 4))
    other.half().save_pretrained(tmp_path / "b", variant="fp16")
    assert sorted(os.listdir(tmp_path / "b")) == ["config.json", "diffusion_pytorch_model.fp16.safetensors"]
    for path in (tmp_path / "b", tmp_path / "b" / "diffusion_pytorch_model.fp16.safetensors"):
        state = load(str(path))[0].net.state_dict()
        assert all(torch.equal(state[k], v.half().float()) for k, v in small.state_dict().items())


# --- pipelines of diffusers --------------------------------------------------------------------------------------


def pipeline(folder, small, **settings):
    other = peer(SMALL)
    other.load_state_dict(to_format_b(small.state_dict(), 4))
    DDPMPipeline(other, DDPMScheduler(**settings)).save_pretrained(folder)
    return folder


def test_a_pipeline_of_diffusers(small, tmp_path):
    folder = pipeline(tmp_path / "p", small)
    assert {"model_index.json", "unet", "scheduler"} == set(os.listdir(folder))
    for path in (folder, folder / "unet"):
        model, schedule = load(str(path))
        assert same(model, small)
        assert torch.equal(schedule.alpha, Schedule.linear().alpha)
    assert ddim("sample", "--weights", folder, "--n", "1", "--steps", "1", "--out", tmp_path / "x.png") == 0


def test_the_schedule_of_a_pipeline_is_its_own(small, tmp_path):
    settings = {"num_train_timesteps": 500, "beta_start": 0.001, "beta_end": 0.01}
    _, schedule = load(str(pipeline(tmp_path / "p", small, **settings)))
    assert schedule.T == 500
    theirs = DDPMScheduler(**settings).alphas_cumprod.double()
    torch.testing.assert_close(schedule.alpha[1:], theirs, rtol=1e-5, atol=0)
    assert describe(str(tmp_path / "p"))["schedule"] == {"T": 500, "beta_1": 0.001, "beta_T": 0.01}


@pytest.mark.parametrize(
    "settings",
    [
        {"beta_schedule": "squaredcos_cap_v2"},
        {"prediction_type": "v_prediction"},
        {"rescale_betas_zero_snr": True},
        {"trained_betas": [0.1, 0.2]},
    ],
    ids=str,
)
def test_a_pipeline_with_another_schedule_is_refused(small, tmp_path, settings):
    folder = pipeline(tmp_path / "p", small, **settings)
    ((field, value),) = settings.items()
    with pytest.raises(CheckpointError) as e:
        load(str(folder))
    assert str(e.value).startswith(
        f"{folder}/scheduler/scheduler_config.json: '{field}' is {json.dumps(value)} instead"
    )
    assert "\n" not in str(e.value)


# --- checkpoints of the DDIM authors' code -----------------------------------------------------------------------


def authors(path, net, average=None):
    """As their runner saves one: of a network in DataParallel, whose average has names without the prefix."""
    parallel = torch.nn.DataParallel(copy.deepcopy(net))
    optimiser = torch.optim.Adam(parallel.parameters(), lr=2e-4, amsgrad=False, eps=1e-8)
    parallel(torch.zeros(1, 3, 16, 16), torch.tensor([1])).sum().backward()
    optimiser.step()
    parallel.module.load_state_dict(net.state_dict())
    states = [parallel.state_dict(), optimiser.state_dict(), 7, 1000]
    torch.save(states if average is None else [*states, dict(average.named_parameters())], path)
    return path


def test_the_average_of_a_checkpoint_is_taken_where_there_is_one(small, tmp_path):
    last = randomised(UNet(SMALL), seed=9)
    assert same(load_public(authors(tmp_path / "ckpt.pth", last, small), config=SMALL)[0], small)
    assert same(load_public(authors(tmp_path / "ckpt_1000.pth", last), config=SMALL)[0], last)


def test_it_is_said_which_network_was_taken(large, small, tmp_path, monkeypatch, capsys):
    """By `info`, and when images are drawn. (The optimiser's state, large and of no part, is left out here.)"""
    monkeypatch.chdir(tmp_path)
    state = large[0].state_dict()
    for name, rest, what in [("ema.pth", [state], "average"), ("raw.pth", [], "last step")]:
        torch.save([{f"module.{k}": v for k, v in state.items()}, {}, 7, 1000, *rest], name)
        note = f"a checkpoint of the DDIM authors' code, its {what} is taken"
        assert describe(name)["note"] == note
    assert ddim("sample", "--weights", name, "--n", "1", "--steps", "1", "--out", "x.npy") == 0
    assert capsys.readouterr() == (f"{name}: {note}\n", "")


# --- the family: networks of other shapes ------------------------------------------------------------------------

OTHERS = {
    "celebahq, narrow": (
        LARGER | {"block_out_channels": [32, 32, 64, 64, 128, 128]},
        UNetConfig(256, 3, 3, ch=32, ch_mult=(1, 1, 2, 2, 4, 4), num_res_blocks=2, attn_resolutions=(16,)),
    ),
    "three levels, two with attention": (
        LARGER
        | {"block_out_channels": [16, 48, 32], "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 40}
        | {"down_block_types": ["AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"], "out_channels": 6}
        | {"up_block_types": ["AttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"]},
        UNetConfig(40, 3, 6, ch=16, ch_mult=(1, 3, 2), num_res_blocks=1, attn_resolutions=(40, 10), norm_groups=8),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_network_of_another_shape_answers_as_in_diffusers(tmp_path, name):
    settings, config = OTHERS[name]
    other = made_by_diffusers(settings, tmp_path / "b")
    model, schedule = load(str(tmp_path / "b"))
    assert model.config == config
    assert all(type(m) is int for m in model.config.ch_mult)
    assert torch.equal(schedule.alpha, Schedule.linear().alpha)
    xt = randn(1, 3, 64, 64, seed=2)  # attention stays with its levels, whatever size comes in
    for t in (0, 1, 500, 999):
        assert relative(answer(model, xt, t + 1), answer(other, xt, t)) < TOLERANCE
    found = describe(str(tmp_path / "b"))
    assert UNetConfig(**found["unet"]) == config
    assert found["times"] == "the network is told t - 1"
    assert load_public(tmp_path / "b", config=replace(config, dropout=0.1))[0].config.dropout == 0.1
    with pytest.raises(CheckpointError, match=r"config\.json describes another network than the one asked for"):
        load_public(tmp_path / "b", config=CIFAR10)


def test_the_larger_network_in_its_full_size(tmp_path):
    """Its parameters are diffusers', and the registry says of it what its settings do."""
    (tmp_path / "config.json").write_text(json.dumps(LARGER), encoding="utf-8")
    config = config_of(tmp_path / "config.json")
    assert config.to_dict() == describe("google/ddpm-celebahq-256")["unet"]
    with torch.device("meta"):
        ours = UNet(config).state_dict()
        theirs = UNet2DModel(**{k: v for k, v in LARGER.items() if not k.startswith("_")}).state_dict()
    assert sum(p.numel() for p in ours.values()) == 113_673_219
    assert {format_b(k, 6): v.numel() for k, v in ours.items()} == {k: v.numel() for k, v in theirs.items()}


def test_groups_of_another_size(small, tmp_path):
    """They change no tensor: only the settings tell."""
    folder = folder_b(tmp_path / "b", small, norm_num_groups=8)
    other = UNet2DModel.from_pretrained(folder, low_cpu_mem_usage=False).eval()
    xt = randn(1, 3, 16, 16, seed=1)
    model, _ = load_public(folder)
    assert relative(answer(model, xt, 501), answer(other, xt, 500)) < TOLERANCE
    assert relative(answer(small, xt, 500), answer(other, xt, 500)) > 1e-3


@pytest.mark.parametrize(
    "settings",
    [{"block_out_channels": [10**9] * 4}, {"block_out_channels": [10**30] * 4}, {"layers_per_block": 10**9}],
    ids=str,
)
def test_an_absurd_network_takes_no_memory(small, tmp_path, settings):
    folder = folder_b(tmp_path / "b", small, **settings, norm_num_groups=1)
    with pytest.raises(CheckpointError, match="it belongs to another network") as e:
        load_public(folder)
    assert "\n" not in str(e.value)


# --- settings that load without a complaint ----------------------------------------------------------------------


@pytest.mark.parametrize(("setting", "least"), SILENT, ids=str)
def test_a_setting_that_changes_what_the_network_does_is_refused(small, tmp_path, setting, least):
    """Diffusers takes the same tensors under it without a word, and answers something else than we do."""
    folder = folder_b(tmp_path / "b", small, **setting)
    xt = randn(1, 3, 16, 16, seed=1)
    other = UNet2DModel.from_pretrained(folder, low_cpu_mem_usage=False).eval()
    assert relative(answer(small, xt, 500), answer(other, xt, 500)) > least
    ((field, value),) = setting.items()
    message = f"{folder}/config.json: '{field}' is {json.dumps(value)} instead of "
    with pytest.raises(CheckpointError) as e:
        load_public(folder)
    assert str(e.value).startswith(message)
    assert "\n" not in str(e.value)


SHAPE = ("sample_size", "in_channels", "out_channels", "layers_per_block", "norm_num_groups")
SHAPE = {*SHAPE, "block_out_channels", "down_block_types", "up_block_types"}


def test_every_setting_that_diffusers_has_is_looked_at(tmp_path):
    """Of all, only dropout does not matter; and one of a later version may be anything."""
    net = tiny_unet()
    folder = folder_b(tmp_path / "b", net, dropout=0.3)
    path = folder / "config.json"
    complete = json.loads(path.read_text(encoding="utf-8"))
    assert same(load_public(folder)[0], net)
    fields = {k for k in complete if not k.startswith("_")} - {"dropout"}
    assert fields == set(inspect.signature(UNet2DModel.__init__).parameters) - {"self", "dropout"}
    for field in fields:
        path.write_text(json.dumps(complete | {field: "another"}), encoding="utf-8")
        with pytest.raises(CheckpointError, match=rf"config\.json: '{field}' is \"another\" instead of "):
            load_public(folder)
    path.write_text(json.dumps(complete | {"of_a_later_version": 1}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json has an unknown setting 'of_a_later_version'"):
        load_public(folder)


def test_a_setting_left_out_counts_as_diffusers_takes_it(tmp_path):
    """Those that give the shape have to be there; so have those that diffusers takes otherwise than our network."""
    net = tiny_unet()
    folder = folder_b(tmp_path / "b", net, dropout=0.3, _diffusers_version="0.0.4")
    path = folder / "config.json"
    complete = json.loads(path.read_text(encoding="utf-8"))
    default = {k: p.default for k, p in inspect.signature(UNet2DModel.__init__).parameters.items() if k in complete}
    needed = SHAPE | {k for k, v in default.items() if v != complete[k] and k != "dropout"}
    assert {"norm_eps", "freq_shift", "flip_sin_to_cos", "downsample_padding", "attention_head_dim"} == needed - SHAPE
    for field in needed:
        path.write_text(json.dumps({k: v for k, v in complete.items() if k != field}), encoding="utf-8")
        with pytest.raises(CheckpointError, match=rf"config\.json lacks '{field}', which must be"):
            load_public(folder)
    path.write_text(json.dumps({k: complete[k] for k in needed}), encoding="utf-8")
    assert same(load_public(folder)[0], net)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample_size": 0}, "describes no network (resolution must be a positive integer, got 0)"),
        ({"sample_size": [16, 16]}, "'sample_size' is [16, 16] instead of a whole number"),
        ({"sample_size": 4}, "describes no network (4 levels are too many for resolution 4)"),
        ({"layers_per_block": True}, "'layers_per_block' is true instead of a whole number"),
        ({"norm_num_groups": 5}, "describes no network (norm_groups = 5 does not divide 16 channels)"),
        ({"block_out_channels": []}, "describes no network (ch must be a positive integer, got 0)"),
        ({"block_out_channels": [0, 0, 0, 0]}, "describes no network (integer division or modulo by zero)"),
        (
            {"block_out_channels": [16, 24, 32, 32]},
            "'block_out_channels' is [16, 24, 32, 32] instead of [16, 16, 32, 32]",
        ),
        ({"block_out_channels": [16.0, 32, 32, 32]}, "describes no network (ch must be a positive integer, got 16.0)"),
        ({"block_out_channels": [16, "32", 32, 32]}, "describes no network (unsupported operand"),
        ({"block_out_channels": [16, 32, 32]}, "'down_block_types' is [\"DownBlock2D\", "),
        (
            {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"]},
            "'down_block_types' is",
        ),
        ({"up_block_types": ["UpBlock2D"] * 4}, 'instead of ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]'),
        ({"norm_eps": [0] * 9999}, "... instead of 1e-06"),
        ({"freq_shift": 9**4000}, "instead of 1"),
    ],
    ids=lambda x: str(x)[:60],
)
def test_a_network_that_cannot_be_is_one_line(small, tmp_path, settings, message):
    folder = folder_b(tmp_path / "b", small, **settings)
    with pytest.raises(CheckpointError) as e:
        load_public(folder)
    assert str(e.value).startswith(f"{folder}/config.json")
    assert message in str(e.value)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing or not readable"),
        ("{", "is missing or not readable"),
        ("[" * 10**5 + "]" * 10**5, "is missing or not readable"),
        ("[]", "holds no settings"),
    ],
    ids=["missing", "cut", "nested", "list"],
)
def test_tensors_of_diffusers_need_their_settings(small, tmp_path, content, message):
    folder = folder_b(tmp_path / "b", small)
    (folder / "config.json").unlink() if content is None else (folder / "config.json").write_text(
        content, encoding="utf-8"
    )
    for path in (folder, folder / TENSORS):
        with pytest.raises(CheckpointError, match=rf"config\.json {message}") as e:
            load_public(path)
        assert "\n" not in str(e.value)


# --- numbers that are none ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e39], ids=str)
@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_weights_that_are_not_finite_are_refused(small, tmp_path, monkeypatch, value, suffix):
    state = {k: v.double() for k, v in small.state_dict().items()}
    state["mid.attn_1.q.bias"][3] = value
    path = tmp_path / f"w.{suffix}"
    torch.save(state, path) if suffix == "ckpt" else save_file(state, path)
    with pytest.raises(CheckpointError) as e:
        load_public(path, config=SMALL)
    assert str(e.value) == f"{path}: 'mid.attn_1.q.bias' holds numbers that are not finite: use other weights"


# --- files that are something else -------------------------------------------------------------------------------


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


PLAIN = {  # what is none
    "sparse": torch.Tensor.to_sparse,
    "compressed": lambda x: x[None].to_sparse_csr(),
    "nested": lambda x: torch.nested.nested_tensor([x, x[:3]]),
    "without values": lambda x: x.to("meta"),
}


def broken(name, folder, net):
    """The path of a file or folder that is wrong in one way."""
    path, state = folder / "w.ckpt", dict(net.state_dict())
    mark = folder / "code was run"
    if name == "missing":
        return path
    if name == "empty folder":
        return folder
    if name == "both names":
        b = contiguous(to_format_b(state, 4))
        b["down_blocks.1.attentions.0.query.weight"] = b["down_blocks.1.attentions.0.to_q.weight"].clone()
        save_file(b, folder_b(folder / "b", net) / TENSORS)
        return folder / "b"
    if name == "cut format B":
        target = folder_b(folder / "b", net) / TENSORS
        target.write_bytes(target.read_bytes()[:-1])
        return folder / "b"
    if name == "code among tensors":
        torch.save(state | {"more": Code(mark)}, path)
    elif name == "code, older format":
        torch.save(state | {"more": Code(mark)}, path, _use_new_zipfile_serialization=False)
    elif name == "code alone":
        path.write_bytes(pickle.dumps(Code(mark), protocol=2))
    elif name == "code, newer pickle":
        path.write_bytes(pickle.dumps(Code(mark), protocol=4))
    elif name == "whole module":
        torch.save(net, path)
    elif name in ("cut", "cut, older format"):
        torch.save(state, path, _use_new_zipfile_serialization=name == "cut")
        path.write_bytes(path.read_bytes()[:-1000])
    elif name == "empty":
        path.touch()
    elif name == "web page":
        path.write_text("<html><body>Not found</body></html>", encoding="utf-8")
    elif name == "list":
        torch.save([state, {}], path)
    elif name == "state inside":
        torch.save({"model": state}, path)
    elif name == "tensor missing":
        del state["mid.attn_1.q.bias"]
    elif name == "tensor too many":
        state["more"] = torch.zeros(1)
    elif name == "shape":
        state["conv_in.weight"] = torch.zeros(16, 1, 3, 3)
    elif name == "transposed":
        state["down.0.downsample.conv.weight"] = state["down.0.downsample.conv.weight"].flatten(1)
    elif name == "integers":
        state["conv_in.bias"] = torch.zeros(16, dtype=torch.int64)
    elif name in PLAIN:
        state["conv_in.bias"] = PLAIN[name](torch.ones(16))
    if not path.exists():
        torch.save(state, path)
    return path


@pytest.mark.filterwarnings("ignore:.*(prototype stage|beta state)")  # nested and compressed tensors, says torch
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "w.ckpt: no such file"),
        ("empty folder", "diffusion_pytorch_model.safetensors: no such file"),
        ("cut", "w.ckpt is damaged or not a file of tensors"),
        ("cut, older format", "w.ckpt is damaged or "),  # some versions of torch take it for the other kind
        ("cut format B", "diffusion_pytorch_model.safetensors is damaged"),
        ("empty", "w.ckpt is damaged or not a file of tensors"),
        ("web page", "w.ckpt is damaged or holds more than tensors"),
        (
            "code among tensors",
            "w.ckpt is damaged or holds more than tensors (torch's restricted unpickler refuses it)",
        ),
        (
            "code, older format",
            "w.ckpt is damaged or holds more than tensors (torch's restricted unpickler refuses it)",
        ),
        ("code alone", "w.ckpt is damaged or holds more than tensors (torch's restricted unpickler refuses it)"),
        (
            "code, newer pickle",
            "w.ckpt is damaged or holds more than tensors (torch's restricted unpickler refuses it)",
        ),
        ("whole module", "w.ckpt is damaged or holds more than tensors (torch's restricted unpickler refuses it)"),
        ("list", "w.ckpt does not hold only named tensors"),
        ("state inside", "w.ckpt does not hold only named tensors"),
        ("tensor missing", "w.ckpt lacks 'mid.attn_1.q.bias' (1 such tensors): it belongs to another network"),
        ("tensor too many", "w.ckpt has unknown 'more' (1 such tensors): it belongs to another network"),
        ("shape", "w.ckpt: 'conv_in.weight' has shape (16, 1, 3, 3) instead of (16, 3, 3, 3)"),
        ("transposed", "w.ckpt: 'down.0.downsample.conv.weight' has shape (16, 144) instead of (16, 16, 3, 3)"),
        ("integers", "w.ckpt: 'conv_in.bias' holds torch.int64, not floating-point numbers"),
        *((name, "w.ckpt: 'conv_in.bias' is no plain tensor, but sparse, nested or without values") for name in PLAIN),
        ("both names", "down_blocks.1.attentions.0.to_q.weight' under two names"),
    ],
)
def test_a_file_of_something_else_is_one_line(small, tmp_path, name, message):
    path = broken(name, tmp_path, small)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError) as e:
        load_public(path, config=SMALL)
    assert message in str(e.value)
    assert "\n" not in str(e.value)
    assert sorted(tmp_path.rglob("*")) == before, "no code was run"


def test_the_trap_is_a_trap(tmp_path):
    """The file of the test above does run its code where it is unpickled."""
    pickle.loads(pickle.dumps(Code(tmp_path / "x")))
    assert (tmp_path / "x").exists()


# --- times -------------------------------------------------------------------------------------------------------


def test_only_the_network_is_told_the_earlier_time(schedule):
    """A denoiser that counts from 0, shifted, samples and encodes as one that counts from 1."""
    exact = GaussianDenoiser(0.3, 0.5, schedule)

    class FromZero(torch.nn.Module):
        def forward(self, xt, t):
            return exact(xt, t + 1)

    xT, tau = randn(3, 1, 4, 4, dtype=torch.float64), schedule.timesteps(steps=7)
    shifted = Adapter(FromZero())
    for a, b in zip(sample(shifted, schedule, xT, tau), sample(exact, schedule, xT, tau), strict=True):
        assert torch.equal(a.xt, b.xt)
        assert torch.equal(a.eps, b.eps)
    assert torch.equal(encode(shifted, schedule, xT, tau), encode(exact, schedule, xT, tau))


def test_times_of_the_shifted_network(small):
    model, xt = Adapter(small), randn(2, 3, 16, 16)
    assert torch.equal(model(xt, torch.tensor([1, 1000])), small(xt, torch.tensor([0, 999])))
    assert model.config == SMALL
    with pytest.raises(ValueError, match="times must be at least 1, got 0"):
        model(xt, torch.tensor([5, 0]))
    with pytest.raises(TypeError, match="integer"):
        model(xt, torch.tensor([1.0, 2.0]))


# --- a file from elsewhere --------------------------------------------------------------------------------------------


def test_a_verified_file_may_still_be_the_wrong_one(small, tmp_path, monkeypatch):
    path = broken("code among tensors", tmp_path, small)
    content = path.read_bytes()
    with served(content, "whole") as (url, _):
        monkeypatch.setenv("DDIM_CORE_CIFAR10_URL", url)
        monkeypatch.setenv("DDIM_CORE_CIFAR10_HASH", sha256(content))
        with pytest.raises(CheckpointError, match="torch's restricted unpickler refuses it"):
            load_pretrained("cifar10")
    assert not (tmp_path / "code was run").exists()


# --- the command line --------------------------------------------------------------------------------------------


def test_download_sample_and_info_in_processes_of_their_own(large, tmp_path):
    """As a user runs them: the cache and the mirror come from the environment."""
    net, path = large
    content = path.read_bytes()
    env = ENV | {"DDIM_CORE_CACHE": str(tmp_path / "mine"), "DDIM_CORE_CIFAR10_HASH": sha256(content)}
    with served(content, "whole") as (url, given):
        argv = ["sample", "--weights", "cifar10", "--n", "2", "--steps", "1", "--seed", "5", "--device", "cpu"]
        done = subprocess.run(
            [PYTHON, "-m", "ddim_core", *argv, "--out", "x.png"],
            env=env | {"DDIM_CORE_CIFAR10_URL": url, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert given == ["whole"]
    (kept,) = (p for p in (tmp_path / "mine").rglob("*") if p.is_file())
    assert kept.read_bytes() == content
    with Image.open(tmp_path / "x.png") as image:
        assert (image.mode, image.size) == ("RGB", (2 * 70, 2 * 36))
        found = np.asarray(image).astype(int)
    expected = tile(generate(Adapter(net), Schedule.linear(), 2, steps=1, seed=5), 2, scale=2)
    assert np.abs(found - np.asarray(expected)).max() <= 1


def test_paths_on_the_command_line(small, large, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.link(large[1], "ema.ckpt")
    assert ddim("sample", "--weights", "ema.ckpt", "--n", "1", "--steps", "1", "--out", "x.npy") == 0
    assert np.load("x.npy").shape == (1, 3, 32, 32)
    assert ddim("info", "ema.ckpt") == 0
    found = json.loads(capsys.readouterr().out)
    assert f"sha256:{found['sha256']}" == sha256(large[1].read_bytes())
    assert UNetConfig(**found["unet"]) == CIFAR10
    torch.save(small.state_dict(), "small.pt")
    Path("folder").mkdir()
    for weights, code, message in [
        ("small.pt", 4, "small.pt: 'temb.dense.0.weight' has shape (64, 16) instead of (512, 128)"),
        ("folder", 4, f"folder/{TENSORS}: no such file"),
        ("nothing/here", 4, "nothing/here: no such file"),
        ("cifar", 2, "unknown weights 'cifar': choose one of "),
    ]:
        assert ddim("sample", "--weights", weights, "--out", "y.png") == code
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert message in err
    assert not Path("y.png").exists()


def test_seeded_images_do_not_depend_on_their_batch(small):
    model, schedule = Adapter(small), Schedule.linear()
    together = generate(model, schedule, 3, steps=3, seed=1)
    apart = generate(model, schedule, 3, steps=3, seed=1, batch_size=1)
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-4)
    assert together.shape == (3, 3, 16, 16)


# --- the file afterwards -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="tells of open files by /proc/self/maps")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_file_that_was_loaded_can_be_replaced(small, tmp_path, dtype):
    """On Windows a file that some tensor still looks into cannot: after loading, nothing does."""
    path = tmp_path / "public.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in contiguous(small.state_dict()).items()}, path)
    model, _ = load_public(path, config=SMALL)
    with open("/proc/self/maps", encoding="utf-8") as maps:
        assert not [line for line in maps if line.rstrip().endswith(path.name)]
    torch.testing.assert_close(model.net.state_dict(), dict(small.state_dict()), rtol=1e-3, atol=1e-3)
