"""Brush kanji: what the data are, what the network draws, and which training image is nearest to each drawing.

Run at the repository's root, where the brush fonts are installed, with the folder that holds kkanji2; one thread needs
about eight minutes:

    python book/_compute/kanji.py --data FOLDER --young FILE

The young network is the one with whose weights training began anew (`ddim info kanji` has its sha256 as the origin's, and
the repository's history has its file).

Stores the result "kanji", all images as uint8:
 - `hands` [characters, fonts, 64, 64], eight characters in each font; `counts` [fonts, 4], how many kanji the font lists,
   leaves empty, repeats, and gives to the data; `in_hands` [fonts], characters that 1, 2, ... of them drew;
 - `samples` [n, 64, 64] in S steps with eta = 1, guesses limited to [-1, 1]; the first eight for the numbers of steps in
   `steps`, `step_images`;
 - eta = 0 in 20 steps by the young network, by the young network from noise whose mean is taken away, and by the network
   as it is now: the first eight, `ddim_images`, and the mean brightness, 0 to 1, of all n, `ddim_ink`; the mean of
   256 draws of noise, and what the young network and this one see of it in as many noised images, at the times
   `mean_times`: `means` [networks, times, 2, 256];
 - for the samples, by each of `kinds`: `distance` and the nearest training images, `neighbours` [kinds, n, 64, 64], with
   their characters; for some training images, `real_index`, the `real_distance` to the nearest other one, whether that
   shows the `same` character, and how many `mates`, other images of its character, there are; and their
   `shifted_distance` to the nearest training image when they are moved by one pixel to the right and down;
 - `measure`, `real_measure`: ink, grey pixels and pieces of samples and of the same training images.
"""

import argparse
import hashlib
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddim_core import Schedule, UNet, add_noise, generate, image_generators, image_noise, sample
from ddim_core.data import Dataset, load_dataset, to_model, to_uint8
from ddim_core.data.kanji import _glyphs, find_fonts
from ddim_core.files import sha256_file
from ddim_core.metrics import edge_directions, nearest
from ddim_core.results import save_result
from ddim_core.weights import describe, load_pretrained, load_weights

S, STEPS, SHOWN = 100, (10, 20, 50), 8
TIMES = (1000, 800, 600, 400, 200)
CHARACTERS = "永書道風夢雨花龍"


def fonts_of(data: Dataset, fonts: str | None) -> tuple[list[str], np.ndarray, Tensor]:
    """The fonts' names; how many kanji each lists, leaves empty, repeats, and gives to the data; each image's font."""
    place = {hashlib.sha256(image.numpy().tobytes()).digest(): k for k, image in enumerate(data.images)}
    font = torch.full((len(data),), -1)
    paths, counts = find_fonts(fonts), []
    for number, path in enumerate(paths):
        listed = empty = repeated = 0
        for _, image in _glyphs(path):
            listed += 1
            if image is None:
                empty += 1
                continue
            k = place[hashlib.sha256(image.tobytes()).digest()]
            repeated += int(font[k] >= 0)
            if font[k] < 0:
                font[k] = number
        counts.append((listed, empty, repeated, int((font == number).sum())))
        print(path.name, *counts[-1], flush=True)
    assert (font >= 0).all(), "the data hold images that these fonts do not draw"
    return [path.stem for path in paths], np.array(counts), font


def pieces(images: Tensor) -> Tensor:
    """Connected pieces of ink (brighter than half, touching at sides or corners) in uint8 `[N, 1, 64, 64]`: `[N]`."""
    ink = (images > 127).float()
    own = (1 + torch.arange(64.0 * 64)).view(1, 1, 64, 64) * ink
    names, before = own, None
    while before is None or not torch.equal(names, before):
        before = names
        for _ in range(8):
            names = F.max_pool2d(names, 3, 1, padding=1) * ink
    return ((names == own) & (ink > 0)).sum((1, 2, 3))


def measures(images: Tensor) -> np.ndarray:
    """Mean brightness, share of pixels neither nearly black nor nearly white, pieces: `[3, N]`."""
    ink = images.float().mean((1, 2, 3)) / 255
    grey = ((images > 12) & (images < 243)).float().mean((1, 2, 3))
    return torch.stack([ink, grey, pieces(images).float()]).numpy()


