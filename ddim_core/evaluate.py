"""The tables of the book: samples of many settings, judged and written down row by row; and how the judge is trained.

The results file is replaced in one go after each row, so that the command can be stopped at any time and goes on where
it was; what it holds: see `kept`.
"""

import platform
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from . import __version__, metrics
from .data import Dataset, fingerprint, is_folder, load_dataset, to_uint8
from .device import enough_memory
from .drawing import Drawing
from .errors import UsageError
from .files import check_writable
from .kept import SHAPE, merge_results, read_results, read_samples, samples_name, write_samples
from .measures import FEWEST, Judge, Reference
from .sample import check_eta
from .tables import in_short
from .weights import describe

__all__ = ["cells", "evaluate", "train_judge"]

SLOW = 500  # steps from which on a row may have fewer samples


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
    for name, number in (("--n", n), ("--n-slow", n_slow)):
        if number < FEWEST:
            raise UsageError(f"judging needs at least {FEWEST} samples, got {name} {number}")
    for e in eta:
        check_eta(e)
    if wrong := [o for o in order if o not in (1, 2)]:
        raise UsageError(f"order must be 1 or 2, got {wrong[0]}")
    found = [
        {
            "steps": S,
            "spacing": grid,
            "eta": e if isinstance(e, str) else float(e),
            "order": o,
            "clip": clip,
            "n": n_slow if S >= SLOW else n,
        }
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
        out: the results file. Rows that are in it are kept, others are added, beside those of another process that writes
            there as well.
        samples: folder of samples that are judged in place of new ones. save_samples: folder in which the samples of
            each row are kept, uint8 `[n, 28, 28]`; those that lie there already are judged, not drawn again.
        command: what this was asked for by, for the rows. say: is told each line of what happens.

    Raises:
        UsageError: images of another shape than the classifier knows, more samples than training images, or than
            memory holds, a file of other weights, data, n or seed. ValueError: a grid that the schedule does not have.
            DataError: samples that are missing, damaged or of something else. DiskError. Else as `load_dataset` and
            `Drawing.batches`.
    """
    from tqdm import tqdm

    out, samples, save_samples = (path if path is None else Path(path) for path in (out, samples, save_samples))
    if not cells:
        raise UsageError("no cell is asked for: see `cells`")
    if seed < 0:
        raise UsageError(f"seed must not be negative, got {seed}")
    if drawing.shape != SHAPE:
        raise UsageError(
            f"the weights {drawing.weights} draw images of {drawing.shape}, not of {SHAPE} as the classifier needs"
        )
    for cell in cells:
        drawing.schedule.timesteps(cell["steps"], spacing=cell["spacing"])
    train, test = (load_dataset("mnist", data, split=split) for split in ("train", "test"))
    for note in dict.fromkeys([*train.notes, *test.notes]):
        say(note)
    if (most := max(cell["n"] for cell in cells)) > len(train):
        raise UsageError(f"{most} samples need as many training images beside them: --n {len(train)} at most")
    of = _common(drawing, cells, train, test, seed)
    found = read_results(out, of) if out and out.exists() else {"of": of, "real": {}, "rows": []}
    hashes = {key: of[key] for key in ("weights_sha256", "classifier_sha256")}
    settings = [{**cell, "seed": seed, "amp": drawing.amp, **hashes} for cell in cells]
    todo = [s for s in settings if _lacks(found, s)]
    if not todo:
        return found
    if out:
        merge_results(out, found)  # whether it can be written is known before hours of work
    if save_samples:
        check_writable(save_samples / samples_name(todo[0]))
    with tqdm(total=sum(_of(drawing, s).calls for s in todo), unit="step", disable=None, dynamic_ncols=True) as bar:
        bar.set_description_str("real images")
        reference = Reference(train, test, drawing.device)
        judge, found["real"] = Judge(reference, seed), reference.facts
        _warm_up(_of(drawing, todo[0]), needed=samples is None)
        bar.unpause()
        for i, s in enumerate(todo, 1):
            bar.set_description_str(f"row {i}/{len(todo)}")
            if not _lacks(found, s):  # another process has made it meanwhile
                bar.total -= _of(drawing, s).calls
                continue
            images, sampled = _samples(_of(drawing, s), s, samples, save_samples, bar)
            started = time.perf_counter()
            with enough_memory("judge fewer with --n"):
                figures = {**judge.figures(images), "floor": judge.floor(s["n"])}
            judged = {**_here(drawing.device), "seconds": round(time.perf_counter() - started, 3)}
            made = {"command": command, "sampled": sampled, "judged": judged}
            row = {"settings": s, "figures": figures, "made": made}
            found["rows"].append(row)
            if out:
                merge_results(out, found)
            if len(todo) > 1:
                bar.clear()
                say(f"row {i} of {len(todo)}: {in_short(row)}")
    return found


def _lacks(found: dict, s: dict) -> bool:
    return all(row["settings"] != s for row in found["rows"])


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


def _samples(one: Drawing, s: dict, samples: Path | None, save_samples: Path | None, bar) -> tuple[Tensor, dict]:
    """Read or drawn, whatever is asked for and there: as `_draw`."""
    folder = samples or save_samples
    path = folder and folder / samples_name(s)
    if samples or (path and path.exists()):
        images, sampled = read_samples(path, s)
        bar.total -= one.calls
        bar.refresh()
        return images, sampled
    images, sampled = _draw(one, bar.update)
    if path:
        write_samples(path, images, s, sampled)
    return images, sampled


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


def _warm_up(one: Drawing, needed: bool) -> None:
    """A GPU's first calls choose and load what the later ones use: no part of the seconds of the first row."""
    if needed and one.device.type != "cpu":
        one = one.with_options(min(one.n, one.batch_size), steps=2)
        list(one.batches(lambda: None))


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
        dataset, limit: as in `load_dataset`. data: folder that holds MNIST/raw, which the test images come from.
        epochs, seed: as in `metrics.train_classifier`.
        command: what this was asked for by, for the provenance. say: is told each line of what happens.

    Raises:
        UsageError: a folder of images, epochs < 1, or a classifier that is there already. Else as `load_dataset`. DiskError.
    """
    if is_folder(dataset) or dataset not in ("mnist", "mnist-10k"):
        raise UsageError("the classifier is for digits: choose --dataset mnist or mnist-10k")
    if epochs < 1:
        raise UsageError(f"epochs must be an integer of at least 1, got {epochs}")
    if seed < 0:
        raise UsageError(f"seed must not be negative, got {seed}")
    path = out / "classifier.safetensors"
    if path.exists():
        raise UsageError(f"{path} exists: choose another --out, or remove it")
    check_writable(path)
    digits = load_dataset(dataset, data if dataset == "mnist" else None, limit=limit)
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
    metrics.save_classifier(
        path, model, command=command, images=digits.images, test_accuracy=share, epochs=epochs, seed=seed
    )
    say(f"{path}: {share:.2%} of {len(test)} test images right")
