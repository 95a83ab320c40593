"""Seeds and noise that depend on nothing but the numbers given.

Every random draw in the package derives from `derive_seed`: the noise of image 5 under seed 0 is the same whether it
is drawn alone or in a batch of a thousand, and training step 7,000 is the same whether or not training was interrupted
before it.
"""

import numpy as np
import torch
from torch import Tensor

__all__ = ["derive_seed", "image_generators", "image_noise"]


def derive_seed(*key: int) -> int:
    """One 63-bit seed from several non-negative integers; seeds of different keys look unrelated.

    Zeros at the end of a key do not count, and a number of 2^32 or more counts as several.

    Raises:
        ValueError: a negative number.
    """
    if any(k < 0 for k in key):
        raise ValueError(f"seeds must not be negative, got {key}")
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1


def image_generators(seed: int, n: int, first: int = 0) -> list[torch.Generator]:
    """One generator per image, on the CPU, for the images `first`, ..., `first + n - 1` under `seed`."""
    return [torch.Generator().manual_seed(derive_seed(seed, i)) for i in range(first, first + n)]


def image_noise(generators: list[torch.Generator], shape: tuple[int, ...], like: Tensor | None = None) -> Tensor:
    """Standard normal noise `[n, *shape]`, image i drawn from generator i: float32 on the CPU, or as `like` is.

    It is drawn in float32 on the CPU in any case, so that a seed gives the same image everywhere.
    """
    noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
    return noise if like is None else noise.to(like)
