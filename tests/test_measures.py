"""Distances between sets of images, against other ways to compute them and where the answer is known."""

import itertools
import math
import sys

import pytest
import torch
from helpers import randn

from ddim_core import metrics
from ddim_core.data import load_dataset
from ddim_core.errors import UsageError
from ddim_core.measures import FEWEST, Judge, Reference, frechet, kid, moments, wilson


@pytest.fixture(scope="module")
def reference():
    digits = load_dataset("mnist-10k", limit=900)
    train, test = (
        type(digits)(digits.images[part], digits.labels[part], "mnist", split)
        for part, split in ((slice(0, 500), "train"), (slice(500, 900), "test"))
    )
    return Reference(train, test, torch.device("cpu"))


@pytest.fixture(scope="module")
def digits():
    """That the reference has not seen."""
    return load_dataset("mnist-10k", limit=1300).images[900:]


def test_wilson_is_where_the_normal_test_of_a_share_just_fails():
    for hits, n in ((0, 10), (3, 10), (81, 100), (1000, 1000)):
        low, high = wilson(hits, n)
        assert 0 <= low <= hits / n <= high <= 1
        for p in (low, high):
            if 0 < p < 1:
                assert abs(hits / n - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / n), rel=1e-4)


def test_moments_with_weights_are_those_of_copies():
    x = randn(6, 3, dtype=torch.float64)
    often = torch.tensor([0, 2, 1, 3, 0, 1])
    copies = x.repeat_interleave(often, 0)
    mean, covariance = moments(x, often.double())
    torch.testing.assert_close(mean, copies.mean(0))
    torch.testing.assert_close(covariance, copies.T.cov())
    torch.testing.assert_close(moments(x)[1], x.T.cov())


def test_frechet_of_gaussians_with_a_square_root_by_another_way():
    x, y = (randn(50, 4, seed=s, dtype=torch.float64) @ randn(4, 4, seed=s + 9, dtype=torch.float64) for s in (1, 2))
    (m, c), (m2, c2) = moments(x), moments(y + 1)
    root = torch.linalg.eigvals(c @ c2).sqrt().real  # of a matrix that is not symmetric
    expected = (m - m2).square().sum() + c.trace() + c2.trace() - 2 * root.sum()
    torch.testing.assert_close(frechet(m, c, m2, c2), expected)
    both = frechet(torch.stack([m, m2]), torch.stack([c, c2]), m2, c2)
    torch.testing.assert_close(both, torch.stack([expected, expected * 0]), atol=1e-8, rtol=1e-8)
    moved = frechet(m + 2, c, m, c)
    assert moved.item() == pytest.approx(16, abs=1e-6), "one covariance: the distance of the means, squared"


def test_kid_is_the_mean_over_pairs():
    """With subsets as large as both sets, each is all of them: the unbiased estimate, term by term."""
    x, y = randn(7, 3, seed=1, dtype=torch.float64), randn(7, 3, seed=2, dtype=torch.float64) + 0.5

    def mean(a, b, others):
        pairs = [(i, j) for i, j in itertools.product(range(len(a)), range(len(b))) if i != j or not others]
        return sum(((a[i] @ b[j]).item() / 3 + 1) ** 3 for i, j in pairs) / len(pairs)

    value, deviation = kid(x, y, seed=0, subsets=3)
    assert value == pytest.approx(mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False))
    assert deviation == pytest.approx(0, abs=1e-9)


