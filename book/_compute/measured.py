"""The tables of the chapter on what was measured: what `ddim evaluate` makes of the shipped weights, with the first images.

Run at the repository's root, with the folder that holds MNIST/raw:

    python book/_compute/measured.py --data FOLDER

It calls `ddim evaluate` for the rows named below, which takes hours on one core and minutes on a GPU, and goes on where it was
when it is started again: the rows are kept in runs/measured/table.json, the samples beside it. Several may run at once.
With --keep the rows of the stored result stay if they are of these weights, and only those that it lacks are drawn: one more
costs its own time.

Stores the result "measured":

    table                 the file of `ddim evaluate` as it is (JSON, see `ddim_core.kept`)
    images                for each of its rows, in that order, uint8 [rows, 64, 28, 28]
    spread                variance over the samples of a row, in [-1, 1], mean over the pixels
    sure                  int8 [rows, n]: 1 where the classifier is more than 95 % sure, else 0; -1 after the last of fewer samples
    inside                the same for precision: 1 where a sample is no farther from some test image than its third neighbour is
    epochs, by_epochs     [k] and [k, 2, 3]: value, low and high of the Frechet distance and of the share at 20 steps, of weights
                          after so many epochs (training/by_epochs.json, rows of `ddim evaluate`) and of the shipped ones
    trials, averaged      [k] and [k, 2, 2]: by how much the loss of the last weights and of the averaged ones had risen in a
                          trial, and the standard error (training/trials.json)
    draws                 [rows, 200]: the Frechet distance of samples drawn again with replacement, the same in each row, so that
                          two rows can be compared in pairs; NaN for rows of fewer samples
    enough                [3, 2]: the fewest calls, of first and of second order on the uniform grid without noise, that are at most
                          1, 2 and 3 worse than fifty of first order, with 95 % confidence in pairs: 1 percentage point of the
                          share, and 1 of the Frechet distance
    pace_of, pace         images per second and core of one call on a CPU, as multiples of the note's network in fp32
                          (benchmarks/results)
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from ddim_core.cli import main as ddim
from ddim_core.data import load_dataset, to_model
from ddim_core.kept import merge_results, read_samples, samples_name
from ddim_core.measures import DRAWS, SURE, Reference, frechet, moments
from ddim_core.results import load_result, save_result
from ddim_core.weights import describe, manifest

ROWS = (
    "--steps 10 20 50 100 --eta 0 0.2 0.5 1 sigma-hat",
    "--steps 25 30 35 40",
    "--steps 1000 --n-slow 100 --eta 0 0.2 0.5 1 sigma-hat",
    "--steps 10 12 14 20 25 --order 2",
    "--steps 12 --order 2 --amp bf16",
    "--steps 10 20 --order 1 2 --spacing quadratic logsnr",
    "--steps 10 --eta 0 1 --clip",
)
N, SHOWN = 1000, 64
OF = {"weights_sha256": "mnist", "classifier_sha256": "classifier"}
BESIDE = ("images", "spread", "sure", "inside", "draws")  # stored beside each row of the table
ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "runs" / "measured"


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def pace() -> dict[str, float]:
    """Ratios to the note's network of one call, by contestant, on the CPUs that were measured: the best of them."""
    found: dict[str, float] = {}
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        report = read(path)
        for row in report["rows"] if report["machine"]["device"] == "cpu" else []:
            if row["mode"] == "sample" and not row["error"]:
                name = row["contestant"]
                found[name] = max(found.get(name, 0.0), row["ratio_to_note"])
    return found


def at_20_steps(rows: list[dict]) -> list[list[float]]:
    """Frechet distance and share, each with its interval, at 20 steps of first order without noise."""
    wanted = {"steps": 20, "eta": 0.0, "order": 1, "spacing": "uniform", "clip": False, "n": N, "amp": "fp32"}
    (figures,) = (row["figures"] for row in rows if wanted.items() <= row["settings"].items())
    return [[figures[name][k] for k in ("value", "low", "high")] for name in ("frechet", "share_sure")]


def enough(rows: list[dict], sure: np.ndarray, draws: np.ndarray, margin: float) -> list[int]:
    """The fewest calls, of each order, at most so much worse than fifty steps of DDIM."""
    plain = {"eta": 0.0, "spacing": "uniform", "clip": False, "amp": "fp32"}
    where = {
        (r["settings"]["steps"], r["settings"]["order"]): k
        for k, r in enumerate(rows)
        if {**plain, "n": N}.items() <= r["settings"].items()
    }
    usual = where[50, 1]

    def good(k: int) -> bool:
        lost = 100.0 * (sure[usual].astype(float) - sure[k])
        farther = rows[k]["figures"]["frechet"]["value"] - rows[usual]["figures"]["frechet"]["value"]
        ends = lost.mean() + 2 * lost.std() / N**0.5, farther + 2 * (draws[k] - draws[usual]).std()
        return max(ends) <= margin

    return [min(S for (S, o), k in where.items() if o == order and good(k)) for order in (1, 2)]


