"""The command `ddim`: train, sample, evaluate, data, download, export, info.

Faults end in one line on standard error and an exit code: 2 usage, 3 data, 4 checkpoint or weights, 5 loss not finite,
6 disk, 7 download not possible.
"""

import argparse
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

from . import __version__
from .errors import DDIMError, DiskError, UsageError, printable

__all__ = ["main"]

_CLASSES_NAMED = 20  # of a folder; of more, the number
_LOADED = (
    "recipe",
    "data",
    "limit",
    "resolution",
    "grey",
)  # options by which a run's pictures and network are found again
_PAD, _SCALE = 2, 2  # of the pictures in a PNG


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    printable()
    args = _parser().parse_args(argv)
    args.command_line = " ".join(["ddim", *(sys.argv[1:] if argv is None else argv)])
    try:
        return args.run(args) or 0
    except DDIMError as error:
        return _fail(str(error), error.exit_code)
    except (ValueError, TypeError) as error:  # what the library says of a value out of range
        return _fail(str(error), UsageError.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(message: str, code: int) -> int:
    print(f"ddim: {message}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line."""

    def error(self, message: str):
        self.exit(UsageError.exit_code, f"ddim: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ddim", description="Train and sample denoising diffusion implicit models.")
    parser.add_argument("--version", action="version", version=f"ddim {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    p = commands.add_parser("train", help="train a recipe, or go on with a run")
    p.add_argument("recipe", metavar="RECIPE", help="mnist, mnist-large, kanji, or classifier")
    p.add_argument("--out", type=Path, metavar="DIR", help="folder of the run; left out, runs/RECIPE")
    p.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR")
    p.add_argument(
        "--init", metavar="NAME", help="begin with these weights (a name, or a file that `ddim export` wrote)"
    )
    p.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="folder that holds MNIST/raw, or kkanji2; left out, MNIST is downloaded, kanji are where `ddim data` put them",
    )
    p.add_argument(
        "--dataset",
        metavar="NAME|FOLDER",
        help="another data set, as mnist-10k, which comes with the package, or kuzushiji; or a folder of PNG, JPEG or WebP "
        "pictures, whose subfolders are classes (./mnist, where it has the name of a data set)",
    )
    p.add_argument(
        "--resolution",
        type=int,
        metavar="N",
        help="of a folder's pictures, resized and cropped to squares; left out, the recipe's",
    )
    p.add_argument("--grey", action="store_true", help="make a folder's pictures grey; left out, they are in colour")
    p.add_argument(
        "--limit", type=int, metavar="N", help="train on the first N pictures only, in the order of their paths"
    )
    p.add_argument("--epochs", type=int)
    p.add_argument("--batch-size", type=int)
    p.add_argument("--lr", type=float)
    p.add_argument("--loss-weight", help="plain, balanced or min-snr: how much each t counts in the loss")
    p.add_argument("--seed", type=int)
    p.add_argument("--device", help="cuda, mps or cpu; left out, the best there is")
    p.add_argument("--amp", help="auto (the default), fp32, bf16 or fp16")
    p.add_argument("--compile", action="store_true", help="compile the network first: pays in a long run on a GPU")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    p.set_defaults(run=_train)

    p = commands.add_parser("sample", help="draw pictures")
    _add_sampling(p, n=64)
    p.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="FILE.png, or FILE.npy with pixels in [-1, 1]"
    )
    p.add_argument("--columns", type=int, help="pictures a row of the PNG; left out, a square")
    p.set_defaults(run=_sample)

    p = commands.add_parser("evaluate", help="how sure a classifier is of samples, beside real test images")
    _add_sampling(p, n=1000)
    p.add_argument(
        "--data", type=Path, metavar="FOLDER", help="folder that holds MNIST/raw; left out, it is downloaded"
    )
    p.add_argument("--out", type=Path, metavar="FILE", help="also write the figures, as JSON")
    p.set_defaults(run=_evaluate)

    p = commands.add_parser("data", help="fetch, make or check a data set, and say what it is")
    p.add_argument(
        "dataset", metavar="NAME|FOLDER", help="mnist, mnist-10k, brush-kanji or kuzushiji; or a folder of pictures"
    )
    p.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="where it is, or where it goes; left out, a cache in the home directory",
    )
    p.add_argument("--fonts", type=Path, metavar="FOLDER", help="brush-kanji: where the fonts are")
    p.add_argument(
        "--archive", type=Path, metavar="FILE", help="kuzushiji: kkanji.tar, if it is on this machine already"
    )
    p.add_argument("--count", type=int, metavar="N", help="kuzushiji: pictures of another archive than the real one")
    p.set_defaults(run=_data)

    p = commands.add_parser("download", help="fetch public weights into the cache, and verify them")
    p.add_argument(
        "name",
        metavar="NAME",
        help="cifar10: the original model, 143 MB; or one from the Hugging Face hub, google/ddpm-cifar10-32[@REVISION], "
        "google/ddpm-NAME-256 or google/ddpm-ema-NAME-256 with celebahq, bedroom, church or cat",
    )
    p.epilog = (
        "The cache is ~/.cache/ddim_core, or the folder that DDIM_CORE_CACHE names; for the Hugging Face hub, the hub's own. "
        "DDIM_CORE_CIFAR10_URL names a mirror of the file; with DDIM_CORE_CIFAR10_HASH (sha256:... or md5:...) another file of the same network."
    )
    p.set_defaults(run=_download)

    p = commands.add_parser("export", help="turn a training checkpoint into a file of weights")
    p.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="last.safetensors of a run")
    p.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    p.add_argument("--last-step", action="store_true", help="the weights of the last step instead of the average")
    p.add_argument("--ship", metavar="NAME", help="also put the file into the package, in a checkout")
    p.set_defaults(run=_export)

    p = commands.add_parser("info", help="where weights come from")
    p.add_argument("name", metavar="NAME", help="mnist, kanji, classifier, cifar10, or a file or folder of weights")
    p.set_defaults(run=_info)
    return parser


