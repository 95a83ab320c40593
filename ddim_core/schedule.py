r"""The noise schedule, equation 1 and its two inverses.

Time runs over the integers t = 0, 1, ..., T. A schedule is the decreasing sequence

    1 = alpha_0 > alpha_1 > ... > alpha_T > 0,

and an image x_0 noised to time t is (DDIM, eq. 4; DDPM, eq. 4, where alpha_t is written alpha-bar_t)

    x_t = sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) eps,    eps ~ N(0, I)    (equation 1).

Any two of x_0, x_t and eps determine the third. Coefficients are computed in float64 and applied in the dtype of
the tensors they multiply.
"""

import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["Schedule", "add_noise", "authors_grid", "predict_eps", "predict_x0"]

SPACINGS = ("uniform", "quadratic", "logsnr")


class Schedule:
    """The sequence alpha_0, ..., alpha_T.

    Args:
        alpha: `[T+1]`, starts at 1, strictly decreasing, positive. Kept in float64 on the CPU.

    Raises:
        ValueError: alpha is not such a sequence.
    """

    def __init__(self, alpha: Tensor):
        alpha = torch.as_tensor(alpha, dtype=torch.float64, device="cpu").clone()
        if alpha.ndim != 1 or len(alpha) < 2:
            raise ValueError(f"alpha must be a vector of T+1 >= 2 numbers, got shape {tuple(alpha.shape)}")
        if alpha[0] != 1 or not bool((alpha.diff() < 0).all()) or not alpha[-1] > 0:
            raise ValueError("alpha must start at 1, decrease strictly and stay positive")
        self.alpha = alpha
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    @classmethod
    def linear(cls, T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> "Schedule":
        """alpha_t = prod_{s <= t} (1 - beta_s) with beta_s going linearly from beta_1 to beta_T (DDPM, section 4).

        Raises:
            ValueError: T < 1, or a beta outside (0, 1).
        """
        T = _as_int(T, "T")
        if T < 1:
            raise ValueError(f"T must be at least 1, got {T}")
        if not (0 < beta_1 < 1 and 0 < beta_T < 1):
            raise ValueError(f"beta_1 and beta_T must lie in (0, 1), got {beta_1} and {beta_T}")
        beta = torch.linspace(beta_1, beta_T, T, dtype=torch.float64)
        return cls(torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)]))

    @property
    def T(self) -> int:
        """The last time, at which an image has become noise."""
        return len(self.alpha) - 1

    def __repr__(self) -> str:
        return f"Schedule(T={self.T}, alpha_T={self.alpha[-1]:.4g})"

    def timesteps(self, steps: int | None = None, *, every: int | None = None, spacing: str = "uniform") -> list[int]:
        """A grid of times 0 = tau_0 < tau_1 < ... < tau_S = T, which costs S calls of the network to walk down.

        Args:
            steps: S, with 1 <= S <= T. The grid has exactly S + 1 entries.
            every: k, with 1 <= k <= T: 0, k, 2k, ... and T (a shorter last stride when k does not divide T).
            spacing: with `steps`, "uniform" (tau_i near i T / S), "quadratic" (tau_i near T (i / S)^2; more steps near
                the image; DDIM, appendix D.2) or "logsnr" (from tau_1 = 1 to T in even strides of `log_snr`; about a
                third of them below t = 100 for `linear`). If two times would coincide, one is moved on.

        Raises:
            ValueError: not exactly one of `steps` and `every`, one outside 1..T, an unknown spacing.
            TypeError: a number of steps or a stride that is not an integer.
        """
        if (steps is None) == (every is None):
            raise ValueError("give either steps=S or every=k, and not both")
        if spacing not in SPACINGS:
            raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}")
        T = self.T
        if every is not None:
            if spacing != "uniform":
                raise ValueError(f"every=k makes a uniform grid: use steps=S with spacing={spacing!r}")
            k = _as_int(every, "every")
            if not 1 <= k <= T:
                raise ValueError(f"every must lie in 1..{T}, got {k}")
            return [*range(0, T, k), T]
        S = _as_int(steps, "steps")
        if not 1 <= S <= T:
            raise ValueError(f"steps must lie in 1..{T}, got {S}")
        # Rounding i T / S in integers gives S distinct strides for every S; striding by T // S does not.
        if spacing == "uniform":
            return [(2 * i * T + S) // (2 * S) for i in range(S + 1)]
        if spacing == "logsnr":
            return self._even_in_log_snr(S)
        return [max(i, (2 * i * i * T + S * S) // (2 * S * S)) for i in range(S + 1)]

    def _even_in_log_snr(self, S: int) -> list[int]:
        level = -self.log_snr(range(1, self.T + 1)).numpy()  # ascends
        tau = [0, *np.interp(np.linspace(level[0], level[-1], S), level, np.arange(1, self.T + 1)).round().astype(int)]
        tau = [int(t) for t in tau]
        for i in range(1, S + 1):
            tau[i] = max(tau[i], tau[i - 1] + 1)
        tau[S] = self.T
        for i in range(S - 1, 0, -1):
            tau[i] = min(tau[i], tau[i + 1] - 1)
        return tau

    def log_snr(self, times: Sequence[int]) -> Tensor:
        """lambda_t = log sqrt(alpha_t / (1 - alpha_t)), half the logarithm of the signal-to-noise ratio; falls with t.

        Args:
            times: ints in 0..T; at 0 it is infinite.

        Returns:
            float64 `[len(times)]`.
        """
        alpha = self.alpha[[self.check_time(t) for t in times]]
        return (alpha / (1 - alpha)).log() / 2

    def scales(self, t: int | Tensor, like: Tensor) -> tuple[float | Tensor, float | Tensor]:
        """sqrt(alpha_t) and sqrt(1 - alpha_t), ready to multiply `like`.

        Args:
            t: an int, or int64 `[B]` with one time per entry of the first dimension of `like`; in 0..T.
            like: `[B, ...]`; gives device and dtype.

        Returns:
            Two floats for an int t, else two tensors `[B, 1, ..., 1]`. Nothing is copied from the device.

        Raises:
            TypeError: t is not an integer.
            ValueError: t outside 0..T or of the wrong shape. Times in the memory of a GPU are not read back for this
                check; out of range, they make the kernel that gathers fail.
        """
        if not isinstance(t, Tensor) or t.ndim == 0:
            a = self.alpha[self.check_time(t)].item()
            return a**0.5, (1 - a) ** 0.5
        if t.dtype != torch.int64:
            raise TypeError(f"times must be int64, got {t.dtype}")
        if t.ndim != 1 or t.shape[0] not in (1, like.shape[0]):
            raise ValueError(f"times of shape {tuple(t.shape)} do not fit a batch of {like.shape[0]}")
        if t.device.type == "cpu" and t.numel() and not (t.min() >= 0 and t.max() <= self.T):
            raise ValueError(f"times must lie in 0..{self.T}, got {t.min().item()}..{t.max().item()}")
        key = (like.device, like.dtype)
        if key not in self._tables:
            self._tables[key] = (self.alpha.sqrt().to(*key), (1 - self.alpha).sqrt().to(*key))
        shape = (-1,) + (1,) * (like.ndim - 1)
        signal, noise = self._tables[key]
        t = t.to(like.device)
        # index_select refuses negative times, where plain indexing would wrap them around
        return signal.index_select(0, t).view(shape), noise.index_select(0, t).view(shape)

    def check_time(self, t: int | Tensor, lowest: int = 0) -> int:
        """Return t as an int in lowest..T.

        Raises:
            TypeError: t is not an integer. ValueError: it lies outside.
        """
        t = _as_int(t, "a time")
        if not lowest <= t <= self.T:
            raise ValueError(f"a time must lie in {lowest}..{self.T}, got {t}")
        return t


def authors_grid(schedule: Schedule, steps: int, spacing: str = "quadratic") -> list[int]:
    """The grid of times on which the DDIM authors sampled (appendix D.2), counted from 1 as ours are, for `sample`.

    "quadratic", theirs for CIFAR-10: the squares of `steps` evenly spaced numbers from 0 to sqrt(0.8 T), rounded down,
    plus 1. For T = 1000 and 30 steps or more some coincide, and are given once (a step from a time to itself changes
    nothing). "uniform": 1, 1 + k, 1 + 2k, ... with k = T // steps; there may be more than `steps` of them. Both
    end below T, except "uniform" with k = 1.

    Returns:
        Ascending times from 0.

    Raises:
        ValueError: steps outside 1..T, or another spacing. TypeError: steps that are not an integer.
    """
    S, T = schedule.check_time(steps, lowest=1), schedule.T
    if spacing == "uniform":
        return [0, *range(1, T + 1, T // S)]
    if spacing != "quadratic":
        raise ValueError(f"spacing must be quadratic or uniform, got {spacing!r}")
    times = torch.linspace(0, (0.8 * T) ** 0.5, S, dtype=torch.float64) ** 2
    return [0, *sorted({int(t) + 1 for t in times})]


def add_noise(x0: Tensor, t: int | Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """Noise an image to time t in one go (equation 1; DDIM, eq. 4).

        x_t = sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) eps

    Args:
        x0: `[B, ...]`, pixels in [-1, 1].
        t: an int or int64 `[B]`, in 0..T.
        eps: standard normal noise of the shape of x0.

    Raises:
        TypeError, ValueError: t is not an integer in 0..T, or shapes differ.
    """
    _same_shape(x0, eps, "x0", "eps")
    signal, noise = schedule.scales(t, x0)
    return signal * x0 + noise * eps


def predict_x0(xt: Tensor, t: int | Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """Solve equation 1 for the image (DDIM, eq. 9): x_0 = (x_t - sqrt(1 - alpha_t) eps) / sqrt(alpha_t).

    Args and errors as in `add_noise`.
    """
    _same_shape(xt, eps, "xt", "eps")
    signal, noise = schedule.scales(t, xt)
    return (xt - noise * eps) / signal


def predict_eps(xt: Tensor, t: int | Tensor, x0: Tensor, schedule: Schedule) -> Tensor:
    """Solve equation 1 for the noise: eps = (x_t - sqrt(alpha_t) x_0) / sqrt(1 - alpha_t).

    Args as in `add_noise`, except that t starts at 1: at t = 0 there is no noise to find.

    Raises:
        TypeError, ValueError: as in `add_noise`, and ValueError for t = 0.
    """
    _same_shape(xt, x0, "xt", "x0")
    signal, noise = schedule.scales(t, xt)
    on_cpu = not isinstance(t, Tensor) or t.device.type == "cpu"
    if on_cpu and bool((torch.as_tensor(t) == 0).any()):
        raise ValueError("x_0 holds no noise: predict_eps needs t >= 1")
    return (xt - signal * x0) / noise


def _as_int(value: object, name: str) -> int:
    if isinstance(value, bool | np.bool_) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def _same_shape(a: Tensor, b: Tensor, a_name: str, b_name: str) -> None:
    if a.shape != b.shape:
        raise ValueError(f"{a_name} and {b_name} must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")
