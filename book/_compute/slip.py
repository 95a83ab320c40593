"""The digits' network sampled with the right times, and told every time one too late.

Run at the repository's root; one idle thread needs about two minutes:

    python book/_compute/slip.py

Stores the result "slip". For each number of calls in `steps`: `rms` [3, n], how far each image drawn with the slip lies
from the one drawn without, as the root mean square over its pixels in grey levels of 255; and as uint8 the first 8 images
of both kinds, `right` and `wrong` [3, 8, 28, 28]. Image i starts from the noise that `generate(..., seed=0)` gives it.
"""

import argparse

import numpy as np
from torch import Tensor

from ddim_core import generate
from ddim_core.data import to_uint8
from ddim_core.results import save_result
from ddim_core.weights import load_pretrained

STEPS = (10, 50, 100)
SHOWN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=32, help="images for each number of calls (default 32)")
    args = parser.parse_args()

    model, schedule = load_pretrained("mnist")

    def told_later(x: Tensor, t: Tensor) -> Tensor:
        return model(x, (t + 1).clamp(max=schedule.T))  # T is the last time that the network knows

    rms, right, wrong = [], [], []
    for steps in STEPS:
        a = generate(model, schedule, args.n, steps=steps, seed=0)
        b = generate(told_later, schedule, args.n, steps=steps, seed=0, shape=a.shape[1:])
        rms.append(127.5 * (b - a).square().mean((1, 2, 3)).sqrt().numpy())
        right.append(to_uint8(a[:SHOWN]).squeeze(1).numpy())
        wrong.append(to_uint8(b[:SHOWN]).squeeze(1).numpy())
        print(f"{steps} calls: {(rms[-1] ** 2).mean() ** 0.5:.3f} grey levels (root mean square)", flush=True)
    save_result(
        "slip",
        {
            "steps": np.array(STEPS),
            "rms": np.stack(rms).astype(np.float32),
            "right": np.stack(right),
            "wrong": np.stack(wrong),
        },
        command="python book/_compute/slip.py" + (f" --n {args.n}" if args.n != 32 else ""),
        weights="mnist",
        seed=0,
        n=args.n,
        dtype="float32",
    )


if __name__ == "__main__":
    main()