_WEIGHTS = """mnist; kanji; what `ddim download` knows, downloaded once; a file FILE.safetensors that `ddim export` wrote; or
public weights of the original model: a file of the PyTorch port (.pt, .ckpt), or a folder as diffusers writes it"""


def _add_sampling(p: argparse.ArgumentParser, n: int) -> None:
    p.add_argument("--weights", required=True, metavar="NAME", help=_WEIGHTS)
    p.add_argument("--steps", type=int, default=50, help="calls of the network a picture (default 50)")
    p.add_argument("--n", type=int, default=n, help=f"number of pictures (default {n})")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--eta", type=_eta, default=0.0, help="0 DDIM, 1 DDPM, between, or sigma-hat")
    p.add_argument("--clip", action="store_true", help="limit every guess of the picture to [-1, 1]")
    p.add_argument("--batch-size", type=int, default=64, help="pictures drawn at once (default 64)")
    p.add_argument("--device", help="cuda, mps or cpu; left out, the best there is")
    p.add_argument(
        "--amp",
        default="fp32",
        help="arithmetic inside the network: fp32 (the default), bf16, fp16, or auto, the fastest that serves",
    )


def _eta(text: str) -> float | str:
    try:
        return text if text == "sigma-hat" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, or sigma-hat, got {text!r}") from None


def _train(args: argparse.Namespace) -> int:
    from . import run
    from .data import DATASETS, is_folder, load_dataset, shown
    from .device import first_alone, processes
    from .lock import alone
    from .recipes import fit_pictures, recipe
    from .train import Trainer, train

    args.out = args.out or Path("runs", args.recipe)
    if args.init and (args.resume or args.recipe == "classifier"):
        raise UsageError("--init is for a new run of a network that draws: leave it out")
    if args.recipe == "classifier":
        return _train_classifier(args)
    changes = {k: getattr(args, k) for k in ("epochs", "batch_size", "lr", "loss_weight", "seed", "dataset")}
    bare = (args.dataset or "").rstrip(os.sep)  # a folder with or without the / that a shell puts there is the same
    if bare and bare not in DATASETS:
        changes["dataset"] = bare
    changes = {k: v for k, v in changes.items() if v is not None}
    config = recipe(args.recipe, **changes)
    checkpoint = args.out / run.CHECKPOINT
    if checkpoint.exists() and not args.resume:
        raise UsageError(f"{checkpoint} exists: go on with --resume, or choose another --out")
    notes = []
    if args.resume:
        config, notes = _as_begun(args, checkpoint, changes)
    own = {"resolution": args.resolution, "grey": args.grey}
    if is_folder(config.dataset):
        own["resolution"] = args.resolution if args.resolution is not None else config.unet.resolution
        config = fit_pictures(config, 1 if args.grey else 3, own["resolution"])  # before so many pictures are read
    with processes(), alone(args.out):
        with first_alone():
            data = load_dataset(config.dataset, args.data, limit=args.limit, **own)
        config = fit_pictures(config, *data.images.shape[1:3])
        trainer = Trainer(config, data.images, device=args.device, amp=args.amp or "auto", compile=args.compile)
        trainer.loaded = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k in _LOADED}
        if args.resume:
            run.load(trainer, checkpoint)
        elif args.init:
            run.start_from(trainer, args.init)
        if trainer.steps_done >= trainer.total_steps:
            print(f"{checkpoint} has done all {config.epochs} epochs: ask for more with --epochs")
            return 0
        if trainer.rank == 0:
            run.write_start(trainer, args.out, args.command_line, data)
            for note in [*notes, *(f"{shown(data.name)}: {note}" for note in data.notes)]:
                print(note, flush=True)
        with run.Stop() as stop:
            run.follow(trainer, train(trainer, args.out, stop=stop), args.out, bar=not args.quiet)
        if stop.signal and trainer.rank == 0:
            print(f"stopped at step {trainer.steps_done} of {trainer.total_steps}; go on with --resume")
    return 128 + stop.signal if stop.signal else 0


