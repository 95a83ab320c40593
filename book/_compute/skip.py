"""The same starting noise, sampled on grids of more and fewer steps: images, calls of the network, seconds.

Run at the repository's root; one thread needs about five minutes for 32 digits:

    python book/_compute/skip.py

Stores the result "skip". For the times that are visited every k-th step, k in `every`: uint8 `images` [5, n, 28, 28], the
number of `calls`, the processor `seconds` they took on one thread. For the few numbers of steps in `steps`, uint8
`step_images` [5, n, 28, 28]. Image i starts from the noise that `generate(..., seed=0)` gives it.
"""

import argparse
import time

import numpy as np
import torch
from torch import Tensor

from ddim_core import UNet, image_generators, image_noise, sample
from ddim_core.data import to_uint8
from ddim_core.results import save_result
from ddim_core.schedule import Schedule
from ddim_core.weights import load_pretrained

EVERY = (1, 5, 10, 100, 250)
STEPS = (1, 2, 5, 20, 50)  # counts that `EVERY` does not give


def draw(model: UNet, schedule: Schedule, xT: Tensor, tau: list[int]) -> tuple[np.ndarray, float]:
    """The images that a walk down `tau` ends in, uint8 `[n, H, W]`, and the processor seconds it took."""
    # not the clock on the wall: other programs on the machine are none of its business
    start = time.process_time()
    for state in sample(model, schedule, xT, tau):  # noqa: B007
        pass
    seconds = time.process_time() - start
    return to_uint8(state.xt).squeeze(1).numpy(), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=32, help="digits on each grid (default 32)")
    args = parser.parse_args()

    torch.set_num_threads(1)
    model, schedule = load_pretrained("mnist")
    xT = image_noise(image_generators(0, args.n), (1, 28, 28))
    draw(model, schedule, xT, schedule.timesteps(steps=2))  # the first calls are slower
    images, calls, seconds = [], [], []
    for every in EVERY:
        tau = schedule.timesteps(every=every)
        pictures, taken = draw(model, schedule, xT, tau)
        images.append(pictures)
        calls.append(len(tau) - 1)
        seconds.append(taken)
        print(f"every {every}: {calls[-1]} calls, {taken:.1f} s", flush=True)
    step_images = [draw(model, schedule, xT, schedule.timesteps(steps=steps))[0] for steps in STEPS]
    save_result(
        "skip",
        {
            "every": np.array(EVERY),
            "calls": np.array(calls),
            "seconds": np.array(seconds),
            "images": np.stack(images),
            "steps": np.array(STEPS),
            "step_images": np.stack(step_images),
        },
        command="python book/_compute/skip.py" + (f" --n {args.n}" if args.n != 32 else ""),
        weights="mnist",
        seed=0,
        n=args.n,
        threads=1,
        dtype="float32",
        seconds="processor time of one CPU thread",
    )


if __name__ == "__main__":
    main()
