"""The same starting noise, sampled with more and less noise added back, in more and fewer steps.

Run at the repository's root; one idle thread needs about six minutes:

    python book/_compute/ddpm.py

With --quick, which is for looking at the layout of the page, the largest numbers of steps are 30, 40 and 50; the
provenance says so, and the chapter refuses the result.

Stores the result "ddpm". For each S in `steps` and eta in `etas`: uint8 `images` [6, 5, 8, 28, 28], image i as
`generate(..., seed=0)` draws it.
"""

import argparse

import numpy as np

from ddim_core import generate
from ddim_core.data import to_uint8
from ddim_core.results import save_result
from ddim_core.sample import SIGMA_HAT
from ddim_core.weights import load_pretrained

STEPS = (5, 10, 20, 50, 100, 1000)
QUICK_STEPS = (5, 10, 20, 30, 40, 50)
ETAS = (0, 0.2, 0.5, 1, SIGMA_HAT)
SHOWN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a stand-in to look at the page with, not to keep")
    args = parser.parse_args()
    steps = QUICK_STEPS if args.quick else STEPS

    model, schedule = load_pretrained("mnist")
    images = []
    for S in steps:
        x0 = [generate(model, schedule, SHOWN, steps=S, eta=eta, seed=0) for eta in ETAS]
        images.append(np.stack([to_uint8(x).squeeze(1).numpy() for x in x0]))
        print(f"S = {S}: done", flush=True)
    save_result(
        "ddpm",
        {"steps": np.array(steps), "etas": np.array([str(eta) for eta in ETAS]), "images": np.stack(images)},
        command="python book/_compute/ddpm.py" + (" --quick" if args.quick else ""),
        weights="mnist",
        seed=0,
        quick=args.quick,
        dtype="float32",
    )


if __name__ == "__main__":
    main()
