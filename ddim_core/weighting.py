"""How much each time t counts in the loss.

The plain loss gives the squared error of the noise the same weight at every t (DDPM, eq. 14). But the error is a
thousand times larger at t = 1, where there is hardly any noise to be seen, than at t = 800, so the few times at which
almost nothing can be gained make up most of the loss. A weight w(t) shifts the balance; the best network at each t
stays the same.
"""

import torch
from torch import Tensor

from .schedule import Schedule

__all__ = ["LOSS_WEIGHTS", "LossByTime", "min_snr"]

# the values of `TrainConfig.loss_weight`
LOSS_WEIGHTS = ("plain", "balanced", "min-snr")


def min_snr(t: Tensor, schedule: Schedule, limit: float = 5.0) -> Tensor:
    """min(SNR, limit) / SNR with SNR = alpha_t / (1 - alpha_t), `[B]`, for times `[B]` in 1..T.

    Hang et al., arXiv 2303.09556, in the form for noise prediction.
    """
    signal, noise = schedule.scales(t, t.float())
    return (limit * (noise / signal).square()).clamp(max=1)


class LossByTime:
    """The recent loss at each t, and the weights that give each t the same share of it.

    The times 1..T are divided into bins, each of which keeps a running mean L of the loss of the images that fell into
    it. The weight of a time is mean(L) / L: each bin contributes the same, and on average the loss is as large as the
    plain one, so learning rate and clipping need not be scaled anew. (Dividing by a learned scale per noise level amounts to
    the same: Karras et al., arXiv 2312.02696, eq. 14 and 15.)

    Args:
        T: number of times. bins: at most this many. memory: images, over all bins, after which a loss counts 1/e.

    Attributes:
        sums: `[2, bins]`, decayed sums of losses and of counts: the whole state.
    """

    def __init__(self, T: int, bins: int = 50, memory: int = 20_000, device: torch.device | str = "cpu"):
        self.T, self.bins, self.memory = T, min(bins, T), memory
        # an untrained network, which predicts zero, has loss 1 at every t; the first image outweighs this
        self.sums = torch.full((2, self.bins), 1e-3, device=device)

    def bin(self, t: Tensor) -> Tensor:
        """Number of the bin of each time, int64 `[B]`."""
        return (t - 1) * self.bins // self.T

    def mean(self) -> Tensor:
        """L of each bin, `[bins]`."""
        return self.sums[0] / self.sums[1]

    def weight(self, t: Tensor) -> Tensor:
        """w(t) `[B]` for times 1..T."""
        mean = self.mean()
        return (mean.mean() / mean)[self.bin(t)]

    def measured(self, t: Tensor, losses: Tensor) -> Tensor:
        """What images at times t `[B]` with losses `[B]` add to the sums, `[2, bins]`."""
        added = torch.zeros_like(self.sums)
        return added.index_add_(1, self.bin(t), torch.stack([losses, torch.ones_like(losses)]))

    def add(self, added: Tensor, images: int) -> None:
        """Let the sums decay by as much as `images` more images ask for, and add what was measured on them."""
        self.sums.mul_(1 - min(images / self.memory, 1)).add_(added)
