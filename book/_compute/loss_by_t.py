"""The loss at each time, for images that the network was trained on and for images it has never seen.

Run at the repository's root, with the folder that holds MNIST/raw (twenty minutes on one core):

    python book/_compute/loss_by_t.py --data FOLDER

Four contestants guess the noise in the same noised images: the best multiple of x_t and the best affine map, both
fitted to the 60,000 training images, the shipped network, and the perfect denoiser of those 60,000 images. Stores the
result "loss_by_t": the mean squared error at each time and its standard error over the images, for training and for
test images; the errors of the perfect denoiser of the shipped 10,000 images; and the first test images with the
network's and memory's error on each, so that a chapter can compute a corner of the result again.
"""

import argparse

import numpy as np
import torch
from torch import Tensor

from ddim_core import Schedule, add_noise, image_generators, image_noise, predict_eps
from ddim_core.data import load_dataset, to_model
from ddim_core.oracle import DatasetDenoiser
from ddim_core.results import save_result
from ddim_core.weights import load_pretrained

# close enough for lines between them, on logarithmic axes: late in time the error falls by a third in 25
TIMES = [1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, *range(100, 1001, 50)]
STRIDE, KEPT, BATCH = 50, 48, 100


def multiple(images: Tensor, schedule: Schedule):
    """The guess c_t x_t with the best c_t for these images: sqrt(1 - alpha) / (alpha v + 1 - alpha)."""
    v = images.double().square().mean().item()

    def guess(xt: Tensor, t: int) -> Tensor:
        a = schedule.alpha[t].item()
        return (1 - a) ** 0.5 / (a * v + 1 - a) * xt

    return guess


def affine(images: Tensor, schedule: Schedule):
    """The best guess that is affine in the pixels of x_t: from the images' mean and covariance."""
    flat = images.flatten(1).double()
    mean = flat.mean(0)
    variances, axes = torch.linalg.eigh(torch.cov(flat.T))
    variances = variances.clamp(min=0)

    def guess(xt: Tensor, t: int) -> Tensor:
        a = schedule.alpha[t]
        along = (xt.flatten(1).double() - a.sqrt() * mean) @ axes
        x0 = mean + (along * a.sqrt() * variances / (a * variances + 1 - a)) @ axes.T
        return predict_eps(xt, t, x0.view(xt.shape).to(xt.dtype), schedule)

    return guess


@torch.no_grad()
def errors(guess, images: Tensor, t: int, schedule: Schedule) -> Tensor:
    """Mean squared error of the noise for each image `[N]`; image k has the k-th noise of seed t."""
    eps = image_noise(image_generators(t, len(images)), images.shape[1:])
    xt = add_noise(images, t, eps, schedule)
    guessed = torch.cat([guess(part, t) for part in xt.split(BATCH)])
    return (guessed - eps).square().flatten(1).mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FOLDER", help="left out, MNIST is downloaded")
    args = parser.parse_args()

    train, test = (to_model(load_dataset("mnist", args.data, split=split).images) for split in ("train", "test"))
    shipped = to_model(load_dataset("mnist-10k").images)
    if not torch.equal(train[: len(shipped)], shipped):
        raise SystemExit("the shipped images are not the first of the training set")
    model, schedule = load_pretrained("mnist")
    contestants = {
        "multiple": multiple(train, schedule),
        "affine": affine(train, schedule),
        "network": lambda xt, t: model(xt, torch.full((len(xt),), t)),
        "memory": DatasetDenoiser(train, schedule),
    }
    small = DatasetDenoiser(shipped, schedule)
    # every fiftieth: the second half of MNIST's test images is by other writers than the first, and harder
    sets = {"train": shipped[::STRIDE], "test": test[::STRIDE]}

    error = np.zeros((len(sets), len(contestants), len(TIMES)))
    standard_error, of_small = np.zeros_like(error), np.zeros((len(sets), len(TIMES)))
    corner = np.zeros((3, len(TIMES), KEPT), np.float32)
    for k, t in enumerate(TIMES):
        for i, images in enumerate(sets.values()):
            found = [errors(guess, images, t, schedule) for guess in contestants.values()]
            found.append(errors(small, images, t, schedule))
            of_small[i, k] = found[-1].mean()
            for j, each in enumerate(found[:-1]):
                error[i, j, k] = each.mean()
                standard_error[i, j, k] = each.std() / len(each) ** 0.5
            if i == 1:
                corner[:, k] = torch.stack(found[2:])[:, :KEPT].numpy()
        print(t, *(f"{value:.5f}" for value in error[:, :, k].flatten()), *of_small[:, k].round(5), flush=True)

    save_result(
        "loss_by_t",
        {
            "times": np.array(TIMES),
            "sets": np.array(list(sets)),
            "contestants": np.array(list(contestants)),
            "error": error,
            "standard_error": standard_error,
            "error_of_10k": of_small,
            "test_images": test[::STRIDE][:KEPT].squeeze(1).add(1).mul(127.5).round().to(torch.uint8).numpy(),
            "corner": corner,  # of network, memory and the memory of 10,000, for each of test_images
        },
        command="python book/_compute/loss_by_t.py --data FOLDER",
        weights="mnist",
        images=len(sets["test"]),
        remembered=len(train),
        remembered_small=len(shipped),
    )


if __name__ == "__main__":
    main()
