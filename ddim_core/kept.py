"""What `ddim evaluate` keeps: its results file, and the samples that it judged.

The results file is one JSON object:

    of      what all rows share: sha256 of the weights, the classifier and the data, the numbers of samples, the seed
    real    what the classifier makes of the test images
    rows    one for each cell: "settings" say which, "figures" are the same whenever the row is made again on the same
            machine, "made" says when, where and in how many seconds it was

Samples are one compressed file for each cell: "images", uint8 `[n, 28, 28]`, and "about", the settings and how they were
drawn, as JSON.
"""

import io
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .errors import DataError, UsageError
from .files import write_atomically
from .lock import in_turn

__all__ = [
    "merge_results",
    "read_results",
    "read_samples",
    "samples_name",
    "write_results",
    "write_samples",
]

SHAPE = (1, 28, 28)  # of an image that can be judged
_WORDS = {"weights_sha256": "weights", "classifier_sha256": "classifier", "train_sha256": "set of training images"}
_WORDS |= {"test_sha256": "set of test images", "n": "--n", "n_slow": "--n-slow", "seed": "--seed"}


def write_results(out: Path, found: dict) -> None:
    """Write the results file, whole or not at all. Raises DiskError."""
    write_atomically(out, (json.dumps(found, indent=1) + "\n").encode())


def read_results(out: Path, of: dict) -> dict:
    """The results in a file that goes with these. Raises UsageError."""
    try:
        found = json.loads(out.read_text(encoding="utf-8"))
        before, _, rows = found["of"], found["real"], found["rows"]
        whole = isinstance(rows, list) and all(
            isinstance(row[part], dict) for row in rows for part in ("settings", "figures", "made")
        )
        whole = whole and all(found["real"] and {"frechet", "floor", "kid"} <= row["figures"].keys() for row in rows)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        whole, before = False, {}
    if not whole or not isinstance(before, dict):
        raise UsageError(f"{out} was not written by `ddim evaluate`: choose another --out")
    # of a number of samples that had no row yet, nothing is known
    other = [word for key, word in _WORDS.items() if None not in (before.get(key), of[key]) and before[key] != of[key]]
    if not rows:  # it was begun, and nothing came of it
        return {"of": of, "real": {}, "rows": []}
    if other:
        raise UsageError(f"{out} was made with another {', '.join(other)}: use the same, or choose another --out")
    found["of"] = {key: before.get(key) if of[key] is None else of[key] for key in of}
    return found


def merge_results(out: Path, found: dict) -> None:
    """Write the results file with the rows that another process has meanwhile written there; they are added to `found`.

    Raises:
        UsageError: as `read_results` and `in_turn`. DiskError: as `write_results`.
    """
    with in_turn(out):
        if out.exists():
            there = read_results(out, found["of"])
            mine = [row["settings"] for row in found["rows"]]
            found["rows"] += [row for row in there["rows"] if row["settings"] not in mine]
            found["of"], found["real"] = there["of"], found["real"] or there["real"]
        write_results(out, found)


def samples_name(s: dict) -> str:
    """The name of the file of samples with these settings."""
    clip = "_clip" if s["clip"] else ""
    return (
        f"S{s['steps']}_{s['spacing']}_eta{s['eta']}_order{s['order']}{clip}_{s['amp']}_n{s['n']}_seed{s['seed']}.npz"
    )


def _drawn_from(s: dict) -> dict:
    return {key: value for key, value in s.items() if key != "classifier_sha256"}


def write_samples(path: Path, images: Tensor, s: dict, sampled: dict) -> None:
    """Write samples, uint8 `[n, 1, 28, 28]`, with their settings and how they were drawn. Raises DiskError."""
    about = json.dumps({"settings": _drawn_from(s), "sampled": sampled})
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images[:, 0].numpy(), about=np.array(about))
    write_atomically(path, buffer.getvalue())


def read_samples(path: Path, s: dict) -> tuple[Tensor, dict]:
    """Samples that `write_samples` wrote with these settings: (uint8 `[n, 1, 28, 28]`, how they were drawn).

    Raises:
        DataError: no such file, a damaged one, or samples of other settings.
    """
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            images, about = torch.from_numpy(file["images"]), json.loads(file["about"].item())
        settings, sampled = about["settings"], about["sampled"]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file: draw these samples with --save-samples {path.parent}") from None
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        raise DataError(f"{path} is damaged ({error}): remove it, and draw these samples anew") from error
    if different := [key for key, value in _drawn_from(s).items() if settings.get(key) != value]:
        names = ", ".join(_WORDS.get(key, key) for key in different)
        raise DataError(f"{path} holds samples made with another {names}: choose another folder")
    if images.dtype != torch.uint8 or tuple(images.shape) != (s["n"], *SHAPE[1:]):
        raise DataError(f"{path} is damaged (images of {tuple(images.shape)}): remove it, and draw these samples anew")
    return images[:, None], sampled
