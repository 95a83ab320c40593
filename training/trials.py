"""Short runs from one start that differ in one thing each, and what each did to test images and to samples.

Run at the repository's root; a large GPU takes a few minutes with nine at once, one thread of a CPU three hours. Begun
again it goes on with the trials that are missing:

    python training/trials.py --data FOLDER --jobs 9

Every trial sees the training images in the same order; those of one batch size also the same times and noise. Each ends
with its learning rate at zero. Judged are the last weights and averages of them, by the plain loss on the test images
with times and noise that are the same for all, so that the difference from the start is a mean of paired differences and
has a standard error; and the recipe's average by samples from the same starting points: the share of which the
classifier is more than 95 % sure, and the Frechet distance between its features of them and of the test images.
"""

import argparse
import dataclasses
import json
import platform
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch

import ddim_core
from ddim_core import generate, metrics
from ddim_core.data import load_dataset, to_model
from ddim_core.device import autocast, choose_amp, choose_device
from ddim_core.files import write_atomically
from ddim_core.measures import frechet, moments
from ddim_core.recipes import recipe
from ddim_core.run import start_from
from ddim_core.schedule import add_noise
from ddim_core.train import Trainer

OUT = Path(__file__).with_suffix(".json")
DECIDED = 400, 800  # the times at which it is decided which digit an image becomes
AVERAGES = 0.995, 0.999, 0.9995
EPOCHS = {"shipped": 1, "random": 2}  # the weights that a trial begins with, and how long it is
SAMPLES, STEPS = 2_000, 50

MNIST = recipe("mnist")
WIDE = {"unet": dataclasses.replace(MNIST.unet, ch=48)}
LOW = {"unet": dataclasses.replace(MNIST.unet, ch_mult=(1, 2, 4))}
NEW = {"lr": 1e-3, "batch_size": 128, "warmup": 200}
TRIALS = {  # name: start, what differs from `BASE`
    "plain": ("shipped", {}),
    "balanced": ("shipped", {"loss_weight": "balanced"}),
    "min-snr": ("shipped", {"loss_weight": "min-snr"}),
    "balanced, batch 128": ("shipped", {"loss_weight": "balanced", "batch_size": 128}),
    "balanced, peak 1e-3": ("shipped", {"loss_weight": "balanced", "lr": 1e-3}),
    "balanced, peak 2e-4": ("shipped", {"loss_weight": "balanced", "lr": 2e-4}),
    "balanced, ch 32": ("random", {"loss_weight": "balanced", **NEW}),
    "balanced, ch_mult (1, 2, 4)": ("random", {"loss_weight": "balanced", **NEW, **LOW}),
    "balanced, ch 48": ("random", {"loss_weight": "balanced", **NEW, **WIDE}),
}
BASE = dataclasses.replace(MNIST, lr=5e-4, warmup=100)


@torch.no_grad()
def losses(model, images: torch.Tensor, schedule, amp: str) -> torch.Tensor:
    """The squared error of the noise per test image, times spread evenly over 1..T: the same draws at each call."""
    device = next(model.parameters()).device
    t = 1 + torch.arange(len(images)) * schedule.T // len(images)
    eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    found = []
    for x0, s, e in zip(images.split(500), t.split(500), eps.split(500), strict=True):
        x0, s, e = to_model(x0.to(device)), s.to(device), e.to(device)
        with autocast(device, amp):
            guess = model(add_noise(x0, s, e, schedule), s)
        found.append((guess.float() - e).square().flatten(1).mean(1))
    return torch.cat(found).cpu()


