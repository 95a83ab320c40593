"""The U-Net: equal to diffusers', named as the public weights, any size, every parameter in use."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import TINY, randn, randomised, relative, tiny_unet
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import SILENT, answer, format_b, peer, to_format_a, to_format_b
from safetensors.torch import load, save, save_file

from ddim_core import UNet, UNetConfig
from ddim_core.recipes import RECIPES
from ddim_core.unet import AttentionBlock, Downsample, attention, group_norm, timestep_embedding

CIFAR = UNetConfig(32, 3, 3, ch=128, ch_mult=(1, 2, 2, 2), num_res_blocks=2, attn_resolutions=(16,), dropout=0.1)
MNIST = RECIPES["mnist"].unet
TIMES = (0, 1, 500, 999)
TOLERANCE = 1e-5


def count(model):
    return sum(p.numel() for p in model.parameters())


# --- parity with diffusers -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours():
    """Networks with random weights, none of them zero."""
    return {name: randomised(UNet(config), seed=3).eval() for name, config in [("cifar", CIFAR), ("mnist", MNIST)]}


def images(config, n=1):
    return randn(n, config.in_channels, config.resolution, config.resolution, seed=7)


@pytest.mark.parametrize("name", ["cifar", "mnist"])
def test_the_outputs_are_those_of_diffusers(ours, name):
    model = ours[name]
    other = peer(model.config)
    other.load_state_dict(to_format_b(model.state_dict(), len(model.config.ch_mult)), strict=True)
    xt = images(model.config)
    for t in TIMES:
        assert relative(answer(model, xt, t), answer(other, xt, t)) < TOLERANCE, t


def test_weights_come_back_from_diffusers():
    other = randomised(peer(MNIST), seed=5)
    model = UNet(MNIST).eval()
    model.load_state_dict(to_format_a(other.state_dict(), model.state_dict(), 3), strict=True)
    xt = images(MNIST, 2)
    assert relative(answer(model, xt, 321), answer(other, xt, 321)) < TOLERANCE


def test_the_older_names_of_attention(ours, tmp_path):
    """Diffusers itself reads `query`, `key`, `value`, `proj_attn` from a file, as google/ddpm-cifar10-32 has them."""
    model = ours["mnist"]
    old = to_format_b(model.state_dict(), 3, attention="old")
    assert "mid_block.attentions.0.query.weight" in old
    save_file({k: v.contiguous() for k, v in old.items()}, tmp_path / "diffusion_pytorch_model.safetensors")
    peer(MNIST).save_config(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["norm_eps"] == 1e-6
    other = type(peer(TINY)).from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    xt = images(MNIST)
    assert relative(answer(model, xt, 500), answer(other, xt, 500)) < TOLERANCE


@pytest.mark.parametrize(("setting", "least"), SILENT, ids=str)
def test_settings_that_load_silently_would_be_seen(ours, setting, least):
    """Each wrong setting takes the same weights without complaint, and moves the output by more than the tolerance."""
    model = ours["mnist"]
    other = peer(MNIST, **setting)
    other.load_state_dict(to_format_b(model.state_dict(), 3), strict=True)
    xt = images(MNIST)
    assert relative(answer(model, xt, 500), answer(other, xt, 500)) > least


@settings(max_examples=12)
@given(
    # diffusers knows no first level that is wider than the first convolution
    ch_mult=st.lists(st.integers(1, 3), max_size=2).map(lambda rest: (1, *rest)),
    blocks=st.integers(1, 2),
    attended=st.sets(st.integers(0, 2)),
    channels=st.sampled_from([1, 3]),
    ch=st.sampled_from([8, 16]),
    batch=st.integers(1, 2),
    t=st.integers(0, 1000),
)
def test_any_multipliers_and_blocks(ch_mult, blocks, attended, channels, ch, batch, t):
    resolutions = [8, 4, 2][: len(ch_mult)]
    attention = tuple(r for i, r in enumerate(resolutions) if i in attended)
    config = UNetConfig(8, channels, channels, ch, ch_mult, blocks, attention, norm_groups=4)
    model = randomised(UNet(config), seed=t).eval()
    other = peer(config)
    other.load_state_dict(to_format_b(model.state_dict(), len(ch_mult)), strict=True)
    xt = images(config, batch)
    assert relative(answer(model, xt, t), answer(other, xt, t)) < TOLERANCE


# --- names and shapes ------------------------------------------------------------------------------------------------


def cifar_names():
    """Format A, written out."""
    layers = {"temb.dense.0", "temb.dense.1", "conv_in", "norm_out", "conv_out"}
    residual, attention = ("norm1", "conv1", "temb_proj", "norm2", "conv2"), ("norm", "q", "k", "v", "proj_out")
    for block in ("mid.block_1", "mid.block_2"):
        layers |= {f"{block}.{x}" for x in residual}
    layers |= {f"mid.attn_1.{x}" for x in attention}
    for side, blocks in (("down", 2), ("up", 3)):
        for i in range(4):
            for j in range(blocks):
                layers |= {f"{side}.{i}.block.{j}.{x}" for x in residual}
                # on the way up every block takes a skip connection in
                if side == "up" or (i, j) == (1, 0):
                    layers.add(f"{side}.{i}.block.{j}.nin_shortcut")
                if i == 1:
                    layers |= {f"{side}.{i}.attn.{j}.{x}" for x in attention}
    layers |= {f"down.{i}.downsample.conv" for i in range(3)} | {f"up.{i}.upsample.conv" for i in (1, 2, 3)}
    return {f"{layer}.{x}" for layer in layers for x in ("weight", "bias")}


def test_names_and_counts_of_the_public_weights(ours):
    state = ours["cifar"].state_dict()
    assert set(state) == cifar_names()
    assert len(state) == 328
    assert sum(v.numel() for v in state.values()) == 35_746_307
    expected = {
        "conv_in.weight": (128, 3, 3, 3),
        "temb.dense.0.weight": (512, 128),
        "temb.dense.1.weight": (512, 512),
        "down.0.block.0.temb_proj.weight": (128, 512),
        "down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        "down.1.attn.0.q.weight": (256, 256, 1, 1),
        "down.2.downsample.conv.weight": (256, 256, 3, 3),
        "up.0.block.0.conv1.weight": (128, 384, 3, 3),
        "up.0.block.2.conv1.weight": (128, 256, 3, 3),
        "up.3.block.0.norm1.weight": (512,),
        "up.1.upsample.conv.weight": (256, 256, 3, 3),
        "conv_out.weight": (3, 128, 3, 3),
    }
    assert {name: tuple(state[name].shape) for name in expected} == expected


def test_the_books_network_has_the_size_it_states():
    assert count(UNet(MNIST)) == 1_623_169


def test_a_few_names_of_format_b():
    pairs = {
        "up.0.block.2.nin_shortcut.bias": "up_blocks.3.resnets.2.conv_shortcut.bias",
        "up.3.upsample.conv.weight": "up_blocks.0.upsamplers.0.conv.weight",
        "down.1.attn.0.norm.weight": "down_blocks.1.attentions.0.group_norm.weight",
        "down.1.attn.0.proj_out.bias": "down_blocks.1.attentions.0.to_out.0.bias",
        "down.0.block.1.temb_proj.weight": "down_blocks.0.resnets.1.time_emb_proj.weight",
        "mid.block_2.conv1.weight": "mid_block.resnets.1.conv1.weight",
        "conv_in.bias": "conv_in.bias",
    }
    assert {a: format_b(a, 4) for a in pairs} == pairs


def test_the_state_is_plain_tensors():
    model = UNet(TINY)
    state = model.state_dict()
    assert set(state) == {name for name, _ in model.named_parameters()}, "no buffers"
    assert not list(model.named_buffers())
    assert all(type(v) is torch.Tensor and v.dtype == torch.float32 for v in state.values())
    back = load(save(state))  # safetensors refuses tensors that share memory
    assert all(torch.equal(back[k], v) for k, v in state.items())


# --- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [2, 4, 32, 128])
def test_the_embedding_of_time(channels):
    t, half = torch.tensor([0, 1, 500, 999, 1000]), channels // 2
    frequency = np.array([1e4 ** (-i / (half - 1)) if half > 1 else 1.0 for i in range(half)])
    angle = t.numpy()[:, None] * frequency
    expected = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    np.testing.assert_allclose(timestep_embedding(t, channels).numpy(), expected, atol=2e-4)


def test_the_normalisation_divides_by_the_root_of_variance_plus_a_millionth():
    """Seen where the variance is no larger than that."""
    x = 1e-3 * randn(2, 4, 5, 5)
    groups = x.double().view(2, 2, 50)
    expected = (groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(group_norm(4, 2)(x).double(), expected.view(x.shape), rtol=1e-3, atol=1e-4)


def test_an_odd_size_is_halved_and_rounded_down():
    """A 3x3 sum over every second pixel, padded by one row and one column of zeros at the far end."""
    down, x = Downsample(1), randn(1, 1, 5, 8)
    with torch.no_grad():
        down.conv.weight.fill_(1), down.conv.bias.zero_()
        found = down(x)
    padded = F.pad(x[0, 0], (0, 1, 0, 1))
    expected = torch.stack([torch.stack([padded[i : i + 3, j : j + 3].sum() for j in (0, 2, 4, 6)]) for i in (0, 2)])
    torch.testing.assert_close(found[0, 0], expected)


def test_attention_is_softmax_attention_in_the_layout_of_the_fused_kernel(monkeypatch):
    seen, fused = [], F.scaled_dot_product_attention

    def spy(q, k, v, **options):
        seen.append((q, k, v, options))
        return fused(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    block = randomised(AttentionBlock(16, 4), seed=1)
    x = randn(2, 16, 5, 3)
    with torch.no_grad():
        y = block(x)
        h = F.group_norm(x, 4, block.norm.weight, block.norm.bias, eps=1e-6)
        q, k, v = (
            torch.einsum("oc,bchw->bhwo", p.weight[:, :, 0, 0], h).reshape(2, 15, 16) + p.bias
            for p in (block.q, block.k, block.v)
        )
        weights = (torch.einsum("bic,bjc->bij", q, k) / 16**0.5).exp()
        mixed = torch.einsum("bij,bjc->bic", weights / weights.sum(-1, keepdim=True), v)
        expected = x + (mixed @ block.proj_out.weight[:, :, 0, 0].T + block.proj_out.bias).mT.reshape(x.shape)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    assert len(seen) == 1
    for tensor in seen[0][:3]:
        assert tensor.shape == (2, 1, 15, 16), "[B, heads, positions, channels]"
        assert tensor.is_contiguous()
    assert not seen[0][3], "the scale is the default, C ** -0.5"


@pytest.mark.parametrize("channels", [1, 16, 100])
def test_attention_in_training_is_that_of_sampling(channels):
    """Two ways to compute it on a CPU, both with 1 / sqrt(C); the scores are wide enough for that to matter."""
    q, k, v = (3 * randn(2, 1, 7, channels, seed=i) for i in range(3))
    scores = torch.einsum("bhic,bhjc->bhij", q, k) / channels**0.5
    expected = torch.einsum("bhij,bhjc->bhic", scores.exp() / scores.exp().sum(-1, keepdim=True), v)
    in_training = attention(q.clone().requires_grad_(), k, v)
    assert in_training.requires_grad
    for found in (attention(q, k, v), in_training.detach()):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_every_attention_of_the_network_takes_that_layout(monkeypatch):
    layouts, fused = [], F.scaled_dot_product_attention

    def spy(q, k, v):
        layouts.append([(x.is_contiguous(), x.shape[1], x.shape[-1]) for x in (q, k, v)])
        return fused(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    answer(UNet(MNIST).eval(), images(MNIST), 5)
    assert layouts == [[(True, 1, 64)] * 3] * 6, "2 on the way down, 1 in the middle, 3 on the way up"


def test_a_new_network_says_zero_and_every_branch_starts_closed():
    model = UNet(TINY).eval()
    assert not answer(model, images(TINY), 5).any()
    for name, p in model.named_parameters():
        closed = name.startswith("conv_out") or ".conv2." in name or ".proj_out." in name
        assert closed == (not p.any()) or name.endswith("bias"), name


def test_the_gradient_reaches_every_parameter():
    for config in (TINY, MNIST):
        model = randomised(UNet(config), seed=2)
        model(images(config, 2), torch.tensor([3, 900])).square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        # a bias that is added to all keys alike changes no softmax; its gradient is rounding
        silent = [n for n, p in model.named_parameters() if p.grad.abs().max() < 1e-7 and not n.endswith(".k.bias")]
        assert not silent


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (9, 5), (28, 28), (13, 30), (4, 4)])
def test_any_size_of_image(size, channels):
    config = UNetConfig(8, channels, channels, 8, (1, 2, 2), 1, (4,), norm_groups=4)
    model = tiny_unet(config=config)
    xt = randn(2, channels, *size)
    together = model(xt, torch.tensor([1, 1000]))
    assert together.shape == xt.shape
    # images of a batch do not see each other
    torch.testing.assert_close(together[1:], model(xt[1:], torch.tensor([1000])), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("patch", [1, 2])
def test_an_image_too_small_for_the_levels(patch):
    config = UNetConfig(16, ch=8, ch_mult=(1, 1, 1), num_res_blocks=1, norm_groups=4, patch=patch)
    model, least, t = tiny_unet(config=config), 4 * patch, torch.tensor([5])
    assert model(randn(1, 1, least, least + patch), t).shape == (1, 1, least, least + patch)
    for size in [(least - patch, 16), (16, least - patch)]:
        with pytest.raises(ValueError, match=rf"3 levels need images of {least} x {least} pixels or more, got \(1, 1"):
            model(randn(1, 1, *size), t)


@pytest.mark.parametrize("resolution", [1, 2, 3, 5, 8, 27, 33])
def test_any_resolution_down_to_one_pixel_levels(resolution):
    levels = min(3, resolution.bit_length())
    config = UNetConfig(resolution, ch=8, ch_mult=(1, 2, 1)[:levels], num_res_blocks=1, norm_groups=4)
    assert answer(tiny_unet(config=config), images(config), 9).shape == (1, 1, resolution, resolution)


@pytest.mark.parametrize("ch_mult", [(2,), (3, 1), (2, 2, 1), (4, 3, 2, 1)])
def test_a_first_level_wider_than_the_first_convolution(ch_mult):
    config = UNetConfig(8, ch=8, ch_mult=ch_mult, num_res_blocks=2, norm_groups=4)
    model, xt = tiny_unet(config=config), images(config, 2)
    assert model.down[0].block[0].nin_shortcut.weight.shape == (8 * ch_mult[0], 8, 1, 1)
    assert model(xt, torch.tensor([1, 2])).shape == xt.shape


def test_more_channels_out_than_in():
    model = tiny_unet(config=UNetConfig(8, 3, 6, 8, (1, 2), 1, norm_groups=4))
    assert model(randn(2, 3, 8, 8), torch.tensor([1, 2])).shape == (2, 6, 8, 8)


def test_time_matters_and_so_does_the_image():
    model, xt = tiny_unet(), images(TINY)
    assert relative(answer(model, xt, 10), answer(model, xt, 11)) > 1e-4
    assert relative(answer(model, xt, 10), answer(model, xt + 0.1, 10)) > 1e-3


def test_float64_in_float64_out():
    model = tiny_unet().double()
    xt = randn(1, 1, 8, 8, dtype=torch.float64)
    assert answer(model, xt, 7).dtype == torch.float64
    assert relative(answer(tiny_unet(), xt.float(), 7), answer(model, xt, 7)) < 1e-5


def test_dropout_is_drawn_in_training_only():
    model, xt = tiny_unet(), images(TINY)
    assert torch.equal(answer(model, xt, 7), answer(model, xt, 7))
    model.train()
    assert not torch.equal(answer(model, xt, 7), answer(model, xt, 7))


# --- patches ---------------------------------------------------------------------------------------------------------


def patched(patch, channels=1, out=None, resolution=16):
    return UNetConfig(resolution, channels, out or channels, 8, (1, 2), 1, (resolution // patch // 2,), 0.0, 4, patch)


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize(("channels", "out"), [(1, 1), (3, 3), (3, 6)])
def test_shapes_with_patches(patch, channels, out):
    config = patched(patch, channels, out)
    assert config.resolutions == (16 // patch, 8 // patch)
    model = tiny_unet(config=config)
    assert model.conv_in.weight.shape == (8, channels * patch**2, 3, 3)
    assert model.conv_out.weight.shape == (out * patch**2, 8, 3, 3)
    assert len(model.down[1].attn) == 1, "attention where the patches, not the pixels, have that resolution"
    assert model(images(config, 2), torch.tensor([1, 1000])).shape == (2, out, 16, 16)


def test_the_network_works_on_the_patches():
    """The same weights, on squares of 2 x 2 pixels laid out as channels by hand, and back."""
    config = patched(2, 3, 6)
    model = tiny_unet(config=config)
    plain = UNet(UNetConfig(8, 12, 24, 8, (1, 2), 1, (4,), 0.0, 4)).eval()
    plain.load_state_dict(model.state_dict(), strict=True)
    xt, t = randn(2, 3, 16, 16), torch.tensor([3, 700])
    folded = torch.stack([xt[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=2).flatten(1, 2)
    with torch.no_grad():
        inside, eps = plain(folded, t).unflatten(1, (6, 4)), model(xt, t)
    for k, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        assert torch.equal(eps[:, :, i::2, j::2], inside[:, :, k])


@pytest.mark.parametrize("patch", [1, 2, 3, 4])
def test_pixels_go_into_patches_and_come_back(patch, monkeypatch):
    """With nothing between the two, what comes out is what went in, every pixel in its place."""
    model = UNet(UNetConfig(12, ch=16, ch_mult=(1,), num_res_blocks=1, norm_groups=1, patch=patch)).eval()
    with torch.no_grad():
        for convolution in (model.conv_in, model.conv_out):  # the first patch**2 channels pass; the rest are zero
            convolution.weight.zero_()
            convolution.bias.zero_()
            for c in range(patch**2):
                convolution.weight[c, c, 1, 1] = 1
    kept = []
    model.conv_in.register_forward_hook(lambda module, args, output: kept.append(output))
    model.norm_out.register_forward_hook(lambda module, args, output: kept[0])
    monkeypatch.setattr(F, "silu", lambda x: x)
    xt = randn(2, 1, 12, 24)
    assert torch.equal(answer(model, xt, 5), xt)


def test_a_patch_of_one_pixel_is_the_original():
    config = UNetConfig(8, 3, 3, 8, (1, 2), 1, (4,), norm_groups=4)
    assert config.patch == 1
    one = UNetConfig(**(config.to_dict() | {"patch": 1}))
    assert one == config
    older = {k: v for k, v in config.to_dict().items() if k != "patch"}
    assert UNetConfig(**older) == config, "files written before there were patches"
    a, b = tiny_unet(config=config), tiny_unet(config=one)
    assert {k: v.shape for k, v in a.state_dict().items()} == {k: v.shape for k, v in b.state_dict().items()}
    assert torch.equal(answer(a, images(config), 7), answer(b, images(config), 7))


@settings(max_examples=12)
@given(patch=st.sampled_from([2, 3, 4]), rows=st.integers(2, 7), columns=st.integers(2, 7), batch=st.integers(1, 2))
def test_any_multiple_of_the_patch(patch, rows, columns, batch):
    """From the two patches on that two levels need."""
    model = tiny_unet(config=patched(patch, resolution=4 * patch))
    xt = randn(batch, 1, rows * patch, columns * patch)
    assert answer(model, xt, 9).shape == xt.shape


@pytest.mark.parametrize("size", [(15, 16), (16, 15), (17, 17), (1, 16)])
def test_sizes_that_are_no_multiple_of_the_patch(size):
    with pytest.raises(ValueError, match=rf"must be multiples of patch = 2, got \(1, 1, {size[0]}, {size[1]}\)"):
        answer(tiny_unet(config=patched(2)), randn(1, 1, *size), 5)


def test_the_gradient_reaches_every_parameter_through_patches():
    config = patched(2, 3)
    model = randomised(UNet(config), seed=2)
    model(images(config, 2), torch.tensor([3, 900])).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.conv_in.weight.grad.abs().amax(dim=(0, 2, 3)).min() > 0, "every pixel of a patch"


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resolution": 0}, "resolution must be a positive integer"),
        ({"resolution": 8.0}, "resolution must be a positive integer"),
        ({"in_channels": 0}, "in_channels"),
        ({"out_channels": -1}, "out_channels"),
        ({"num_res_blocks": 0}, "num_res_blocks"),
        ({"norm_groups": 0}, "norm_groups"),
        ({"ch": 7, "norm_groups": 1}, "ch must be even"),
        ({"ch": 0}, "ch must be a positive integer"),
        ({"ch": 12}, "norm_groups = 8 does not divide 12 channels"),
        ({"ch": 4, "ch_mult": (2,)}, "norm_groups = 8 does not divide 4 channels"),
        ({"ch_mult": ()}, "ch_mult must be positive integers"),
        ({"ch_mult": (1, 0)}, "ch_mult must be positive integers"),
        ({"ch_mult": (1, 1.5)}, "ch_mult must be positive integers"),
        ({"ch_mult": (1,) * 7}, "7 levels are too many for resolution 32"),
        ({"attn_resolutions": (15,)}, r"no level has resolution \[15\]"),
        ({"patch": 0}, "patch must be a positive integer"),
        ({"patch": 2.0}, "patch must be a positive integer"),
        ({"patch": 3}, "patch = 3 does not divide resolution 32"),
        ({"patch": 64}, "patch = 64 does not divide resolution 32"),
        ({"patch": 32}, "2 levels are too many for resolution 32"),
        ({"patch": 2, "attn_resolutions": (32,)}, r"no level has resolution \[32\]: the levels have \(16, 8\)"),
        ({"dropout": 1.0}, "dropout must lie in"),
        ({"dropout": -0.1}, "dropout must lie in"),
        ({"dropout": float("nan")}, "dropout must lie in"),
    ],
    ids=str,
)
def test_a_configuration_that_makes_no_network(values, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig(**({"resolution": 32, "ch": 16, "ch_mult": (1, 2), "norm_groups": 8} | values))


def test_what_is_left_out_is_the_large_network_for_grey_pictures():
    assert UNetConfig(28) == UNetConfig(28, 1, 1, 128, (1, 2, 2), 2, (), 0.0, 32, 1)


def test_a_configuration_survives_json():
    for config in (TINY, CIFAR, MNIST):
        assert UNetConfig(**json.loads(json.dumps(config.to_dict()))) == config
        assert hash(config) == hash(UNetConfig(**json.loads(json.dumps(config.to_dict()))))


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 3, 8, 8), (2, 1, 1, 8, 8)])
def test_images_of_the_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"xt must be \[B, 1, H, W\]"):
        tiny_unet()(torch.zeros(shape), torch.tensor([1, 1]))


@pytest.mark.parametrize("t", [torch.tensor(1), torch.tensor([1]), torch.tensor([[1, 1]]), torch.tensor([1, 1, 1])])
def test_times_of_the_wrong_shape(t):
    with pytest.raises(ValueError, match=r"t must be \[2\]"):
        tiny_unet()(torch.zeros(2, 1, 8, 8), t)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64])
def test_times_that_are_no_integers(dtype):
    with pytest.raises(TypeError, match="integer type"):
        tiny_unet()(torch.zeros(2, 1, 8, 8), torch.ones(2, dtype=dtype))
