"""Few calls by first and by second order: digits and kanji from the same noise, and how far they are from many calls.

Run at the repository's root; one thread of an idle machine needs about five minutes:

    python book/_compute/fewer.py

Stores the result "fewer". Digits, for the numbers of calls in `steps` and the orders 1 and 2: uint8 `images`
[len(steps), 2, n, 28, 28] on the uniform grid, and `distance` [len(steps), 2, n] from the same digits after 1000 calls of
first order (those of the result "skip"), a mean square over pixels in [-1, 1]. The same for `logsnr_steps` on the grid that
is even in log-SNR, without and with limited guesses: `logsnr_distance` [len(logsnr_steps), 2, 2, n], the last but one index
for the limit. Kanji: uint8 `kanji` [len(kanji_steps), 2, n, 64, 64] on the uniform grid, and `kanji_many` [n, 64, 64] after
`kanji_calls` calls of second order. Image i starts from the noise that `generate(..., seed=0)` gives it.
"""

import argparse

import numpy as np
import torch

from ddim_core import image_generators, image_noise, sample
from ddim_core.data import to_model, to_uint8
from ddim_core.results import load_result, save_result
from ddim_core.weights import load_pretrained, manifest

STEPS = (2, 3, 4, 5, 6, 8, 10, 14, 20, 28, 50)
LOGSNR_STEPS = (4, 6, 10, 20)
KANJI_STEPS = (4, 6, 10, 20)
KANJI_CALLS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=16, help="digits on each grid, 32 at most (default 16)")
    parser.add_argument("--kanji", type=int, default=6, help="kanji on each grid (default 6)")
    args = parser.parse_args()

    torch.set_num_threads(1)
    model, schedule = load_pretrained("mnist")
    skip, origin = load_result("skip")
    if origin["weights_sha256"] != manifest()["mnist"]["sha256"]:
        raise SystemExit('the result "skip" is of other weights: run book/_compute/skip.py first')
    many = to_model(torch.from_numpy(skip["images"][0][: args.n])[:, None])
    xT = image_noise(image_generators(0, args.n), (1, 28, 28))

    def end(model, xT, steps, **options):
        tau = schedule.timesteps(steps, spacing=options.pop("spacing", "uniform"))
        *_, last = sample(model, schedule, xT, tau, **options)
        return last.xt

    def far(x):
        return (x.clamp(-1, 1) - many).square().mean((1, 2, 3)).numpy()

    images, distance = [], []
    for steps in STEPS:
        pair = [end(model, xT, steps, order=order) for order in (1, 2)]
        images.append([to_uint8(x).squeeze(1).numpy() for x in pair])
        distance.append([far(x) for x in pair])
        print(f"S = {steps}: " + " and ".join(f"{d.mean():.5f}" for d in distance[-1]), flush=True)
    logsnr = []
    for steps in LOGSNR_STEPS:
        options = [{"order": order, "spacing": "logsnr", "clip": clip} for order in (1, 2) for clip in (False, True)]
        found = np.stack([far(end(model, xT, steps, **o)) for o in options])
        logsnr.append(found.reshape(2, 2, args.n))
        print(f"log-SNR, S = {steps}: {found.mean(1)}", flush=True)

    model, schedule = load_pretrained("kanji")
    xT = image_noise(image_generators(0, args.kanji), (1, 64, 64))
    kanji = []
    for steps in KANJI_STEPS:
        kanji.append([to_uint8(end(model, xT, steps, order=order)).squeeze(1).numpy() for order in (1, 2)])
        print(f"kanji, S = {steps}", flush=True)
    kanji_many = to_uint8(end(model, xT, KANJI_CALLS, order=2)).squeeze(1).numpy()

    options = {"n": 16, "kanji": 6}
    changed = "".join(f" --{k} {v}" for k, v in vars(args).items() if v != options[k])
    save_result(
        "fewer",
        {
            "steps": np.array(STEPS),
            "images": np.array(images),
            "distance": np.array(distance),
            "logsnr_steps": np.array(LOGSNR_STEPS),
            "logsnr_distance": np.stack(logsnr),
            "kanji_steps": np.array(KANJI_STEPS),
            "kanji": np.array(kanji),
            "kanji_calls": np.array(KANJI_CALLS),
            "kanji_many": kanji_many,
        },
        command="python book/_compute/fewer.py" + changed,
        weights="mnist",
        kanji_sha256=manifest()["kanji"]["sha256"],
        seed=0,
        threads=1,
        dtype="float32",
    )


if __name__ == "__main__":
    main()
