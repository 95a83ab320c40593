"""Erased parts of digits filled in by three schemes, and by one of them with more and fewer visits.

Run at the repository's root; one thread needs about seven minutes:

    python book/_compute/imputation.py

Stores the result "imputation". The digits are the first `--each` of every label in mnist-10k; `index` [n] says which. For
the erased `shapes`, given by `known` [3, 28, 28], and the `methods`, uint8 `images` [shapes, methods, n, fills, 28, 28];
every method costs about 100 calls of the network an image. For the numbers of `visits`, with 20 steps and the first shape,
`visit_images` [visits, m, 28, 28] of the first m digits. Fill-in k of digit i draws its noise from image i under seed k.
"""

import argparse

import numpy as np
import torch
from torch import Tensor

from ddim_core import add_noise, ddim_step, image_generators, image_noise
from ddim_core.data import load_dataset, to_model, to_uint8
from ddim_core.results import save_result
from ddim_core.weights import load_pretrained

METHODS = {  # name: (steps, visits, eta)
    "replace": (100, 1, 0.0),
    "replace, DDPM": (100, 1, 1.0),
    "travel": (20, 5, 0.0),
}
VISITS = (1, 2, 5, 10, 20)


def erased_shapes() -> dict[str, Tensor]:
    """What is known of an image, bool `[28, 28]`, for each shape of erasure."""
    half, band = torch.ones(2, 28, 28, dtype=torch.bool)
    half[14:] = False
    band[9:19] = False
    pixels = torch.rand(28, 28, generator=torch.Generator().manual_seed(7)) >= 0.75
    return {"lower half": half, "a band": band, "75 % of the pixels": pixels}


def fill(denoiser, schedule, y, known, tau, draw, visits=1, eta=0.0):
    """As in the notebook, which checks that both give the same images."""
    alpha, x = schedule.alpha, draw()
    for s, t in zip(reversed(tau[:-1]), reversed(tau[1:]), strict=True):
        for visit in range(visits if s > 0 else 1):
            if visit > 0:
                ratio = (alpha[t] / alpha[s]).item()
                x = ratio**0.5 * x + (1 - ratio) ** 0.5 * draw()
            x, _ = ddim_step(x, denoiser(x, t), t, s, schedule, eta=eta, noise=draw() if eta else None)
            x = torch.where(known, add_noise(y, s, draw(), schedule), x)
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=2, help="digits of every label (default 2)")
    parser.add_argument("--fills", type=int, default=2, help="fill-ins of every digit (default 2)")
    parser.add_argument("--quick", action="store_true", help="two digits and up to 5 visits: a minute")
    args = parser.parse_args()

    torch.set_num_threads(1)
    model, schedule = load_pretrained("mnist")
    data = load_dataset("mnist-10k")
    index = torch.cat([(data.labels == label).nonzero()[: args.each, 0] for label in range(10)]).sort().values
    if args.quick:
        index = index[:2]
    y, shapes = to_model(data.images[index]), erased_shapes()

    @torch.no_grad()
    def denoiser(x: Tensor, t: int) -> Tensor:
        return model(x, torch.full((len(x),), t))

    def filled(digits, known, seed, steps, visits, eta) -> np.ndarray:
        generators = image_generators(seed, len(digits))
        tau = schedule.timesteps(steps)
        x = fill(denoiser, schedule, digits, known, tau, lambda: image_noise(generators, digits.shape[1:]), visits, eta)
        return to_uint8(x).squeeze(1).numpy()

    images = []
    for name, known in shapes.items():
        for method, (steps, visits, eta) in METHODS.items():
            images.append([filled(y, known, k, steps, visits, eta) for k in range(args.fills)])
            print(f"{name}: {method}", flush=True)
    images = np.array(images).reshape(len(shapes), len(METHODS), args.fills, len(y), 28, 28).swapaxes(2, 3)
    few = y[:8]
    counts = [v for v in VISITS if v <= 5 or not args.quick]
    visit_images = [filled(few, shapes["lower half"], 0, 20, v, 0.0) for v in counts]
    save_result(
        "imputation",
        {
            "index": index.numpy(),
            "shapes": np.array(list(shapes)),
            "known": torch.stack(list(shapes.values())).numpy(),
            "methods": np.array(list(METHODS)),
            "images": images,
            "visits": np.array(counts),
            "visit_images": np.stack(visit_images),
        },
        command=f"python book/_compute/imputation.py --each {args.each} --fills {args.fills}"
        + (" --quick" if args.quick else ""),
        weights="mnist",
        quick=args.quick,
        data="mnist-10k",
    )


if __name__ == "__main__":
    main()
