"""The same eight starting points after each epoch of a training run, cropped from the sheets that the run wrote.

Run at the repository's root, with the folder of the first of the two runs that the shipped weights come from:

    python book/_compute/mnist_epochs.py runs/mnist

Stores the result "mnist_epochs": uint8 `samples` [epochs, 8, 28, 28], the first eight images of each sheet that the run
wrote (averaged weights, 20 steps, seed 0), and at last those of the shipped weights; the numbers of the `epochs`, counted
over both runs, and the mean `loss` of each.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from ddim_core import generate
from ddim_core.data import to_uint8
from ddim_core.results import save_result
from ddim_core.weights import describe, load_pretrained

FIRST, COLUMNS, SIDE, PAD = 8, 8, 28, 2  # as `ddim train` lays the sheets out


def first_row(sheet: Path) -> np.ndarray:
    """The first eight images of a sheet, uint8 `[8, 28, 28]`.

    Raises:
        SystemExit: the sheet is missing, or laid out in another way.
    """
    if not sheet.is_file():
        raise SystemExit(f"{sheet}: no such file")
    pixels = np.asarray(Image.open(sheet))
    if pixels.ndim != 2 or pixels.shape[1] != COLUMNS * (SIDE + PAD) + PAD:
        raise SystemExit(f"{sheet}: not a sheet of {COLUMNS} grey digits a row, its array is {pixels.shape}")
    lefts = [PAD + i * (SIDE + PAD) for i in range(FIRST)]
    return np.stack([pixels[PAD : PAD + SIDE, left : left + SIDE] for left in lefts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run, with samples_epoch_*.png")
    args = parser.parse_args()

    provenance = describe("mnist")["provenance"]
    before = {line["epoch"]: line["loss"] for line in provenance["origin"]["provenance"]["history"]}
    lines = (args.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    if {m["epoch"]: m["loss"] for m in map(json.loads, lines)} != before:
        raise SystemExit(f"{args.run}: not the run that the shipped weights began with")
    sheets = {int(path.stem[-3:]): path for path in sorted(args.run.glob("samples_epoch_*.png"))}
    epochs, samples = list(sheets), [first_row(path) for path in sheets.values()]
    loss = [before[epoch] for epoch in epochs]

    model, schedule = load_pretrained("mnist")
    epochs.append(len(before) + len(provenance["history"]))
    samples.append(to_uint8(generate(model, schedule, FIRST, steps=20, seed=0)).squeeze(1).numpy())
    loss.append(provenance["history"][-1]["loss"])
    path = save_result(
        "mnist_epochs",
        {"samples": np.stack(samples), "epochs": np.array(epochs), "loss": np.array(loss)},
        command=f"python book/_compute/mnist_epochs.py {args.run}",
        weights="mnist",
        seed=0,
        steps=20,
    )
    print(f"{path}: epochs {epochs}")


if __name__ == "__main__":
    main()
