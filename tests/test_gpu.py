"""What only a CUDA GPU can show: the same numbers as the CPU, no waiting within a step, compiled and mixed precision."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from helpers import TINY, TINY_RUN, randn, relative, tiny_images, tiny_unet

from ddim_core import Adapter, Schedule, evaluate, generate, image_noise, run, sample
from ddim_core.device import choose_amp, choose_device, enough_memory
from ddim_core.errors import UsageError
from ddim_core.run import CHECKPOINT
from ddim_core.sample import image_generators
from ddim_core.train import Trainer, train
from ddim_core.weights import export, load_pretrained, load_weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

QUIET = replace(TINY_RUN, unet=replace(TINY, dropout=0.0))


@pytest.fixture(autouse=True)
def exact():
    """float32 in full: without this, convolutions on a GPU round their factors to 10 bits."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def no_waiting():
    """Nothing inside may make the CPU wait for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def trainer(config=QUIET, amp="fp32", **options):
    return Trainer(config, tiny_images(), device="cuda", amp=amp, **options)


def test_it_is_chosen():
    assert choose_device().type == "cuda"
    assert choose_amp(choose_device()) == ("bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16")


def test_the_network_says_the_same():
    model, x, t = tiny_unet(), randn(5, 1, 8, 8), torch.tensor([1, 30, 400, 999, 1000])
    there = tiny_unet().cuda()(x.cuda(), t.cuda()).cpu()
    assert relative(there, model(x, t)) < 1e-5


@pytest.mark.parametrize("eta", [0.0, 1.0, "sigma-hat"])
def test_a_seed_gives_the_same_images(eta):
    there, schedule = load_pretrained("mnist", "cuda")
    here, _ = load_pretrained("mnist")
    a = generate(there, schedule, 4, steps=10, seed=0, eta=eta)
    assert a.device.type == "cuda"
    assert (a.cpu() - generate(here, schedule, 4, steps=10, seed=0, eta=eta)).abs().max() < 1e-3


def test_the_walk_does_not_wait():
    model, schedule = load_pretrained("mnist", "cuda")
    xT = image_noise(image_generators(0, 4), (1, 28, 28)).cuda()
    tau = schedule.timesteps(10)
    generator = torch.Generator("cuda").manual_seed(0)
    for eta in (0.0, 1.0):
        list(sample(model, schedule, xT, tau, eta=eta, generator=generator))  # fills the tables of coefficients
        with no_waiting():
            states = list(sample(model, schedule, xT, tau, eta=eta, generator=generator))
        assert len(states) == 11


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_the_walk_in_half_precision_does_not_wait_and_is_nearly_that_in_float32(amp):
    model, schedule = load_pretrained("mnist", "cuda")
    xT, tau = image_noise(image_generators(0, 4), (1, 28, 28)).cuda(), schedule.timesteps(10)
    *_, exact = sample(model, schedule, xT, tau)
    list(sample(model, schedule, xT, tau, amp=amp))
    with no_waiting():
        *_, rough = sample(model, schedule, xT, tau, amp=amp)
    assert rough.xt.dtype == torch.float32
    assert 1e-6 < relative(rough.xt, exact.xt) < 0.05


def test_images_are_drawn_where_the_network_lies_or_where_they_should():
    asked = []

    def function(xt, t):
        asked.append((xt.device.type, t.device.type))
        return 0.5 * xt

    assert generate(function, Schedule.linear(), 3, steps=2, shape=(1, 4, 4), device="cuda").device.type == "cuda"
    assert set(asked) == {("cuda", "cuda")}
    assert generate(Adapter(tiny_unet().cuda()), Schedule.linear(), 3, steps=2).device.type == "cuda"
    assert generate(tiny_unet().cuda().double(), Schedule.linear(), 3, steps=2).dtype == torch.float64


def test_a_gpu_without_memory_ends_in_one_line():
    with pytest.raises(UsageError, match="out of memory: choose less"), enough_memory("choose less"):
        torch.empty(10**15, device="cuda")


def test_training_takes_the_steps_that_the_cpu_takes():
    here = Trainer(QUIET, tiny_images(), device="cpu", amp="fp32")
    there = trainer()
    there.batch = lambda step: tuple(x.cuda() for x in here.batch(step))
    for _ in range(10):
        assert there.step().loss.item() == pytest.approx(here.step().loss.item(), rel=1e-3)
    for a, b in zip(there.ema.parameters(), here.ema.parameters(), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("weight", ["plain", "balanced", "min-snr"])
@pytest.mark.parametrize("amp", ["fp32", "bf16"])
def test_a_step_does_not_wait(weight, amp):
    t = trainer(replace(QUIET, loss_weight=weight), amp)
    for _ in range(6):
        t.step()
    with no_waiting():
        t.step()
    assert t.steps_done % t.steps_per_epoch, "at the end of an epoch the loss is read"


@pytest.mark.parametrize("amp", ["fp32", "bf16", "fp16"])
def test_a_step_that_is_replayed_is_the_step(amp):
    asked, replayed = trainer(amp=amp), trainer(amp=amp)
    asked.replay.enabled = False
    for _ in range(14):
        assert replayed.step().loss.item() == pytest.approx(asked.step().loss.item(), rel=1e-3)
        assert replayed.lr(replayed.steps_done) == asked.lr(asked.steps_done)
    assert replayed.replay.graph is not None
    for a, b in zip(replayed.ema.parameters(), asked.ema.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


def test_dropout_is_not_replayed():
    assert not trainer(TINY_RUN).replay.enabled
    assert TINY_RUN.unet.dropout > 0


@pytest.mark.parametrize("amp", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_it_learns(amp, compile, dropout):
    torch._dynamo.reset()
    config = replace(TINY_RUN, epochs=60, warmup=20, lr=5e-3, unet=replace(TINY, dropout=dropout))
    t = trainer(config, amp, compile=compile)
    losses = torch.stack([step.loss for step in train(t)]).tolist()
    assert sum(losses[:5]) / 5 > 0.9
    assert sum(losses[-20:]) / 20 < 0.5
    assert (t.replay.graph is not None) == (dropout == 0)
    if compile:
        assert hasattr(t.parallel, "_orig_mod")


def test_compiled_is_the_same_run():
    torch._dynamo.reset()
    plain, compiled = trainer(), trainer(compile=True)
    for _ in range(12):
        assert compiled.step().loss.item() == pytest.approx(plain.step().loss.item(), rel=1e-3)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_resumed_and_exported(amp, tmp_path):
    straight, cut = trainer(amp=amp), trainer(amp=amp)
    losses = [step.loss.item() for step in train(straight)]
    done = [step.loss.item() for step in train(cut, tmp_path, stop=lambda: cut.steps_done == 7)]
    again = trainer(amp=amp)
    run.load(again, tmp_path / CHECKPOINT)
    assert again.scaler.state_dict() == cut.scaler.state_dict()
    done += [step.loss.item() for step in train(again, tmp_path)]
    assert done == pytest.approx(losses, rel=0.02)
    export(tmp_path / CHECKPOINT, tmp_path / "w.safetensors")
    model, schedule = load_weights(tmp_path / "w.safetensors")
    assert generate(model, schedule, 2, steps=3).isfinite().all()


def test_checkpoints_travel_between_devices(tmp_path):
    """Memory layouts differ; the run does not."""
    here = Trainer(QUIET, tiny_images(), device="cpu", amp="fp32")
    for _ in range(7):
        here.step()
    run.save(here, tmp_path / CHECKPOINT)
    there = trainer()
    run.load(there, tmp_path / CHECKPOINT)
    there.batch = lambda step: tuple(x.cuda() for x in here.batch(step))
    for _ in range(5):
        assert there.step().loss.item() == pytest.approx(here.step().loss.item(), rel=1e-3)
    run.save(there, tmp_path / CHECKPOINT)
    back = Trainer(QUIET, tiny_images(), device="cpu", amp="fp32")
    run.load(back, tmp_path / CHECKPOINT)
    for a, b in zip(back.model.parameters(), here.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


def test_a_long_walk_in_float64():
    schedule = Schedule.linear()
    xT = randn(2, 1, 8, 8, dtype=torch.float64).cuda()
    model = tiny_unet().cuda().double()
    *_, last = sample(model, schedule, xT, schedule.timesteps(20))
    here = tiny_unet().double()
    *_, expected = sample(here, schedule, xT.cpu(), schedule.timesteps(20))
    assert last.xt.dtype == torch.float64
    assert relative(last.xt.cpu(), expected.xt) < 1e-5  # sines of t are float32 in any network


def test_the_card_has_a_name():
    assert evaluate._here(torch.device("cuda"))["machine"] == torch.cuda.get_device_name()
