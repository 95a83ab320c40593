"""Images from a model and a seed: what they depend on, in which precision they are drawn, and what is refused."""

import pytest
import torch
from helpers import TINY, denoiser, randn, relative, tiny_unet
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ddim_core import Schedule, ddim_step, encode, generate, image_generators, image_noise, load_pretrained, sample
from ddim_core.oracle import DatasetDenoiser, GaussianDenoiser
from ddim_core.sample import SIGMA_HAT, predict_noise

SCHEDULE = Schedule.linear()
SHORT = Schedule.linear(100)  # ends before a network of random weights takes images far out of [-1, 1]
ETAS = [0.0, 0.3, 1.0, SIGMA_HAT]
ORACLE = DatasetDenoiser(randn(12, 1, 4, 4, seed=9).clamp(-1, 1), SCHEDULE)


@pytest.mark.parametrize("eta", ETAS)
def test_an_image_depends_on_seed_and_number_only(eta):
    def draw(n, batch_size, seed=4):
        return generate(ORACLE, SCHEDULE, n, steps=7, seed=seed, eta=eta, shape=(1, 4, 4), batch_size=batch_size)

    seven = draw(7, 64)
    assert seven.shape == (7, 1, 4, 4)
    for n, batch_size in [(7, 1), (7, 3), (3, 64), (1, 1), (9, 4)]:
        some = draw(n, batch_size)
        assert torch.equal(some[:7], seven[:n]) or relative(some[:7], seven[:n]) < 1e-6
    assert torch.equal(seven, draw(7, 64))
    assert not torch.equal(seven, draw(7, 64, seed=5))


def test_a_gaussian_gives_the_same_bytes_in_any_batch():
    """Its arithmetic is pixel by pixel, so that not even rounding may differ."""
    oracle = GaussianDenoiser(0.1, 0.4, SCHEDULE)
    draws = [
        generate(oracle, SCHEDULE, 6, steps=9, seed=1, eta=0.8, shape=(2, 3), batch_size=b) for b in (1, 2, 4, 6, 100)
    ]
    assert all(torch.equal(draws[0], d) for d in draws)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_network_gives_the_same_images_in_any_batch(eta):
    model = tiny_unet()
    draws = [generate(model, SCHEDULE, 5, steps=6, seed=2, eta=eta, batch_size=b) for b in (1, 2, 5)]
    assert draws[0].shape == (5, TINY.in_channels, 8, 8)
    for other in draws[1:]:  # at t = T rounding is divided by 0.006
        torch.testing.assert_close(other, draws[0], rtol=0, atol=1e-4)


def test_the_number_of_steps_does_not_change_the_starting_noise():
    starts = []

    def remember(xt, t):
        if t[0] == 1000:
            starts.append(xt.clone())
        return denoiser(xt, t)

    for steps, eta in [(1, 0.0), (10, 0.0), (10, 1.0), (250, 0.0)]:
        generate(remember, SCHEDULE, 3, steps=steps, eta=eta, seed=8, shape=(1, 4, 4))
    assert len(starts) == 4
    assert all(torch.equal(starts[0], other) for other in starts)
    assert torch.equal(starts[0], image_noise(image_generators(8, 3), (1, 4, 4)))


def test_generate_cuts_at_the_ends_of_the_range():
    images = generate(lambda x, t: torch.zeros_like(x), SCHEDULE, 3, steps=2, seed=0, shape=(1, 4, 4))
    assert images.min() == -1
    assert images.max() == 1


def test_generate_passes_the_spacing_on():
    seen = []
    generate(lambda x, t: seen.append(int(t[0])) or x, SCHEDULE, 1, steps=5, seed=0, shape=(2,), spacing="quadratic")
    assert seen == SCHEDULE.timesteps(5, spacing="quadratic")[:0:-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n and batch_size must be at least 1"),
        ({"n": -3}, "n and batch_size must be at least 1"),
        ({"batch_size": 0}, "n and batch_size must be at least 1"),
        ({"seed": -1}, "must not be negative"),
        ({"shape": None}, r"pass shape=\(C, H, W\)"),
        ({"steps": 0}, r"steps must lie in 1\.\.1000"),
        ({"steps": 1001}, r"steps must lie in 1\.\.1000"),
        ({"eta": 1.5}, "eta must lie in"),
        ({"spacing": "other"}, "spacing must be one of"),
    ],
    ids=str,
)
def test_generate_refuses(options, message):
    values = {"n": 2, "steps": 3, "seed": 0, "shape": (1, 2, 2)} | options
    with pytest.raises(ValueError, match=message):
        generate(denoiser, SCHEDULE, values.pop("n"), **values)


