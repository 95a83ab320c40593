"""Seeds and noise that depend on nothing but the numbers given.

Every random draw in the package derives from `derive_seed`: the noise of image 5 under seed 0 is the same whether it
is drawn alone or in a batch of a thousand, and training step 7,000 is the same whether or not training was interrupted
before it.

PyTorch's generator exists nowhere else. Where another language has to draw the same noise (the book's pages, in the
reader's browser), `Threefry` does: a few lines of 32-bit additions, rotations and exclusive ors, which both count out
exactly, and which book/_static/live/core.js repeats.
"""

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["NOISES", "Threefry", "derive_seed", "image_generators", "image_noise"]

NOISES = ("torch", "js")  # PyTorch's own generator, or `Threefry`, which JavaScript can have as well


def derive_seed(*key: int) -> int:
    """One 63-bit seed from several non-negative integers; seeds of different keys look unrelated.

    Zeros at the end of a key do not count, and a number of 2^32 or more counts as several.

    Raises:
        ValueError: a negative number.
    """
    if any(k < 0 for k in key):
        raise ValueError(f"seeds must not be negative, got {key}")
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1


class Threefry:
    """A generator of noise that any language can have: Threefry-2x32 of 20 rounds, then Box and Muller.

    Threefry (Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, 2011) turns a key and a counter
    of two 32-bit words each into two words (a, b) that look random. Here the key is (seed, number of the image); the
    counter is (k, d) for the pair k of the d-th draw. From each pair come two independent normal values (Box and Muller,
    1958), computed in float64 and rounded to float32:

        r = sqrt(-2 log((a + 1/2) / 2^32)),    phi = 2 pi b / 2^32
        z_2k = r cos(phi),    z_2k+1 = r sin(phi)

    The words are exact in every language. Logarithm, sine and cosine may differ in their last bit in float64, which the
    rounding to float32 hides, but for one value in some hundred million, which then differs by its own last bit.

    Args:
        seed, number: integers from 0 to 2^32 - 1.

    Raises:
        ValueError: one outside that range.
    """

    def __init__(self, seed: int, number: int = 0):
        if not (0 <= seed < 2**32 and 0 <= number < 2**32):
            raise ValueError(f'noise="js" has seeds and image numbers from 0 to 2^32 - 1, got {seed} and {number}')
        self.key, self.draws = (seed, number), 0

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """The next draw: standard normal noise of this shape, float32 on the CPU."""
        count = math.prod(shape)
        pairs = np.arange((count + 1) // 2, dtype=np.uint32)
        a, b = threefry(self.key, pairs, np.full_like(pairs, self.draws))
        self.draws += 1
        radius, angle = np.sqrt(-2 * np.log((a + 0.5) / 2**32)), 2 * np.pi * b / 2**32
        values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)
        return torch.from_numpy(values.reshape(-1)[:count].reshape(shape))


def threefry(key: tuple[int, int], x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Threefry-2x32-20 of many counters (x, y) at once, uint32 all."""
    keys = [np.uint32(k) for k in (*key, key[0] ^ key[1] ^ 0x1BD11BDA)]
    x, y = x + keys[0], y + keys[1]  # modulo 2^32, as arrays of uint32 are
    for round_ in range(20):
        left = np.uint32((13, 15, 26, 6, 17, 29, 16, 24)[round_ % 8])
        x = x + y
        y = ((y << left) | (y >> (np.uint32(32) - left))) ^ x
        if round_ % 4 == 3:
            i = round_ // 4 + 1
            x, y = x + keys[i % 3], y + keys[(i + 1) % 3] + np.uint32(i)
    return x, y


def image_generators(seed: int, n: int, first: int = 0, noise: str = "torch") -> list[torch.Generator] | list[Threefry]:
    """One generator per image, on the CPU, for the images `first`, ..., `first + n - 1` under `seed`.

    Args:
        noise: "torch" for PyTorch's generator; "js" for the one that JavaScript has too, `Threefry`.

    Raises:
        ValueError: another noise, a negative seed; for "js", a seed or number of 2^32 or more.
    """
    if noise not in NOISES:
        raise ValueError(f"noise must be one of {', '.join(NOISES)}, got {noise!r}")
    if noise == "js":
        return [Threefry(seed, i) for i in range(first, first + n)]
    return [torch.Generator().manual_seed(derive_seed(seed, i)) for i in range(first, first + n)]


def image_noise(
    generators: list[torch.Generator] | list[Threefry], shape: tuple[int, ...], like: Tensor | None = None
) -> Tensor:
    """Standard normal noise `[n, *shape]`, image i drawn from generator i: float32 on the CPU, or as `like` is.

    It is drawn in float32 on the CPU in any case, so that a seed gives the same image everywhere.
    """
    noise = torch.stack(
        [g.normal(shape) if isinstance(g, Threefry) else torch.randn(shape, generator=g) for g in generators]
    )
    return noise if like is None else noise.to(like)
