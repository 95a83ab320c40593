"""How much ink the brush network's samples have, by sampler: the controls of the comparison of DDIM with DDPM.

Run at the repository's root; one thread needs about five minutes:

    python book/_compute/flood.py

Stores the result "flood": `ink` [samplers, n], the mean brightness, 0 to 1, of n samples in 20 steps from the same starting
noise, samples 0 to n - 1 of seed 0; for each sampler its `eta` and whether it limits its guesses to [-1, 1], `clip`.
"""

import argparse
import time

import numpy as np
import torch

from ddim_core import generate
from ddim_core.data import to_uint8
from ddim_core.results import save_result
from ddim_core.weights import load_pretrained

SAMPLERS = ((0.0, False), (0.0, True), (1.0, False), (1.0, True))  # eta, clip
STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=64, help="samples per sampler (default 64)")
    args = parser.parse_args()

    torch.set_num_threads(1)
    model, schedule = load_pretrained("kanji")
    ink, start = [], time.process_time()
    for eta, clip in SAMPLERS:
        images = to_uint8(generate(model, schedule, args.n, steps=STEPS, seed=0, eta=eta, clip=clip))
        ink.append(images.float().mean((1, 2, 3)).numpy() / 255)
        print(f"eta = {eta:g}, clip = {clip}: ink {ink[-1].mean():.3f} ± {ink[-1].std():.3f}", flush=True)
    save_result(
        "flood",
        {
            "ink": np.stack(ink),
            "eta": np.array([eta for eta, _ in SAMPLERS]),
            "clip": np.array([clip for _, clip in SAMPLERS]),
        },
        command="python book/_compute/flood.py" + (f" --n {args.n}" if args.n != 64 else ""),
        weights="kanji",
        n=args.n,
        steps=STEPS,
        seed=0,
        seconds=round(time.process_time() - start, 1),
    )


if __name__ == "__main__":
    main()
