"""How sure a classifier is of pictures as they are drawn, beside real test images; and how that classifier is trained."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from . import metrics
from .data import is_folder, load_dataset
from .drawing import Drawing
from .errors import UsageError
from .weights import describe

__all__ = ["evaluate", "train_judge"]


def evaluate(drawing: Drawing, data: str | Path | None = None) -> dict:
    """The figures of the samples that `drawing` draws, as JSON values, beside those of MNIST's test images.

    Args:
        data: folder that holds MNIST/raw; left out, it is downloaded.

    Raises:
        UsageError: pictures of another shape than the classifier knows. Else as `load_dataset` and `Drawing.batches`.
    """
    classifier = metrics.load_classifier()
    test = load_dataset("mnist", data, split="test")
    if drawing.shape != (shape := tuple(test.images.shape[1:])):
        raise UsageError(
            f"the weights {drawing.weights} draw pictures of {drawing.shape}, not of {shape} as the classifier needs"
        )
    real = metrics.confidence(classifier, test.images)
    parts = [metrics.confidence(classifier, batch) for batch in drawing.batches()]
    drawn = metrics.Confidence(torch.cat([p.label for p in parts]), torch.cat([p.probability for p in parts]))
    return {
        "weights_sha256": describe(drawing.weights)["sha256"],
        "classifier_sha256": describe("classifier")["sha256"],
        "classifier_test_accuracy": (real.label == test.labels).double().mean().item(),
        "test_images": len(test),
        "samples": drawing.n,
        **drawing.options,
        "amp": drawing.amp,
        "share_sure_of_samples": drawn.share(),
        "share_sure_of_test_images": real.share(),
        "samples_a_digit": drawn.label.bincount(minlength=10).tolist(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def train_judge(
    out: Path,
    dataset: str = "mnist",
    data: str | Path | None = None,
    *,
    limit: int | None = None,
    epochs: int = 6,
    seed: int = 0,
    command: str,
    say: Callable[[str], object] = print,
) -> None:
    """Train the classifier of digits, and write it into the folder `out`, with its accuracy on MNIST's test images.

    Args:
        dataset, data, limit: as in `load_dataset`. epochs, seed: as in `metrics.train_classifier`.
        command: what this was asked for by, for the provenance. say: is told each line of what happens.

    Raises:
        UsageError: a folder of pictures, or epochs < 1. Else as `load_dataset`. DiskError.
    """
    if is_folder(dataset):
        raise UsageError("the classifier is for digits: choose --dataset mnist or mnist-10k")
    if epochs < 1:
        raise UsageError(f"epochs must be an integer of at least 1, got {epochs}")
    digits = load_dataset(dataset, data, limit=limit)
    # mnist-10k has no test images: judge on MNIST's own
    test = load_dataset("mnist", data, split="test")
    model = metrics.train_classifier(
        digits.images,
        digits.labels,
        epochs=epochs,
        seed=seed,
        report=lambda e, loss: say(f"epoch {e}: loss {loss:.4f}"),
    )
    share = metrics.accuracy(model, test.images, test.labels)
    path = out / "classifier.safetensors"
    metrics.save_classifier(
        path, model, command=command, images=digits.images, test_accuracy=share, epochs=epochs, seed=seed
    )
    say(f"{path}: {share:.2%} of {len(test)} test images")