def _as_begun(args: argparse.Namespace, checkpoint: Path, changes: dict) -> tuple:
    """The settings of a run that goes on, its own but for `changes`; and a line for each thing that is another.

    What was left out of `args` is filled in from the run: where its pictures are, and its arithmetic.
    """
    from dataclasses import replace

    from .device import choose_amp, choose_device
    from .recipes import RECIPES
    from .run import MAY_CHANGE, begun

    config, description = begun(checkpoint)
    loaded = description["loaded"]
    if not loaded:  # by a program, or an older version: the network can only be the recipe's
        config = replace(config, unet=RECIPES[args.recipe].unet)
    elif loaded["recipe"] != args.recipe:
        raise UsageError(f"{checkpoint} is of a run of the recipe {loaded['recipe']}, not of {args.recipe}")
    for name in _LOADED:
        if not getattr(args, name):
            setattr(args, name, loaded.get(name) or getattr(args, name))
    args.data = args.data and Path(args.data)
    device = choose_device(args.device)
    if args.amp is None and device.type == description.get("device"):
        args.amp = description["amp"]
    new = {**changes, "amp": choose_amp(device, args.amp or "auto")}
    old = {name: getattr(config, name) for name in MAY_CHANGE} | {"amp": description["amp"]}
    notes = [
        f"{name} {new[name]} instead of {old[name]}, as the run was before"
        for name in old
        if new.get(name, old[name]) != old[name]
    ]
    return replace(config, **changes), notes


def _train_classifier(args: argparse.Namespace) -> int:
    from . import metrics
    from .data import is_folder, load_dataset

    name = args.dataset or "mnist"
    if args.resolution is not None or args.grey or is_folder(name):
        raise UsageError("the classifier is for digits: choose --dataset mnist or mnist-10k")
    epochs, seed = args.epochs or 6, args.seed or 0
    data = load_dataset(name, args.data, limit=args.limit)
    # mnist-10k has no test images: judge on MNIST's own
    test = load_dataset("mnist", args.data, split="test")
    model = metrics.train_classifier(
        data.images, data.labels, epochs=epochs, seed=seed, report=lambda e, loss: print(f"epoch {e}: loss {loss:.4f}")
    )
    share = metrics.accuracy(model, test.images, test.labels)
    path = args.out / "classifier.safetensors"
    metrics.save_classifier(
        path, model, command=args.command_line, images=data.images, test_accuracy=share, epochs=epochs, seed=seed
    )
    print(f"{path}: {share:.2%} of {len(test)} test images")
    return 0


class _Drawing:
    """The pictures that the options of `_add_sampling` ask for.

    Attributes:
        shape: `(C, H, W)` of one. amp: the arithmetic that was chosen.
        batches: yields them as they are drawn, `[B, C, H, W]` on the CPU, with a bar where standard error is a terminal.
    """

    def __init__(self, args: argparse.Namespace):
        from .adapt import picture_shape
        from .device import choose_amp, choose_device
        from .weights import load

        if args.n < 1 or args.batch_size < 1:
            raise UsageError(f"n and batch_size must be at least 1, got {args.n} and {args.batch_size}")
        device = choose_device(args.device)
        self.args, self.amp = args, choose_amp(device, args.amp)
        self.model, self.schedule = load(args.weights, device)
        self.shape = picture_shape(self.model)
        self.batches = self._draw()

    def _draw(self):
        from tqdm import tqdm

        from .device import enough_memory
        from .sample import generate

        args = self.args
        options = {name: getattr(args, name) for name in ("steps", "seed", "eta", "clip", "batch_size")}
        calls = math.ceil(args.n / args.batch_size) * args.steps
        with tqdm(total=calls, unit="step", disable=None, dynamic_ncols=True) as bar:
            options |= {"amp": self.amp, "progress": bar.update}
            for first in range(0, args.n, args.batch_size):
                n = min(args.batch_size, args.n - first)
                with enough_memory("draw fewer pictures at once with --batch-size"):
                    images = generate(self.model, self.schedule, n, first=first, **options).cpu()
                yield images


