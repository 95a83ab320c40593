"""Invented or remembered? Beside each sample the nearest of the 60,000 training images, and the same for real images.

Run at the repository's root, with the folder that holds MNIST/raw:

    python book/_compute/neighbours.py --data FOLDER

Three sets of images look for their nearest training image, by pixels and by the classifier's features: samples of the
shipped weights, test images, and training images, which look for the nearest other one. Stores the result "neighbours":
distances and indices of all, what the classifier says of the samples, and as uint8 the first 100 of each of the first
two sets with their neighbours.
"""

import argparse

import numpy as np
import torch

from ddim_core import generate
from ddim_core.data import load_dataset, to_uint8
from ddim_core.metrics import confidence, load_classifier, nearest
from ddim_core.results import save_result
from ddim_core.weights import load_pretrained, manifest

STEPS, SHOWN = 50, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FOLDER", help="left out, MNIST is downloaded")
    parser.add_argument("--n", type=int, default=500, help="images in each of the three sets")
    args = parser.parse_args()

    classifier = load_classifier()
    train, test = (load_dataset("mnist", args.data, split=split) for split in ("train", "test"))
    model, schedule = load_pretrained("mnist")
    samples = to_uint8(generate(model, schedule, args.n, steps=STEPS, seed=0))
    judged = confidence(classifier, samples)

    sets = {"samples": samples, "test": test.images[: args.n], "train": train.images[: args.n]}
    distance, index = {}, {}
    for kind, features in {"pixels": None, "features": classifier.features}.items():
        d, i = nearest(torch.cat(list(sets.values())), train.images, features, k=2)
        for name, d_of, i_of in zip(sets, d.split(args.n), i.split(args.n), strict=True):
            column = 1 if name == "train" else 0  # the nearest to a training image is that image itself
            distance[kind, name], index[kind, name] = d_of[:, column], i_of[:, column]
            print(f"{kind:8} {name:7} median distance {d_of[:, column].median():.3f}", flush=True)

    kinds = ("pixels", "features")
    neighbours = [
        [train.images[index[kind, name][:SHOWN]].squeeze(1) for kind in kinds] for name in ("samples", "test")
    ]
    save_result(
        "neighbours",
        {
            "kinds": np.array(kinds),
            "sets": np.array(list(sets)),
            "distance": np.stack([[distance[kind, name].numpy() for name in sets] for kind in kinds]),
            "index": np.stack([[index[kind, name].numpy().astype(np.int32) for name in sets] for kind in kinds]),
            "label": np.stack(
                [x.numpy().astype(np.uint8) for x in (judged.label, test.labels[: args.n], train.labels[: args.n])]
            ),
            "probability": judged.probability.numpy(),
            "images": np.stack([sets[name][:SHOWN].squeeze(1).numpy() for name in ("samples", "test")]),
            "neighbours": np.stack([torch.stack(pair).numpy() for pair in neighbours]),
            "train_counts": train.labels.bincount().numpy(),
        },
        command="python book/_compute/neighbours.py --data FOLDER",
        weights="mnist",
        seed=0,
        n=args.n,
        steps=STEPS,
        searched=len(train),
        classifier_sha256=manifest()["classifier"]["sha256"],
    )


if __name__ == "__main__":
    main()
