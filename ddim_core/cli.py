"""The command `ddim`: train, sample, evaluate, data, download, export, info.

Errors end in one line on standard error and an exit code: 2 usage, 3 data, 4 checkpoint or weights, 5 loss or images
not finite, 6 disk, 7 download not possible; 141 if nobody reads its output any more.
"""

import argparse
import errno
import json
import os
import signal
import sys
from pathlib import Path

from . import __version__
from .errors import DDIMError, DiskError, UsageError, printable
from .signals import ended_in_order

__all__ = ["main"]

_REMEDIES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "choose another, or change its permissions"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or choose another"),
    errno.ENAMETOOLONG: "choose a shorter name",
}
_CLOSED_PIPE = 128 + 13  # as shells report a program that SIGPIPE ended (Windows has no such signal)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    printable()
    args = _parser().parse_args(argv)
    args.command_line = " ".join(["ddim", *(sys.argv[1:] if argv is None else argv)])
    try:
        with ended_in_order():
            code = args.run(args) or 0
            print(end="", flush=True)  # what standard output does not take is known here, not when Python ends
            return code
    except DDIMError as error:
        return _fail(str(error), error.exit_code)
    except (ValueError, TypeError) as error:  # the library's, for a value out of range
        return _fail(str(error), UsageError.exit_code)
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        return _fail("interrupted" if number == signal.SIGINT else "terminated", 128 + number)
    except BrokenPipeError:  # whoever reads the description of weights may stop; a run that was to be made was not
        _discard_output()
        return 0 if args.run is _info else _CLOSED_PIPE
    except OSError as error:  # of a folder that may not be entered, a name that is too long, a full disk behind `>`
        if (place := _place(error)) is None:
            raise
        remedy = _REMEDIES.get(error.errno, "choose another")
        return _fail(f"{place} cannot be used ({error.strerror}): {remedy}", DiskError.exit_code)


def _fail(message: str, code: int) -> int:
    print(f"ddim: {message}", file=sys.stderr)
    return code


def _place(error: OSError) -> str | None:
    """The file or folder of a fault, or standard output; None if it does not say."""
    if error.filename is not None:
        return " ".join(str(error.filename).split())
    try:
        print(end="", flush=True)
    except OSError:
        _discard_output()
        return "standard output"
    return None


