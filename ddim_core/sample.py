r"""Sampling: one step, and the loop over a grid of times.

A denoiser is anything that can be called as `model(x_t, t) -> eps`, with x_t `[B, ...]` and t int64 `[B]`; networks of
diffusers are recognised (see `adapt`). The step from t to any s < t (DDIM, eq. 12 and 16) estimates the image and
noises it again, to s:

    x0_hat = (x_t - sqrt(1 - alpha_t) eps) / sqrt(alpha_t)
    sigma  = eta sqrt((1 - alpha_s) / (1 - alpha_t)) sqrt(1 - alpha_t / alpha_s)
    x_s    = sqrt(alpha_s) x0_hat + sqrt(1 - alpha_s - sigma^2) eps + sigma z
    z ~ N(0, I)

eta = 0 is DDIM: nothing random after x_T. eta = 1 is DDPM. Leaving out times is only another grid.

A second-order step (DPM-Solver++(2M), arXiv:2211.01095; eta = 0) is the same step with a better guess. It remembers the
guess at the previous time r > t, and follows the line through both guesses to the middle of the stride from t to s, in
lambda = log sqrt(alpha / (1 - alpha)):

    x0_mid = x0_hat(t) + k (x0_hat(t) - x0_hat(r)) / 2
    k      = (lambda_s - lambda_t) / (lambda_t - lambda_r)

The state x_t keeps its dtype, float32 or float64, whatever the network computes in: the error of one call in bf16 stays
small, while the error of a state that is rounded to bf16 at every step grows with every step.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from .adapt import Denoiser, as_denoiser, first_parameter, image_shape
from .device import autocast, choose_amp, in_float64
from .schedule import Schedule, add_noise, predict_eps, predict_x0
from .seeds import Threefry, image_generators, image_noise

__all__ = ["SIGMA_HAT", "Step", "ddim_step", "encode", "generate", "lerp", "sample", "slerp"]

SIGMA_HAT = "sigma-hat"  # the eta of DDPM with more noise (DDIM, appendix D.3), see `ddim_step`


@dataclass(frozen=True)
class Step:
    """A state on the way from noise to image.

    Attributes:
        t: the time; xt: the state `[B, ...]` at t.
        x0, eps: the image and the noise that the model predicts from xt. At t = 0 the model is not called: x0 is xt,
            and eps is the noise from the last call.
    """

    t: int
    xt: Tensor
    x0: Tensor
    eps: Tensor


def ddim_step(
    xt: Tensor,
    eps: Tensor,
    t: int,
    s: int,
    schedule: Schedule,
    *,
    eta: float | str = 0.0,
    noise: Tensor | None = None,
    clip: bool = False,
) -> tuple[Tensor, Tensor]:
    """Go from time t to time s < t, given the noise predicted from x_t (DDIM, eq. 12 and 16).

    Args:
        xt: `[B, ...]`, the state at t. eps: of the same shape.
        t, s: ints with 0 <= s < t <= T, at any distance.
        eta: 0 for DDIM, 1 for DDPM's posterior, in between for less noise; or "sigma-hat" (DDIM, appendix D.3): noise
            of standard deviation sqrt(1 - alpha_t / alpha_s) on the mean of eta = 1, and none at the last step.
        noise: z, of the shape of xt; needed unless eta = 0 or s = 0.
        clip: limit x0_hat to [-1, 1], and recompute eps so that equation 1 still holds between x0_hat, eps and x_t.

    Returns:
        (x_s, x0_hat), in the dtype of xt.

    Raises:
        ValueError: times out of order or range, eta outside [0, 1], missing noise, shapes that differ.
        TypeError: times that are not integers.
    """
    t, s = schedule.check_time(t, lowest=1), schedule.check_time(s)
    if s >= t:
        raise ValueError(f"a step goes down in time: s must be below t, got s = {s}, t = {t}")
    check_eta(eta)
    x0 = predict_x0(xt, t, eps, schedule)
    if clip:
        x0 = x0.clamp(-1, 1)
        eps = predict_eps(xt, t, x0, schedule)
    alpha_t, alpha_s = schedule.alpha[t].item(), schedule.alpha[s].item()
    wide = (1 - alpha_t / alpha_s) ** 0.5
    sigma = (1.0 if eta == SIGMA_HAT else eta) * ((1 - alpha_s) / (1 - alpha_t)) ** 0.5 * wide
    # for eta = 1 and s = 0 the difference is 0, and may round to just below it
    xs = alpha_s**0.5 * x0 + max(1 - alpha_s - sigma**2, 0.0) ** 0.5 * eps
    if s > 0 and sigma > 0:
        if noise is None:
            raise ValueError(f"eta = {eta} adds noise on the way to s = {s}: pass noise")
        if noise.shape != xt.shape:
            raise ValueError(f"noise must have the shape of xt, {tuple(xt.shape)}, got {tuple(noise.shape)}")
        xs = xs + (wide if eta == SIGMA_HAT else sigma) * noise
    return xs, x0


def sample(
    model: Denoiser,
    schedule: Schedule,
    xT: Tensor,
    tau: Sequence[int],
    *,
    eta: float | str = 0.0,
    order: int = 1,
    generator: torch.Generator | Sequence[torch.Generator | Threefry] | None = None,
    clip: bool = False,
    amp: str = "fp32",
) -> Iterator[Step]:
    """Walk down a grid of times from x_T, yielding every state on the way.

    Args:
        model: the denoiser, or a network of diffusers.
        xT: `[B, ...]` at time tau[-1]; everything is computed on its device and in its dtype (in a network, in that of
            its parameters).
        tau: ascending times, from 0. Its last entry is T for samples; `Schedule.timesteps` makes such grids.
        eta, clip: see `ddim_step`. amp: see `generate`.
        order: 1 for `ddim_step` all the way; 2 for second-order steps, which remember one guess and cost no extra call.
            The first step, which has nothing to remember, and the last, which lands on the guess, stay first-order.
            With `clip` the guesses are limited; the line through them is not.
        generator: source of the noise that eta > 0 adds; a sequence of one generator per image makes each image
            independent of its batch.

    Yields:
        `Step(t, xt, x0, eps)`, one for each call of the model, and a last one with t = 0: S + 1 states for S calls.

    Raises:
        ValueError: a grid that does not start at 0 or does not ascend, eta > 0 without a generator, an order other than 1
            or 2, order 2 with eta > 0, an unknown amp; and as `ddim_step`. TypeError: the model returns something other
            than a tensor.
    """
    tau = _check_grid(tau, schedule)
    check_eta(eta)
    _check_order(order, eta)
    if eta != 0 and generator is None:
        raise ValueError("eta > 0 adds noise: pass a generator, or one per image")
    if generator is not None and not isinstance(generator, torch.Generator) and len(generator) != len(xT):
        raise ValueError(f"{len(generator)} generators for {len(xT)} images")
    return _walk(as_denoiser(model), schedule, xT, tau, eta, order, generator, clip, choose_amp(xT.device, amp))


def _walk(model, schedule, xt, tau, eta, order, generator, clip, amp):
    before = None  # the previous time and the guess there
    for s, t in zip(reversed(tau[:-1]), reversed(tau[1:]), strict=True):
        eps = predict_noise(model, xt, t, amp)
        noise = _draw(generator, xt) if eta != 0 and s > 0 else None
        xs, x0 = ddim_step(xt, eps, t, s, schedule, eta=eta, noise=noise, clip=clip)
        if order == 2:
            if before is not None and s > 0:
                xs = _second_order(xt, x0, t, s, before, schedule)
            before = t, x0
        yield Step(t, xt, x0, eps)
        xt = xs
    yield Step(0, xt, xt, eps)


def _second_order(x: Tensor, x0: Tensor, t: int, s: int, before: tuple[int, Tensor], schedule: Schedule) -> Tensor:
    """From x_t to x_s, given the guess at t and the previous one, (r, x0_r); none of the times is 0.

    DPM-Solver++, algorithm 2, in our notation: equation 1 at s, with the guess that the line has in the middle.
    """
    r, x0_r = before
    at_r, at_t, at_s = schedule.log_snr([r, t, s]).tolist()
    middle = x0 + (at_s - at_t) / (at_t - at_r) / 2 * (x0 - x0_r)
    return add_noise(middle, s, predict_eps(x, t, middle, schedule), schedule)


def generate(
    model: Denoiser,
    schedule: Schedule,
    n: int,
    *,
    steps: int = 50,
    seed: int = 0,
    first: int = 0,
    noise: str = "torch",
    eta: float | str = 0.0,
    order: int = 1,
    shape: tuple[int, ...] | None = None,
    spacing: str = "uniform",
    clip: bool = False,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    amp: str = "fp32",
    progress: bool | Callable[[], object] = False,
) -> Tensor:
    """Draw n images: numbers first, ..., first + n - 1 under a seed.

    Up to rounding, image i depends on seed and i alone, not on n, the batch size or the device; and its x_T does not
    depend on the number of steps.

    Args:
        model: the denoiser, or a network of diffusers.
        steps: S, the number of calls of the model per image. seed: a non-negative integer.
        noise: "torch", or "js" for the noise that the book's pages draw in the browser, with which the same seed gives
            the same images there; see `seeds.Threefry`.
        eta, clip: see `ddim_step`. order: see `sample`. spacing: see `Schedule.timesteps`.
        shape: `(C, H, W)` of an image; by default, what the model says (see `adapt.image_shape`).
        batch_size: images drawn at once. Memory beyond the result grows with it, not with n.
        device: of the state; by default, that of the network's parameters, or the CPU if there are none.
        dtype: of the state, float32 or float64. By default float64 for a network in float64 (`model.double()`), else
            float32: a network in half precision (`model.half()`) is called in its own dtype, around a float32 state.
        amp: arithmetic inside the network: "fp32", as its parameters are; "bf16", "fp16" or "auto" by torch's autocast
            (see `device.choose_amp`), for a network in float32. The state is not rounded with it.
        progress: True shows a bar, in a notebook or on standard error; a function is called after each call of the
            model, `ceil(n / batch_size) S` times.

    Returns:
        x_0 `[n, C, H, W]`, pixels in [-1, 1] (values outside are clipped; those that are not finite become NaN), in the
        state's dtype and on its device.

    Raises:
        ValueError: n < 1, a negative seed or first, another noise, no shape to be found, another dtype; and as `sample`.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"n and batch_size must be at least 1, got {n} and {batch_size}")
    if first < 0:
        raise ValueError(f"first must not be negative, got {first}")
    model = as_denoiser(model)
    if (shape := image_shape(model) if shape is None else shape) is None:
        raise ValueError("this model does not say which shape its images have: pass shape=(C, H, W)")
    like = _state_like(model, device, dtype)
    tau = schedule.timesteps(steps, spacing=spacing)
    images = like.new_empty((n, *shape))
    with _progress(progress, -(-n // batch_size) * steps) as report:
        for start in range(0, n, batch_size):
            part = images[start : start + batch_size]
            generators = image_generators(seed, len(part), first + start, noise)
            xT = image_noise(generators, shape, like)
            options = {"eta": eta, "order": order, "generator": generators, "clip": clip, "amp": amp}
            for state in sample(model, schedule, xT, tau, **options):
                if state.t > 0:
                    report()
            torch.clamp(state.xt, -1, 1, out=part)
            part.masked_fill_(~state.xt.isfinite(), math.nan)  # an infinity would look like black or white
    return images


def _state_like(model: Denoiser, device: str | torch.device | None, dtype: torch.dtype | None) -> Tensor:
    """An empty tensor on the device and in the dtype of the state."""
    parameter = first_parameter(model)
    if dtype is None:
        dtype = torch.float64 if parameter is not None and parameter.dtype == torch.float64 else torch.float32
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"dtype must be torch.float32 or torch.float64, got {dtype}: a state rounded to less at each step gathers "
            'errors; for a faster network use amp="bf16" or model.half()'
        )
    if device is None and parameter is not None:
        device = parameter.device
    return torch.empty(0, device="cpu" if device is None else device, dtype=dtype)


@contextmanager
def _progress(progress: bool | Callable[[], object], calls: int) -> Iterator[Callable[[], object]]:
    """What to call after each call of the model."""
    if progress is True:
        from tqdm.auto import tqdm  # only needed here

        with tqdm(total=calls, unit="step", dynamic_ncols=True) as bar:
            yield bar.update
    else:
        yield progress or (lambda: None)


def encode(model: Denoiser, schedule: Schedule, x0: Tensor, tau: Sequence[int], *, order: int = 1) -> Tensor:
    """Find the x_T from which eta = 0 leads back to x_0, approximately: the same step upwards (DDIM, eq. 13, sec. 5.4).

    From s to the next time t > s, with eps predicted from x_s:

        x0_hat = (x_s - sqrt(1 - alpha_s) eps) / sqrt(alpha_s)
        x_t    = sqrt(alpha_t) x0_hat + sqrt(1 - alpha_t) eps

    The way down calls the model at t and the way up at s, so the two differ: the less the finer the grid is, and far
    less if both are second-order. At s = 0 the model is called at time 1, the lowest it knows.

    Args:
        model, tau: as in `sample`. x0: `[B, ...]`, pixels in [-1, 1]; everything is computed in its dtype.
        order: 1, or 2 for the line through two guesses as in `sample`, from the third step on.

    Returns:
        x at time tau[-1], `[B, ...]`.

    Raises:
        ValueError, TypeError: a grid that does not ascend from 0, an order other than 1 or 2.
    """
    tau = _check_grid(tau, schedule)
    _check_order(order)
    model, x = as_denoiser(model), x0
    before = None  # the last time above 0 and the guess there
    for s, t in pairwise(tau):
        eps = predict_noise(model, x, max(s, 1))
        guess = predict_x0(x, s, eps, schedule)
        if before is not None:
            xt = _second_order(x, guess, s, t, before, schedule)
        else:
            xt = add_noise(guess, t, eps, schedule)
        if order == 2 and s > 0:
            before = s, guess
        x = xt
    return x


def lerp(a: Tensor, b: Tensor, weights: Sequence[float] | Tensor) -> Tensor:
    """On the straight line from a to b: `(1 - w) a + w b` for each weight w, `[len(weights), *a.shape]`.

    Halfway between two independent noise samples it is shorter than either, by a factor of 1 / sqrt(2).

    Raises:
        ValueError: shapes that differ.
    """
    w = _weights(a, b, weights)
    return (1 - w) * a + w * b


def slerp(a: Tensor, b: Tensor, weights: Sequence[float] | Tensor) -> Tensor:
    """On the great circle from a to b (DDIM, eq. 67), for each weight w, `[len(weights), *a.shape]`:

        sin((1 - w) theta) / sin(theta) a + sin(w theta) / sin(theta) b

    with theta the angle between a and b, which are each taken as one vector. If they point in the same direction this is `lerp`.

    Raises:
        ValueError: shapes that differ, a vector of zeros, or vectors that point in opposite directions.
    """
    w = _weights(a, b, weights)
    x, y = in_float64(a.flatten()), in_float64(b.flatten())
    if x.norm() == 0 or y.norm() == 0:
        raise ValueError("slerp needs two vectors with a direction: one of them is zero")
    theta = torch.arccos((x @ y / (x.norm() * y.norm())).clamp(-1, 1)).item()
    if theta < 1e-6:
        return lerp(a, b, weights)
    if math.pi - theta < 1e-6:
        raise ValueError("slerp has no great circle to choose between opposite vectors")
    return (torch.sin((1 - w) * theta) * a + torch.sin(w * theta) * b) / math.sin(theta)


def _weights(a: Tensor, b: Tensor, weights: Sequence[float] | Tensor) -> Tensor:
    if a.shape != b.shape:
        raise ValueError(f"a and b must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    return torch.as_tensor(weights, dtype=a.dtype, device=a.device).view(-1, *(1,) * a.ndim)


@torch.no_grad()
def predict_noise(model: Denoiser, xt: Tensor, t: int, amp: str = "fp32") -> Tensor:
    """Call a denoiser on a batch, all of it at time t.

    A network is called in evaluation mode, without gradients, in the dtype of its parameters, under autocast unless amp
    is "fp32".

    Returns:
        eps, of the shape and in the dtype of xt.

    Raises:
        TypeError: the model returns something other than a tensor.
    """
    times = torch.full((len(xt),), t, dtype=torch.int64, device=xt.device)
    parameter = first_parameter(model)
    with _evaluating(model), autocast(xt.device, amp):
        eps = model(xt if parameter is None else xt.to(parameter.dtype), times)
    if not isinstance(eps, Tensor):
        raise TypeError(
            f"a denoiser must return a tensor, got {type(eps).__name__}: make it return one; for a network with "
            "0-based timesteps, such as those of diffusers, ddim_core.Adapter does so"
        )
    return eps.to(xt.dtype)


@contextmanager
def _evaluating(model: Denoiser):
    """Inside, a network in training mode is in evaluation mode; afterwards each of its parts is as it was."""
    training = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) and model.training else []
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _draw(generator: torch.Generator | Sequence[torch.Generator | Threefry], like: Tensor) -> Tensor:
    if isinstance(generator, torch.Generator):
        return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device).to(like.device)
    return image_noise(list(generator), tuple(like.shape[1:]), like)


def check_eta(eta: float | str) -> None:
    """Raise ValueError unless eta is a number in [0, 1] or "sigma-hat"."""
    if eta != SIGMA_HAT and (isinstance(eta, (str, bool)) or not 0 <= eta <= 1):
        raise ValueError(f"eta must lie in [0, 1] or be {SIGMA_HAT!r}, got {eta!r}")


def _check_order(order: int, eta: float | str = 0.0) -> None:
    if isinstance(order, bool) or order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    if order == 2 and eta != 0:
        raise ValueError(f"order = 2 follows the path without noise: it needs eta = 0, got {eta!r}")


def _check_grid(tau: Sequence[int], schedule: Schedule) -> list[int]:
    tau = [schedule.check_time(t) for t in tau]
    if len(tau) < 2 or tau[0] != 0 or any(s >= t for s, t in pairwise(tau)):
        raise ValueError(f"tau must ascend from 0 and have at least two entries, got {_short(tau)}")
    return tau


def _short(tau: list[int]) -> str:
    return str(tau) if len(tau) <= 8 else f"[{', '.join(map(str, tau[:4]))}, ..., {', '.join(map(str, tau[-2:]))}]"