def test_numbers_from_any_first_one_on():
    eight = generate(ORACLE, SCHEDULE, 8, steps=4, seed=2, eta=1.0, batch_size=3)
    assert torch.equal(generate(ORACLE, SCHEDULE, 3, steps=4, seed=2, eta=1.0, first=5), eight[5:])
    with pytest.raises(ValueError, match="first must not be negative, got -1"):
        generate(ORACLE, SCHEDULE, 1, first=-1)


# --- dtype and device --------------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """A network that notes what it is asked in."""

    def __init__(self, **where):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), **where), requires_grad=False)
        self.seen = []

    def forward(self, xt, t):
        self.seen.append((xt.dtype, xt.device.type, t.dtype, t.device.type))
        return self.weight * xt


@pytest.mark.parametrize(
    ("network", "state"),
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
    ids=str,
)
def test_the_state_takes_the_dtype_of_the_network_and_no_half_precision(network, state):
    model = Recorder(dtype=network)
    assert generate(model, SCHEDULE, 3, steps=4, shape=(1, 2, 2), eta=1.0).dtype == state
    assert model.seen == [(network, "cpu", torch.int64, "cpu")] * 4
    for dtype in (torch.float32, torch.float64):
        assert generate(model, SCHEDULE, 1, steps=4, shape=(1, 2, 2), dtype=dtype).dtype == dtype
        xT = randn(1, 1, 2, 2, dtype=dtype)
        for step in sample(model, SCHEDULE, xT, [0, 5, 1000]):
            assert step.xt.dtype == step.x0.dtype == step.eps.dtype == dtype
        assert encode(model, SCHEDULE, xT, [0, 5, 1000]).dtype == dtype
    assert {seen[0] for seen in model.seen} == {network}


def test_the_state_lies_where_the_network_does():
    """On "meta", a device that every machine has: it keeps shapes without numbers."""
    model = Recorder(device="meta")
    images = generate(model, SCHEDULE, 3, steps=4, shape=(1, 2, 2), batch_size=2)
    assert (images.device.type, images.shape) == ("meta", (3, 1, 2, 2))
    assert model.seen == [(torch.float32, "meta", torch.int64, "meta")] * 8


def test_dtype_and_device_for_a_model_without_parameters():
    seen = []

    def function(xt, t):
        seen.append((xt.dtype, xt.device.type, t.dtype, t.device.type))
        return denoiser(xt, t)

    for options, dtype, device in [
        ({}, torch.float32, "cpu"),
        ({"dtype": torch.float64}, torch.float64, "cpu"),
        ({"device": "meta"}, torch.float32, "meta"),
        ({"device": torch.device("meta"), "dtype": torch.float64}, torch.float64, "meta"),
    ]:
        seen.clear()
        images = generate(function, SCHEDULE, 2, steps=3, shape=(1, 2, 2), **options)
        assert (images.dtype, images.device.type) == (dtype, device)
        assert seen == [(dtype, device, torch.int64, device)] * 3
    single = generate(function, SHORT, 2, steps=3, shape=(1, 8, 8))
    double = generate(function, SHORT, 2, steps=3, shape=(1, 8, 8), dtype=torch.float64)
    assert 0 < relative(single, double) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64])
def test_a_state_in_half_precision_is_refused(dtype):
    with pytest.raises(ValueError, match=r"dtype must be torch.float32 or torch.float64, got .*amp=\"bf16\""):
        generate(denoiser, SCHEDULE, 1, shape=(1, 2, 2), dtype=dtype)


def test_a_network_in_float64_is_computed_in_float64():
    model = tiny_unet().double()
    exact = generate(model, SHORT, 2, steps=5)
    assert exact.dtype == torch.float64
    xT = image_noise(image_generators(0, 2), (1, 8, 8)).double()
    x = xT
    for t, s in zip(range(100, 0, -20), range(80, -1, -20), strict=True):
        a, b = SHORT.alpha[t], SHORT.alpha[s]
        eps = model(x, torch.full((2,), t)).detach()
        x = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    torch.testing.assert_close(exact, x.clamp(-1, 1), rtol=1e-12, atol=1e-12)
    assert 0 < relative(generate(tiny_unet(), SHORT, 2, steps=5), exact) < 1e-5


# --- precision ---------------------------------------------------------------------------------------------------