@torch.no_grad()
def means(net: UNet, schedule: Schedule, images: Tensor, n: int = 256) -> Tensor:
    """The mean over an image of the noise that is in it, and of the noise that the network sees: `[len(TIMES), 2, n]`."""
    generator = torch.Generator().manual_seed(1)
    x0 = to_model(images[torch.randperm(len(images), generator=generator)[:n]])
    eps, found = torch.randn(x0.shape, generator=generator), []
    for time_ in TIMES:
        t = torch.full((n,), time_)
        xt = add_noise(x0, t, eps, schedule)
        seen = torch.cat([net(x, s) for x, s in zip(xt.split(32), t.split(32), strict=True)])
        found.append(torch.stack([eps.mean((1, 2, 3)), seen.mean((1, 2, 3))]))
    return torch.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FOLDER", help="left out, where `ddim data brush-kanji` puts it")
    parser.add_argument("--fonts", metavar="FOLDER", help="left out, where the system has them")
    parser.add_argument("--young", metavar="FILE", required=True, help="the weights that training was continued from")
    parser.add_argument("--n", type=int, default=64, help="samples (default 64)")
    args = parser.parse_args()

    torch.set_num_threads(1)
    model, schedule = load_pretrained("kanji")
    data = load_dataset("brush-kanji", args.data)
    names, counts, font = fonts_of(data, args.fonts)
    labels = [data.classes.index(character) for character in CHARACTERS]
    hands = torch.stack(
        [torch.stack([data.images[(data.labels == k) & (font == h)][0, 0] for h in range(len(names))]) for k in labels]
    )

    start = time.process_time()
    samples = to_uint8(generate(model, schedule, args.n, steps=S, seed=0, eta=1.0, clip=True))
    seconds = time.process_time() - start
    print(f"{args.n} samples in {S} steps: {seconds:.0f} s", flush=True)
    step_images = [
        to_uint8(generate(model, schedule, SHOWN, steps=steps, seed=0, eta=1.0, clip=True)) for steps in STEPS
    ]

    young, _ = load_weights(args.young)
    origin = describe("kanji")["provenance"]["origin"]
    assert sha256_file(args.young) == origin["sha256"], f"training was not continued from {args.young}"

    def ddim(net: UNet, xT: Tensor) -> Tensor:
        *_, last = sample(net, schedule, xT, schedule.timesteps(20))
        return to_uint8(last.xt)

    xT = image_noise(image_generators(0, args.n), (1, 64, 64))
    plain, of_young = ddim(model, xT), ddim(young, xT)
    centred = ddim(young, xT - xT.mean((1, 2, 3), keepdim=True))
    known = torch.stack([means(net, schedule, data.images) for net in (young, model)])
    for t, of_young_t, now in zip(TIMES, *known, strict=True):
        shares = [((a * b).mean() / a.square().mean()).item() for a, b in (of_young_t, now)]
        print(f"t = {t}: share of the mean that is seen {shares[0]:.2f}, {shares[1]:.2f}", flush=True)

    of_character = data.labels.bincount()
    real_index = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:300]
    real = data.images[real_index]
    queries = torch.cat([samples, real, real.roll((1, 1), (2, 3))])  # the margins are black: roll is a shift
    stored: dict[str, list] = {}
    for kind, features in {"pixels": None, "directions": edge_directions}.items():
        distance, index = nearest(queries, data.images, features, k=2)
        of_samples, of_real, of_shifted = distance.split([args.n, len(real), len(real)])
        found, found_real, _ = index.split([args.n, len(real), len(real)])
        same = data.labels[found_real[:, 1]] == data.labels[real_index]
        rows = {
            "distance": of_samples[:, 0].numpy(),
            "neighbours": data.images[found[:, 0]].squeeze(1).numpy(),
            "characters": np.array([data.classes[k] for k in data.labels[found[:, 0]]]),
            "real_distance": of_real[:, 1].numpy(),  # the first is the image itself
            "same": same.numpy(),
            "shifted_distance": of_shifted[:, 0].numpy(),
        }
        for name, row in rows.items():
            stored.setdefault(name, []).append(row)
        print(
            f"{kind}: samples {of_samples[:, 0].median():.3f}, real {of_real[:, 1].median():.3f}, "
            f"shifted {of_shifted[:, 0].median():.3f}; the same character {same.float().mean():.1%}",
            flush=True,
        )
    save_result(
        "kanji",
        {
            "fonts": np.array(names),
            "counts": counts,
            "in_hands": of_character.bincount().numpy()[1:],
            "hand_characters": np.array(list(CHARACTERS)),
            "hands": hands.numpy(),
            "samples": samples.squeeze(1).numpy(),
            "steps": np.array(STEPS),
            "step_images": torch.stack(step_images).squeeze(2).numpy(),
            "ddim_images": torch.stack([x[:SHOWN, 0] for x in (of_young, centred, plain)]).numpy(),
            "ddim_ink": np.stack([measures(x)[0] for x in (of_young, centred, plain)]),
            "mean_times": np.array(TIMES),
            "means": known.numpy(),
            "kinds": np.array(["pixels", "directions"]),
            **{name: np.stack(rows) for name, rows in stored.items()},
            "real_index": real_index.numpy(),
            "mates": (of_character[data.labels[real_index]] - 1).numpy(),
            "measure": measures(samples),
            "real_measure": measures(real),
        },
        command="python book/_compute/kanji.py --data FOLDER --young FILE" + (f" --n {args.n}" if args.n != 64 else ""),
        weights="kanji",
        seed=0,
        n=args.n,
        S=S,
        eta=1.0,
        clip=True,
        seconds=round(seconds, 1),
        young_sha256=origin["sha256"],
        images=len(data),
        characters=len(data.classes),
    )


if __name__ == "__main__":
    main()
