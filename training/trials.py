"""Short runs from one start that differ in one thing each, and what each did to the loss on test images.

Run at the repository's root; one thread takes about two hours without a GPU, and begun again it goes on with the next trial:

    OMP_NUM_THREADS=1 python training/trials.py --data FOLDER

Every trial sees the same training images in the same order; trials with one batch size also the same times and noise. Each ends
with its learning rate at zero. Judged are the averaged and the last weights, by the plain loss on test images with times and
noise that are the same for all: a difference between two trials is a mean of paired differences, and is stored with its standard
error. `shipped` trials begin with the shipped weights, `random` ones with random weights.
"""

import argparse
import dataclasses
import json
import platform
import time
from pathlib import Path

import torch

import ddim_core
from ddim_core.data import load_dataset, to_model
from ddim_core.files import write_atomically
from ddim_core.recipes import recipe
from ddim_core.run import start_from
from ddim_core.schedule import add_noise
from ddim_core.train import Trainer

OUT = Path(__file__).with_suffix(".json")
DECIDED = 400, 800  # the times at which it is decided which digit an image becomes
AVERAGES = 0.98, 0.995

MNIST = recipe("mnist")
WIDE = {"unet": dataclasses.replace(MNIST.unet, ch=48, norm_groups=12)}
LOW = {"unet": dataclasses.replace(MNIST.unet, ch_mult=(1, 2, 4))}
TRIALS = {  # name: start, what differs from `BASE`
    "plain": ("shipped", {}),
    "balanced": ("shipped", {"loss_weight": "balanced"}),
    "min-snr": ("shipped", {"loss_weight": "min-snr"}),
    "balanced, batch 128": ("shipped", {"loss_weight": "balanced", "batch_size": 128}),
    "balanced, peak 1e-3": ("shipped", {"loss_weight": "balanced", "lr": 1e-3}),
    "balanced, peak 2e-4": ("shipped", {"loss_weight": "balanced", "lr": 2e-4}),
    "ch 32": ("random", {"lr": 1e-3}),
    "ch 32, balanced": ("random", {"lr": 1e-3, "loss_weight": "balanced"}),
    "ch 32, ch_mult (1, 2, 4)": ("random", {"lr": 1e-3, **LOW}),
    "ch 48": ("random", {"lr": 1e-3, **WIDE}),
}
BASE = dataclasses.replace(MNIST, epochs=1, lr=5e-4, warmup=20)


@torch.no_grad()
def losses(model, images: torch.Tensor, schedule) -> torch.Tensor:
    """The squared error of the noise per test image, times spread evenly over 1..T: the same draws at each call."""
    t = 1 + torch.arange(len(images)) * schedule.T // len(images)
    eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    found = []
    for x0, s, e in zip(to_model(images).split(100), t.split(100), eps.split(100), strict=True):
        found.append((model(add_noise(x0, s, e, schedule), s) - e).square().flatten(1).mean(1))
    return torch.cat(found)


def run(start: str, changes: dict, images: torch.Tensor, test: torch.Tensor) -> tuple[dict, dict]:
    """Train one trial; returns its figures and the losses per test image of each set of weights."""
    trainer = Trainer(dataclasses.replace(BASE, **changes), images, device="cpu", amp="fp32")
    if start == "shipped":
        start_from(trainer, "mnist")
    averages = {d: [p.clone() for p in trainer.ema.parameters()] for d in AVERAGES}
    begun = time.process_time()
    for step in range(trainer.total_steps):
        trainer.step()
        for decay, average in averages.items():
            rate = 1 - (decay if start == "shipped" else min(decay, (1 + step) / (10 + step)))
            torch._foreach_lerp_(average, [p.detach() for p in trainer.model.parameters()], rate)
    seconds = time.process_time() - begun
    found = {"last": losses(trainer.model.eval(), test, trainer.schedule)}
    for decay, average in averages.items():
        for p, q in zip(trainer.ema.parameters(), average, strict=True):
            p.copy_(q)
        found[f"average {decay}"] = losses(trainer.ema, test, trainer.schedule)
    size = sum(p.numel() for p in trainer.model.parameters())
    return {"start": start, "steps": trainer.total_steps, "parameters": size, "seconds": round(seconds)}, found


def figures(each: torch.Tensor, reference: torch.Tensor) -> dict:
    """Mean loss over all times and over `DECIDED`, and the mean difference from the reference with its standard error."""
    t = 1 + torch.arange(len(each)) * BASE.T // len(each)
    row = {}
    for name, chosen in {"all": t > 0, "decided": (t >= DECIDED[0]) & (t < DECIDED[1])}.items():
        difference = (each - reference)[chosen]
        error = difference.std() / len(difference) ** 0.5
        row[name] = {"loss": each[chosen].mean().item(), "more": difference.mean().item(), "error": error.item()}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FOLDER", help="where MNIST lies, in torchvision's layout")
    parser.add_argument("--images", type=int, default=8_000, help="training images of a trial")
    parser.add_argument("--test", type=int, default=2_000, help="test images that judge")
    args = parser.parse_args()

    images = load_dataset("mnist", root=args.data, split="train").images[: args.images]
    test = load_dataset("mnist", root=args.data, split="test").images[: args.test]
    made = {"images": args.images, "test": args.test, "machine": platform.processor() or platform.machine()}
    made |= {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "weights_sha256": ddim_core.weights.describe("mnist")["sha256"],
    }
    stored = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {"made": made, "trials": {}}
    if stored["made"] != made:
        raise SystemExit(f"{OUT} was made with other settings: {stored['made']}; remove it to begin anew")
    model, schedule = ddim_core.load_pretrained("mnist")
    start = losses(model, test, schedule)
    stored["start"] = figures(start, start)
    for name, (begin, changes) in TRIALS.items():
        if name in stored["trials"]:
            continue
        row, found = run(begin, changes, images, test)
        stored["trials"][name] = row | {which: figures(each, start) for which, each in found.items()}
        stored["trials"][name]["date"] = time.strftime("%Y-%m-%d", time.gmtime())
        write_atomically(OUT, (json.dumps(stored, indent=1) + "\n").encode())
        best = stored["trials"][name]["average 0.995"]["decided"]
        print(
            f"{name}: {best['loss']:.5f} ({best['more']:+.5f} +- {best['error']:.5f}), {row['seconds']} s", flush=True
        )


if __name__ == "__main__":
    main()
