"""The tables of the book: samples of many settings, judged and written down row by row; and how the judge is trained.

The results file is one JSON object:

    of      what all rows share: sha256 of the weights, the classifier and the data, the numbers of samples, the seed
    real    what the classifier makes of the test images
    rows    one for each cell: "settings" say which, "figures" are the same whenever the row is made again on the same
            machine, "made" says when, where and in how many seconds it was

It is replaced in one go after each row, so that the command can be stopped at any time and goes on where it was.
"""

import io
import json
import platform
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import __version__, metrics
from .data import Dataset, fingerprint, is_folder, load_dataset, to_uint8
from .drawing import Drawing
from .errors import DataError, UsageError
from .files import write_atomically
from .measures import FEWEST, Judge, Reference
from .sample import check_eta
from .weights import describe

__all__ = ["cells", "evaluate", "train_judge"]

SLOW = 500  # steps from which on a row may have fewer samples
_SHAPE = (1, 28, 28)
_WORDS = {"weights_sha256": "weights", "classifier_sha256": "classifier", "train_sha256": "training images"}
_WORDS |= {"test_sha256": "test images", "n": "--n", "n_slow": "--n-slow", "seed": "--seed"}


def cells(
    steps: Sequence[int] = (50,),
    eta: Sequence[float | str] = (0.0,),
    order: Sequence[int] = (1,),
    spacing: Sequence[str] = ("uniform",),
    *,
    clip: bool = False,
    n: int = 1000,
    n_slow: int | None = None,
) -> list[dict]:
    """The product of the settings, each cell a dict of steps, spacing, eta, order, clip and n.

    Order 2 goes with eta = 0 only: its cells with another eta are left out.

    Args:
        n_slow: number of samples where there are 500 steps or more; left out, n.

    Raises:
        UsageError: too few samples to be judged, or no cell is left. ValueError: an eta or order that there is not.
    """
    n_slow = n if n_slow is None else n_slow
    if min(n, n_slow) < FEWEST:
        raise UsageError(f"judging needs at least {FEWEST} samples, got --n {min(n, n_slow)}")
    for e in eta:
        check_eta(e)
    if wrong := [o for o in order if o not in (1, 2)]:
        raise UsageError(f"order must be 1 or 2, got {wrong[0]}")
    found = [
        {"steps": S, "spacing": grid, "eta": e, "order": o, "clip": clip, "n": n_slow if S >= SLOW else n}
        for grid, o, e, S in product(*map(dict.fromkeys, (spacing, order, eta, steps)))
        if o == 1 or e == 0
    ]
    if not found:
        raise UsageError("order 2 needs eta 0, and no other cell is asked for: add --eta 0 or --order 1")
    return found


