"""Judge the shipped weights: of how many samples is the classifier more than 95 % sure, by number of steps?

Run at the repository's root, with the folder that holds MNIST/raw (the test images are judged beside the samples):

    python book/_compute/judge.py --data FOLDER

Stores the result "judge": for each S the share and the classifier's probabilities, the share for real test images, and
as uint8 the first 100 samples at the largest S with what the classifier says of them.
"""

import argparse

import numpy as np

from ddim_core import generate
from ddim_core.data import load_dataset, to_uint8
from ddim_core.metrics import accuracy, confidence, load_classifier
from ddim_core.results import save_result
from ddim_core.weights import load_pretrained, manifest

STEPS = (4, 10, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FOLDER", help="left out, MNIST is downloaded")
    parser.add_argument("--n", type=int, default=500, help="samples for each number of steps")
    args = parser.parse_args()

    classifier = load_classifier()
    test = load_dataset("mnist", args.data, split="test")
    real = confidence(classifier, test.images)
    model, schedule = load_pretrained("mnist")
    probability, label = [], []
    for steps in STEPS:
        x0 = generate(model, schedule, args.n, steps=steps, seed=0)
        judged = confidence(classifier, x0)
        probability.append(judged.probability.numpy())
        label.append(judged.label.numpy().astype(np.uint8))
        print(f"S = {steps}: more than 95 % sure of {judged.share():.1%} of {args.n}")
    print(f"real test images: {real.share():.1%} of {len(test)}")
    save_result(
        "judge",
        {
            "steps": np.array(STEPS),
            "probability": np.stack(probability),
            "label": np.stack(label),
            "real_probability": real.probability.numpy().astype(np.float16),
            "samples": to_uint8(x0[:100]).squeeze(1).numpy(),
        },
        command="python book/_compute/judge.py --data FOLDER",
        weights="mnist",
        seed=0,
        n=args.n,
        classifier_sha256=manifest()["classifier"]["sha256"],
        classifier_test_accuracy=accuracy(classifier, test.images, test.labels),
        real_share=real.share(),
    )


if __name__ == "__main__":
    main()
