"""How near samples of digits come to real ones: distances between two sets of images, each with its interval.

Everything that looks at features takes the 128 of the package's classifier. There is no public reference network for
digits, so none of these figures can be set beside those of another page: they rank settings of one network.

Every set is judged against MNIST's test images, and beside every figure stands what as many training images get in place
of samples: the floor, which a perfect sampler would reach. (It is no zero: n images never look exactly like others, and
the classifier has seen the training images.)

An interval holds 95 % over the draw of the samples; the test images are kept as they are. Shares of independent samples
have Wilson's. Where a figure is no share, the samples are drawn again with replacement 200 times. A Frechet distance or
a distance between shares grows when it is drawn again (copies look like a smaller set), so the draws are moved until
their mean is the figure itself. (Tried on sets of training images, the intervals of the Frechet distance are too wide: by
up to a half at n = 1,000, and to about twice at 200, where the covariance of 128 features is hardly determined.) Recall cannot be drawn again with replacement, since a copy is its own nearest
neighbour: it is computed from 100 random halves, whose spread is that of the whole (the delete-half jackknife).
"""

import math
import warnings
from functools import lru_cache

import torch
from torch import Tensor, nn

from . import metrics
from .data import Dataset
from .device import in_float64
from .errors import UsageError
from .seeds import derive_seed

__all__ = ["FEWEST", "Judge", "Reference", "frechet", "kid", "moments", "wilson"]

FEWEST = 5  # samples: each needs a third neighbour among the others; recall has an interval from 8 on, for its halves
K = 3  # neighbours that make a sample's ball, as in the paper on precision and recall
SURE = 0.95
DRAWS, HALVES, SUBSETS = 200, 100, 100
_Z = 1.959963984540054  # 97.5 % of a normal distribution lie below


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `hits` in `n` (Wilson 1927): unlike +- 2 standard errors, right near 0 and 1."""
    share, z2 = hits / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def moments(features: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean `[D]` and covariance `[D, D]` of features `[N, D]`, each taken as often as `weights` `[N]` says (once)."""
    w = torch.ones_like(features[:, 0]) if weights is None else weights
    n = w.sum()
    mean = w @ features / n
    centred = features - mean
    return mean, (w[:, None] * centred).T @ centred / (n - 1)