def _sample(args: argparse.Namespace) -> int:
    from contextlib import closing

    from .files import write_atomically

    kind = args.out.suffix.lower()
    if kind not in (".png", ".npy"):
        raise UsageError(f"--out must end in .png or .npy, got {args.out}")
    if args.columns is not None and args.columns < 1:
        raise UsageError(f"--columns must be at least 1, got {args.columns}")
    drawing = _Drawing(args)
    with closing(drawing.batches):
        write_atomically(args.out, (_png if kind == ".png" else _npy)(drawing))
    return 0


def _png(drawing: _Drawing) -> bytes:
    """A sheet of all pictures, no larger than what Pillow opens without a warning."""
    import torch
    from PIL import Image

    from .device import enough_memory
    from .plots import png, tile

    n, columns, (_, height, width) = drawing.args.n, drawing.args.columns, drawing.shape
    most = Image.MAX_IMAGE_PIXELS // (_SCALE**2 * (height + _PAD) * (width + _PAD))
    if n > most:
        raise UsageError(f"{n} pictures are too many for one PNG: --n {most} at most, or --out FILE.npy")
    with enough_memory("draw fewer with --n, or write --out FILE.npy"):
        images = torch.cat(list(drawing.batches))
        return png(tile(images, columns=columns or math.ceil(math.sqrt(n)), pad=_PAD, scale=_SCALE))


def _npy(drawing: _Drawing):
    """The parts of a .npy file, its header first: one batch at a time is in memory."""
    import io
    import shutil
    from itertools import chain

    import numpy as np

    out, shape = drawing.args.out, (drawing.args.n, *drawing.shape)
    size, folder = 4 * math.prod(shape), next(p for p in out.absolute().parents if p.exists())
    if size > (free := shutil.disk_usage(folder).free):
        raise DiskError(f"cannot write {out} ({size / 1e9:.1f} GB, and {free / 1e9:.1f} are free): draw fewer with --n")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    first = next(drawing.batches)  # before a file is begun: an option that is out of range is found here
    batches = chain([first], drawing.batches)
    return chain([header.getvalue()], (batch.numpy().astype("<f4").tobytes() for batch in batches))


