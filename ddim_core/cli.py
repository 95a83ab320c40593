"""The command `ddim`: train, sample, export, info, data.

Faults end in one line on standard error and an exit code: 2 usage, 3 data, 4 checkpoint or weights, 5 loss not finite,
6 disk, 7 download not possible.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from . import __version__
from .errors import DDIMError, UsageError

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        return args.run(args) or 0
    except DDIMError as error:
        return _fail(str(error), error.exit_code)
    except (ValueError, TypeError) as error:  # what the library says of a value out of range
        return _fail(str(error), UsageError.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(message: str, code: int) -> int:
    print(f"ddim: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ddim", description="Train and sample denoising diffusion implicit models.")
    parser.add_argument("--version", action="version", version=f"ddim {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    p = commands.add_parser("train", help="train a recipe, or go on with a run")
    p.add_argument("recipe", metavar="RECIPE", help="mnist or mnist-large")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    p.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR")
    p.add_argument(
        "--data", type=Path, metavar="FOLDER", help="folder that holds MNIST/raw; left out, it is downloaded"
    )
    p.add_argument("--dataset", help="another data set, as mnist-10k, which comes with the package")
    p.add_argument("--limit", type=int, metavar="N", help="train on the first N pictures only")
    p.add_argument("--epochs", type=int)
    p.add_argument("--batch-size", type=int)
    p.add_argument("--lr", type=float)
    p.add_argument("--seed", type=int)
    p.add_argument("--device", help="cuda, mps or cpu; left out, the best there is")
    p.add_argument("--amp", default="auto", help="auto, fp32, bf16 or fp16")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    p.set_defaults(run=_train)
    return parser


def _train(args: argparse.Namespace) -> int:
    from . import train as training
    from .data import load_dataset

    changes = {k: getattr(args, k) for k in ("epochs", "batch_size", "lr", "seed", "dataset")}
    config = training.recipe(args.recipe, **{k: v for k, v in changes.items() if v is not None})
    checkpoint = args.out / training.CHECKPOINT
    if checkpoint.exists() and not args.resume:
        raise UsageError(f"{checkpoint} exists: go on with --resume, or choose another --out")
    data = load_dataset(config.dataset, args.data, limit=args.limit)
    training.join_processes()
    trainer = training.Trainer(config, data.images, device=args.device, amp=args.amp)
    if args.resume:
        trainer.load(checkpoint)
    first = trainer.rank == 0
    if first:
        _write_run(args.out, trainer)
    left = trainer.total_steps - trainer.steps_done
    if left <= 0:
        print(f"{checkpoint} has done all {config.epochs} epochs: ask for more with --epochs")
        return 0
    with _Stop() as stop:
        _follow(trainer, training.train(trainer, args.out, stop=stop), args, show=first)
    if stop.signal:
        if first:
            print(f"stopped at step {trainer.steps_done} of {trainer.total_steps}; go on with --resume")
        return 128 + stop.signal
    return 0


def _follow(trainer, steps, args, show: bool) -> None:
    """Show progress; at the end of each epoch, print its metrics and draw a grid of samples."""
    from tqdm import tqdm

    from .checkpoint import write_atomically
    from .plots import png, tile
    from .sample import generate

    bar = tqdm(
        total=trainer.total_steps * trainer.batch_size,
        initial=trainer.steps_done * trainer.batch_size,
        unit=" images",
        unit_scale=True,
        mininterval=1.0,
        disable=args.quiet or not show,
        dynamic_ncols=True,
        bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
    )
    with bar:
        for step in steps:
            bar.update(trainer.batch_size)
            if step.step % 20 == 0:
                bar.set_description_str(f"epoch {step.epoch}/{trainer.config.epochs}", refresh=False)
                bar.set_postfix_str(f"loss {step.loss.item():.4f}", refresh=False)
            if step.metrics and show:
                samples = generate(trainer.ema, trainer.schedule, 64, steps=20, seed=0)
                write_atomically(args.out / f"samples_epoch_{step.epoch:03d}.png", png(tile(samples)))
                bar.write(
                    f"epoch {step.epoch}: loss {step.metrics['loss']:.5f}, "
                    f"{step.metrics['images_per_second']:.0f} images/s",
                    file=sys.stdout,
                )
                sys.stdout.flush()


def _write_run(out: Path, trainer) -> None:
    """Beside the checkpoint: the resolved configuration, and one line for every start of the run."""
    import torch

    from .checkpoint import write_atomically

    config = {"config": asdict(trainer.config), "data_sha256": trainer.data_sha256, "images": len(trainer.images)}
    write_atomically(out / "config.json", (json.dumps(config, indent=1) + "\n").encode())
    start = {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "from_step": trainer.steps_done,
        "command": " ".join(["ddim", *sys.argv[1:]]),
        "commit": _commit(),
        "version": __version__,
        "torch": torch.__version__,
        "processes": trainer.world,
        "device": str(trainer.device),
        "amp": trainer.amp,
    }
    starts = out / "starts.jsonl"
    before = starts.read_bytes() if starts.exists() else b""
    write_atomically(starts, before + (json.dumps(start) + "\n").encode())


def _commit() -> str | None:
    """The commit of the code, where it runs from a repository; with a + where files differ from it."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "."], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


class _Stop:
    """Turns SIGINT and SIGTERM into an answer to `stop()`; a second SIGINT interrupts at once, as usual."""

    signal = 0

    def __enter__(self):
        self.old = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception):
        for s, handler in self.old.items():
            signal.signal(s, handler)

    def __call__(self) -> bool:
        return self.signal != 0

    def _note(self, number, frame):
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