def evaluate(
    drawing: Drawing,
    cells: Sequence[dict],
    data: str | Path | None = None,
    *,
    seed: int = 0,
    out: Path | None = None,
    samples: Path | None = None,
    save_samples: Path | None = None,
    command: str = "",
    say: Callable[[str], object] = lambda line: None,
) -> dict:
    """Judge what a network draws in each of the cells; returns the results, as they are in the file.

    Args:
        drawing: of the network; its n and options do not count.
        cells: as `cells` makes them.
        data: folder that holds MNIST/raw; left out, it is downloaded.
        seed: of the samples, and of what the judge draws.
        out: the results file. Rows that are in it are kept, others are added.
        samples: folder of samples that are judged in place of new ones. save_samples: folder in which the samples of
            each row are kept, uint8 `[n, 28, 28]`; those that lie there already are judged, not drawn again.
        command: what this was asked for by, for the rows. say: is told each line of what happens.

    Raises:
        UsageError: pictures of another shape than the classifier knows, a grid that the schedule does not have, a file
            of other weights, data, n or seed. DataError: samples that are missing, damaged or of something else.
            DiskError. Else as `load_dataset` and `Drawing.batches`.
    """
    from tqdm import tqdm

    if drawing.shape != _SHAPE:
        raise UsageError(
            f"the weights {drawing.weights} draw pictures of {drawing.shape}, not of {_SHAPE} as the classifier needs"
        )
    for cell in cells:
        drawing.schedule.timesteps(cell["steps"], spacing=cell["spacing"])
    train, test = (load_dataset("mnist", data, split=split) for split in ("train", "test"))
    for note in dict.fromkeys([*train.notes, *test.notes]):
        say(note)
    of = _common(drawing, cells, train, test, seed)
    found = _read(out, of) if out and out.exists() else {"of": of, "real": {}, "rows": []}
    rows = found["rows"]
    settings = [
        {
            "weights_sha256": of["weights_sha256"],
            **cell,
            "seed": seed,
            "amp": drawing.amp,
            "classifier_sha256": of["classifier_sha256"],
        }
        for cell in cells
    ]
    todo = [s for s in settings if all(row["settings"] != s for row in rows)]
    if not todo:
        return found
    if out:
        _write(out, found)  # whether it can be written is known before hours of work
    reference = Reference(train, test, drawing.device)
    found["real"] = reference.facts
    judge = Judge(reference, seed)
    warm = False
    calls = sum(_of(drawing, s).calls for s in todo)
    with tqdm(total=calls, unit="step", disable=None, dynamic_ncols=True) as bar:
        for i, s in enumerate(todo, 1):
            bar.set_description_str(f"row {i}/{len(todo)}")
            one = _of(drawing, s)
            kept = (samples or save_samples) and (samples or save_samples) / _name(s)
            if samples or (kept and kept.exists()):
                images, sampled = _read_samples(kept, s)
                bar.total -= one.calls
                bar.refresh()
            else:
                warm = warm or _warm_up(one)
                images, sampled = _draw(one, bar.update)
                if kept:
                    _write_samples(kept, images, s, sampled)
            started = time.perf_counter()
            figures = {**judge.figures(images), "floor": judge.floor(s["n"])}
            judged = {**_here(drawing.device), "seconds": round(time.perf_counter() - started, 3)}
            rows.append(
                {"settings": s, "figures": figures, "made": {"command": command, "sampled": sampled, "judged": judged}}
            )
            if out:
                _write(out, found)
            if len(todo) > 1:
                bar.clear()
                say(f"row {i} of {len(todo)}: {_short(rows[-1])}")
    return found


def _common(drawing: Drawing, cells: Sequence[dict], train: Dataset, test: Dataset, seed: int) -> dict:
    """What all rows of a file share."""
    slow, fast = ([c["n"] for c in cells if (c["steps"] >= SLOW) == is_slow] for is_slow in (True, False))
    return {
        "weights_sha256": describe(drawing.weights)["sha256"],
        "classifier_sha256": describe("classifier")["sha256"],
        "train_sha256": fingerprint(train.images),
        "test_sha256": fingerprint(test.images),
        "n": fast[0] if fast else None,
        "n_slow": slow[0] if slow else None,
        "seed": seed,
    }


def _of(drawing: Drawing, s: dict) -> Drawing:
    return drawing.with_options(s["n"], **{k: s[k] for k in ("steps", "spacing", "eta", "order", "clip", "seed")})


def _draw(one: Drawing, progress: Callable[[], object]) -> tuple[Tensor, dict]:
    """The samples as pixels, uint8 `[n, 1, 28, 28]` on the CPU, as files hold them; and what drawing them took."""
    called = 0

    def count() -> None:
        nonlocal called
        called += 1
        progress()

    started = time.perf_counter()
    parts = [to_uint8(batch) for batch in one.batches(count)]
    seconds = time.perf_counter() - started
    each = called // len(parts)
    took = {"seconds": round(seconds, 3), "calls_per_image": each, "calls": each * one.n, "batch_size": one.batch_size}
    return torch.cat(parts), {**_here(one.device), **took}


def _warm_up(one: Drawing) -> bool:
    """A GPU's first calls choose and load what the later ones use: no part of the seconds of the first row."""
    if one.device.type != "cpu":
        list(one.with_options(min(one.n, one.batch_size), steps=2).batches(lambda: None))
    return True