def test_bf16_is_inside_the_network_and_the_state_is_not_rounded():
    """The digits' own network: after 50 steps its bf16 has moved them by little, a bf16 state would by far more."""
    model, schedule = load_pretrained("mnist")
    xT, tau = image_noise(image_generators(0, 1), (1, 28, 28)), schedule.timesteps(50)
    exact = generate(model, schedule, 1)
    states = list(sample(model, schedule, xT, tau, amp="bf16"))
    assert all(x.dtype == torch.float32 for state in states for x in (state.xt, state.x0, state.eps))
    # the network's answer is rounded, the state is not
    assert torch.equal(states[3].eps, states[3].eps.bfloat16().float())
    assert not torch.equal(states[3].xt, states[3].xt.bfloat16().float())
    rounded = xT.bfloat16()
    for t, s in zip(tau[:0:-1], tau[-2::-1], strict=True):
        eps = predict_noise(model, rounded.float(), t, "bf16").bfloat16()
        rounded, _ = ddim_step(rounded, eps, t, s, schedule)
    of_network, of_state = relative(states[-1].xt.clamp(-1, 1), exact), relative(rounded.clamp(-1, 1), exact)
    assert 1e-4 < of_network < 0.03
    assert of_state > 3 * of_network


@pytest.mark.parametrize(("amp", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_amp_is_the_arithmetic_inside(amp, dtype):
    seen = []

    class Layer(nn.Linear):
        def forward(self, xt, t):
            answer = super().forward(xt)
            seen.append((xt.dtype, answer.dtype))
            return answer

    generate(Layer(4, 4), SCHEDULE, 2, steps=2, shape=(1, 4, 4), amp=amp)
    assert seen == [(torch.float32, dtype)] * 2
    assert not torch.is_autocast_enabled("cpu")


def test_generate_in_bf16_is_the_walk_in_bf16():
    model, xT = tiny_unet(), image_noise(image_generators(0, 2), (1, 8, 8))
    *_, last = sample(model, SHORT, xT, SHORT.timesteps(5), amp="bf16")
    rough = generate(model, SHORT, 2, steps=5, amp="bf16")
    assert torch.equal(rough, last.xt.clamp(-1, 1))
    assert 1e-5 < relative(rough, generate(model, SHORT, 2, steps=5)) < 0.05


def test_amp_is_fp32_unless_asked_for_and_auto_is_the_machine_s(monkeypatch):
    model = tiny_unet()
    plain = generate(model, SHORT, 2, steps=3)
    for fast in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda x=fast: x, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda x=fast: x, raising=False)
        assert torch.equal(generate(model, SHORT, 2, steps=3), plain)
        auto = generate(model, SHORT, 2, steps=3, amp="auto")
        assert torch.equal(auto, generate(model, SHORT, 2, steps=3, amp="bf16" if fast else "fp32"))
    with pytest.raises(ValueError, match="amp must be auto, fp32, bf16 or fp16, got 'half'"):
        generate(model, SHORT, 2, amp="half")


# --- progress and memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_progress_is_told_once_a_call(eta):
    order = []
    options = {"steps": 4, "batch_size": 2, "shape": (1, 2, 2), "eta": eta}

    def function(xt, t):
        order.append(int(t[0]))
        return denoiser(xt, t)

    told = generate(function, SCHEDULE, 5, progress=lambda: order.append("told"), **options)
    assert order == [1000, "told", 750, "told", 500, "told", 250, "told"] * 3
    assert torch.equal(told, generate(denoiser, SCHEDULE, 5, **options))


def test_a_bar_on_standard_error_and_only_if_asked_for(capfd):
    for progress in (False, True):
        generate(denoiser, SCHEDULE, 5, steps=4, batch_size=2, shape=(1, 2, 2), progress=progress)
        out, err = capfd.readouterr()
        assert out == ""
        assert ("12/12" in err) == progress
        assert bool(err) == progress


def test_memory_beyond_the_result_does_not_grow_with_n():
    """Counted where torch hands it out: in the size of the largest piece, and in the pieces that are as large."""
    sizes = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            answer = func(*args, **(kwargs or {}))
            if isinstance(answer, torch.Tensor) and answer._base is None:
                sizes.append(answer.untyped_storage().nbytes())
            return answer

    with Counting():
        result = generate(ORACLE, SCHEDULE, 400, steps=2, batch_size=8)
    big = [size for size in sizes if size > result.nbytes / 3]
    assert set(big) == {result.nbytes}, "the result, and views of it"
    assert len(big) <= 1 + 400 / 8


def test_an_overflow_in_the_last_step_is_no_black_or_white():
    """Images are limited to [-1, 1], and infinities would be, too."""

    def overflows(xt, t):
        eps = torch.zeros_like(xt)
        if t[0] == 1:
            eps[1, 0, 0, :2] = torch.tensor([torch.inf, -torch.inf])
        return eps

    images = generate(overflows, SCHEDULE, 3, steps=4, shape=(1, 2, 3), spacing="logsnr")
    assert images[1].isnan().tolist() == [[[True, True, False], [False, False, False]]]
    assert images[[0, 2]].abs().max() <= 1
