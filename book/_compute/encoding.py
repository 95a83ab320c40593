"""Digits encoded and decoded with more and fewer steps: latents, reconstructions, errors.

Run at the repository's root; one thread needs about five minutes for 8 digits:

    python book/_compute/encoding.py

Stores the result "encoding", for the numbers of steps in `steps` and the first n digits of mnist-10k: float16 `latents`
[steps, n, 28, 28], uint8 `images` [steps, n, 28, 28] (the reconstructions), and `error` [steps, n], the mean squared error
of a pixel on the scale from 0 to 1.
"""

import argparse

import numpy as np
import torch

from ddim_core import encode, sample
from ddim_core.data import from_model, load_dataset, to_model, to_uint8
from ddim_core.results import save_result
from ddim_core.weights import load_pretrained

STEPS = (10, 20, 50, 100, 200, 500, 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=8, help="digits (default 8)")
    parser.add_argument("--quick", action="store_true", help="no more than 100 steps: half a minute")
    args = parser.parse_args()

    torch.set_num_threads(1)
    model, schedule = load_pretrained("mnist")
    x0 = to_model(load_dataset("mnist-10k", limit=args.n).images)
    latents, images, errors = [], [], []
    steps = [S for S in STEPS if S <= 100 or not args.quick]
    for S in steps:
        tau = schedule.timesteps(S)
        xT = encode(model, schedule, x0, tau)
        *_, last = sample(model, schedule, xT, tau)
        latents.append(xT.squeeze(1).numpy().astype(np.float16))
        images.append(to_uint8(last.xt).squeeze(1).numpy())
        errors.append((from_model(last.xt) - from_model(x0)).square().mean((1, 2, 3)).numpy())
        print(f"S = {S}: {errors[-1].mean():.5f}", flush=True)
    save_result(
        "encoding",
        {
            "steps": np.array(steps),
            "latents": np.stack(latents),
            "images": np.stack(images),
            "error": np.stack(errors),
        },
        command="python book/_compute/encoding.py"
        + (f" --n {args.n}" if args.n != 8 else "")
        + (" --quick" if args.quick else ""),
        weights="mnist",
        n=args.n,
        quick=args.quick,
        data="mnist-10k",
    )


if __name__ == "__main__":
    main()
