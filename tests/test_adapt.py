"""Other people's networks: diffusers' own class gives what diffusers' own pipeline gives, and functions work too."""

import subprocess

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler
from helpers import ENV, PYTHON, TINY, denoiser, randn, randomised, relative, seeded, tiny_unet
from peers import peer, to_format_b
from torch import nn

from ddim_core import Adapter, Schedule, encode, generate, image_generators, image_noise, sample
from ddim_core.adapt import as_denoiser, image_shape
from ddim_core.oracle import DatasetDenoiser, GaussianDenoiser
from ddim_core.sample import predict_noise

SCHEDULE = Schedule.linear()
SHORT = Schedule.linear(100)  # ends before a network of random weights takes images far out of [-1, 1]


def unet(**different):
    """A UNet2DModel of 8x8 pixels with random weights, all of which play a part."""
    return randomised(peer(TINY, **different))


def scheduler(steps, schedule=SCHEDULE):
    """Theirs on our grid: "trailing" is t = T - 1, ..., counted from 0."""
    theirs = DDIMScheduler(
        num_train_timesteps=schedule.T,  # by name: the pipeline makes itself a copy, of what was named only
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=False,
        timestep_spacing="trailing",
    )
    theirs.alphas_cumprod = schedule.alpha[1:].clone()  # in float64, where theirs are float32
    theirs.set_timesteps(steps)
    return theirs