def test_kid_leaves_the_global_random_state_alone_and_follows_its_seed():
    x, y = randn(40, 3, seed=1), randn(60, 3, seed=2)
    before = torch.get_rng_state()
    first = kid(x[:30], y, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(1)
    assert kid(x[:30], y, seed=5) == first
    assert kid(x[:30], y, seed=6) != first


def test_the_frechet_distance_is_that_of_torchmetrics_and_ours(reference, digits):
    features, _ = reference.look(digits[:300])
    found = Judge(reference, 0).figures(digits[:300])["frechet"]
    ours = frechet(*moments(features), *moments(reference.features)).item()
    assert found["value"] == pytest.approx(ours, rel=1e-6)
    assert found["low"] < found["value"] < found["high"]


def test_features_and_confidence_are_the_classifier_s(reference, digits):
    features, judged = reference.look(digits)
    expected = metrics.confidence(reference.classifier, digits)
    assert features.dtype == torch.float64
    torch.testing.assert_close(judged.probability, expected.probability, rtol=1e-4, atol=1e-5)
    assert torch.equal(judged.label, expected.label)


def test_precision_and_recall_ball_by_ball(reference, digits):
    """By the definition, from all distances (sums of squared differences, no product of matrices)."""
    samples = digits[:30].clone()
    samples[:10] = torch.randint(256, samples[:10].shape, generator=torch.Generator().manual_seed(0)).byte()
    fake, real = reference.look(samples)[0], reference.features

    def covered(points, centres):
        own = (centres[:, None] - centres[None]).square().sum(-1)
        radius = own.sort(1).values[:, 3]
        return ((points[:, None] - centres[None]).square().sum(-1) <= radius).any(1).double().mean().item()

    found = Judge(reference, 0).figures(samples)
    assert found["precision"]["value"] == pytest.approx(covered(fake, real))
    assert found["recall"]["value"] == pytest.approx(covered(real, fake))
    assert 0 < found["recall"]["value"] < 1


def test_the_interval_of_recall_is_the_spread_of_halves_on_their_own(reference, digits):
    """Other random halves, and by their definition: each a set of samples that knows nothing of the other half."""
    n, generator = 120, torch.Generator().manual_seed(9)
    found = [Judge(reference, seed).figures(digits[:n])["recall"] for seed in range(6)]
    fake = reference.look(digits[:n])[0]
    recalls = []
    for _ in range(1000):
        half = fake[torch.randperm(n, generator=generator)[: n // 2]]
        radius = torch.cdist(half, half).sort(1).values[:, 3]
        recalls.append((torch.cdist(reference.features, half) <= radius).any(1).double().mean())
    half_width = sum(f["value"] - f["low"] for f in found) / len(found)  # of the other side 1 is the end
    assert half_width == pytest.approx(1.96 * torch.stack(recalls).std().item(), rel=0.15)


def test_figures_tell_good_samples_from_bad_ones(reference, digits):
    judge, noise = Judge(reference, 0), torch.rand(200, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    ones = reference.train[:1].expand(200, -1, -1, -1)
    good, bad, same = judge.figures(digits[:200]), judge.figures((255 * noise).byte()), judge.figures(ones)
    for other in (bad, same):
        assert other["frechet"]["low"] > good["frechet"]["high"]
        assert other["kid"]["value"] > good["kid"]["value"] + 5 * good["kid"]["deviation"]
        assert other["class_distance"]["low"] > good["class_distance"]["high"]
        assert other["recall"]["value"] < 0.1 < 0.5 < good["recall"]["low"]
    assert bad["precision"]["high"] < good["precision"]["low"]
    assert same["nearest_median"] == {"value": 0, "low": 0, "high": 0}
    assert same["share_near"]["value"] == 1
    assert good["share_near"]["high"] < 0.1
    assert bad["nearest_median"]["low"] > good["nearest_median"]["high"]
    floor = judge.floor(200)
    assert floor["frechet"]["value"] < 2 * good["frechet"]["value"]
    assert floor.keys() == good.keys() - {"nearest_median", "share_near"}


def test_figures_repeat_and_follow_the_seed(reference, digits):
    one, again, other = (Judge(reference, seed) for seed in (3, 3, 4))
    assert one.figures(digits[:60]) == again.figures(digits[:60])
    assert one.floor(60) == again.floor(60)
    assert one.floor(60) != other.floor(60), "other training images"
    drawn = [judge.figures(digits[:60])["frechet"] for judge in (one, other)]
    assert drawn[0]["value"] == drawn[1]["value"]
    assert drawn[0]["low"] != drawn[1]["low"]


def test_intervals_hold_what_many_sets_of_samples_have(reference):
    """Width: 15 disjoint sets of 80 digits each spread about as far as the interval of one of them says."""
    judge, images = Judge(reference, 0), load_dataset("mnist-10k", limit=2100).images[900:]
    sets = [judge.figures(part) for part in images.split(80)]
    for key in ("frechet", "recall", "class_distance", "nearest_median", "share_sure"):
        values = torch.tensor([f[key]["value"] for f in sets])
        widths = torch.tensor([f[key]["high"] - f[key]["low"] for f in sets])
        ratio = widths.median() / (2 * 1.96 * values.std())
        assert 0.5 < ratio < 2, (key, ratio)


def test_few_samples(reference, digits):
    judge = Judge(reference, 0)
    with pytest.raises(UsageError, match="judging needs at least 5 samples, got 4"):
        judge.figures(digits[: FEWEST - 1])
    few = judge.figures(digits[:FEWEST])
    assert few["recall"].keys() == {"value"}, "of halves of two there is no third neighbour"
    assert sum(few["classes"]) == FEWEST


def test_without_torchmetrics(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(UsageError, match=r"needs torchmetrics: pip install 'ddim-core\[evaluate\]'"):
        Reference(None, None, torch.device("cpu"))
