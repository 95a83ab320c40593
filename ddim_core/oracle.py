r"""Exact denoisers: where the distribution of x_0 is known, so is the best possible guess of the noise.

The guess with the least squared error is the conditional mean E[eps | x_t], and by equation 1

    E[eps | x_t] = (x_t - sqrt(alpha_t) E[x_0 | x_t]) / sqrt(1 - alpha_t),

so it is enough to know E[x_0 | x_t]: affine in x_t for a Gaussian, a weighted average for a finite set of images.
Both are denoisers: `oracle(x_t, t) -> eps`, t in 1..T.
"""

import torch
from torch import Tensor

from .device import in_float64
from .schedule import Schedule, predict_eps

__all__ = ["DatasetDenoiser", "GaussianDenoiser"]


class GaussianDenoiser:
    """The exact denoiser for x_0 ~ N(mean, std^2), independently in each coordinate.

        E[x_0 | x_t] = mean + sqrt(alpha_t) std^2 / (alpha_t std^2 + 1 - alpha_t) (x_t - sqrt(alpha_t) mean)

    Args:
        mean, std: numbers, or tensors that broadcast against one image; std >= 0.

    Raises:
        ValueError: a negative std.
    """

    def __init__(self, mean: float | Tensor, std: float | Tensor, schedule: Schedule):
        self.mean = torch.as_tensor(mean, dtype=torch.float64)
        self.std = torch.as_tensor(std, dtype=torch.float64)
        self.schedule = schedule
        if bool((self.std < 0).any()):
            raise ValueError("std must not be negative")

    def x0(self, xt: Tensor, t: int | Tensor) -> Tensor:
        """E[x_0 | x_t], `[B, ...]` in the dtype of xt."""
        mean, variance = self.mean.to(xt), self.std.to(xt) ** 2
        signal, noise = self.schedule.scales(t, xt)
        return mean + signal * variance / (signal**2 * variance + noise**2) * (xt - signal * mean)

    def __call__(self, xt: Tensor, t: int | Tensor) -> Tensor:
        return predict_eps(xt, t, self.x0(xt, t), self.schedule)


class DatasetDenoiser:
    r"""The exact denoiser for x_0 drawn uniformly from a finite set of images y_1, ..., y_N.

        w_i(x_t)     = softmax_i( -||x_t - sqrt(alpha_t) y_i||^2 / (2 (1 - alpha_t)) )
        E[x_0 | x_t] = sum_i w_i(x_t) y_i

    For small t the exponents are near 1e7 while differences of 1 decide, so they are computed in float64 whatever the
    dtype of x_t; on the CPU if the device has no float64. At eight bytes per pixel, 10,000 digits take 63 MB, and each
    x_t has 10,000 weights.

    Args:
        images: `[N, ...]`, pixels in [-1, 1].

    Raises:
        ValueError: no images, or (when called) images of another shape.
    """

    def __init__(self, images: Tensor, schedule: Schedule):
        if images.ndim < 2 or len(images) == 0:
            raise ValueError(f"images must be [N, ...] with N >= 1, got {tuple(images.shape)}")
        if not images.is_floating_point():
            raise ValueError("images must be floats in [-1, 1]: use data.to_model on uint8 pixels")
        self.shape = images.shape[1:]
        self.schedule = schedule
        self.y = in_float64(images.flatten(1))
        self.y_squared = self.y.square().sum(1)

    def weights(self, xt: Tensor, t: int | Tensor) -> Tensor:
        """w_i(x_t): float64 `[B, N]`, rows sum to 1; on the device where the images are kept."""
        if xt.shape[1:] != self.shape:
            raise ValueError(f"xt must be [B, {', '.join(map(str, self.shape))}], got {tuple(xt.shape)}")
        x = xt.flatten(1).to(self.y.device).double()
        signal, noise = self.schedule.scales(t, x)
        # ||x||^2 is the same for all i, and the softmax does not see it
        return ((signal * (x @ self.y.T) - signal**2 * self.y_squared / 2) / noise**2).softmax(1)

    def x0(self, xt: Tensor, t: int | Tensor) -> Tensor:
        """E[x_0 | x_t], `[B, ...]` in the dtype of xt."""
        return self._mean(xt, t).to(xt.dtype).to(xt.device)

    def __call__(self, xt: Tensor, t: int | Tensor) -> Tensor:
        x0 = self._mean(xt, t)
        return predict_eps(xt.to(x0.device).double(), t, x0, self.schedule).to(xt.dtype).to(xt.device)

    def _mean(self, xt: Tensor, t: int | Tensor) -> Tensor:
        """E[x_0 | x_t] in float64, on the device where the images are kept."""
        return (self.weights(xt, t) @ self.y).view(xt.shape)