def pipeline(net, xT, steps, monkeypatch):
    """What DDIMPipeline draws from this x_T, `[B, C, H, W]` in [-1, 1]."""
    pipe = DDIMPipeline(net, scheduler(steps, SHORT))
    pipe.set_progress_bar_config(disable=True)
    monkeypatch.setattr("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *args, **kwargs: xT)
    images = pipe(len(xT), num_inference_steps=steps, output_type="np").images
    return torch.from_numpy(images).movedim(-1, 1) * 2 - 1


# --- diffusers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 10, 50])  # others they walk unevenly
def test_generate_gives_what_the_pipeline_gives(monkeypatch, steps):
    net = unet()
    xT = image_noise(image_generators(3, 4), (1, 8, 8))
    theirs = pipeline(net, xT, steps, monkeypatch)
    ours = generate(net, SHORT, 4, steps=steps, seed=3, batch_size=3)
    assert ours.shape == (4, 1, 8, 8)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    wrapped = generate(Adapter(net), SHORT, 4, steps=steps, seed=3, batch_size=3)
    assert torch.equal(wrapped, ours)
    # of a network with its own times fed one too late, this would not be true
    late = generate(lambda x, t: net(x, t).sample, SHORT, 4, steps=steps, seed=3, shape=(1, 8, 8))
    assert (late - theirs).abs().max() > 1e-3


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_every_state_is_that_of_diffusers(eta):
    """In float64, with the same noise."""
    net, xT = unet().double(), randn(2, 1, 8, 8, dtype=torch.float64)
    theirs, draw, x = scheduler(10), seeded(4), xT
    states = list(sample(net, SCHEDULE, xT, SCHEDULE.timesteps(10), eta=eta, generator=seeded(4)))
    for t, state in zip(theirs.timesteps, states, strict=False):
        assert state.t == t + 1
        torch.testing.assert_close(state.xt, x, rtol=1e-8, atol=1e-8)
        with torch.no_grad():
            x = theirs.step(net(x, t).sample, t, x, eta=eta, generator=draw).prev_sample
    torch.testing.assert_close(states[-1].xt, x, rtol=1e-8, atol=1e-8)


def test_encode_asks_a_network_of_diffusers_at_its_own_times():
    net, x0 = unet().double(), randn(2, 1, 8, 8, dtype=torch.float64)
    tau = [0, 1, 40, 1000]
    x = x0
    for s, t, told in [(0, 1, 0), (1, 40, 0), (40, 1000, 39)]:
        with torch.no_grad():
            eps = net(x, told).sample
        a, b = SCHEDULE.alpha[s], SCHEDULE.alpha[t]
        x = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    torch.testing.assert_close(encode(net, SCHEDULE, x0, tau), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_our_network_behind_the_shift_and_theirs_with_the_same_weights_agree(eta):
    net, ours = unet(), tiny_unet()
    net.load_state_dict(to_format_b(ours.state_dict(), len(TINY.ch_mult)))
    images = [generate(m, SHORT, 2, steps=5, seed=1, eta=eta) for m in (net, Adapter(ours))]
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=1e-4)


def test_images_that_are_not_square_or_of_unknown_size():
    assert generate(unet(sample_size=(8, 16)), SHORT, 2, steps=2).shape == (2, 1, 8, 16)
    unknown = unet(sample_size=None)
    assert generate(unknown, SHORT, 2, steps=2, shape=(1, 16, 8)).shape == (2, 1, 16, 8)
    with pytest.raises(ValueError, match=r"pass shape=\(C, H, W\)"):
        generate(unknown, SHORT, 2, steps=2)


def test_a_network_of_diffusers_is_put_back_as_it_was():
    net = unet(dropout=0.5)
    quiet = generate(net, SHORT, 2, steps=2)
    assert not any(m.training for m in net.modules())
    net.train()
    net.mid_block.eval()
    before = [m.training for m in net.modules()]
    assert torch.equal(generate(net, SHORT, 2, steps=2), quiet), "dropout would change them"
    assert [m.training for m in net.modules()] == before


def test_precision_of_a_network_of_diffusers():
    exact = generate(unet().double(), SHORT, 2, steps=5)
    assert exact.dtype == torch.float64
    for net, options in [(unet().bfloat16(), {}), (unet(), {"amp": "bf16"})]:
        rough = generate(net, SHORT, 2, steps=5, **options)
        assert rough.dtype == torch.float32
        assert 1e-6 < relative(rough, exact) < 0.1


# --- the adapter -------------------------------------------------------------------------------------------------


class Answer:
    def __init__(self, sample):
        self.sample = sample


@pytest.mark.parametrize(
    "wrap", [lambda eps: eps, lambda eps: (eps, "more"), Answer], ids=["tensor", "tuple", "object"]
)
def test_a_function_that_counts_from_zero(wrap):
    told = []

    def function(x, t):
        told.append(t)
        return wrap(denoiser(x, t + 1))

    adapter = Adapter(function, shape=(1, 4, 4))
    expected = generate(denoiser, SCHEDULE, 3, steps=4, shape=(1, 4, 4))
    assert torch.equal(generate(adapter, SCHEDULE, 3, steps=4), expected)
    assert [int(t[0]) for t in told] == [999, 749, 499, 249]
    assert all(t.dtype == torch.int64 and t.shape == (3,) for t in told)
    with pytest.raises(ValueError, match="times must be at least 1, got 0"):
        adapter(torch.zeros(2, 1, 4, 4), torch.tensor([5, 0]))


def test_the_adapter_is_a_module_with_the_parameters_and_the_mode_of_its_network():
    net = tiny_unet()
    adapter = Adapter(net)
    assert list(adapter.parameters()) == list(net.parameters())
    assert adapter.config is net.config
    assert adapter.shape == (1, 8, 8)
    assert not adapter.training
    net.train()
    assert adapter.training
    assert not adapter.eval().net.training
    assert adapter.train().net.down[0].training
    assert adapter.double().net.conv_in.weight.dtype == torch.float64
    assert not Adapter(denoiser).training


def test_only_networks_of_diffusers_are_wrapped():
    net, theirs = tiny_unet(), unet()
    for model in (denoiser, net, GaussianDenoiser(0, 1, SCHEDULE), Adapter(net), nn.Identity()):
        assert as_denoiser(model) is model
    assert as_denoiser(theirs).net is theirs
    assert as_denoiser(as_denoiser(theirs)).net is theirs


def test_shapes_that_models_tell():
    images = torch.zeros(3, 1, 4, 5)
    for model, shape in [
        (tiny_unet(), (1, 8, 8)),
        (unet(), (1, 8, 8)),
        (Adapter(unet()), (1, 8, 8)),
        (Adapter(unet(), shape=[1, 16, 16]), (1, 16, 16)),
        (DatasetDenoiser(images, SCHEDULE), (1, 4, 5)),
        (denoiser, None),
        (Adapter(denoiser), None),
        (nn.Identity(), None),
    ]:
        assert image_shape(model) == shape
    assert generate(DatasetDenoiser(images, SCHEDULE), SCHEDULE, 2, steps=1).shape == (2, 1, 4, 5)


def test_an_answer_that_is_no_tensor_is_told_with_the_remedy():
    net = unet()
    for wrong, name in [(lambda x, t: net(x, t), "UNet2DOutput"), (lambda x, t: np.zeros(x.shape), "ndarray")]:
        with pytest.raises(
            TypeError, match=rf"a denoiser must return a tensor, got {name}: make it return one; .*ddim_core\.Adapter"
        ):
            predict_noise(wrong, torch.zeros(1, 1, 8, 8), 5)


def test_the_package_does_not_import_diffusers():
    code = "import sys, ddim_core, ddim_core.cli; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([PYTHON, "-c", code], env=ENV).returncode == 0


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 8), (1, 8, 3), (1, 0, 8)], ids=str)
def test_images_that_a_network_of_diffusers_cannot_halve(shape):
    net = unet()
    with pytest.raises(
        ValueError, match=f"images of {shape[1]}x{shape[2]} do not fit a network of 2 levels: .* of 2"
    ) as e:
        generate(net, SHORT, 1, steps=1, shape=shape)
    assert "\n" not in str(e.value)
    assert generate(net, SHORT, 1, steps=1, shape=(1, 2, 4)).shape == (1, 1, 2, 4), "what it names is enough"
