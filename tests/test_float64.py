"""The whole package on a device that has no float64: it computes there what it computes on the CPU."""

from dataclasses import replace

import pytest
import torch
from float32_only import There, device_without_float64
from helpers import QUIET, TINY_RUN, randn, relative, tiny_images, tiny_unet

from ddim_core import Schedule, encode, generate, lerp, run, sample, slerp
from ddim_core.data import to_model, to_uint8
from ddim_core.device import in_float64, widest
from ddim_core.metrics import Confidence, accuracy, confidence, load_classifier, nearest
from ddim_core.oracle import DatasetDenoiser, GaussianDenoiser
from ddim_core.plots import tile
from ddim_core.run import CHECKPOINT
from ddim_core.train import Trainer, train

SCHEDULE = Schedule.linear(100)
XT, IMAGES = randn(3, 1, 8, 8), randn(12, 1, 8, 8, seed=1).clamp(-1, 1)


@pytest.fixture
def there(monkeypatch):
    with device_without_float64(monkeypatch) as device:
        yield device


def test_the_device_is_as_it_says(there):
    x = torch.ones(2, 3).to(there)
    assert isinstance(x, There)
    assert (x.device, (x + 1).sum().item()) == (there, 12)
    for wide in (
        lambda: x.double(),
        lambda: torch.zeros(2, dtype=torch.float64, device=there),
        lambda: x.to(torch.float64),
    ):
        with pytest.raises(TypeError, match="doesn't support float64"):
            wide()
    with pytest.raises(RuntimeError, match="on the same device"):
        x + torch.ones(2, 3)
    assert widest(there) == torch.float32
    assert widest(torch.device("cpu")) == torch.float64
    assert (in_float64(x).device.type, in_float64(x).dtype) == ("cpu", torch.float64)


def assert_near(found, expected, tolerance=1e-5):
    assert isinstance(found, There), "it stays on the device"
    assert found.dtype == expected.dtype == torch.float32
    assert relative(found.cpu(), expected) < tolerance


@pytest.mark.parametrize("between", [lerp, slerp])
def test_between_two_samples_of_noise(there, between):
    a, b = XT[0], XT[1]
    assert_near(between(a.to(there), b.to(there), [0.0, 0.3, 1.0]), between(a, b, [0.0, 0.3, 1.0]))


@pytest.mark.parametrize("make", [lambda p, s: DatasetDenoiser(p, s), lambda p, s: GaussianDenoiser(0.1, 0.4, s)])
def test_the_exact_denoisers(there, make):
    here, other = make(IMAGES, SCHEDULE), make(IMAGES.to(there), SCHEDULE)
    for t in (1, 50, torch.tensor([1, 50, 100])):
        at = t.to(there) if isinstance(t, torch.Tensor) else t
        assert_near(other(XT.to(there), at), here(XT, t))
        assert_near(other.x0(XT.to(there), at), here.x0(XT, t))
    if isinstance(here, DatasetDenoiser):
        assert torch.equal(other.weights(XT.to(there), 7).cpu(), here.weights(XT, 7))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_images(there, eta):
    model, other = tiny_unet(), tiny_unet().to(there)
    options = {"steps": 5, "eta": eta, "batch_size": 2}
    assert_near(generate(other, SCHEDULE, 3, **options), generate(model, SCHEDULE, 3, **options), 1e-3)
    oracle, far = DatasetDenoiser(IMAGES, SCHEDULE), DatasetDenoiser(IMAGES.to(there), SCHEDULE)
    images = generate(far, SCHEDULE, 3, **options, device=there)
    assert_near(images, generate(oracle, SCHEDULE, 3, **options), 1e-3)
    assert to_uint8(images).cpu().dtype == torch.uint8
    assert tile(images).size == tile(images.cpu()).size


def test_there_and_back(there):
    model, tau = tiny_unet().to(there), SCHEDULE.timesteps(5)
    xT = encode(model, SCHEDULE, IMAGES[:2].to(there), tau)
    assert_near(xT, encode(tiny_unet(), SCHEDULE, IMAGES[:2], tau), 1e-3)
    *_, last = sample(model, SCHEDULE, xT, tau)
    assert isinstance(last.xt, There)


def test_judging(there):
    classifier = load_classifier()
    digits = randn(40, 1, 28, 28, seed=4).clamp(-1, 1)
    labels = torch.arange(40) % 10
    here, share = confidence(classifier, digits), accuracy(classifier, digits, labels)
    other = load_classifier().to(there)
    found = confidence(other, digits.to(there))
    assert isinstance(found, Confidence)
    assert found.share(0.2) == here.share(0.2)
    assert accuracy(other, digits.to(there), labels.to(there)) == share
    distance, index = nearest(digits[:5].to(there), digits.to(there), k=2)
    assert torch.equal(index.cpu(), nearest(digits[:5], digits, k=2)[1])
    assert_near(distance[:, 1], nearest(digits[:5], digits, k=2)[0][:, 1])


def test_shares_are_counted():
    """Exactly, as in float64: a mean in float32 is off in the eighth digit."""
    assert Confidence(torch.zeros(3), torch.tensor([0.96, 0.94, 0.99])).share() == 2 / 3


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")  # torch goes by the device's name
def test_training(there, tmp_path):
    config = replace(QUIET, loss_weight="balanced", epochs=1)

    def trainer(device):
        return Trainer(config, tiny_images(), device=device, amp="fp32")

    here, other = trainer("cpu"), trainer(str(there))
    assert all(isinstance(p, There) for p in [*other.model.parameters(), *other.ema.parameters(), other.images])
    found = [step.loss.item() for step in train(other, tmp_path, stop=lambda: other.steps_done == 3)]
    expected = [here.step().loss.item() for _ in range(3)]
    assert found == pytest.approx(expected, rel=1e-4)
    again = trainer(str(there))
    run.load(again, tmp_path / CHECKPOINT)
    assert again.record.loss_sum.dtype == torch.float32
    rest = list(train(again, tmp_path))
    expected += [here.step().loss.item() for _ in rest]
    assert len(expected) == 5
    assert rest[-1].metrics["loss"] == pytest.approx(sum(expected) / 5, rel=1e-3)
    # and a checkpoint travels
    back = trainer("cpu")
    run.load(back, tmp_path / CHECKPOINT)
    for a, b in zip(back.ema.parameters(), here.ema.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("weight", ["plain", "min-snr"])
def test_a_step_with_dropout(there, weight):
    config, losses = replace(TINY_RUN, loss_weight=weight), []
    for device in ("cpu", str(there)):
        losses.append(Trainer(config, tiny_images(), device=device, amp="fp32").step().loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_pixels_change_their_range(there):
    pixels = tiny_images(4).to(there)
    assert torch.equal(to_uint8(to_model(pixels)).cpu(), pixels.cpu())
