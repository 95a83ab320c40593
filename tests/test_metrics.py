"""The classifier that judges samples."""

import pytest
import torch

from ddim_core.data import load_dataset, to_model
from ddim_core.errors import CheckpointError, NonFiniteError
from ddim_core.files import save_tensors
from ddim_core.metrics import (
    Classifier,
    Confidence,
    accuracy,
    confidence,
    edge_directions,
    load_classifier,
    nearest,
    save_classifier,
    train_classifier,
)
from ddim_core.weights import describe


@pytest.fixture(scope="module")
def shipped():
    return load_classifier()


@pytest.fixture(scope="module")
def digits():
    return load_dataset("mnist-10k", limit=500)


def test_the_shipped_classifier_knows_digits(shipped, digits):
    assert not shipped.training
    assert not any(p.requires_grad for p in shipped.parameters())
    assert accuracy(shipped, digits.images, digits.labels) > 0.99
    assert describe("classifier")["provenance"]["test_accuracy"] > 0.99


def test_it_is_sure_of_digits_and_less_of_two_at_once(shipped, digits):
    """Of noise it may be sure as well: it was shown nothing but digits."""
    assert confidence(shipped, digits.images).share() > 0.95
    both = (to_model(digits.images) + to_model(digits.images.roll(1, 0))) / 2
    assert confidence(shipped, both[digits.labels != digits.labels.roll(1)]).share() < 0.7


def test_confidence_in_any_batch_and_of_either_kind_of_pixels(shipped, digits):
    images = digits.images[:50]
    whole = confidence(shipped, images)
    assert whole.label.dtype == torch.int64
    assert whole.label.shape == whole.probability.shape == (50,)
    assert ((whole.probability > 0.1) & (whole.probability <= 1)).all()
    for other in (confidence(shipped, images, batch_size=7), confidence(shipped, to_model(images))):
        assert torch.equal(other.label, whole.label)
        torch.testing.assert_close(other.probability, whole.probability, rtol=1e-4, atol=1e-5)


def test_shares():
    found = Confidence(torch.tensor([1, 2, 3, 4]), torch.tensor([0.5, 0.95, 0.96, 1.0]))
    assert found.share(0.955) == 0.5
    assert found.share(0.3) == 1
    assert found.share(1.0) == 0


def test_features_come_before_the_last_layer(shipped, digits):
    x = to_model(digits.images[:3])
    with torch.no_grad():
        features = shipped.features(x)
        torch.testing.assert_close(shipped.out(features), shipped(x))
    assert features.shape == (3, 128)
    assert (features >= 0).all()


def test_nearest_is_the_smallest_of_all_distances(digits):
    queries, data = digits.images[:20], digits.images[20:]
    distance, index = nearest(queries, data, k=3, batch_size=100)  # 480 images: the last batch is a smaller one
    apart = (to_model(queries)[:, None] - to_model(data)[None]).double().square().sum((2, 3, 4)).sqrt()
    expected, order = apart.sort(1)
    torch.testing.assert_close(distance.double(), expected[:, :3], rtol=1e-5, atol=1e-5)
    assert torch.equal(index, order[:, :3])
    assert index.dtype == torch.int64
    for other in (nearest(to_model(queries), to_model(data), k=3), nearest(queries, data, k=3, batch_size=7)):
        assert torch.equal(other[1], index)
    assert torch.equal(nearest(queries, data)[1], index[:, :1])


def test_nearest_finds_a_image_in_its_data_at_distance_zero(digits):
    data = digits.images[:300]
    distance, index = nearest(data[40:50], data, k=2, batch_size=64)
    assert torch.equal(index[:, 0], torch.arange(40, 50))
    assert (distance[:, 0] == 0).all()
    assert (distance[:, 1] > 1).all()
    slightly = data[40:50].clone()
    slightly[:, 0, 14, 14] ^= 1  # one grey level of one pixel: 2/255
    distance, index = nearest(slightly, data)
    assert torch.equal(index[:, 0], torch.arange(40, 50))
    torch.testing.assert_close(distance, torch.full((10, 1), 2 / 255), rtol=1e-4, atol=0)


