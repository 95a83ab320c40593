"""Judging samples: a small classifier of digits, how sure it is of what it sees, and which known image is nearest.

There is no reference network for digits as there is for photographs, so this one is ours; its accuracy on the 10,000
test images of MNIST is in its provenance (`ddim info classifier`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import fingerprint, to_model
from .errors import CheckpointError, NonFiniteError
from .files import load_tensors, save_tensors
from .seeds import derive_seed
from .weights import verified

__all__ = [
    "Classifier",
    "Confidence",
    "accuracy",
    "confidence",
    "edge_directions",
    "load_classifier",
    "nearest",
    "save_classifier",
    "train_classifier",
]

KIND = "classifier"


class Classifier(nn.Module):
    """Four convolutions and two dense layers for 28x28 digits, pixels in [-1, 1].

    `features(x)` is `[B, 128]`, before the last layer; `classifier(x)` are logits `[B, 10]`.
    """

    def __init__(self):
        super().__init__()

        def conv(c_in: int, c_out: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()
            )

        self.convolutions = nn.Sequential(conv(1, 16, 1), conv(16, 32, 2), conv(32, 32, 1), conv(32, 64, 2))
        self.dense = nn.Linear(64 * 7 * 7, 128)
        self.out = nn.Linear(128, 10)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.dense(self.convolutions(x).flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.dropout(self.features(x), 0.3, self.training))


@dataclass(frozen=True)
class Confidence:
    """What the classifier makes of images.

    Attributes:
        label: int64 `[N]`, the likeliest digit. probability: float32 `[N]`, how sure it is of it.
    """

    label: Tensor
    probability: Tensor

    def share(self, above: float = 0.95) -> float:
        """Share of the images of which the classifier is surer than `above`."""
        return int((self.probability > above).sum()) / len(self.probability)


@torch.no_grad()
def confidence(classifier: Classifier, x: Tensor, batch_size: int = 500) -> Confidence:
    """Classify images `[N, 1, 28, 28]`, pixels in [-1, 1], or uint8."""
    batches = [classifier(to_model(b) if b.dtype == torch.uint8 else b).softmax(1) for b in x.split(batch_size)]
    probability, label = torch.cat(batches).max(1)
    return Confidence(label, probability)


def accuracy(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    """Share of images `[N, 1, 28, 28]` whose label, of `[N]`, it finds. Pixels as in `confidence`."""
    return int((confidence(classifier, images).label == labels).sum()) / len(labels)


@torch.no_grad()
def nearest(
    queries: Tensor,
    data: Tensor,
    features: Callable[[Tensor], Tensor] | None = None,
    *,
    k: int = 1,
    batch_size: int = 1000,
) -> tuple[Tensor, Tensor]:
    """The k images of `data` that are nearest to each query, by Euclidean distance, as (distance, index).

    Args:
        queries: `[N, C, H, W]`, uint8 or pixels in [-1, 1].
        data: `[M, C, H, W]`, either kind; never in memory as floats but for `batch_size` images at a time.
        features: from images `[B, C, H, W]` in [-1, 1] to what is compared, `[B, D]` (`Classifier.features`);
            left out, the pixels in [-1, 1].
        k: for queries that are in `data` themselves take 2: the second is the nearest other one, or an equal one.

    Returns:
        float32 and int64 `[N, k]`, the nearest first.

    Raises:
        ValueError: k is not in 1..M.
    """
    if not 1 <= k <= len(data):
        raise ValueError(f"k must lie in 1..{len(data)}, the number of images, got {k}")

    def vectors(x: Tensor) -> Tensor:
        x = to_model(x) if x.dtype == torch.uint8 else x
        return (features(x) if features else x).flatten(1)

    q = torch.cat([vectors(b) for b in queries.split(batch_size)])
    squared, index = q.new_zeros(len(q), 0), torch.zeros(len(q), 0, dtype=torch.int64, device=q.device)
    for start in range(0, len(data), batch_size):
        v = vectors(data[start : start + batch_size])
        # |q - v|^2 by one product of matrices: fast, and too rough for images that are nearly equal
        part, kept = _smallest(v.square().sum(1) - 2 * q @ v.T, min(k, len(v)))
        squared, index = torch.cat([squared, part], 1), torch.cat([index, kept + start], 1)
        squared, kept = squared.topk(min(k, squared.shape[1]), largest=False)
        index = index.gather(1, kept)
    found = [(q - vectors(data[index[:, i].to(data.device)])).square().sum(1).sqrt() for i in range(k)]
    distance, order = torch.stack(found, 1).sort(1)
    return distance, index.gather(1, order)


def _smallest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Of each row. `topk` of one takes several times as long as `min`."""
    return x.min(1, keepdim=True) if k == 1 else x.topk(k, largest=False)