def features(classifier, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of the classifier's features."""
    return moments(torch.cat([classifier.features(x) for x in images.split(1000)]).double())


def judge(model, schedule, test: torch.Tensor, amp: str) -> dict:
    device = next(model.parameters()).device
    classifier = metrics.load_classifier().to(device)
    x = generate(model, schedule, SAMPLES, steps=STEPS, seed=0, amp=amp, batch_size=500)
    share = metrics.confidence(classifier, x).share()
    distance = frechet(*features(classifier, x), *features(classifier, to_model(test.to(device)))).item()
    return {"samples": SAMPLES, "steps": STEPS, "convincing": share, "frechet": distance}


def run(name: str, args: argparse.Namespace) -> dict:
    """Train one trial; its figures and the losses per test image of each set of weights, or of the start's."""
    torch.set_num_threads(args.threads)
    test = load_dataset("mnist", args.data, split="test").images[: args.test]
    device = choose_device(args.device)
    amp = choose_amp(device)
    if name == "start":
        model, schedule = ddim_core.load_pretrained("mnist", device)
        return {"row": {"samples": judge(model, schedule, test, amp)}, "losses": losses(model, test, schedule, amp)}
    begin, changes = TRIALS[name]
    images = load_dataset("mnist", args.data).images[: args.images]
    config = dataclasses.replace(BASE, epochs=EPOCHS[begin], **changes)
    trainer = Trainer(config, images, device=str(device), amp=amp)
    if begin == "shipped":
        start_from(trainer, "mnist")
    averages = {d: [p.clone() for p in trainer.ema.parameters()] for d in AVERAGES}
    begun = time.perf_counter()
    for step in range(trainer.total_steps):
        trainer.step()
        for decay, average in averages.items():
            rate = 1 - (decay if begin == "shipped" else min(decay, (1 + step) / (10 + step)))
            torch._foreach_lerp_(average, [p.detach() for p in trainer.model.parameters()], rate)
    trainer.record.check(trainer)
    row = {
        "start": begin,
        "epochs": config.epochs,
        "steps": trainer.total_steps,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "seconds": round(time.perf_counter() - begun),
        "samples": judge(trainer.ema, trainer.schedule, test, amp),
    }
    found = {"last": losses(trainer.model.eval(), test, trainer.schedule, amp)}
    for decay, average in averages.items():
        for p, q in zip(trainer.ema.parameters(), average, strict=True):
            p.copy_(q)
        found[f"average {decay}"] = losses(trainer.ema, test, trainer.schedule, amp)
    return {"row": row, "losses": found}


def figures(each: torch.Tensor, reference: torch.Tensor) -> dict:
    """Mean loss over all times and over `DECIDED`, and the mean difference from the reference with its standard error."""
    t = 1 + torch.arange(len(each)) * BASE.T // len(each)
    row = {}
    for name, chosen in {"all": t > 0, "decided": (t >= DECIDED[0]) & (t < DECIDED[1])}.items():
        difference = (each - reference)[chosen]
        error = difference.std() / len(difference) ** 0.5
        row[name] = {"loss": each[chosen].mean().item(), "more": difference.mean().item(), "error": error.item()}
    return row


def settings(args: argparse.Namespace) -> dict:
    device = choose_device(args.device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "images": args.images,
        "test": args.test,
        "machine": gpu or platform.processor() or platform.machine(),
        "amp": choose_amp(device),
        "torch": torch.__version__,
        "weights_sha256": ddim_core.weights.describe("mnist")["sha256"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FOLDER", help="where MNIST lies, in torchvision's layout")
    parser.add_argument("--images", type=int, default=60_000, help="training images of a trial")
    parser.add_argument("--test", type=int, default=10_000, help="test images that judge")
    parser.add_argument("--jobs", type=int, default=1, help="trials at once, each in a process of its own")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU, for each of them")
    parser.add_argument("--device", help="cuda or cpu; the best there is, if left out")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON file")
    args = parser.parse_args()

    made = settings(args)
    stored = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {"made": made, "trials": {}}
    if stored["made"] != made:
        raise SystemExit(f"{args.out} was made with other settings: {stored['made']}; remove it to begin anew")
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(run, n, args): n for n in TRIALS if n not in stored["trials"]}
        found = pool.submit(run, "start", args).result() if args.jobs > len(waiting) else run("start", args)
        start = found["losses"]
        stored["start"] = found["row"] | figures(start, start)
        for future in as_completed(waiting):
            name, found = waiting[future], future.result()
            row = found["row"] | {which: figures(each, start) for which, each in found["losses"].items()}
            stored["trials"][name] = row | {"date": time.strftime("%Y-%m-%d", time.gmtime())}
            stored["trials"] = {n: stored["trials"][n] for n in TRIALS if n in stored["trials"]}
            write_atomically(args.out, (json.dumps(stored, indent=1) + "\n").encode())
            best, drawn = row["average 0.999"]["decided"], row["samples"]
            print(
                f"{name}: {best['loss']:.5f} ({best['more']:+.5f} +- {best['error']:.5f}), "
                f"{drawn['convincing']:.1%} convincing, Frechet {drawn['frechet']:.1f}, {row['seconds']} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