def drawn_again(features: torch.Tensor, real: tuple[torch.Tensor, torch.Tensor]) -> np.ndarray:
    """Frechet distances of 200 sets of N samples drawn with replacement, by a seed that is the same for all rows."""
    again = torch.randint(N, (DRAWS, N), generator=torch.Generator().manual_seed(0))
    means, covariances = (torch.stack(part) for part in zip(*(moments(features[k]) for k in again), strict=True))
    return frechet(means, covariances, *real).numpy()


def averaged() -> dict[str, list[list[float]]]:
    """Of each trial that goes on from the same weights: rise of the loss of the last weights and of the averaged ones."""
    return {
        name: [[trial[which]["all"][k] for k in ("more", "error")] for which in ("last", "average 0.999")]
        for name, trial in read(ROOT / "training" / "trials.json")["trials"].items()
        if trial["start"] == "shipped"
    }


def stored(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """What is stored beside each row, by the row's settings; the rows themselves go to the file of `ddim evaluate`.

    Nothing, if the rows are of other weights or another classifier than the package's.
    """
    arrays, _ = load_result("measured")
    table = json.loads(arrays["table"].item())
    known = manifest()
    if any(table["of"][key] != known[name]["sha256"] for key, name in OF.items()):
        return {}
    beside = {
        json.dumps(row["settings"]): {name: arrays[name][k] for name in BESIDE} for k, row in enumerate(table["rows"])
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    merge_results(path, table)
    return beside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FOLDER", help="left out, MNIST is downloaded")
    parser.add_argument("--keep", action="store_true", help="leave the rows of the stored result as they are")
    args = parser.parse_args()

    path = FOLDER / "table.json"
    before = stored(path) if args.keep else {}
    common = ["evaluate", "--weights", "mnist", "--n", str(N), "--seed", "0"]
    common += ["--save-samples", str(FOLDER), "--out", str(path), *(["--data", args.data] if args.data else [])]
    for row in ROWS:
        if code := ddim([*common, *row.split()]):
            raise SystemExit(code)

    table = read(path)
    assert all(table["of"][key] == manifest()[name]["sha256"] for key, name in OF.items())
    reference = Reference(*(load_dataset("mnist", args.data, split=s) for s in ("train", "test")), torch.device("cpu"))
    beside: dict[str, list[np.ndarray]] = {name: [] for name in BESIDE}
    real = moments(reference.features)
    for row in table["rows"]:
        s = row["settings"]
        row["made"].pop("command", None)  # names folders; this script's says the same
        if (key := json.dumps(s)) in before:
            for name, value in before[key].items():
                beside[name].append(value)
            continue
        drawn, _ = read_samples(FOLDER / samples_name(s), s)
        features, judged = reference.look(drawn)
        near = torch.cdist(features, reference.features) <= reference.radii
        for name, figure, hits in (
            ("sure", "share_sure", judged.probability > SURE),
            ("inside", "precision", near.any(1)),
        ):
            if hits.sum().item() != round(row["figures"][figure]["value"] * s["n"]):
                raise SystemExit(f"{FOLDER / samples_name(s)}: not the samples that the table judged; delete both")
            beside[name].append(np.pad(hits.to(torch.int8).numpy(), (0, N - len(hits)), constant_values=-1))
        beside["draws"].append(drawn_again(features, real) if s["n"] == N else np.full(DRAWS, np.nan))
        beside["images"].append(drawn[:SHOWN].squeeze(1).numpy())
        beside["spread"].append(to_model(drawn).var(0).mean().numpy())
    arrays = {name: np.stack(values) for name, values in beside.items()}
    by_epochs = {int(k): at_20_steps([row]) for k, row in read(ROOT / "training" / "by_epochs.json").items()}
    provenance = describe("mnist")["provenance"]
    now = len(provenance["history"]) + len(provenance["origin"]["provenance"]["history"])
    by_epochs[now] = at_20_steps(table["rows"])
    ratios, trials = pace(), averaged()
    save_result(
        "measured",
        {
            "table": np.array(json.dumps(table)),
            **arrays,
            "epochs": np.array(list(by_epochs)),
            "by_epochs": np.array(list(by_epochs.values())),
            "trials": np.array(list(trials)),
            "averaged": np.array(list(trials.values())),
            "enough": np.array(
                [enough(table["rows"], arrays["sure"], arrays["draws"], margin) for margin in (1, 2, 3)]
            ),
            "pace_of": np.array(list(ratios)),
            "pace": np.array(list(ratios.values())),
        },
        command=f"python book/_compute/measured.py {'--keep ' * args.keep}--data FOLDER",
        weights="mnist",
        seed=0,
        n=N,
        classifier_sha256=table["of"]["classifier_sha256"],
    )


if __name__ == "__main__":
    main()