def frechet(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    """Frechet distance between Gaussians with these moments, for a whole batch of the first ones (float64).

        |m - m'|^2 + tr(C + C' - 2 (C'^1/2 C C'^1/2)^1/2)

    The eigenvalues are those of C C', in a symmetric matrix: no complex ones, and many at once.

    Args:
        mean: `[..., D]`. covariance: `[..., D, D]`. other_mean, other_covariance: `[D]`, `[D, D]`.
    """
    values, vectors = torch.linalg.eigh(other_covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariance @ root).clamp(min=0).sqrt().sum(-1)
    traces = covariance.diagonal(dim1=-2, dim2=-1).sum(-1) + other_covariance.trace()
    return (mean - other_mean).square().sum(-1) + traces - 2 * cross


def kid(features: Tensor, other: Tensor, seed: int, subsets: int = SUBSETS) -> tuple[float, float]:
    """Kernel distance between features `[N, D]` and `[M, D]` (KID's cubic kernel), mean and standard deviation over subsets.

    Its expectation is 0 for two sets of one distribution, whatever their size. Each subset has 1,000 of both, or as many
    as there are: then all subsets share these, and the spread is that of choosing from the other set. Computed by
    torchmetrics.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that features are kept in memory
        metric = _torchmetrics("kid").KernelInceptionDistance(
            feature=nn.Identity(), subsets=subsets, subset_size=min(len(features), len(other), 1000)
        )
    metric.update(other, real=True)
    metric.update(features, real=False)
    with torch.random.fork_rng(devices=[]):  # it draws from the global state
        torch.default_generator.manual_seed(derive_seed(seed, len(features)))
        mean, deviation = metric.compute()
    return mean.item(), deviation.item()


def _torchmetrics(name: str):
    try:
        import torchmetrics.image.fid
        import torchmetrics.image.kid
    except ImportError as error:
        raise UsageError("judging needs torchmetrics: pip install 'ddim-core[evaluate]'") from error
    return getattr(torchmetrics.image, name)


class _Given(nn.Module):
    """Features in the place of a network that computes them."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class Reference:
    """MNIST's test images as the judge sees them, once for all sets of samples.

    Attributes:
        classifier, device; train, test: uint8 `[N, 1, 28, 28]` on the device.
        features: `[M, 128]` of the test images. radii: `[M]`, how far each one's third neighbour is. shares: of digits.
        near: below which pixel distance to the training set 1 % of the test images lie.
        facts: what is to be said of the test images, as JSON values.
    """

    def __init__(self, train: Dataset, test: Dataset, device: torch.device):
        _torchmetrics("fid")  # if it is missing, that is said before minutes of work
        self.device = device
        self.classifier = metrics.load_classifier().to(device)
        self.train, self.test = train.images.to(device), test.images.to(device)
        self.features, sure = self.look(self.test)
        self.radii = _radii(self.features)
        distance = self.to_train(self.test)
        self.near = distance.quantile(0.01).item()
        classes = test.labels.bincount(minlength=10)
        self.shares = classes.double() / len(test)
        self.facts = {
            "test_images": len(test),
            "train_images": len(train),
            "classifier_test_accuracy": (sure.label == test.labels).double().mean().item(),
            "share_sure": sure.share(SURE),
            "classes": classes.tolist(),
            "nearest_median": distance.quantile(0.5).item(),
            "nearest_1_percent": self.near,
        }

    @torch.no_grad()
    def look(self, images: Tensor) -> tuple[Tensor, metrics.Confidence]:
        """Features `[N, 128]` in float64 of uint8 images on the device, and what they are taken for, on the CPU.

        A GPU computes convolutions with 10 bits of fraction unless it is told not to: the judge is one on all devices.
        """
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            features = torch.cat([self.classifier.features(metrics.to_model(b)) for b in images.split(2000)])
            probability, label = self.classifier.out(features).softmax(1).max(1)
        return in_float64(features), metrics.Confidence(label.cpu(), probability.cpu())

    def to_train(self, images: Tensor) -> Tensor:
        """Distance in pixels of each of `[N, 1, 28, 28]` to its nearest training image, float64 `[N]` on the CPU."""
        return metrics.nearest(images, self.train, batch_size=2000)[0][:, 0].cpu().double()


class Judge:
    """The figures of sets of samples, and of as many training images: the floor.

    Args:
        seed: of whatever is drawn here: subsets, resampling, which training images are the floor.
    """

    def __init__(self, reference: Reference, seed: int):
        self.reference, self.seed = reference, seed
        self.floor = lru_cache(maxsize=None)(self._floor)

    def _floor(self, n: int) -> dict:
        """The figures of n training images chosen by the seed, as those of samples; without pixel distances."""
        train = self.reference.train
        chosen = torch.randperm(len(train), generator=self._generator(n, 0))[:n]
        return self._look(train[chosen.to(train.device)])

    def figures(self, images: Tensor) -> dict:
        """What is measured of uint8 samples `[N, 1, 28, 28]`, as JSON values; an interval is (low, high).

        Raises:
            UsageError: fewer samples than can be measured.
        """
        if len(images) < FEWEST:
            raise UsageError(f"judging needs at least {FEWEST} samples, got {len(images)}")
        images = images.to(self.reference.device)
        distance = self.reference.to_train(images)
        again = distance[self._again(len(images))].quantile(0.5, 1)
        near = int((distance < self.reference.near).sum())
        return {
            **self._look(images),
            "nearest_median": _figure(distance.quantile(0.5), again),
            "share_near": _share(near, len(images)),
        }

    def _look(self, images: Tensor) -> dict:
        at, n = self.reference, len(images)
        features, judged = at.look(images)
        mean, deviation = kid(features, at.features, self.seed)
        return {
            "frechet": self._frechet(features),
            "kid": {"value": mean, "deviation": deviation},
            **self._precision_recall(features),
            "share_sure": _share(int((judged.probability > SURE).sum()), n),
            "classes": judged.label.bincount(minlength=10).tolist(),
            "class_distance": self._class_distance(judged.label),
        }

    def _frechet(self, features: Tensor) -> dict:
        """By torchmetrics; the draws by our own `frechet`, since a general eigenvalue problem takes 20 times as long."""
        metric = _torchmetrics("fid").FrechetInceptionDistance(feature=_Given(features.shape[1]))
        metric.set_dtype(torch.float64)
        metric.update(self.reference.features.cpu(), real=True)
        metric.update(features.cpu(), real=False)
        real = moments(self.reference.features)
        counts = torch.zeros(DRAWS, len(features), dtype=torch.float64)
        again = self._again(len(features))
        counts.scatter_add_(1, again, torch.ones_like(again, dtype=torch.float64))
        found = [moments(features, w) for w in counts.to(features.device)]
        # on the CPU: small matrices, which a GPU takes one by one
        means, covariances = (torch.stack(part).cpu() for part in zip(*found, strict=True))
        return _figure(metric.compute(), frechet(means, covariances, *(part.cpu() for part in real)))

    def _precision_recall(self, features: Tensor) -> dict:
        """Improved precision and recall (Kynkaanniemi et al. 2019, eq. 1 and 2): in how far either set lies in the other.

        A set's manifold is the union of balls, one around each image, as far as its third neighbour. Precision is the
        share of samples in that of the test images, recall the share of test images in that of the samples. (Fewer
        samples have wider balls: recalls can be compared at one n only.)
        """
        at, n = self.reference, len(features)
        apart = torch.cdist(features, at.features)  # [N, M]
        inside = int((apart <= at.radii).any(1).sum())
        recall = (apart <= _radii(features)[:, None]).any(0).double().mean()
        own, halves, generator = torch.cdist(features, features).float(), [], self._generator(n, 2)
        apart = apart.float()  # for a spread that is enough, and half as much to read a hundred times
        for _ in range(HALVES if n >= 2 * (K + 1) else 0):
            half = torch.randperm(n, generator=generator)[: n // 2].to(features.device)
            radii = own[half][:, half].topk(K + 1, largest=False).values[:, K:]
            halves.append((apart[half] <= radii).any(0).double().mean())
        found = {"value": recall.item()}
        if halves:
            half_width = _Z * torch.stack(halves).std().item()
            found |= {"low": max(recall.item() - half_width, 0.0), "high": min(recall.item() + half_width, 1.0)}
        return {"precision": _share(inside, n), "recall": found}

    def _class_distance(self, label: Tensor) -> dict:
        """Total-variation distance between the shares of the ten digits and those of the test images: 0 to 1."""
        one_hot = nn.functional.one_hot(label, 10).double()

        def apart(p: Tensor) -> Tensor:
            return (p - self.reference.shares).abs().sum(-1) / 2

        return _figure(apart(one_hot.mean(0)), apart(one_hot[self._again(len(label))].mean(1)))

    def _again(self, n: int) -> Tensor:
        """Which samples are drawn with replacement, int64 `[draws, n]`: the same for every figure."""
        return torch.randint(n, (DRAWS, n), generator=self._generator(n, 1))

    def _generator(self, *key: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, *key))


def _radii(features: Tensor) -> Tensor:
    """How far the third neighbour of each of `[N, D]` is: itself is the nearest of all."""
    k = min(K, len(features) - 1)
    return metrics.nearest(features, features, k=k + 1)[0][:, k]


def _share(hits: int, n: int) -> dict:
    low, high = wilson(hits, n)
    return {"value": hits / n, "low": low, "high": high}


def _figure(value: Tensor, again: Tensor) -> dict:
    """A figure and the interval of its draws, moved so that their mean is the figure."""
    low, high = (again - again.mean() + value.cpu()).quantile(torch.tensor([0.025, 0.975], dtype=again.dtype)).tolist()
    return {"value": value.item(), "low": max(low, 0.0), "high": high}