def test_nearest_in_features(shipped, digits):
    queries, data = digits.images[:20], digits.images[20:]
    distance, index = nearest(queries, data, shipped.features, batch_size=64)
    with torch.no_grad():
        apart = torch.cdist(shipped.features(to_model(queries)), shipped.features(to_model(data)))
    torch.testing.assert_close(distance[:, 0], apart.amin(1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(apart.gather(1, index), distance, rtol=1e-3, atol=1e-3)
    assert (digits.labels[20:][index[:, 0]] == digits.labels[:20]).float().mean() > 0.9
    assert not torch.equal(index, nearest(queries, data)[1])


def strokes(*slices):
    x = torch.full((1, 1, 64, 64), -1.0)
    for rows, columns in slices:
        x[..., rows, columns] = 1
    return x


def test_directions_of_edges():
    lying, standing = strokes((slice(28, 34), slice(8, 56))), strokes((slice(8, 56), slice(28, 34)))
    a, b = (edge_directions(x).view(4, 8, 8) for x in (lying, standing))
    assert a.square().sum() == pytest.approx(1, rel=1e-5)
    # the edges of a lying stroke run along it; of it only the two ends count as standing
    assert a.argmax() // 64 == 2
    assert b.argmax() // 64 == 0
    assert a[2].sum() > 3 * a[0].sum()
    assert b[0].sum() > 3 * b[2].sum()
    torch.testing.assert_close(a[2], b[0].T)
    # where the stroke is, and nowhere else
    assert (a[2].sum(1) > 0).tolist() == [False, False, True, True, True, False, False, False]
    # ink on paper is as paper on ink, and half as much contrast is the same strokes
    for x in (-lying, 0.5 * lying):
        torch.testing.assert_close(edge_directions(x), edge_directions(lying))


def test_directions_of_diagonals():
    i, j = torch.arange(64.0)[:, None], torch.arange(64.0)
    falling, rising = (torch.tanh(z / 4)[None, None] for z in (i - j, i + j - 63))
    a, b = (edge_directions(x).view(4, 64).sum(1) for x in (falling, rising))
    assert (a.argmax().item(), b.argmax().item()) == (3, 1)
    assert a[3] > 5 * a[1]
    assert b[1] > 5 * b[3]


def test_directions_forgive_a_small_shift_that_pixels_do_not():
    one, other = strokes((slice(20, 23), slice(8, 56))), strokes((slice(40, 43), slice(8, 56)))
    moved = one.roll(3, 2)
    assert (one - moved).norm() == (one - other).norm(), "to the pixels a stranger"
    near, far = ((edge_directions(one) - edge_directions(x)).norm() for x in (moved, other))
    assert near < 0.4 * far


def test_directions_of_nothing():
    assert torch.equal(edge_directions(torch.zeros(2, 1, 16, 24)), torch.zeros(2, 4 * 2 * 3))


@pytest.mark.parametrize("k", [0, 6])
def test_nearest_of_too_few(digits, k):
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.5"):
        nearest(digits.images[:2], digits.images[:5], k=k)


def test_training_repeats_and_learns(digits):
    before, heard = torch.get_rng_state(), []
    images, labels = digits.images[:256], digits.labels[:256]
    model = train_classifier(images, labels, epochs=3, report=lambda epoch, loss: heard.append((epoch, loss)))
    assert [epoch for epoch, _ in heard] == [1, 2, 3]
    assert heard[-1][1] < heard[0][1]
    assert accuracy(train_classifier(images, labels), images, labels) > 0.25
    assert not model.training
    again = train_classifier(images, labels, epochs=3)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    other = train_classifier(images, labels, epochs=3, seed=1)
    assert not torch.equal(model.out.weight, other.out.weight)
    assert torch.equal(before, torch.get_rng_state())


def test_there_and_back(tmp_path, digits):
    model = train_classifier(digits.images[:40], digits.labels[:40], epochs=1)
    path = tmp_path / "c.safetensors"
    save_classifier(path, model, command="c", images=digits.images[:40], test_accuracy=0.5, epochs=1, seed=0)
    loaded = load_classifier(path)
    for name, tensor in model.state_dict().items():
        expected = tensor.half().float() if tensor.is_floating_point() else tensor
        assert torch.equal(loaded.state_dict()[name], expected)
    provenance = describe(str(path))["provenance"]
    assert {k: provenance[k] for k in ("command", "images", "epochs", "seed", "test_accuracy")} == {
        "command": "c",
        "images": 40,
        "epochs": 1,
        "seed": 0,
        "test_accuracy": 0.5,
    }


def test_what_is_no_classifier(tmp_path):
    save_tensors(tmp_path / "w", {"a": torch.zeros(1)}, {"kind": "weights"})
    with pytest.raises(CheckpointError, match="holds 'weights', not 'classifier'"):
        load_classifier(tmp_path / "w")
    save_tensors(tmp_path / "x", {"a": torch.zeros(1)}, {"kind": "classifier"})
    with pytest.raises(CheckpointError, match="not the parameters of this classifier") as e:
        load_classifier(tmp_path / "x")
    assert str(tmp_path / "x") in str(e.value)
    assert "\n" not in str(e.value)
    with pytest.raises(CheckpointError, match="no such file"):
        load_classifier(tmp_path / "no")
    save_tensors(tmp_path / "y", Classifier().state_dict(), {"kind": "classifier"})
    raw = (tmp_path / "y").read_bytes()
    (tmp_path / "y").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="damaged"):
        load_classifier(tmp_path / "y")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e5], ids=["nan", "inf", "more than fp16 holds"])
def test_numbers_that_are_not_finite_are_not_saved(tmp_path, number):
    model = Classifier()
    model.out.bias.data[3] = number
    with pytest.raises(NonFiniteError, match=r"the classifier's 'out\.bias' is not finite: train it again"):
        save_classifier(
            tmp_path / "c", model, command="c", images=torch.zeros(1).byte(), test_accuracy=0.5, epochs=1, seed=0
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_numbers_that_are_not_finite_are_not_loaded(tmp_path, number):
    tensors = Classifier().state_dict()
    tensors["dense.weight"][5, 7] = number
    save_tensors(tmp_path / "c", tensors, {"kind": "classifier"})
    with pytest.raises(CheckpointError, match=r"/c: the classifier's 'dense\.weight' is not finite: use another file"):
        load_classifier(tmp_path / "c")