def edge_directions(x: Tensor) -> Tensor:
    """How much edge of each of four directions lies where: features for `nearest` where no classifier is to be had.

    An old description of written characters, which changes little when a stroke moves a little. Both edges of a stroke
    have one direction, so angles are taken modulo 180 degrees: horizontal, vertical and the two diagonals.

    Args:
        x: `[B, 1, H, W]`, H and W multiples of 8.

    Returns:
        `[B, 4 H/8 W/8]` of length 1 (0 without any edge): the root of the mean over windows of 16 x 16 pixels, a window every 8.
    """
    gx, gy = F.pad(x.diff(dim=3), (0, 1)), F.pad(x.diff(dim=2), (0, 0, 0, 1))
    size = (gx.square() + gy.square()).sqrt().clamp(min=1e-6)
    c, s = (gx.square() - gy.square()) / size, 2 * gx * gy / size  # cosine and sine of the double angle
    edges = torch.cat([c.relu(), s.relu(), (-c).relu(), (-s).relu()], 1)
    return F.normalize(F.avg_pool2d(edges, 16, 8, padding=4).flatten(1).sqrt())


def train_classifier(images: Tensor, labels: Tensor, *, epochs: int = 6, seed: int = 0, report=None) -> Classifier:
    """Train on uint8 `[N, 1, 28, 28]` and labels int64 `[N]`; digits are shifted by up to two pixels at random.

    Args:
        report: called with (epoch, mean loss) after each epoch.
    """
    batch = min(128, len(images))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, epochs))
        model = Classifier().train()
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
        total = epochs * (len(images) // batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=total)
        for epoch in range(epochs):
            losses = []
            for chosen in torch.randperm(len(images)).split(batch)[: len(images) // batch]:
                dx, dy = torch.randint(-2, 3, (2,)).tolist()
                x = to_model(images[chosen]).roll((dy, dx), (2, 3))  # the margins of digits are black: roll is a shift
                loss = F.cross_entropy(model(x), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.detach())
            if report:
                report(epoch + 1, torch.stack(losses).mean().item())
    return model.eval().requires_grad_(False)


def save_classifier(
    path, model: Classifier, *, command: str, images: Tensor, test_accuracy: float, epochs: int, seed: int
):
    """Write a classifier, rounded to fp16, with its provenance.

    Args:
        images: what it was trained on, uint8 `[N, 1, 28, 28]`; their fingerprint goes into the provenance.

    Raises:
        NonFiniteError: a number in it is not finite, or not in fp16; nothing is written. DiskError.
    """
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    if broken := _not_finite(tensors):
        raise NonFiniteError(f"the classifier's {broken!r} is not finite: train it again, at a lower rate or longer")
    provenance = {
        "command": command,
        "data_sha256": fingerprint(images),
        "images": len(images),
        "epochs": epochs,
        "seed": seed,
        "test_accuracy": test_accuracy,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    save_tensors(path, tensors, {"kind": KIND, "provenance": provenance})


def load_classifier(path=None) -> Classifier:
    """Load a classifier in evaluation mode: the one that comes with the package, or a file.

    Raises:
        CheckpointError: the file is missing or damaged, or is not a classifier, or holds numbers that are not finite.
    """
    path = verified("classifier") if path is None else path
    tensors, _ = load_tensors(path, kind=KIND)
    if broken := _not_finite(tensors):
        raise CheckpointError(f"{path}: the classifier's {broken!r} is not finite: use another file")
    model = Classifier()
    try:
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: not the parameters of this classifier ({str(error).splitlines()[0]})"
        ) from error
    return model.eval().requires_grad_(False)


def _not_finite(tensors: dict[str, Tensor]) -> str | None:
    """The first that holds a number which is not finite."""
    return next((name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())), None)
