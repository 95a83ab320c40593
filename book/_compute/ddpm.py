"""The same starting noise, sampled with more and less noise added back, in more and fewer steps.

Run at the repository's root; one idle thread needs about ten minutes:

    python book/_compute/ddpm.py

With --quick, which is for looking at the layout of the page, the largest numbers of steps are 30, 40 and 50, and the
classifier judges 8 images; the provenance says so, and the chapter refuses the result.

Stores the result "ddpm". For each S in `steps` and eta in `etas`: uint8 `images` [6, 5, 8, 28, 28], image i as
`generate(..., seed=0)` draws it. For the few numbers of steps in `judged_steps`: `probability` [4, 5, n], how sure the
classifier is of the digit that it sees, in the first n images.
"""

import argparse

import numpy as np

from ddim_core import generate
from ddim_core.data import to_uint8
from ddim_core.metrics import confidence, load_classifier
from ddim_core.results import save_result
from ddim_core.sample import SIGMA_HAT
from ddim_core.weights import load_pretrained, manifest

STEPS = (5, 10, 20, 50, 100, 1000)
QUICK_STEPS = (5, 10, 20, 30, 40, 50)
JUDGED = (5, 10, 20, 50)
ETAS = (0, 0.2, 0.5, 1, SIGMA_HAT)
SHOWN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=64, help="images that the classifier judges (default 64)")
    parser.add_argument("--quick", action="store_true", help="a stand-in to look at the page with, not to keep")
    args = parser.parse_args()
    steps = QUICK_STEPS if args.quick else STEPS
    n = SHOWN if args.quick else args.n

    model, schedule = load_pretrained("mnist")
    classifier = load_classifier()
    images, probability = [], []
    for S in steps:
        judged = S in JUDGED
        x0 = [generate(model, schedule, n if judged else SHOWN, steps=S, eta=eta, seed=0) for eta in ETAS]
        images.append(np.stack([to_uint8(x[:SHOWN]).squeeze(1).numpy() for x in x0]))
        if judged:
            sure = [confidence(classifier, x) for x in x0]
            probability.append(np.stack([c.probability.numpy() for c in sure]))
            print(f"S = {S}: sure of " + ", ".join(f"{c.share():.0%}" for c in sure), flush=True)
        else:
            print(f"S = {S}: done", flush=True)
    options = (f" --n {args.n}" if args.n != 64 else "") + (" --quick" if args.quick else "")
    save_result(
        "ddpm",
        {
            "steps": np.array(steps),
            "etas": np.array([str(eta) for eta in ETAS]),
            "images": np.stack(images),
            "judged_steps": np.array(JUDGED),
            "probability": np.stack(probability),
        },
        command="python book/_compute/ddpm.py" + options,
        weights="mnist",
        classifier_sha256=manifest()["classifier"]["sha256"],
        seed=0,
        n=n,
        quick=args.quick,
        dtype="float32",
    )


if __name__ == "__main__":
    main()