def _evaluate(args: argparse.Namespace) -> int:
    import torch

    from . import metrics
    from .data import load_dataset
    from .files import write_atomically
    from .weights import describe

    classifier = metrics.load_classifier()
    test = load_dataset("mnist", args.data, split="test")
    drawing, shape = _Drawing(args), tuple(test.images.shape[1:])
    if drawing.shape != shape:
        raise UsageError(
            f"the weights {args.weights} draw pictures of {drawing.shape}, not of {shape} as the classifier needs"
        )
    real = metrics.confidence(classifier, test.images)
    parts = [metrics.confidence(classifier, batch) for batch in drawing.batches]
    drawn = metrics.Confidence(torch.cat([p.label for p in parts]), torch.cat([p.probability for p in parts]))
    figures = {
        "command": args.command_line,
        "weights_sha256": describe(args.weights)["sha256"],
        "classifier_sha256": describe("classifier")["sha256"],
        "classifier_test_accuracy": (real.label == test.labels).double().mean().item(),
        "samples": args.n,
        "steps": args.steps,
        "seed": args.seed,
        "eta": args.eta,
        "clip": args.clip,
        "amp": drawing.amp,
        "share_sure_of_samples": drawn.share(),
        "share_sure_of_test_images": real.share(),
        "samples_a_digit": drawn.label.bincount(minlength=10).tolist(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    print(f"classifier: {figures['classifier_test_accuracy']:.2%} of {len(test)} test images right")
    print(f"more than 95 % sure of {drawn.share():.1%} of {args.n} samples at {args.steps} steps")
    print(f"more than 95 % sure of {real.share():.1%} of real test images")
    print("samples of each digit 0..9:", *figures["samples_a_digit"])
    if args.out:
        write_atomically(args.out, (json.dumps(figures, indent=1) + "\n").encode())
    return 0


def _data(args: argparse.Namespace) -> int:
    from .cache import cache
    from .data import ATTRIBUTION, is_folder, kanji, kuzushiji, load_dataset

    name, folder = args.dataset, args.data
    count = kuzushiji.COUNT if args.count is None else args.count
    for option, of in (("fonts", "brush-kanji"), ("archive", "kuzushiji"), ("count", "kuzushiji")):
        if getattr(args, option) is not None and name != of:
            raise UsageError(f"--{option} is for {of} only, not for {name!r}")
    if is_folder(name):
        return _describe_folder(name, folder)
    if name in ("brush-kanji", "kuzushiji"):
        folder = folder or cache() / name
        if name == "brush-kanji" and not (folder / kanji.FOLDER).exists():
            _draw_brush_kanji(folder, args.fonts)
        if name == "kuzushiji" and (args.archive or not (folder / kanji.FOLDER).exists()):
            _unpack_kuzushiji(folder, args.archive, count)
    notes = []
    for split in ("train", "test") if name == "mnist" else ("train",):
        data = load_dataset(name, folder, split=split)
        notes += data.notes
        if name == "kuzushiji":
            kuzushiji.check_count(folder / kanji.FOLDER, len(data), len(data.classes), count)
        print(f"{name} {split}: {len(data)} images of {tuple(data.images.shape[1:])}, {len(data.classes)} classes")
    if name in ("brush-kanji", "kuzushiji"):
        print(f"in {folder / kanji.FOLDER}")
    print(*notes or [ATTRIBUTION[name]], sep="\n")
    return 0


def _describe_folder(name: str, root: Path | None) -> int:
    from collections import Counter

    from .data.folder import class_of, find_pictures, shown, survey

    if root is not None:
        raise UsageError(f"--data is for a data set known by name, not for the folder {shown(name)}: leave it out")
    found = find_pictures(name)
    sizes, grey = survey(found)
    n = len(sizes)
    low, high = ("{}x{}".format(*f(sizes, key=lambda size: size[0] * size[1])) for f in (min, max))
    print(
        f"{shown(name)}: {n} pictures of {low if low == high else f'{low} to {high}'}, {n - grey} colour, {grey} grey"
    )
    counts = Counter(map(class_of, found.pictures))
    if found.classes == (".",):
        print("no subfolders with pictures, so one class")
    else:
        some = ", ".join(f"{shown(c)} {counts[c]}" for c in found.classes[:_CLASSES_NAMED])
        print(f"{len(found.classes)} classes: {some}{', ...' if len(found.classes) > _CLASSES_NAMED else ''}")
    if note := found.note():
        print(note)
    return 0


def _draw_brush_kanji(folder: Path, fonts: Path | None) -> None:
    from .data.kanji import render_brush

    def report(font: str, kept: int, listed: int) -> None:
        print(f"{font}: {kept} of {listed} kanji", flush=True)

    n = render_brush(folder, fonts, report=report)
    print(f"left out: {n['empty']} empty glyphs, {n['duplicates']} pictures that came before")


def _unpack_kuzushiji(folder: Path, given: Path | None, count: int) -> None:
    from tqdm import tqdm

    from .data.kuzushiji import REPORTED_SHA256, fetch, unpack
    from .errors import DataError
    from .files import sha256_file

    archive = given or folder / "kkanji.tar"
    if given is None and not archive.exists():
        with tqdm(unit="B", unit_scale=True, disable=None, desc="kkanji.tar") as bar:  # on a terminal only

            def report(done: int, total: int | None) -> None:
                bar.total = total
                bar.update(done - bar.n)

            fetch(archive, report=report)
    if not archive.is_file():
        raise DataError(f"{archive}: no such file: name kkanji.tar with --archive")
    digest = sha256_file(archive)
    same = "the sha256 that" if digest == REPORTED_SHA256 else f"another sha256 than the {REPORTED_SHA256} that"
    print(f"{archive}: sha256 {digest}")
    print(f"{same} a user of the archive reported; its makers publish none, so this decides nothing", flush=True)
    unpack(archive, folder, count=count)
    if given is None:
        archive.unlink()  # all of it is in the folder now


def _download(args: argparse.Namespace) -> int:
    from .weights.registry import find

    place = find(args.name, "public")
    print(f"{place.fetch()}: {place.proof}")
    return 0


def _export(args: argparse.Namespace) -> int:
    from . import weights

    if args.out.suffix != ".safetensors":
        raise UsageError(f"--out must end in .safetensors, got {args.out}")
    provenance = weights.export(args.checkpoint, args.out, average=not args.last_step)["provenance"]
    print(f"{args.out}: {provenance['steps']} steps on {provenance['images']} images")
    if args.ship:
        print(f"shipped as {weights.ship(args.out, args.ship)}")
    return 0


def _info(args: argparse.Namespace) -> int:
    from .weights import describe

    print(json.dumps(describe(args.name), indent=1))
    return 0