def _discard_output() -> None:
    """Let what waits for standard output go nowhere: Python would try it again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: str) -> None:
    print(line, flush=True)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line."""

    def error(self, message: str):
        self.exit(UsageError.exit_code, f"ddim: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ddim", description="Train and sample denoising diffusion implicit models.")
    parser.add_argument("--version", action="version", version=f"ddim {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    folder = {"type": _path, "metavar": "FOLDER"}

    p = commands.add_parser("train", help="train a recipe, or continue a run")
    p.set_defaults(run=_train)
    p.add_argument("recipe", metavar="RECIPE", help="mnist, mnist-large, kanji, or classifier")
    p.add_argument("--out", type=_path, metavar="DIR", help="folder of the run (default: runs/RECIPE)")
    p.add_argument("--resume", action="store_true", help="continue from the checkpoint in DIR")
    p.add_argument("--init", metavar="NAME", help="start from these weights (a name, or a file from `ddim export`)")
    p.add_argument("--data", **folder, help="that holds MNIST/raw or kkanji2 (default: where `ddim data` puts it)")
    p.add_argument("--dataset", metavar="NAME|FOLDER", help=_DATASET)
    p.add_argument("--resolution", type=int, metavar="N", help=_RESOLUTION)
    p.add_argument("--grey", action="store_true", help="make a folder's images grey (default: in colour)")
    p.add_argument("--limit", type=int, metavar="N", help="train on the first N images only, ordered by path")
    p.add_argument("--epochs", type=int)
    p.add_argument("--batch-size", type=int)
    p.add_argument("--lr", type=float)
    p.add_argument("--loss-weight", help="plain, balanced or min-snr: how much each t counts in the loss")
    p.add_argument("--seed", type=int)
    p.add_argument("--device", help="cuda, mps or cpu (default: the best available)")
    p.add_argument("--amp", help="auto (the default), fp32, bf16 or fp16")
    p.add_argument("--compile", action="store_true", help="compile the network first: pays off in long runs on a GPU")
    p.add_argument("--quiet", action="store_true", help="no progress bar")

    p = commands.add_parser("sample", help="draw images")
    p.set_defaults(run=_sample)
    _add_drawing(p, n=64)
    p.add_argument("--noise", default="torch", help="torch (the default), or js: the noise of the book's page Try it")
    out = "FILE.png, or FILE.npy with pixels in [-1, 1]"
    p.add_argument("--out", type=_path, required=True, metavar="FILE", help=out)
    p.add_argument("--columns", type=int, help="images per row of the PNG (default: as many as rows)")

    p = commands.add_parser("evaluate", help="measure samples of digits beside real ones, in one or many settings")
    p.set_defaults(run=_evaluate)
    _add_drawing(p, n=1000, many=True)
    p.add_argument("--n-slow", type=int, metavar="N", help="number of images at 500 steps and more; left out, --n")
    p.add_argument("--data", **folder, help="folder that holds MNIST/raw; left out, it is downloaded")
    p.add_argument("--out", type=_path, metavar="FILE", help="results, as JSON; rows that it holds are kept")
    p.add_argument("--save-samples", **folder, help="keep each row's samples, and judge those that lie there")
    p.add_argument("--samples", **folder, help="judge the samples that were kept there, draw none")

    p = commands.add_parser("data", help="fetch, make or check a data set, and describe it")
    p.set_defaults(run=_data)
    names = "mnist, mnist-10k, brush-kanji or kuzushiji; or a folder of images"
    p.add_argument("dataset", metavar="NAME|FOLDER", help=names)
    p.add_argument("--data", **folder, help="where it is, or where it goes (default: a cache in the home directory)")
    p.add_argument("--fonts", **folder, help="brush-kanji: where the fonts are")
    archive = "kuzushiji: kkanji.tar, if it is already on this machine"
    p.add_argument("--archive", type=_path, metavar="FILE", help=archive)
    p.add_argument("--count", type=int, metavar="N", help="kuzushiji: images in an archive other than the real one")

    p = commands.add_parser("download", help="fetch public weights into the cache and verify them", epilog=_CACHE)
    p.set_defaults(run=_download)
    p.add_argument("name", metavar="NAME", help=_PUBLIC)

    p = commands.add_parser(
        "export", help="turn a training checkpoint into a file of weights, or weights into ONNX or LiteRT"
    )
    p.set_defaults(run=_export)
    what = "last.safetensors of a run, or its folder; with --onnx or --litert, weights as `ddim sample` takes them"
    p.add_argument("checkpoint", metavar="CHECKPOINT", help=what)  # as it is: ./mnist is a folder, mnist may be a name
    p.add_argument("--out", type=_path, required=True, metavar="FILE.safetensors|FILE.onnx|FILE.tflite")
    graph = p.add_mutually_exclusive_group()
    graph.add_argument("--onnx", action="store_true", help="write the network as an ONNX file (needs the package onnx)")
    litert = "write the network as a LiteRT file, .tflite (needs the package ai-edge-litert)"
    graph.add_argument("--litert", action="store_true", help=litert)
    p.add_argument("--last-step", action="store_true", help="the weights of the last step instead of the average")
    p.add_argument("--ship", metavar="NAME", help="also add the file to the package, in a checkout")

    p = commands.add_parser("info", help="where weights come from")
    p.set_defaults(run=_info)
    p.add_argument("name", metavar="NAME", help="mnist, kanji, classifier, cifar10, or a file or folder of weights")
    return parser


_DATASET = """another data set: mnist-10k, which comes with the package, or kuzushiji; or a folder of PNG, JPEG or WebP
images whose subfolders are classes (write ./mnist if its name is that of a data set)"""
_RESOLUTION = "of a folder's images, resized and cropped to squares (default: the recipe's)"
_WEIGHTS = """mnist; kanji; a name that `ddim download` knows, downloaded once; a FILE.safetensors of `ddim export`;
or public weights of the original model: a file from the PyTorch port or from the DDIM authors (.pt, .ckpt, .pth), or a
folder that diffusers wrote"""
_PUBLIC = """cifar10: the original model, 143 MB; or one from the Hugging Face hub: google/ddpm-cifar10-32[@REVISION],
google/ddpm-NAME-256 or google/ddpm-ema-NAME-256, where NAME is celebahq, bedroom, church or cat"""
_CACHE = """The cache is ~/.cache/ddim_core, or the folder that DDIM_CORE_CACHE names; the Hugging Face hub has its
own. DDIM_CORE_CIFAR10_URL names a mirror of the file or, together with DDIM_CORE_CIFAR10_HASH (sha256:... or md5:...),
another file of the same network."""
_AMP = "arithmetic inside the network: fp32 (the default), bf16, fp16, or auto, which picks what suits the device"


def _add_drawing(p: argparse.ArgumentParser, n: int, many: bool = False) -> None:
    def option(name: str, default, help: str, **rest):
        p.add_argument(
            name, **rest, **({"nargs": "+", "default": [default]} if many else {"default": default}), help=help
        )

    p.add_argument("--weights", required=True, metavar="NAME", help=_WEIGHTS)
    option("--steps", 50, "calls of the network per image (default 50)", type=int)
    p.add_argument("--n", type=int, default=n, help=f"number of images (default {n})")
    p.add_argument("--seed", type=int, default=0)
    option("--eta", 0.0, "0 DDIM, 1 DDPM, between, or sigma-hat", type=_eta)
    option("--order", 1, "1, or 2 for DPM-Solver++(2M), with eta = 0 (default 1)", type=int)
    option("--spacing", "uniform", "of the times: uniform (the default), quadratic or logsnr")
    p.add_argument("--clip", action="store_true", help="limit every guess of the image to [-1, 1]")
    batch = "images drawn at once (default 64" + ("; on a GPU 1000)" if many else ")")
    p.add_argument("--batch-size", type=int, default=None if many else 64, help=batch)
    p.add_argument("--device", help="cuda, mps or cpu; left out, the best there is")
    p.add_argument("--amp", default="fp32", help=_AMP)


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # the shell does not do so after --out=


def _eta(text: str) -> float | str:
    try:
        return text if text == "sigma-hat" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, or sigma-hat, got {text!r}") from None


def _given(args: argparse.Namespace, *names: str) -> dict:
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _train(args: argparse.Namespace) -> int:
    if args.init is not None and (args.resume or args.recipe == "classifier"):
        raise UsageError("--init is for a new run of a network that draws images: leave it out")
    out = args.out or Path("runs", args.recipe)
    told = {"command": args.command_line, "say": _say}
    if args.recipe == "classifier":
        from .evaluate import train_judge

        if args.resolution is not None or args.grey:
            raise UsageError("the classifier is for digits: choose --dataset mnist or mnist-10k")
        others = _given(args, "resume", "batch_size", "lr", "loss_weight", "device", "amp", "compile")
        if asked := [f"--{name.replace('_', '-')}" for name, value in others.items() if value is not False]:
            raise UsageError(f"the classifier is trained in one way only, from its start: leave out {', '.join(asked)}")
        train_judge(out, **_given(args, "dataset", "data", "limit", "epochs", "seed"), **told)
        return 0
    from .launch import launch

    changes = _given(args, "epochs", "batch_size", "lr", "loss_weight", "seed", "dataset")
    images = {"data": args.data and str(args.data), **{k: getattr(args, k) for k in ("limit", "resolution", "grey")}}
    machine = {"device": args.device, "amp": args.amp, "compile": args.compile, "bar": not args.quiet}
    stopped = launch(args.recipe, out, changes, images, resume=args.resume, init=args.init, **machine, **told)
    return 128 + stopped if stopped else 0


def _drawing(args: argparse.Namespace, *names: str):
    from .drawing import Drawing

    drawing = Drawing(args.weights, args.n, **_given(args, "batch_size", "device", "amp", *names))
    if drawing.note:
        _say(drawing.note)
    return drawing


def _sample(args: argparse.Namespace) -> None:
    from .drawing import check_out, write

    check_out(args.out, args.columns)
    write(_drawing(args, "steps", "seed", "noise", "eta", "order", "spacing", "clip"), args.out, args.columns)


def _evaluate(args: argparse.Namespace) -> None:
    from .evaluate import cells, evaluate
    from .tables import table

    if args.samples and args.save_samples:
        raise UsageError("--samples judges what is there, --save-samples draws what is not: choose one")
    grid = (args.steps, args.eta, args.order, args.spacing)
    drawing = _drawing(args)
    if args.batch_size is None and drawing.device.type == "cuda":
        drawing.batch_size = 1000
    asked = cells(*grid, clip=args.clip, n=args.n, n_slow=args.n_slow)
    files = _given(args, "out", "samples", "save_samples")
    print(table(evaluate(drawing, asked, args.data, seed=args.seed, **files, command=args.command_line, say=_say)))


def _data(args: argparse.Namespace) -> None:
    from .data.prepare import prepare

    prepare(args.dataset, args.data, fonts=args.fonts, archive=args.archive, count=args.count, say=_say)


def _download(args: argparse.Namespace) -> None:
    from .weights.registry import find

    path, proof = find(args.name, "public").fetch()
    print(f"{path}: {proof}")


def _export(args: argparse.Namespace) -> None:
    from . import shipped, weights

    if args.onnx or args.litert:
        return _export_graph(args)
    if args.ship is not None:
        shipped.check_name(args.ship)
    if args.out.suffix != ".safetensors":
        raise UsageError(f"--out must end in .safetensors, got {args.out}")
    provenance = weights.export(args.checkpoint, args.out, average=not args.last_step)["provenance"]
    print(f"{args.out}: {provenance['steps']} steps on {provenance['images']} images")
    if args.ship is not None:
        print(f"shipped as {weights.ship(args.out, args.ship)}")


def _export_graph(args: argparse.Namespace) -> None:
    from .litert import export_litert
    from .onnx import export_onnx

    if args.last_step or args.ship is not None:
        flag = "--onnx" if args.onnx else "--litert"
        raise UsageError(f"--last-step and --ship are for checkpoints: with {flag} leave them out")
    done = (export_onnx if args.onnx else export_litert)(args.checkpoint, args.out)
    differs = "not compared with PyTorch: onnxruntime is not installed"
    if done["difference"] is not None:
        differs = f"within {done['difference']:.1g} of PyTorch"
    print(f"{args.out}: {done['bytes'] / 1e6:.2f} MB, {differs}")


def _info(args: argparse.Namespace) -> None:
    from .weights import describe

    print(json.dumps(describe(args.name), indent=1))
