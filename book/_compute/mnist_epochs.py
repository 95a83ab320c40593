"""The same eight starting points after each epoch of a training run, cropped from the sheets that the run wrote.

Run at the repository's root, with the folder of the run that the shipped weights come from:

    python book/_compute/mnist_epochs.py runs/mnist

Stores the result "mnist_epochs": uint8 `samples` [epochs, 8, 28, 28], the first eight images of each sheet (averaged
weights, 20 steps, seed 0), and the numbers of the `epochs`, up to the last one of the shipped weights.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from ddim_core.results import save_result
from ddim_core.weights import describe

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

    epochs = [line["epoch"] for line in describe("mnist")["provenance"]["history"]]
    samples = np.stack([first_row(args.run / f"samples_epoch_{epoch:03d}.png") for epoch in epochs])
    path = save_result(
        "mnist_epochs",
        {"samples": samples, "epochs": np.array(epochs)},
        command=f"python book/_compute/mnist_epochs.py {args.run}",
        weights="mnist",
        seed=0,
        steps=20,
    )
    print(f"{path}: {len(epochs)} epochs")


if __name__ == "__main__":
    main()