def _here(device: torch.device) -> dict:
    """When and where something is computed."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "device": device.type,
        "machine": _machine(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **({"cudnn_tf32": torch.backends.cudnn.allow_tf32} if device.type == "cuda" else {}),
        "version": __version__,
    }


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, threads: {torch.get_num_threads()}"


# --- files -------------------------------------------------------------------------------------------------------


def _write(out: Path, found: dict) -> None:
    write_atomically(out, (json.dumps(found, indent=1) + "\n").encode())


def _read(out: Path, of: dict) -> dict:
    """The results in a file that goes with these. Raises UsageError."""
    try:
        found = json.loads(out.read_text(encoding="utf-8"))
        before, _, rows = found["of"], found["real"], found["rows"]
        whole = all(isinstance(row[part], dict) for row in rows for part in ("settings", "figures", "made"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        whole, before = False, {}
    if not whole or not isinstance(before, dict):
        raise UsageError(f"{out} was not written by `ddim evaluate`: choose another --out")
    # of a number of samples that had no row yet, nothing is known
    other = [word for key, word in _WORDS.items() if None not in (before.get(key), of[key]) and before[key] != of[key]]
    if other:
        raise UsageError(f"{out} holds rows of other {', '.join(other)}: use the same, or choose another --out")
    found["of"] = {key: before.get(key) if of[key] is None else of[key] for key in of}
    return found


def _name(s: dict) -> str:
    clip = "_clip" if s["clip"] else ""
    return (
        f"S{s['steps']}_{s['spacing']}_eta{s['eta']}_order{s['order']}{clip}_{s['amp']}_n{s['n']}_seed{s['seed']}.npz"
    )


def _drawn_from(s: dict) -> dict:
    return {key: value for key, value in s.items() if key != "classifier_sha256"}


def _write_samples(path: Path, images: Tensor, s: dict, sampled: dict) -> None:
    about = json.dumps({"settings": _drawn_from(s), "sampled": sampled})
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images[:, 0].numpy(), about=np.array(about))
    write_atomically(path, buffer.getvalue())


def _read_samples(path: Path, s: dict) -> tuple[Tensor, dict]:
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            images, about = torch.from_numpy(file["images"]), json.loads(file["about"].item())
        settings, sampled = about["settings"], about["sampled"]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file: draw these samples with --save-samples {path.parent}") from None
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        raise DataError(f"{path} is damaged ({error}): remove it, and draw these samples anew") from error
    if different := [key for key, value in _drawn_from(s).items() if settings.get(key) != value]:
        raise DataError(f"{path} holds samples of another {', '.join(different)}: choose another folder")
    if images.dtype != torch.uint8 or tuple(images.shape) != (s["n"], *_SHAPE[1:]):
        raise DataError(f"{path} is damaged (images of {tuple(images.shape)}): remove it, and draw these samples anew")
    return images[:, None], sampled


# --- in words ----------------------------------------------------------------------------------------------------


def _short(row: dict) -> str:
    s, f = row["settings"], row["figures"]
    what = f"S = {s['steps']}, eta = {s['eta']}, order {s['order']}, {s['spacing']}{', clip' if s['clip'] else ''}"
    seconds = [row["made"][part]["seconds"] for part in ("sampled", "judged")]
    return f"{what}: Frechet {f['frechet']['value']:.2f}, {seconds[0]:.1f} s, judged in {seconds[1]:.1f} s"


def train_judge(
    out: Path,
    dataset: str = "mnist",
    data: str | Path | None = None,
    *,
    limit: int | None = None,
    epochs: int = 6,
    seed: int = 0,
    command: str,
    say: Callable[[str], object] = print,
) -> None:
    """Train the classifier of digits, and write it into the folder `out`, with its accuracy on MNIST's test images.

    Args:
        dataset, data, limit: as in `load_dataset`. epochs, seed: as in `metrics.train_classifier`.
        command: what this was asked for by, for the provenance. say: is told each line of what happens.

    Raises:
        UsageError: a folder of pictures, or epochs < 1. Else as `load_dataset`. DiskError.
    """
    if is_folder(dataset):
        raise UsageError("the classifier is for digits: choose --dataset mnist or mnist-10k")
    if epochs < 1:
        raise UsageError(f"epochs must be an integer of at least 1, got {epochs}")
    digits = load_dataset(dataset, data, limit=limit)
    # mnist-10k has no test images: judge on MNIST's own
    test = load_dataset("mnist", data, split="test")
    model = metrics.train_classifier(
        digits.images,
        digits.labels,
        epochs=epochs,
        seed=seed,
        report=lambda e, loss: say(f"epoch {e}: loss {loss:.4f}"),
    )
    share = metrics.accuracy(model, test.images, test.labels)
    path = out / "classifier.safetensors"
    metrics.save_classifier(
        path, model, command=command, images=digits.images, test_accuracy=share, epochs=epochs, seed=seed
    )
    say(f"{path}: {share:.2%} of {len(test)} test images")
