"""Every displayed equation of the book, put to numbers.

A test says with `@holds("eq-...", code=...)` which equations it holds, and which names of ddim_core are that equation.
Both sides are computed by different roads: plain floats and quadrature here, the package there. The first sentence of
a test's docstring goes into the book (book/_ext/equations.py); the last tests of this file see that no equation is
left out.
"""

import importlib
import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from helpers import TINY, randn, seeded

from ddim_core import Schedule, add_noise, ddim_step, encode, lerp, predict_eps, predict_x0, sample, slerp
from ddim_core.measures import frechet
from ddim_core.oracle import DatasetDenoiser, GaussianDenoiser
from ddim_core.train import TrainConfig, Trainer
from ddim_core.unet import AttentionBlock, timestep_embedding

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "_ext"))
import equations


@dataclass(frozen=True)
class Held:
    """That a test holds an equation: the test's name, the first sentence of its docstring, the code it names."""

    name: str
    says: str
    code: tuple[str, ...]


HELD: dict[str, list[Held]] = {}


def holds(*labels: str, code: str | tuple[str, ...] = ()) -> Callable:
    """Mark a test as the one that holds these equations."""

    def mark(test: Callable) -> Callable:
        says = " ".join(inspect.getdoc(test).split("\n\n")[0].split()).rstrip(".")
        for label in labels:
            HELD.setdefault(label, []).append(Held(test.__name__, says, (code,) if isinstance(code, str) else code))
        return test

    return mark


# --- what the tests share: the schedule in plain floats, Gaussians by quadrature, small chains as matrices -------------------

SCHEDULE, T = Schedule.linear(), 1000
BETA = [math.nan] + [0.0001 + (t - 1) / (T - 1) * (0.02 - 0.0001) for t in range(1, T + 1)]
ALPHA = [1.0]
for _t in range(1, T + 1):
    ALPHA.append(ALPHA[-1] * (1 - BETA[_t]))
A = np.array(ALPHA)
TIMES = (1, 2, 10, 100, 259, 500, 999, 1000)
STEPS = ((1, 0), (2, 1), (10, 9), (100, 0), (300, 100), (500, 499), (1000, 500), (1000, 999))
DOUBLE = {"dtype": torch.float64}
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
WEIGHTS = WEIGHTS / WEIGHTS.sum()  # E f(z) = sum WEIGHTS f(NODES), z standard normal

near = pytest.approx


def close(a, b, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=tolerance, atol=tolerance)


def column(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, **DOUBLE)[:, None]


def deviation(eta: float, t: int, s: int) -> float:
    """sigma of DDIM, eq. 16, in DDPM's words: eta times the root of the posterior's variance."""
    return eta * math.sqrt((1 - ALPHA[s]) / (1 - ALPHA[t]) * (1 - ALPHA[t] / ALPHA[s]))


def family_weights(eta: float, t: int, s: int) -> tuple[float, float, float]:
    """(of x_0, of x_t, of z) in x_s: the coefficients of the family's step, multiplied out."""
    sigma = deviation(eta, t, s)
    of_xt = math.sqrt(max(1 - ALPHA[s] - sigma**2, 0.0) / (1 - ALPHA[t]))
    return math.sqrt(ALPHA[s]) - of_xt * math.sqrt(ALPHA[t]), of_xt, sigma


class Chain:
    """One pixel x_0 ~ N(0, std^2) and n steps: everything is a combination of n + 1 independent standard normals.

    `q` and `p` hold the covariance matrices of (x_0, ..., x_n) under the family and under the model whose denoiser
    answers c_t x_t; the rows say how each state is made.
    """

    def __init__(self, a, eta: float, c, std: float = 0.5, sigma_1: float = 0.2):
        self.a, self.n, self.c, self.std, self.sigma_1 = np.asarray(a), len(a) - 1, c, std, sigma_1
        a, n = self.a, self.n
        t = np.arange(2, n + 1)
        rest = eta * np.sqrt((1 - a[t - 1]) / (1 - a[t]) * (1 - a[t] / a[t - 1]))
        self.sigma = np.concatenate([[np.nan, sigma_1], rest])
        q, p = np.zeros((2, n + 1, n + 1))
        q[0, 0], p[n, n] = std, 1
        q[n] = math.sqrt(a[n]) * q[0]
        q[n, n] += math.sqrt(1 - a[n])
        for t in range(n, 0, -1):
            if t > 1:
                q[t - 1] = self.mean(t, q[0], q[t])
                q[t - 1, t - 1] += self.sigma[t]
            p[t - 1] = self.mean(t, self.guess(t) * p[t], p[t])
            p[t - 1, t - 1] += self.sigma[t]
        self.q, self.p = q @ q.T, p @ p.T

    def mean(self, t, x0, xt):
        """Of x_{t-1} given x_0 and x_t; at t = 1 it is x_0 itself."""
        if t == 1:
            return x0
        a = self.a
        eps = (xt - math.sqrt(a[t]) * x0) / math.sqrt(1 - a[t])
        return math.sqrt(a[t - 1]) * x0 + math.sqrt(1 - a[t - 1] - self.sigma[t] ** 2) * eps

    def guess(self, t):
        """x0_hat / x_t."""
        return (1 - math.sqrt(1 - self.a[t]) * self.c[t]) / math.sqrt(self.a[t])

    def J(self):
        """E log q(x_1..x_n | x_0) / p(x_0..x_n), from the two matrices alone."""
        return kl(self.q, self.p) + math.log(2 * math.pi * math.e * self.std**2) / 2

    def square(self, t, of_x0, of_xt):
        """E (of_x0 x_0 + of_xt x_t)^2 under q."""
        return of_x0**2 * self.q[0, 0] + 2 * of_x0 * of_xt * self.q[0, t] + of_xt**2 * self.q[t, t]

    def divergence(self, t):
        """E KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), t >= 2: equal variances, means that are affine maps."""
        of_x0 = self.mean(t, 1.0, 0.0)
        of_xt = self.mean(t, 0.0, 1.0) - self.mean(t, self.guess(t), 1.0)
        return self.square(t, of_x0, of_xt) / (2 * self.sigma[t] ** 2)

    def error(self, t):
        """E (eps - c_t x_t)^2: eps is a combination of x_0 and x_t."""
        n = math.sqrt(1 - self.a[t])
        return self.square(t, -math.sqrt(self.a[t]) / n, 1 / n - self.c[t])

    def gamma(self, t):
        a, sigma = self.a, self.sigma
        if t == 1:
            return (1 - a[1]) / (2 * a[1] * sigma[1] ** 2)
        return (math.sqrt(a[t - 1] * (1 - a[t]) / a[t]) - math.sqrt(1 - a[t - 1] - sigma[t] ** 2)) ** 2 / (
            2 * sigma[t] ** 2
        )

    def terminal(self):
        """E KL(q(x_n | x_0) || N(0, 1))."""
        a = self.a[self.n]
        return (a * self.std**2 + (1 - a) - 1 - math.log(1 - a)) / 2

    def constant(self):
        a = self.a[self.n]
        return (a * self.std**2 - a - math.log(1 - a)) / 2 + math.log(2 * math.pi * self.sigma_1**2) / 2


def kl(Q, P):
    """Between normal distributions with mean 0 and these covariances."""
    return (np.trace(np.linalg.solve(P, Q)) - len(Q) + np.linalg.slogdet(P)[1] - np.linalg.slogdet(Q)[1]) / 2


def log_normal(x, mean, covariance):
    d = np.atleast_1d(x - mean)
    C = np.atleast_2d(covariance)
    return -(d @ np.linalg.solve(C, d) + np.linalg.slogdet(C)[1] + len(d) * math.log(2 * math.pi)) / 2


SHORT = Schedule.linear(6, 0.05, 0.6).alpha.numpy()
BAD = np.array([np.nan, 0.9, 0.3, 0.8, 0.2, 1.1, 0.7])  # c_t of a denoiser that nobody would want
chains = pytest.mark.parametrize("chain", [Chain(SHORT, eta, BAD) for eta in (0.1, 0.5, 1.0)], ids=["0.1", "0.5", "1"])


def two_points(x, signal, noise):
    """E[x_0 | x = signal x_0 + noise eps] for x_0 = -1 or 1 with equal chance."""
    return np.tanh(signal * x / noise**2)


# --- noising --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0, *TIMES])
@holds("eq-noising", code="ddim_core.add_noise")
def test_noising(t):
    """The package's formula against plain floats, for several t."""
    x0, eps = column(-1.0, 0.3), column(0.7, -2.0)
    expected = math.sqrt(ALPHA[t]) * x0 + math.sqrt(1 - ALPHA[t]) * eps
    close(add_noise(x0, t, eps, SCHEDULE), expected, 1e-12)


@holds("eq-alpha", code="ddim_core.Schedule.linear")
def test_alpha():
    """The schedule against products of exact fractions."""
    first, last = Fraction(1, 10_000), Fraction(2, 100)
    product = Fraction(1)
    assert SCHEDULE.alpha[0] == 1
    for t in range(1, 61):
        product *= 1 - (first + Fraction(t - 1, T - 1) * (last - first))
        assert SCHEDULE.alpha[t].item() == near(float(product), rel=1e-13)
    close(SCHEDULE.alpha.log(), np.log(A), 1e-12)


@pytest.mark.parametrize("t", TIMES)
@holds("eq-snr", code="ddim_core.Schedule.scales")
def test_snr(t):
    """The ratio of the two shares' powers, and that it falls and passes 1 between t = 259 and 260."""
    signal, noise = SCHEDULE.scales(t, column(0.0))
    assert (signal / noise) ** 2 == near(ALPHA[t] / (1 - ALPHA[t]))
    snr = A[1:] / (1 - A[1:])
    assert (np.diff(snr) < 0).all()
    assert snr[259 - 1] > 1 > snr[260 - 1]


@pytest.mark.parametrize("t", [1, 100, 500, 1000])
@holds("eq-marginal", code="ddim_core.add_noise")
def test_marginal(t):
    """Mean, variance and distribution function of 100,000 draws."""
    x0 = 0.6
    x = add_noise(torch.full((100_000, 1), x0, **DOUBLE), t, randn(100_000, 1, **DOUBLE), SCHEDULE).flatten()
    gaussian = NormalDist(math.sqrt(ALPHA[t]) * x0, math.sqrt(1 - ALPHA[t]))
    assert x.mean().item() == near(gaussian.mean, abs=5 * gaussian.stdev / math.sqrt(len(x)))
    assert x.std().item() == near(gaussian.stdev, rel=5 / math.sqrt(2 * len(x)))
    for k in (-2, -1, 0, 1, 2):
        share = (x < gaussian.mean + k * gaussian.stdev).double().mean().item()
        assert share == near(NormalDist().cdf(k), abs=5 * 0.5 / math.sqrt(len(x)))


@pytest.mark.parametrize("t", TIMES)
@holds("eq-variance", code="ddim_core.add_noise")
def test_variance(t):
    """Three images and the noise by quadrature: the variance over all of them."""
    images, chances = np.array([-1.0, -0.2, 0.9]), np.array([0.5, 0.2, 0.3])
    x = np.stack([add_noise(torch.full((80, 1), y, **DOUBLE), t, column(*NODES), SCHEDULE)[:, 0] for y in images])
    chance = chances[:, None] * WEIGHTS
    variance = (chance * x**2).sum() - (chance * x).sum() ** 2
    of_images = (chances * images**2).sum() - (chances * images).sum() ** 2
    assert variance == near(ALPHA[t] * of_images + 1 - ALPHA[t])


@holds("eq-markov")
def test_markov():
    """Mean and variance, followed up the chain step by step, are those of the marginal at every t."""
    mean, variance = 1.0, 0.0  # the mean in multiples of x_0
    for t in range(1, T + 1):
        mean *= math.sqrt(1 - BETA[t])
        variance = (1 - BETA[t]) * variance + BETA[t]
        assert mean == near(math.sqrt(SCHEDULE.alpha[t].item()), rel=1e-11)
        assert variance == near(1 - SCHEDULE.alpha[t].item(), rel=1e-11)


@holds("eq-two-steps")
def test_two_steps():
    """Both sides in exact fractions, for all neighbours."""
    for t in range(2, T + 1):
        b, c = Fraction(BETA[t]), Fraction(BETA[t - 1])
        assert (1 - b) * c + b == 1 - (1 - b) * (1 - c)


# --- denoising ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", TIMES)
@holds("eq-predict-eps", code="ddim_core.predict_eps")
def test_predict_eps(t):
    """The noise that was put in comes out again, and is the quotient in plain floats."""
    x0, eps = column(-1.0, 0.3), column(0.7, -2.0)
    xt = math.sqrt(ALPHA[t]) * x0 + math.sqrt(1 - ALPHA[t]) * eps
    close(predict_eps(xt, t, x0, SCHEDULE), eps)
    close(predict_eps(xt, t, 2 * x0, SCHEDULE), (xt - math.sqrt(ALPHA[t]) * 2 * x0) / math.sqrt(1 - ALPHA[t]))


@pytest.mark.parametrize("t", TIMES)
@holds("eq-predict-x0", code="ddim_core.predict_x0")
def test_predict_x0(t):
    """The image that was noised comes out again, and is the quotient in plain floats."""
    x0, eps = column(-1.0, 0.3), column(0.7, -2.0)
    xt = math.sqrt(ALPHA[t]) * x0 + math.sqrt(1 - ALPHA[t]) * eps
    close(predict_x0(xt, t, eps, SCHEDULE), x0)
    close(predict_x0(xt, t, 2 * eps, SCHEDULE), (xt - math.sqrt(1 - ALPHA[t]) * 2 * eps) / math.sqrt(ALPHA[t]))


@pytest.mark.parametrize(("t", "s"), STEPS)
@holds("eq-denoising", code="ddim_core.ddim_step")
def test_denoising(t, s):
    """A step told the true noise goes to where the same noise leads at s."""
    x0, eps = column(-1.0, 0.3), column(0.7, -2.0)
    xt = math.sqrt(ALPHA[t]) * x0 + math.sqrt(1 - ALPHA[t]) * eps
    close(ddim_step(xt, eps, t, s, SCHEDULE)[0], math.sqrt(ALPHA[s]) * x0 + math.sqrt(1 - ALPHA[s]) * eps)


IMAGES = np.array([[-1.0, 0.2, 0.5], [0.3, 0.4, -0.6], [0.9, -1.0, 0.1], [0.0, 0.0, 0.8]])
BEFORE = np.array([0.4, -0.1, 0.2])


def likelihoods(t):
    """p(x_t | y_i) as products over pixels of the gaussian's height."""
    return np.array(
        [
            math.prod(
                NormalDist(math.sqrt(ALPHA[t]) * y, math.sqrt(1 - ALPHA[t])).pdf(x)
                for x, y in zip(BEFORE, image, strict=True)
            )
            for image in IMAGES
        ]
    )


@pytest.mark.parametrize("t", [100, 259, 500, 999])
@holds("eq-likelihood", "eq-weights", code="ddim_core.oracle.DatasetDenoiser.weights")
def test_likelihood_and_weights(t):
    """Products of one-pixel densities: their ratios, and their shares in the sum."""
    p = likelihoods(t)
    distance = ((BEFORE - math.sqrt(ALPHA[t]) * IMAGES) ** 2).sum(1)
    close(p / p[0], np.exp(-(distance - distance[0]) / (2 * (1 - ALPHA[t]))))
    oracle = DatasetDenoiser(torch.from_numpy(IMAGES), SCHEDULE)
    close(oracle.weights(torch.from_numpy(BEFORE)[None], t)[0], p / p.sum())


@pytest.mark.parametrize("t", [100, 259, 500, 999])
@holds("eq-posterior-mean", code="ddim_core.oracle.DatasetDenoiser.x0")
def test_posterior_mean(t):
    """Bayes' rule by hand on four images."""
    p = likelihoods(t)
    oracle = DatasetDenoiser(torch.from_numpy(IMAGES), SCHEDULE)
    close(oracle.x0(torch.from_numpy(BEFORE)[None], t)[0], (p[:, None] * IMAGES).sum(0) / p.sum())


@pytest.mark.parametrize("t", [1, 100, 500, 1000])
@holds("eq-gauss", code="ddim_core.oracle.GaussianDenoiser.x0")
def test_gauss(t):
    """The average of x_0 under prior times likelihood, by a fine sum."""
    m, b, x = 0.3, 0.5, 0.8
    y = np.linspace(m - 9 * b, m + 9 * b, 200_001)
    weight = np.exp(-((y - m) ** 2) / (2 * b**2) - (x - math.sqrt(ALPHA[t]) * y) ** 2 / (2 * (1 - ALPHA[t])))
    found = m + math.sqrt(ALPHA[t]) * b**2 / (ALPHA[t] * b**2 + 1 - ALPHA[t]) * (x - math.sqrt(ALPHA[t]) * m)
    assert (weight * y).sum() / weight.sum() == near(found, rel=1e-9)
    assert GaussianDenoiser(m, b, SCHEDULE).x0(column(x), t).item() == near(found, rel=1e-12)


# --- training -------------------------------------------------------------------------------------------------------


@holds("eq-loss", code="ddim_core.train.Trainer.step")
def test_loss():
    """The loss of a training step against the same draw, summed by hand; zero as a guess costs 1."""
    images = torch.randint(0, 256, (16, 1, 8, 8), generator=seeded(), dtype=torch.uint8)
    trainer = Trainer(
        TrainConfig(unet=TINY.__class__(**{**TINY.to_dict(), "dropout": 0.0}), batch_size=8), images, amp="fp32"
    )
    x0, t, eps = trainer.batch(0)
    xt = torch.stack(
        [ALPHA[k] ** 0.5 * x + (1 - ALPHA[k]) ** 0.5 * e for x, k, e in zip(x0, t.tolist(), eps, strict=True)]
    )
    with torch.no_grad():
        guess = trainer.model(xt, t)
    d, expected = 64, 0.0
    for g, e in zip(guess, eps, strict=True):
        expected += ((g - e) ** 2).sum().item() / d / len(x0)
    assert trainer.step().loss.item() == near(expected, rel=1e-4)
    assert (randn(1000, 64) ** 2).mean().item() == near(1, abs=0.03)


@pytest.mark.parametrize("t", [100, 500])
@holds("eq-best-guess", code="ddim_core.oracle.DatasetDenoiser")
def test_best_guess(t):
    """For each of many x_t, no number costs less than the average noise: found by search, not by formula."""
    oracle = DatasetDenoiser(column(-1.0, 1.0), SCHEDULE)
    signal, noise = math.sqrt(ALPHA[t]), math.sqrt(1 - ALPHA[t])
    for x in (-1.3, -0.2, 0.0, 0.7):
        y = np.array([-1.0, 1.0])
        chance = np.exp(-((x - signal * y) ** 2) / (2 * noise**2))
        eps = (x - signal * y) / noise
        g = np.linspace(eps.min(), eps.max(), 100_001)
        cost = ((g[:, None] - eps) ** 2 * chance / chance.sum()).sum(1)
        width = (eps.max() - eps.min()) / 100_000
        assert oracle(column(x), t).item() == near(g[cost.argmin()], abs=width)


@pytest.mark.parametrize("t", TIMES)
@holds("eq-error-ratio", "eq-error-x0", code=("ddim_core.predict_x0", "ddim_core.predict_eps"))
def test_error_of_noise_and_image(t):
    """A wrong noise goes in, the error of the image comes out; and the other way round."""
    xt, eps, wrong = column(0.4, -1.7), column(0.7, -2.0), column(0.9, 0.1)
    error = predict_x0(xt, t, wrong, SCHEDULE) - predict_x0(xt, t, eps, SCHEDULE)
    close(wrong - eps, -math.sqrt(ALPHA[t] / (1 - ALPHA[t])) * error)
    close(-error, math.sqrt((1 - ALPHA[t]) / ALPHA[t]) * (wrong - eps))
    x0, other = column(0.2, 0.3), column(-0.5, 0.1)
    error = predict_eps(xt, t, other, SCHEDULE) - predict_eps(xt, t, x0, SCHEDULE)
    close(error, -math.sqrt(ALPHA[t] / (1 - ALPHA[t])) * (other - x0))


@holds("eq-attention", code="ddim_core.unet.AttentionBlock")
def test_attention():
    """The block against loops over positions, in float64."""
    torch.manual_seed(0)
    block = AttentionBlock(8, 4).double()
    x = randn(1, 8, 2, 3, **DOUBLE)
    with torch.no_grad():
        h = block.norm(x)
        q, k, v = (layer(h)[0].flatten(1).T.numpy() for layer in (block.q, block.k, block.v))
        W, bias = block.proj_out.weight[:, :, 0, 0].numpy(), block.proj_out.bias.numpy()
        found = block(x)[0].flatten(1).T.numpy()
    for i in range(6):
        score = np.exp([q[i] @ k[j] / math.sqrt(8) for j in range(6)])
        mixed = sum(a * value for a, value in zip(score / score.sum(), v, strict=True))
        close(found[i], x[0].flatten(1).T[i].numpy() + W @ mixed + bias)


@holds("eq-time", code="ddim_core.unet.timestep_embedding")
def test_time():
    """Each sine and cosine against the math module, for several times and widths."""
    for channels in (4, 32, 128):
        h = channels // 2
        omega = [10 ** (-4 * (i - 1) / (h - 1)) for i in range(1, h + 1)]
        for t in (1, 7, 500, 1000):
            expected = [math.sin(w * t) for w in omega] + [math.cos(w * t) for w in omega]
            close(timestep_embedding(torch.tensor([t]), channels)[0], expected, 2e-4)


@pytest.mark.parametrize("t", TIMES)
@holds("eq-linear-loss")
def test_linear_loss(t):
    """The residual of least squares from x_t to the noise, for correlated pixels, from their covariance matrix."""
    d = 5
    root = randn(d, d, **DOUBLE).numpy()
    C = root @ root.T
    of_xt = ALPHA[t] * C + (1 - ALPHA[t]) * np.eye(d)
    with_eps = math.sqrt(1 - ALPHA[t]) * np.eye(d)  # Cov(x_t, eps)
    residual = np.eye(d) - with_eps.T @ np.linalg.solve(of_xt, with_eps)
    variances = np.linalg.eigvalsh(C)
    expected = (ALPHA[t] * variances / (ALPHA[t] * variances + 1 - ALPHA[t])).mean()
    assert np.trace(residual) / d == near(expected, rel=1e-8)


@holds("eq-loss-weight", code=("ddim_core.weighting.LossByTime", "ddim_core.train.Trainer"))
def test_loss_weight():
    """The weighted loss of a batch against a sum by hand, with L(t) kept beside the run in plain floats."""
    images = torch.randint(0, 256, (16, 1, 8, 8), generator=seeded(), dtype=torch.uint8)
    trainer = Trainer(
        TrainConfig(unet=TINY, batch_size=8, loss_weight="balanced", clip_norm=None, lr=0.01), images, amp="fp32"
    )
    trainer.model.eval()  # no dropout, which each forward pass would draw anew
    sums, counts = [1e-3] * 50, [1e-3] * 50  # twenty times each
    for k in range(30):
        x0, t, eps = trainer.batch(k)
        L = [s / n for s, n in zip(sums, counts, strict=True)]
        w = torch.tensor([sum(L) / 50 / L[(s - 1) // 20] for s in t.tolist()])
        a = torch.tensor([ALPHA[s] for s in t.tolist()], dtype=torch.float32).view(-1, 1, 1, 1)
        guess = trainer.model(a.sqrt() * x0 + (1 - a).sqrt() * eps, t)
        losses = (guess - eps).square().mean((1, 2, 3))
        expected = torch.autograd.grad((w * losses).mean(), trainer.model.conv_out.bias)[0]
        trainer.step()
        torch.testing.assert_close(trainer.model.conv_out.bias.grad, expected, rtol=1e-3, atol=1e-6)
        sums, counts = ([v * (1 - 8 / 20_000) for v in old] for old in (sums, counts))
        for s, loss in zip(t.tolist(), losses.tolist(), strict=True):
            sums[(s - 1) // 20] += loss
            counts[(s - 1) // 20] += 1
    assert w.max() > 1.3 * w.min(), "or nothing was weighed"


@holds("eq-ema", code="ddim_core.train.Trainer")
def test_ema():
    """The average of a parameter after some steps against a running average kept beside it."""
    images = torch.randint(0, 256, (16, 1, 8, 8), generator=seeded(), dtype=torch.uint8)
    trainer = Trainer(TrainConfig(unet=TINY, batch_size=8, ema_decay=0.3, lr=0.01), images)
    kept = [p.detach().double().clone() for p in trainer.ema.parameters()]
    for k in range(5):
        trainer.step()
        delta = min(0.3, (1 + k) / (10 + k))  # smaller at first
        kept = [
            delta * a + (1 - delta) * p.detach().double() for a, p in zip(kept, trainer.model.parameters(), strict=True)
        ]
    for a, p in zip(kept, trainer.ema.parameters(), strict=True):
        close(p, a, 1e-6)


# --- fast sampling --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "s"), STEPS)
@holds("eq-x0hat", "eq-step", code=("ddim_core.predict_x0", "ddim_core.ddim_step"))
def test_step(t, s):
    """The step in plain floats, for any noise a network may name."""
    xt, guess = 0.7, -0.4
    x0_hat = (xt - math.sqrt(1 - ALPHA[t]) * guess) / math.sqrt(ALPHA[t])
    xs, found = ddim_step(column(xt), column(guess), t, s, SCHEDULE)
    assert found.item() == near(x0_hat, rel=1e-11)
    assert predict_x0(column(xt), t, column(guess), SCHEDULE).item() == near(x0_hat, rel=1e-11)
    assert xs.item() == near(math.sqrt(ALPHA[s]) * x0_hat + math.sqrt(1 - ALPHA[s]) * guess, rel=1e-11)


@holds("eq-grid", code="ddim_core.Schedule.timesteps")
def test_grid():
    """Ends, order and number of entries, for every S; and S calls of the model."""
    for S in range(1, T + 1):
        tau = SCHEDULE.timesteps(S)
        assert tau[0] == 0
        assert tau[-1] == T
        assert len(tau) == S + 1
        assert all(a < b for a, b in pairwise(tau))
    asked = []
    list(sample(lambda x, t: asked.append(int(t[0])) or x, SCHEDULE, column(1.0), SCHEDULE.timesteps(7)))
    assert asked == SCHEDULE.timesteps(7)[:0:-1]


@holds("eq-even", code="ddim_core.Schedule.timesteps")
def test_even():
    """Rounding down of i T / S + 1/2 as two inequalities between whole numbers, for every S."""
    for S in range(1, T + 1):
        tau, i = np.array(SCHEDULE.timesteps(S)), np.arange(S + 1)
        assert (2 * S * tau <= 2 * i * T + S).all()
        assert (2 * i * T + S < 2 * S * (tau + 1)).all()


def follow(velocity, x, start, end, steps=4000):
    """Runge and Kutta's fourth-order method, on a grid that is even in log(level + 0.01)."""
    grid = np.exp(np.linspace(math.log(start + 0.01), math.log(end + 0.01), steps + 1)) - 0.01
    for a, b in pairwise(grid):
        h = b - a
        k1 = velocity(x, a)
        k2 = velocity(x + h / 2 * k1, a + h / 2)
        k3 = velocity(x + h / 2 * k2, a + h / 2)
        k4 = velocity(x + h * k3, b)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


RHO = np.sqrt((1 - A) / A)


@holds("eq-gaussian-flow", "eq-gauss-map", code="ddim_core.oracle.GaussianDenoiser")
def test_gaussian_flow():
    """The closed form against a fourth-order solver, and against DDIM in ever more steps."""
    m, b = 0.3, 0.5
    xT = np.linspace(-2, 2, 5)

    def flow(rho):
        return m + (xT / math.sqrt(ALPHA[T]) - m) * math.sqrt((b**2 + rho**2) / (b**2 + RHO[T] ** 2))

    def velocity(x, rho):
        return rho * (x - m) / (b**2 + rho**2)

    for level in (10.0, 1.0, 0.0):
        close(follow(velocity, xT / math.sqrt(ALPHA[T]), RHO[T], level), flow(level), 1e-8)
    ends = m + b * (xT - math.sqrt(ALPHA[T]) * m) / math.sqrt(ALPHA[T] * b**2 + 1 - ALPHA[T])
    close(flow(0.0), ends, 1e-9)
    errors = []
    for S in (50, 100, 1000):
        *_, last = sample(GaussianDenoiser(m, b, SCHEDULE), SCHEDULE, column(*xT), SCHEDULE.timesteps(S))
        errors.append(np.abs(last.xt[:, 0].numpy() - ends).max())
    assert errors[1] / errors[0] == near(1 / 2, rel=0.1)
    assert errors[2] / errors[1] == near(1 / 10, rel=0.1)


# --- DDPM, encoding, interpolation, filling in -----------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("t", "s"), [pair for pair in STEPS if pair[1] > 0])
@holds("eq-general-step", "eq-sigma", "eq-fresh", code="ddim_core.ddim_step")
def test_general_step(t, s, eta):
    """The package's step in plain floats; what it adds of z is sigma, and the share of the fresh noise is as stated."""
    xt, guess, z = 0.7, -0.4, 1.3
    sigma = eta * math.sqrt((1 - ALPHA[s]) / (1 - ALPHA[t])) * math.sqrt(1 - ALPHA[t] / ALPHA[s])
    x0_hat = (xt - math.sqrt(1 - ALPHA[t]) * guess) / math.sqrt(ALPHA[t])
    expected = math.sqrt(ALPHA[s]) * x0_hat + math.sqrt(1 - ALPHA[s] - sigma**2) * guess + sigma * z
    found, without = (
        ddim_step(column(xt), column(guess), t, s, SCHEDULE, eta=eta, noise=column(noise))[0].item()
        for noise in (z, 0.0)
    )
    assert found == near(expected, rel=1e-9, abs=1e-10)
    added = (found - without) / z
    assert added == near(sigma, abs=1e-9)
    assert added**2 / (1 - ALPHA[s]) == near(eta**2 * (1 - ALPHA[t] / ALPHA[s]) / (1 - ALPHA[t]), abs=1e-7)


@pytest.mark.parametrize(("t", "s"), [pair for pair in STEPS if pair[1] > 0])
@holds("eq-ddpm-jump", code="ddim_core.ddim_step")
def test_ddpm_jump(t, s):
    """Bayes' rule for a jump, as the weighted mean of two Gaussians; and the package's step with eta = 1."""
    x0, xt = 0.6, -0.9
    r = ALPHA[t] / ALPHA[s]
    # x_t given x_s says x_s is near x_t / sqrt(r), with variance (1 - r) / r; x_0 says sqrt(alpha_s) x_0, 1 - alpha_s
    trust = np.array([r / (1 - r), 1 / (1 - ALPHA[s])])
    variance = 1 / trust.sum()
    mean = variance * (trust @ [xt / math.sqrt(r), math.sqrt(ALPHA[s]) * x0])
    of_x0 = math.sqrt(ALPHA[s]) * (1 - r) / (1 - ALPHA[t])
    of_xt = math.sqrt(r) * (1 - ALPHA[s]) / (1 - ALPHA[t])
    assert mean == near(of_x0 * x0 + of_xt * xt, rel=1e-9)
    assert variance == near((1 - ALPHA[s]) / (1 - ALPHA[t]) * (1 - r), rel=1e-9)
    eps = predict_eps(column(xt), t, column(x0), SCHEDULE)
    here, there = (ddim_step(column(xt), eps, t, s, SCHEDULE, eta=1.0, noise=column(z))[0].item() for z in (0.0, 1.0))
    assert here == near(mean, abs=1e-9)
    assert (there - here) ** 2 == near(variance, abs=1e-9)


@pytest.mark.parametrize(("t", "s"), [pair for pair in STEPS if pair[1] > 0])
@holds("eq-sigma-hat", code="ddim_core.ddim_step")
def test_sigma_hat(t, s):
    """The mean is that of eta = 1, and the noise that of the chain's way up from s to t."""
    xt, guess = column(0.7), column(-0.4)
    wide = [ddim_step(xt, guess, t, s, SCHEDULE, eta="sigma-hat", noise=column(z))[0].item() for z in (0.0, 1.0)]
    assert wide[0] == ddim_step(xt, guess, t, s, SCHEDULE, eta=1.0, noise=column(0.0))[0].item()
    way_up = 1 - math.prod(1 - BETA[j] for j in range(s + 1, t + 1))
    assert (wide[1] - wide[0]) ** 2 == near(way_up, abs=1e-9)


@pytest.mark.parametrize("t", [10, 500, 1000])
@holds("eq-clip", code="ddim_core.ddim_step")
def test_clip(t):
    """With clip on, the step goes on with the noise that fits the clipped image and x_t."""
    xt, guess = 1.4, -1.5
    x0_hat = (xt - math.sqrt(1 - ALPHA[t]) * guess) / math.sqrt(ALPHA[t])
    clipped = min(1.0, max(-1.0, x0_hat))
    assert clipped != x0_hat
    refit = (xt - math.sqrt(ALPHA[t]) * clipped) / math.sqrt(1 - ALPHA[t])
    s = t // 2
    found, seen = ddim_step(column(xt), column(guess), t, s, SCHEDULE, clip=True)
    assert seen.item() == clipped
    assert found.item() == near(math.sqrt(ALPHA[s]) * clipped + math.sqrt(1 - ALPHA[s]) * refit, rel=1e-9)


@pytest.mark.parametrize(("t", "s"), [pair for pair in STEPS if pair[1] > 0])
@holds("eq-ddpm-unit", code=("ddim_core.ddim_step", "ddim_core.oracle.GaussianDenoiser"))
def test_ddpm_unit(t, s):
    """The factor by which a step with eta = 1 multiplies x_t, for data of mean 0 and variance 1 and their exact denoiser."""
    r = ALPHA[t] / ALPHA[s]
    first = (math.sqrt(ALPHA[s]) * (1 - r) * math.sqrt(ALPHA[t]) + math.sqrt(r) * (1 - ALPHA[s])) / (1 - ALPHA[t])
    second = math.sqrt(r) * (ALPHA[s] * (1 - r) + 1 - ALPHA[s]) / (1 - ALPHA[t])
    assert first == near(second, rel=1e-9)
    assert second == near(math.sqrt(r), rel=1e-9)
    xt = column(0.8)
    eps = GaussianDenoiser(0.0, 1.0, SCHEDULE)(xt, t)
    found = ddim_step(xt, eps, t, s, SCHEDULE, eta=1.0, noise=column(0.0))[0].item()
    assert found == near(math.sqrt(r) * 0.8, rel=1e-8)


@holds("eq-ddpm-algorithm", code="ddim_core.ddim_step")
def test_ddpm_algorithm():
    """DDPM's algorithm 2 in plain floats against the package's step with eta = 1, for all t."""
    xt, guess, z = 0.7, -0.4, 1.3
    for t in range(2, T + 1):
        sigma = math.sqrt((1 - ALPHA[t - 1]) / (1 - ALPHA[t]) * BETA[t])
        expected = (xt - BETA[t] / math.sqrt(1 - ALPHA[t]) * guess) / math.sqrt(1 - BETA[t]) + sigma * z
        found, _ = ddim_step(column(xt), column(guess), t, t - 1, SCHEDULE, eta=1.0, noise=column(z))
        assert found.item() == near(expected, rel=1e-10, abs=1e-10)


@holds("eq-encode", "eq-encode-euler", code="ddim_core.encode")
def test_encode():
    """Three steps upwards in plain floats, and in the coordinates in which they are Euler's."""
    tau = [0, 200, 700, 1000]
    found = encode(lambda x, t: torch.sin(x) * t[:, None] / 1000, SCHEDULE, column(0.4), tau).item()
    x = x_bar = 0.4
    for s, t in pairwise(tau):
        asked = max(s, 1) / 1000  # the model knows no time 0
        eps = math.sin(x) * asked
        eps_bar = math.sin(x_bar * math.sqrt(ALPHA[s])) * asked
        x = (
            math.sqrt(ALPHA[t]) * (x - math.sqrt(1 - ALPHA[s]) * eps) / math.sqrt(ALPHA[s])
            + math.sqrt(1 - ALPHA[t]) * eps
        )
        x_bar += (RHO[t] - RHO[s]) * eps_bar
    assert found == near(x, rel=1e-10)
    assert found == near(x_bar * math.sqrt(ALPHA[T]), rel=1e-10)


@holds("eq-gaussian-address", code="ddim_core.encode")
def test_gaussian_address():
    """A fourth-order solver, run upwards, and `encode` with many steps, against the closed form."""
    m, b = 0.3, 0.5
    x0 = np.array([-0.7, 0.3, 1.0])
    address = math.sqrt(ALPHA[T]) * m + math.sqrt(ALPHA[T] * b**2 + 1 - ALPHA[T]) * (x0 - m) / b
    up = follow(lambda x, rho: rho * (x - m) / (b**2 + rho**2), x0, 0.0, RHO[T])
    close(math.sqrt(ALPHA[T]) * up, address, 1e-8)
    found = encode(GaussianDenoiser(m, b, SCHEDULE), SCHEDULE, column(*x0), SCHEDULE.timesteps(1000))
    close(found[:, 0], address, 0.02)


@holds("eq-lerp", "eq-lerp-variance", code="ddim_core.lerp")
def test_lerp():
    """The line pixel by pixel, and its variance over 100,000 pixels."""
    a, b = randn(2, 100_000, **DOUBLE)
    for k in (0.0, 0.25, 0.5, 0.9, 1.0):
        point = lerp(a, b, [k])[0]
        close(point[:5], [(1 - k) * x + k * y for x, y in zip(a[:5].tolist(), b[:5].tolist(), strict=True)], 1e-12)
        assert point.var().item() == near((1 - k) ** 2 + k**2, rel=0.03)


@holds("eq-slerp", code="ddim_core.slerp")
def test_slerp():
    """Turned in the plane of the two: the angle from the start grows evenly, and a unit length is kept."""
    a, b = randn(2, 50, **DOUBLE)
    a, b = a / a.norm(), b / b.norm()
    theta = math.acos((a @ b).item())
    across = b - (a @ b) * a
    across = across / across.norm()
    for k in (0.0, 0.25, 0.5, 0.9, 1.0):
        close(slerp(a, b, [k])[0], math.cos(k * theta) * a + math.sin(k * theta) * across)
    close(slerp(3 * a, 2 * b, [0.5])[0], (3 * a + 2 * b) * math.sin(theta / 2) / math.sin(theta))


@pytest.mark.parametrize(("t", "s"), [(500, 400), (100, 0)])
@holds("eq-replace")
def test_replace(t, s):
    """Replacement keeps the right marginal: given y, the known pixel at s has the mean and variance of noising; the other one stays."""
    M, y = np.array([1.0, 0.0]), np.array([0.8, 99.0])
    xt, eps = randn(50_000, 2, **DOUBLE), randn(50_000, 2, seed=1, **DOUBLE)
    step = ddim_step(xt, 0.3 * xt, t, s, SCHEDULE)[0].numpy()
    noised = add_noise(torch.from_numpy(np.broadcast_to(y, (50_000, 2)).copy()), s, eps, SCHEDULE).numpy()
    x = M * noised + (1 - M) * step
    assert (x[:, 1] == step[:, 1]).all()
    assert x[:, 0].mean() == near(math.sqrt(ALPHA[s]) * 0.8, abs=5 / math.sqrt(50_000))
    assert x[:, 0].var() == near(1 - ALPHA[s], abs=5 * math.sqrt(2 / 50_000))


PAIR = np.array([[1.0, 0.8], [0.8, 1.0]])


@holds("eq-conditional")
def test_conditional():
    """Mean and variance along the cut u = y of the density of the pair, by a fine sum."""
    c, y = 0.8, 0.6
    v = np.linspace(-12, 12, 100_001)
    weight = np.exp(-(y**2 - 2 * c * y * v + v**2) / (2 * (1 - c**2)))
    weight /= weight.sum()
    assert (weight * v).sum() == near(c * y)
    assert (weight * (v - c * y) ** 2).sum() == near(1 - c**2)


@pytest.mark.parametrize("t", [10, 500, 1000])
@holds("eq-pair-denoiser", code="ddim_core.oracle.GaussianDenoiser")
def test_pair_denoiser(t):
    """Regression of x_0 on x_t for correlated pixels, done in the axes where they are independent."""
    a = ALPHA[t]
    found = math.sqrt(a) * PAIR @ np.linalg.inv(a * PAIR + (1 - a) * np.eye(2))
    axes = np.array([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)  # variances 1.8 and 0.2 along them
    deviations = torch.tensor([math.sqrt(1.8), math.sqrt(0.2)], **DOUBLE)
    along = GaussianDenoiser(0.0, deviations, SCHEDULE).x0(torch.from_numpy(np.eye(2) @ axes), t).numpy() @ axes
    close(along, found.T)


@pytest.mark.parametrize(("t", "s"), STEPS)
@holds("eq-bounce")
def test_bounce(t, s):
    """The jump up against the chain's steps, one after the other: factor and variance."""
    factor, variance = 1.0, 0.0
    for j in range(s + 1, t + 1):
        factor *= math.sqrt(1 - BETA[j])
        variance = (1 - BETA[j]) * variance + BETA[j]
    assert factor == near(math.sqrt(ALPHA[t] / ALPHA[s]), rel=1e-9)
    assert variance == near(1 - ALPHA[t] / ALPHA[s], rel=1e-8)


@pytest.mark.parametrize("t", [10, 500, 900])
@holds("eq-guided")
def test_guided(t):
    """The noise to expect in x_t once y is known, for the correlated pair: by regression, and by the gradient's correction."""
    a, y, x = ALPHA[t], 0.6, np.array([0.5, -0.2])
    S = a * PAIR + (1 - a) * np.eye(2)  # Var x_t
    n = math.sqrt(1 - a)
    guess = n * np.linalg.solve(S, x)
    to_y = math.sqrt(a) * (PAIR @ np.linalg.inv(S))[0]  # E[y | x_t] = to_y x_t
    variance = PAIR[0, 0] - a * PAIR[0] @ np.linalg.solve(S, PAIR[:, 0])
    gradient = to_y * (y - to_y @ x) / variance
    # jointly: (x_t, y) tell of eps
    joint = np.block([[S, math.sqrt(a) * PAIR[:, :1]], [math.sqrt(a) * PAIR[:1], PAIR[:1, :1]]])
    with_eps = np.vstack([n * np.eye(2), np.zeros((1, 2))])
    close(guess - n * gradient, with_eps.T @ np.linalg.solve(joint, np.append(x, y)), 1e-8)


# --- why it works ---------------------------------------------------------------------------------------------------


@holds("eq-weighted-loss")
def test_weighted_loss():
    """The sum over times of one-time averages, the same whether x_t comes by one jump or by the chain's joint distribution."""
    chain = Chain(SHORT, 1.0, BAD)
    gamma = [0, 3.0, 1.0, 0.5, 2.0, 0.1, 1.5]
    jumps = 0.0
    for t in range(1, chain.n + 1):
        a = math.sqrt(chain.a[t]) * chain.std * NODES[:, None] + math.sqrt(1 - chain.a[t]) * NODES
        jumps += gamma[t] * ((BAD[t] * a - NODES) ** 2 * WEIGHTS[:, None] * WEIGHTS).sum()
    for eta in (0.1, 0.5, 1.0):
        other = Chain(SHORT, eta, BAD)
        assert sum(gamma[t] * other.error(t) for t in range(1, other.n + 1)) == near(jumps, rel=1e-9)


@chains
@holds("eq-family")
def test_family(chain):
    """The product of the conditional densities is the joint density of all states, at random points."""
    draw = np.random.default_rng(0)
    C = chain.q[1:, 1:] - np.outer(chain.q[1:, 0], chain.q[0, 1:]) / chain.q[0, 0]  # given x_0
    for _ in range(5):
        x = draw.standard_normal(chain.n + 1)
        a = chain.a
        product = log_normal(x[-1], math.sqrt(a[-1]) * x[0], 1 - a[-1])
        product += sum(
            log_normal(x[t - 1], chain.mean(t, x[0], x[t]), chain.sigma[t] ** 2) for t in range(2, chain.n + 1)
        )
        assert product == near(log_normal(x[1:], np.sqrt(a[1:]) * x[0], C), rel=1e-8)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("t", "s"), [pair for pair in STEPS if pair[1] > 0])
@holds("eq-family-step", code="ddim_core.ddim_step")
def test_family_step(t, s, eta):
    """The package's step, told the true noise, against plain floats."""
    x0, xt, z = 0.6, -0.9, 1.3
    eps = (xt - math.sqrt(ALPHA[t]) * x0) / math.sqrt(1 - ALPHA[t])
    sigma = deviation(eta, t, s)
    expected = math.sqrt(ALPHA[s]) * x0 + math.sqrt(1 - ALPHA[s] - sigma**2) * eps + sigma * z
    found, _ = ddim_step(column(xt), column(eps), t, s, SCHEDULE, eta=eta, noise=column(z))
    assert found.item() == near(expected, rel=1e-9, abs=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.2, 0.7, 1.0])
@holds("eq-variances-add", code="ddim_core.ddim_step")
def test_variances_add(eta):
    """The lemma: mean and variance of x_t given x_0, read off the package's step, at all thousand times."""
    zero, one = column(0.0), column(1.0)
    mean, variance = math.sqrt(ALPHA[T]), 1 - ALPHA[T]
    for t in range(T, 1, -1):
        s = t - 1

        def step(xt, z, x0, t=t, s=s):
            eps = predict_eps(xt, t, x0, SCHEDULE)
            return ddim_step(xt, eps, t, s, SCHEDULE, eta=eta, noise=z)[0].item()

        of_xt, of_z, of_x0 = step(one, zero, zero), step(zero, one, zero), step(zero, zero, one)
        mean, variance = of_x0 + of_xt * mean, of_xt**2 * variance + of_z**2
        assert mean == near(math.sqrt(ALPHA[s]), abs=1e-10)
        assert variance == near(1 - ALPHA[s], abs=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.2, 0.7, 1.0])
@holds("eq-noise-memory")
def test_noise_memory(eta):
    """Correlations by the product against the covariance that the steps build up; at eta = 1, against the forward chain's."""
    a = Schedule.linear(40, 0.01, 0.3).alpha.numpy()
    n = len(a) - 1
    chain = Chain(a, eta, np.zeros(n + 1))
    given = chain.q - np.outer(chain.q[:, 0], chain.q[0]) / chain.q[0, 0]
    for s, t in ((1, 2), (3, 9), (10, 40), (1, 40)):
        found = given[s, t] / math.sqrt(given[s, s] * given[t, t])
        product = math.prod(math.sqrt(1 - chain.sigma[j] ** 2 / (1 - a[j - 1])) for j in range(s + 1, t + 1))
        assert found == near(product, rel=1e-8)
        if eta == 1:
            assert found == near(math.sqrt(a[t] / a[s]) * math.sqrt((1 - a[s]) / (1 - a[t])), rel=1e-8)


@pytest.mark.parametrize("t", [2, 10, 100, 500, 1000])
@holds("eq-bayes", "eq-posterior-variance", "eq-posterior", code="ddim_core.ddim_step")
def test_posterior(t):
    """Mean and variance of the product of the two Gaussians, by a fine sum; and of the package's step with eta = 1."""
    x0, xt, s = 0.6, -0.9, t - 1
    mean = math.sqrt(ALPHA[s]) * BETA[t] / (1 - ALPHA[t]) * x0
    mean += math.sqrt(1 - BETA[t]) * (1 - ALPHA[s]) / (1 - ALPHA[t]) * xt
    variance = (1 - ALPHA[s]) / (1 - ALPHA[t]) * BETA[t]
    assert 1 / variance == near((1 - BETA[t]) / BETA[t] + 1 / (1 - ALPHA[s]), rel=1e-9)
    x = mean + math.sqrt(variance) * np.linspace(-12, 12, 100_001)
    log = -((xt - math.sqrt(1 - BETA[t]) * x) ** 2) / (2 * BETA[t])
    log = log - (x - math.sqrt(ALPHA[s]) * x0) ** 2 / (2 * (1 - ALPHA[s]))
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    assert (weight * x).sum() == near(mean, rel=1e-7)
    assert (weight * (x - mean) ** 2).sum() == near(variance, rel=1e-7)
    eps = predict_eps(column(xt), t, column(x0), SCHEDULE)
    here, there = (ddim_step(column(xt), eps, t, s, SCHEDULE, eta=1.0, noise=column(z))[0].item() for z in (0.0, 1.0))
    assert here == near(mean, abs=1e-10)
    assert (there - here) ** 2 == near(variance, abs=1e-10)


@pytest.mark.parametrize("t", [2, 10, 100, 500, 1000])
@holds("eq-kept-noise", code="ddim_core.ddim_step")
def test_kept_noise(t):
    """What a step of the package with eta = 1 makes of pure old noise, squared, against all three lines."""
    s, variance = t - 1, deviation(1.0, t, t - 1) ** 2
    xt = column(math.sqrt(1 - ALPHA[t]))  # nothing of the image
    kept = ddim_step(xt, column(1.0), t, s, SCHEDULE, eta=1.0, noise=column(0.0))[0].item() ** 2
    assert 1 - ALPHA[s] - variance == near(kept, rel=1e-8)
    assert (1 - ALPHA[s]) * (1 - ALPHA[t] - BETA[t]) / (1 - ALPHA[t]) == near(kept, rel=1e-8)
    assert ALPHA[t] / ALPHA[s] * (1 - ALPHA[s]) ** 2 / (1 - ALPHA[t]) == near(kept, rel=1e-8)


@pytest.mark.parametrize("t", [2, 10, 500, 1000])
@holds("eq-square")
def test_square(t):
    """The difference of the two sides does not change with x."""
    x0, xt, s = 0.6, -0.9, t - 1
    _, of_xt, sigma = family_weights(1.0, t, s)
    mean = math.sqrt(ALPHA[s]) * x0 + of_xt * (xt - math.sqrt(ALPHA[t]) * x0)

    def rest(x):
        left = (xt - math.sqrt(1 - BETA[t]) * x) ** 2 / BETA[t] + (x - math.sqrt(ALPHA[s]) * x0) ** 2 / (1 - ALPHA[s])
        return left - (x - mean) ** 2 / sigma**2

    assert rest(1.0) == near(rest(-2.0), rel=1e-6, abs=1e-6)
    assert rest(0.3) == near(rest(-2.0), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@holds("eq-family-eta", code="ddim_core.ddim_step")
def test_family_eta(eta):
    """What the package's step adds of z, for all t, against eta times the root of the posterior's variance, to 1e-10."""
    zero, one = column(0.0), column(1.0)
    for t in range(2, T + 1):
        added = ddim_step(zero, zero, t, t - 1, SCHEDULE, eta=eta, noise=one)[0].item()
        assert added == near(eta * math.sqrt((1 - ALPHA[t - 1]) / (1 - ALPHA[t]) * BETA[t]), abs=1e-10)


@chains
@holds("eq-family-forward")
def test_family_forward(chain):
    """The regression of x_t on the state before it and on x_0 from the joint covariance, and that x_0 drops out only at eta = 1."""
    a = chain.a
    for t in range(2, chain.n + 1):
        s, C = t - 1, chain.q
        of_xs, of_x0 = np.linalg.solve(C[np.ix_([s, 0], [s, 0])], C[[s, 0], t])
        k = math.sqrt((1 - a[s] - chain.sigma[t] ** 2) * (1 - a[t])) / (1 - a[s])
        assert of_xs == near(k, rel=1e-8)
        assert of_x0 == near(math.sqrt(a[t]) - k * math.sqrt(a[s]), abs=1e-9)
        markov = chain.sigma[t] == near(math.sqrt((1 - a[s]) / (1 - a[t]) * (1 - a[t] / a[s])))
        assert (abs(of_x0) < 1e-9) == markov


@pytest.mark.parametrize("eta", [0.2, 1.0])
@holds("eq-generative", code="ddim_core.sample")
def test_generative(eta):
    """Each state that the package's sampler visits, given the one before, against the family's step around x0_hat."""
    c, xT = 0.6, column(0.4, -1.1)
    states = list(sample(lambda x, t: c * x, SCHEDULE, xT, SCHEDULE.timesteps(T), eta=eta, generator=seeded(1)))
    source = seeded(1)
    for now, after in pairwise(states[:-1]):
        z = torch.randn(xT.shape, generator=source, **DOUBLE)
        x0_hat = (now.xt - math.sqrt(1 - ALPHA[now.t]) * c * now.xt) / math.sqrt(ALPHA[now.t])
        of_x0, of_xt, of_z = family_weights(eta, now.t, after.t)
        expected = of_x0 * x0_hat + of_xt * now.xt + of_z * z
        assert ((after.xt - expected).abs() <= 1e-9 * (1 + expected.abs())).all()
    before, last = states[-2:]
    close(last.xt, (1 - math.sqrt(1 - ALPHA[1]) * c) / math.sqrt(ALPHA[1]) * before.xt)  # the mean of the last one


@chains
@holds("eq-elbo")
def test_elbo(chain):
    """The bound lies above the exact negative log-likelihood by the divergence of the two distributions of the way down."""
    v = chain.p[0, 0]
    exact = math.log(2 * math.pi * v) / 2 + chain.std**2 / (2 * v)
    # q and p of x_1..x_n given x_0: covariances, and means that are multiples of x_0
    conditional = [M[1:, 1:] - np.outer(M[1:, 0], M[0, 1:]) / M[0, 0] for M in (chain.q, chain.p)]
    apart = chain.q[1:, 0] / chain.q[0, 0] - chain.p[1:, 0] / chain.p[0, 0]
    gap = kl(*conditional) + chain.std**2 * apart @ np.linalg.solve(conditional[1], apart) / 2
    assert gap >= 0
    assert chain.J() == near(exact + gap, rel=1e-8)


@chains
@holds("eq-elbo-sum")
def test_elbo_sum(chain):
    """The bound from two covariance matrices against the sum of its terms."""
    last = math.log(2 * math.pi * chain.sigma_1**2) / 2 + chain.square(1, 1.0, -chain.guess(1)) / (2 * chain.sigma_1**2)
    terms = [chain.terminal(), *(chain.divergence(t) for t in range(2, chain.n + 1)), last]
    assert chain.J() == near(sum(terms), rel=1e-8)


@holds("eq-kl")
def test_kl():
    """The average of the log quotient by quadrature, in three dimensions."""
    mu, other, sigma = np.array([0.3, -0.2, 1.0]), np.array([0.1, 0.5, 0.7]), 0.4
    total = 0.0
    for a, b in zip(mu, other, strict=True):
        x = a + sigma * NODES
        total += (WEIGHTS * ((x - b) ** 2 - (x - a) ** 2) / (2 * sigma**2)).sum()
    assert total == near(((mu - other) ** 2).sum() / (2 * sigma**2))


@chains
@holds("eq-gamma")
def test_gamma(chain):
    """Each divergence over its squared error of the noise; at eta = 1 also against DDPM, eq. 12."""
    for t in range(2, chain.n + 1):
        assert chain.gamma(t) > 0
        assert chain.divergence(t) == near(chain.gamma(t) * chain.error(t), rel=1e-9)
    assert chain.square(1, 1.0, -chain.guess(1)) / (2 * chain.sigma_1**2) == near(
        chain.gamma(1) * chain.error(1), rel=1e-9
    )
    full = Chain(A[: 300 + 1], 1.0, np.zeros(301))
    for t in (2, 10, 300):
        ddpm = BETA[t] ** 2 / (2 * full.sigma[t] ** 2 * (1 - BETA[t]) * (1 - ALPHA[t]))
        assert full.gamma(t) == near(ddpm, rel=1e-6)


@chains
@holds("eq-theorem", "eq-constant")
def test_theorem(chain):
    """Theorem 1: the bound from two covariance matrices against weighted errors plus the constant."""
    L = sum(chain.gamma(t) * chain.error(t) for t in range(1, chain.n + 1))
    assert chain.J() == near(L + chain.constant(), rel=1e-8)


@pytest.mark.parametrize("t", [10, 259, 700])
@holds("eq-mean-is-best")
def test_mean_is_best(t):
    """Both sides by quadrature for two images and an arbitrary g."""
    signal, noise = math.sqrt(ALPHA[t]), math.sqrt(1 - ALPHA[t])
    left = right = 0.0
    for y in (-1.0, 1.0):
        # fine enough for the steep posterior of small t
        eps = np.linspace(-9, 9, 200_001)
        weight = np.exp(-(eps**2) / 2)
        weight /= 2 * weight.sum()
        x = signal * y + noise * eps
        best = (x - signal * two_points(x, signal, noise)) / noise
        g = 0.3 + 0.5 * np.sin(2 * x)
        left += (weight * (eps - g) ** 2).sum()
        right += (weight * ((eps - best) ** 2 + (best - g) ** 2)).sum()
    assert left == near(right, rel=1e-8)


@holds("eq-gamma-limit")
def test_gamma_limit():
    """The weight times eta squared, for smaller and smaller eta."""
    for t in range(2, len(SHORT)):
        one = Chain(SHORT, 1.0, BAD).sigma[t]
        root = math.sqrt(SHORT[t - 1] * (1 - SHORT[t]) / SHORT[t]) - math.sqrt(1 - SHORT[t - 1])
        limit = root**2 / (2 * one**2)
        assert limit > 0
        errors = [abs(eta**2 * Chain(SHORT, eta, BAD).gamma(t) / limit - 1) for eta in (0.1, 0.01, 0.001)]
        assert errors[0] > 50 * errors[1]
        assert errors[2] < 1e-5


@pytest.mark.parametrize("eta", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("tau", [[0, 6], [0, 1, 6], [0, 2, 3, 6], [0, 1, 3, 4, 6]])
@holds("eq-subsequence")
def test_subsequence(tau, eta):
    """The theorem again on grids that leave out times, with the same denoiser and the same errors."""
    full, cut = Chain(SHORT, eta, BAD), Chain(SHORT[tau], eta, BAD[tau])
    L = sum(cut.gamma(i) * full.error(tau[i]) for i in range(1, cut.n + 1))
    assert cut.J() == near(L + cut.constant(), rel=1e-8)


@pytest.mark.parametrize("t", TIMES)
@holds("eq-v", "eq-from-v")
def test_v(t):
    """A rotation there and back: lengths are kept, and image and noise come out."""
    angle = math.acos(math.sqrt(ALPHA[t]))
    x0, eps = np.array([-1.0, 0.3]), np.array([0.7, -2.0])
    xt = add_noise(column(*x0), t, column(*eps), SCHEDULE)[:, 0].numpy()
    v = math.sqrt(ALPHA[t]) * eps - math.sqrt(1 - ALPHA[t]) * x0
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    close(turn @ np.stack([x0, eps]), np.stack([xt, v]), 1e-9)
    close(math.sqrt(ALPHA[t]) * xt - math.sqrt(1 - ALPHA[t]) * v, x0)
    close(math.sqrt(1 - ALPHA[t]) * xt + math.sqrt(ALPHA[t]) * v, eps)


@pytest.mark.parametrize("t", [100, 259, 400, 1000])
@holds("eq-score-rescaled", code="ddim_core.oracle.DatasetDenoiser")
def test_score_rescaled(t):
    """The slope, by differences, of the log density of rescaled states, for two images and their exact denoiser."""
    rho, h = RHO[t], 1e-4 * RHO[t]
    x = np.linspace(-2, 2, 9)

    def log_density(x):
        return np.logaddexp(-((x - 1) ** 2) / (2 * rho**2), -((x + 1) ** 2) / (2 * rho**2))

    slope = (log_density(x + h) - log_density(x - h)) / (2 * h)
    state = math.sqrt(ALPHA[t]) * column(*x)
    eps = DatasetDenoiser(column(-1.0, 1.0), SCHEDULE)(state, t)[:, 0].numpy()
    close(-rho * slope, eps, 1e-5)
    # the score of x_t, without the chain rule's factor, is longer by 1 / sqrt(alpha_t)
    wrong = (log_density(x + h) - log_density(x - h)) / (2 * h * math.sqrt(ALPHA[t]))
    assert np.abs(-rho * wrong - eps).max() > 1e-3 * np.abs(eps).max()


@pytest.mark.parametrize("rho", [0.3, 1.0, 3.0])
@holds("eq-heat")
def test_heat(rho):
    """Both equalities by differences, for data at two points: the density blurs, and the flow carries it along."""
    h, x = 1e-3, np.linspace(-1.5, 1.5, 31)

    def p(x, rho=rho):
        return sum(np.exp(-((x - y) ** 2) / (2 * rho**2)) for y in (-1.0, 1.0)) / (2 * rho * math.sqrt(2 * math.pi))

    def flux(x):
        return p(x) * -rho * (np.log(p(x + h)) - np.log(p(x - h))) / (2 * h)

    change = (p(x, rho + h) - p(x, rho - h)) / (2 * h)
    heat = rho * (p(x + h) - 2 * p(x) + p(x - h)) / h**2
    carried = -(flux(x + h) - flux(x - h)) / (2 * h)
    np.testing.assert_allclose(change, heat, atol=1e-3 * np.abs(heat).max())
    np.testing.assert_allclose(carried, heat, atol=1e-3 * np.abs(heat).max())


@pytest.mark.parametrize("t", [10, 259, 500, 1000])
@holds("eq-score", code="ddim_core.oracle.DatasetDenoiser")
def test_score(t):
    """The gradient, by PyTorch, of the log density of a mixture of Gaussians, and by differences of a single Gaussian's."""
    y = torch.from_numpy(IMAGES)
    x = torch.from_numpy(BEFORE)[None].clone().requires_grad_(True)
    distance = ((x - math.sqrt(ALPHA[t]) * y) ** 2).sum(1)
    (score,) = torch.autograd.grad(torch.logsumexp(-distance / (2 * (1 - ALPHA[t])), 0), x)
    close(score, -DatasetDenoiser(y, SCHEDULE)(x.detach(), t) / math.sqrt(1 - ALPHA[t]))
    gaussian = NormalDist(math.sqrt(ALPHA[t]) * 0.3, math.sqrt(ALPHA[t] * 0.25 + 1 - ALPHA[t]))
    slope = (math.log(gaussian.pdf(0.8 + 1e-5)) - math.log(gaussian.pdf(0.8 - 1e-5))) / 2e-5
    eps = GaussianDenoiser(0.3, 0.5, SCHEDULE)(column(0.8), t).item()
    assert slope == near(-eps / math.sqrt(1 - ALPHA[t]), rel=1e-6)


@pytest.mark.parametrize("t", TIMES)
@holds("eq-loss-ratios", code="ddim_core.predict_x0")
def test_loss_ratios(t):
    """Squared errors of image and velocity for a wrong noise at the same x_t."""
    xt, eps, wrong = column(0.4, -1.7), column(0.7, -2.0), column(0.9, 0.1)
    x0, x0_hat = (predict_x0(xt, t, e, SCHEDULE) for e in (eps, wrong))
    v, v_hat = (math.sqrt(ALPHA[t]) * e - math.sqrt(1 - ALPHA[t]) * x for e, x in ((eps, x0), (wrong, x0_hat)))
    square = ((wrong - eps) ** 2).sum().item()
    assert ((x0_hat - x0) ** 2).sum().item() == near((1 - ALPHA[t]) / ALPHA[t] * square, rel=1e-8)
    assert ((v_hat - v) ** 2).sum().item() == near(square / ALPHA[t], rel=1e-8)


@pytest.mark.parametrize("t", TIMES)
@holds("eq-rescaled", code="ddim_core.add_noise")
def test_rescaled(t):
    """A noised image over its share, against image plus level times noise."""
    x0, eps = column(-1.0, 0.3), column(0.7, -2.0)
    close(add_noise(x0, t, eps, SCHEDULE) / math.sqrt(ALPHA[t]), x0 + RHO[t] * eps)


@pytest.mark.parametrize(("t", "s"), STEPS)
@holds("eq-euler", code="ddim_core.ddim_step")
def test_euler(t, s):
    """The package's step, divided by the share, is Euler's."""
    xt, eps = randn(2, 50, **DOUBLE)
    found, _ = ddim_step(xt, eps, t, s, SCHEDULE)
    expected = xt / math.sqrt(ALPHA[t]) + (RHO[s] - RHO[t]) * eps
    assert (found / math.sqrt(ALPHA[s]) - expected).abs().max() <= 1e-11 * expected.abs().max()


@holds("eq-ode", code="ddim_core.sample")
def test_ode():
    """DDIM with more and more steps against a fourth-order solver, for two images and their exact denoiser."""
    start = 4.0
    xT = np.array([-1.4, -0.5, 0.3, 1.1])

    def velocity(x, rho):
        # the network sees x_t = x / sqrt(1 + rho^2), at alpha_t = 1 / (1 + rho^2)
        signal, noise = 1 / math.sqrt(1 + rho**2), rho / math.sqrt(1 + rho**2)
        return (signal * x - signal * two_points(signal * x, signal, noise)) / noise

    end = 0.05
    exact = follow(velocity, xT * math.sqrt(1 + start**2), start, end)
    errors = []
    for S in (100, 200, 400):
        rho = torch.cat([torch.zeros(1, **DOUBLE), torch.linspace(end, start, S + 1, **DOUBLE)])
        fine = Schedule(1 / (1 + rho**2))
        states = list(sample(DatasetDenoiser(column(-1.0, 1.0), fine), fine, column(*xT), list(range(S + 2))))
        last = states[-2]
        assert last.t == 1
        errors.append(np.abs(last.xt[:, 0].numpy() * math.sqrt(1 + end**2) - exact).max())
    assert errors[0] < 0.05
    assert errors[1] / errors[0] == near(1 / 2, rel=0.15)
    assert errors[2] / errors[1] == near(1 / 2, rel=0.15)


@pytest.mark.parametrize("rho", [0.3, 1.0, 3.0])
@holds("eq-probability-flow", code="ddim_core.oracle.DatasetDenoiser")
def test_probability_flow(rho):
    """Points that move so keep the density right (the continuity equation, by differences), and it is the ODE of DDIM."""

    def density(x, rho):
        return sum(np.exp(-((x - y) ** 2) / (2 * rho**2)) for y in (-1.0, 1.0)) / (2 * rho * math.sqrt(2 * math.pi))

    def velocity(x, rho, h=1e-4):
        return -rho * (np.log(density(x + h, rho)) - np.log(density(x - h, rho))) / (2 * h)

    h = 1e-3
    x = np.linspace(-1.5, 1.5, 31)
    change = (density(x, rho + h) - density(x, rho - h)) / (2 * h)
    flow = [density(y, rho) * velocity(y, rho) for y in (x + h, x - h)]
    np.testing.assert_allclose(change + (flow[0] - flow[1]) / (2 * h), 0, atol=2e-3 * np.abs(change).max())
    schedule = Schedule(torch.tensor([1.0, 1 / (1 + rho**2)], **DOUBLE))
    eps = DatasetDenoiser(column(-1.0, 1.0), schedule)(column(*x) / math.sqrt(1 + rho**2), 1)[:, 0]
    np.testing.assert_allclose(eps, velocity(x, rho), atol=1e-5)


@pytest.mark.parametrize("g", [(1.0, 1.0), (0.3, 0.3), (0.7, 0.2)], ids=str)
@holds("eq-mean-left", code="ddim_core.sample")
def test_mean_left(g):
    """DDIM in small steps with a denoiser that sees the share g, which changes evenly in log rho, of what is there."""
    start, end = 157.0, 1.0
    rho = np.concatenate([[0.0], np.geomspace(end, start, 4001)])
    fine = Schedule(torch.from_numpy(1 / (1 + rho**2)))

    def share(level):
        return np.interp(np.log(level), np.log([end, start]), g)

    def denoiser(x, t):
        level = rho[int(t[0])]
        return share(level) * x * math.sqrt(1 + level**2) / level  # x_bar / rho is the noise that is there

    xT = column(0.5, -1.0)
    states = list(sample(denoiser, fine, xT, list(range(len(rho)))))
    at_end = next(state for state in states if state.t == 1)
    found = at_end.xt * math.sqrt(1 + end**2) / (xT * math.sqrt(1 + start**2))
    # by Simpson's rule, in log r
    places = np.linspace(0, math.log(start), 2001)
    weight = np.where(np.arange(2001) % 2, 4.0, 2.0)
    weight[[0, -1]] = 1
    integral = (weight * share(np.exp(places))).sum() * (places[1] - places[0]) / 3
    np.testing.assert_allclose(found.numpy(), math.exp(-integral), rtol=5e-3)
    if g[0] == g[1]:
        assert math.exp(-integral) == near((end / start) ** g[0], rel=1e-6)


# --- in the plane -----------------------------------------------------------------------------------------------------

SEVEN = torch.tensor(
    [[0.9, 0.35], [0.25, 0.85], [-0.7, 0.7], [-0.35, 0.05], [-0.85, -0.55], [0.15, -0.8], [0.75, -0.45]]
)
SEVEN = SEVEN.double()


def last_state(model, xT: torch.Tensor, steps: int) -> torch.Tensor:
    *_, state = sample(model, SCHEDULE, xT, SCHEDULE.timesteps(steps))
    return state.xt


@pytest.mark.parametrize("t", [20, 300, 1000])
@holds("eq-plane-guess", "eq-plane-arrow", code="ddim_core.oracle.DatasetDenoiser")
def test_plane_guess(t):
    """Bayes' rule in plain floats for seven points; and x less the noise's share ends on the guess, shrunk."""
    x, oracle = randn(4, 2, **DOUBLE), DatasetDenoiser(SEVEN, SCHEDULE)
    eps, signal, spread = oracle(x, torch.full((4,), t)), math.sqrt(ALPHA[t]), 1 - ALPHA[t]
    for (a, b), predicted in zip(x.tolist(), eps.tolist(), strict=True):
        exponents = [-((a - signal * p) ** 2 + (b - signal * q) ** 2) / (2 * spread) for p, q in SEVEN.tolist()]
        w = [math.exp(e - max(exponents)) for e in exponents]
        guess = np.array(w) @ SEVEN.numpy() / sum(w)
        close(oracle.x0(torch.tensor([[a, b]], **DOUBLE), t)[0], guess, 1e-8)
        close(np.array([a, b]) - math.sqrt(spread) * np.array(predicted), signal * guess, 1e-8)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("t", "s"), [pair for pair in STEPS if pair[1] > 0])
@holds("eq-plane-step", code="ddim_core.ddim_step")
def test_plane_step(t, s, eta):
    """The package's step from x_t = signal x_0 + noise eps, against the family's three coefficients, multiplied out."""
    x0, eps, z = 0.4, -0.7, 1.1
    xt = math.sqrt(ALPHA[t]) * x0 + math.sqrt(1 - ALPHA[t]) * eps
    of_x0, of_xt, of_z = family_weights(eta, t, s)
    found = ddim_step(column(xt), column(eps), t, s, SCHEDULE, eta=eta, noise=column(z))[0].item()
    assert found == near(of_x0 * x0 + of_xt * xt + of_z * z, abs=1e-9)


@pytest.mark.parametrize(("t", "s"), STEPS)
@holds("eq-plane-affine", code="ddim_core.ddim_step")
def test_plane_affine(t, s):
    """A step with the exact denoiser against r x_t + c guess; and c > 0."""
    x, oracle = randn(5, 2, **DOUBLE), DatasetDenoiser(SEVEN, SCHEDULE)
    r = math.sqrt((1 - ALPHA[s]) / (1 - ALPHA[t]))
    c = math.sqrt(ALPHA[s]) - r * math.sqrt(ALPHA[t])
    assert c > 0
    stepped = ddim_step(x, oracle(x, torch.full((5,), t)), t, s, SCHEDULE)[0]
    close(stepped, r * x + c * oracle.x0(x, t), 1e-9)


@pytest.mark.parametrize("t", [30, 300, 900])
@holds("eq-plane-jacobian", code="ddim_core.oracle.DatasetDenoiser.x0")
def test_plane_jacobian(t):
    """Difference quotients of the guess against the covariance of the seven points under their weights."""
    oracle, h = DatasetDenoiser(SEVEN, SCHEDULE), 1e-5
    for x in randn(5, 2, **DOUBLE) * 0.7:
        w, guess = oracle.weights(x[None], t)[0], oracle.x0(x[None], t)[0]
        covariance = sum(w[i] * torch.outer(SEVEN[i] - guess, SEVEN[i] - guess) for i in range(7))
        moves = h * torch.eye(2, **DOUBLE)
        quotient = (oracle.x0(x + moves, t) - oracle.x0(x - moves, t)).T / (2 * h)
        close(quotient, math.sqrt(ALPHA[t]) / (1 - ALPHA[t]) * covariance, 1e-5)


@pytest.mark.parametrize("steps", [1, 4, 30])
@holds("eq-plane-apart", code="ddim_core.sample")
def test_plane_apart(steps):
    """No two of forty paths come closer than the bound at any time, from step to step and from T on."""
    xT = randn(40, 2, **DOUBLE)
    states = list(sample(DatasetDenoiser(SEVEN, SCHEDULE), SCHEDULE, xT, SCHEDULE.timesteps(steps)))
    apart = [torch.pdist(state.xt) for state in states]
    for k, state in enumerate(states):
        for before in {0, max(k - 1, 0)}:
            r = math.sqrt((1 - ALPHA[state.t]) / (1 - ALPHA[states[before].t]))
            assert (apart[k] >= r * apart[before] * (1 - 1e-9) - 1e-12).all()


@holds("eq-plane-borders", code="ddim_core.sample")
def test_plane_borders():
    """Three values on a line: where the ends change from one to the next, against quantiles from Python's statistics."""
    y, xT = torch.tensor([[-0.8], [0.1], [0.9]], **DOUBLE), torch.linspace(-1, 1, 801, **DOUBLE)[:, None]
    ends = last_state(DatasetDenoiser(y, SCHEDULE), xT, 1000)[:, 0]
    for between, share in ((-0.35, 1 / 3), (0.5, 2 / 3)):
        border = xT[(ends > between).int().argmax()].item()
        assert border == near(NormalDist().inv_cdf(share), abs=0.005)


@holds("eq-plane-mass", code="ddim_core.sample")
def test_plane_mass():
    """Which of seven points each noise ends at, on a lattice, weighted with the normal density: a seventh each."""
    side = torch.linspace(-4, 4, 81, **DOUBLE)
    xT = torch.cartesian_prod(side, side)
    ends = torch.cdist(last_state(DatasetDenoiser(SEVEN, SCHEDULE), xT, 100), SEVEN).argmin(1)
    density = (-xT.square().sum(1) / 2).exp()
    close(torch.bincount(ends, density / density.sum(), minlength=7), [1 / 7] * 7, 0.012)


@holds("eq-plane-normal", code="ddim_core.oracle.GaussianDenoiser")
def test_plane_normal():
    """DDIM paths of normal data approach the stated end, and the error is a tenth with ten times the steps."""
    std, xT = torch.tensor([0.8, 0.15], **DOUBLE), randn(50, 2, **DOUBLE)
    end = torch.stack(
        [xT[:, i] * s / math.sqrt(ALPHA[T] * s * s + 1 - ALPHA[T]) for i, s in enumerate(std.tolist())], 1
    )
    model = GaussianDenoiser(0.0, std, SCHEDULE)
    errors = [(last_state(model, xT, steps) - end).norm(dim=1).mean().item() for steps in (100, 1000)]
    assert errors[1] < 0.003
    assert errors[1] / errors[0] == near(0.1, rel=0.15)


# --- what the guess costs, and steps of second order -----------------------------------------------------------------

POINTS, CHANCES = np.array([-1.0, -0.2, 0.9]), np.array([1, 1, 1]) / 3


def level(t: int) -> float:
    """Half the logarithm of the signal-to-noise ratio."""
    return math.log(math.sqrt(ALPHA[t]) / math.sqrt(1 - ALPHA[t]))


@pytest.mark.parametrize(("t", "s"), STEPS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@holds("eq-guess-shares", code="ddim_core.ddim_step")
def test_guess_shares(eta, t, s):
    """The package's step, told the noise that fits x_0 and x_t, against the three terms in plain floats."""
    x0, xt, z, sigma = 0.7, -0.4, 1.3, deviation(eta, t, s)
    eps = (xt - math.sqrt(ALPHA[t]) * x0) / math.sqrt(1 - ALPHA[t])
    r = math.sqrt(max(1 - ALPHA[s] - sigma**2, 0) / (1 - ALPHA[t]))
    expected = (math.sqrt(ALPHA[s]) - r * math.sqrt(ALPHA[t])) * x0 + r * xt + sigma * z
    found, _ = ddim_step(column(xt), column(eps), t, s, SCHEDULE, eta=eta, noise=column(z))
    close(found.item(), expected, 1e-9)


def of_the_pair(eta, t, s, xt):
    """A lattice of x_s and q(x_s | x_t) on it, from the joint normal density of both for each of the three points."""
    sigma, xs = deviation(eta, t, s), np.linspace(-7, 7, 7001)
    covariance = math.sqrt((1 - ALPHA[s] - sigma**2) * (1 - ALPHA[t]))  # what of the old noise is in both
    inverse = np.linalg.inv([[1 - ALPHA[s], covariance], [covariance, 1 - ALPHA[t]]])
    joint = np.zeros_like(xs)
    for y, chance in zip(POINTS, CHANCES, strict=True):
        d = np.stack([xs - math.sqrt(ALPHA[s]) * y, np.full_like(xs, xt - math.sqrt(ALPHA[t]) * y)])
        joint += chance * np.exp(-np.einsum("ik,ij,jk->k", d, inverse, d) / 2)
    return xs, joint / (joint.sum() * (xs[1] - xs[0]))


@pytest.mark.parametrize(("eta", "t", "s"), [(1.0, 600, 580), (1.0, 600, 100), (0.5, 300, 100), (0.3, 900, 400)])
@holds("eq-guess-reverse", code="ddim_core.oracle.DatasetDenoiser.weights")
def test_guess_reverse(eta, t, s):
    """The mixture with the package's weights against the joint density of x_s and x_t, cut at x_t and made to sum to 1."""
    xt, sigma = 0.3, deviation(eta, t, s)
    xs, density = of_the_pair(eta, t, s, xt)
    w = DatasetDenoiser(column(*POINTS), SCHEDULE).weights(column(xt), t)[0].tolist()
    of_x0, of_xt, _ = family_weights(eta, t, s)
    mixture = sum(
        p * np.exp(-((xs - of_x0 * y - of_xt * xt) ** 2) / (2 * sigma**2)) for p, y in zip(w, POINTS, strict=True)
    )
    close(mixture / (math.sqrt(2 * math.pi) * sigma), density, 1e-7)


@pytest.mark.parametrize(("eta", "t", "s"), [(1.0, 600, 580), (1.0, 600, 100), (0.5, 300, 100), (0.3, 900, 400)])
@holds("eq-guess-variance", code="ddim_core.oracle.DatasetDenoiser")
def test_guess_variance(eta, t, s):
    """Mean and variance of that density by a fine sum: the mean is the sampler's, the variance the sum of both parts."""
    xt, oracle = 0.3, DatasetDenoiser(column(*POINTS), SCHEDULE)
    xs, density = of_the_pair(eta, t, s, xt)
    mean = (xs * density).sum() * (xs[1] - xs[0])
    variance = ((xs - mean) ** 2 * density).sum() * (xs[1] - xs[0])
    guess, w = oracle.x0(column(xt), t).item(), oracle.weights(column(xt), t)[0].numpy()
    of_x0, of_xt, sigma = family_weights(eta, t, s)
    close(mean, of_x0 * guess + of_xt * xt, 1e-7)
    close(variance, sigma**2 + of_x0**2 * (w * (POINTS - guess) ** 2).sum(), 1e-7)


@pytest.mark.parametrize("t", TIMES)
@holds("eq-guess-open", code="ddim_core.oracle.GaussianDenoiser.x0")
def test_guess_open(t):
    """The variance of x_0 under prior times likelihood by a fine sum, the same for several x_t."""
    m, b = 0.3, 0.5
    stated = b**2 * (1 - ALPHA[t]) / (ALPHA[t] * b**2 + 1 - ALPHA[t])
    for xt in (-1.0, 0.2, 2.0):
        guess = GaussianDenoiser(m, b, SCHEDULE).x0(column(xt), t).item()
        x0 = guess + math.sqrt(stated) * np.linspace(-10, 10, 20001)
        log = -((x0 - m) ** 2) / (2 * b**2) - (xt - math.sqrt(ALPHA[t]) * x0) ** 2 / (2 * (1 - ALPHA[t]))
        w = np.exp(log - log.max())
        close((w * (x0 - guess) ** 2).sum() / w.sum(), stated, 1e-7)


@pytest.mark.parametrize(("t", "s"), [(t, s) for t, s in STEPS if s > 0])
@holds("eq-fewer-scaled", "eq-fewer-euler", code="ddim_core.ddim_step")
def test_fewer_euler(t, s):
    """A noised image divided by the noise's share, and the package's step in these units, in plain floats."""
    x0, eps = 0.7, -0.4
    xt = add_noise(column(x0), t, column(eps), SCHEDULE)
    y, u_t, u_s = xt.item() / math.sqrt(1 - ALPHA[t]), math.exp(level(t)), math.exp(level(s))
    close(y, u_t * x0 + eps)
    wrong = 1.1  # any noise that a network may name
    found, guess = ddim_step(xt, column(wrong), t, s, SCHEDULE)
    close(found.item() / math.sqrt(1 - ALPHA[s]), y + (u_s - u_t) * guess.item())


@pytest.mark.parametrize(("t", "s"), [(500, 499), (1000, 500), (900, 100), (300, 1)])
@holds("eq-fewer-exact", code="ddim_core.oracle.GaussianDenoiser")
def test_fewer_exact(t, s):
    """For a Gaussian, whose path is known: the guesses along it, integrated by Simpson's rule, lead from y_t to y_s."""
    m, b, z = 0.3, 0.5, 1.7

    def along(lam):
        a = 1 / (1 + np.exp(-2 * lam))  # alpha at this level
        v = a * b**2 + 1 - a
        x = np.sqrt(a) * m + np.sqrt(v) * z
        return x / np.sqrt(1 - a), m + np.sqrt(a) * b**2 / v * (x - np.sqrt(a) * m)

    lam = np.linspace(level(t), level(s), 4001)
    y, guess = along(lam)
    close(guess[0], GaussianDenoiser(m, b, SCHEDULE).x0(column(y[0] * math.sqrt(1 - ALPHA[t])), t).item(), 1e-9)
    f, h = np.exp(lam) * guess, lam[1] - lam[0]
    integral = h / 3 * (f[0] + 4 * f[1::2].sum() + 2 * f[2:-1:2].sum() + f[-1])
    close(y[-1], y[0] + integral, 1e-8)


@pytest.mark.parametrize("times", [(1000, 600, 250), (700, 690, 1), (30, 7, 2)])
@holds("eq-fewer-middle", "eq-fewer-step", code="ddim_core.sample")
def test_fewer_step(times):
    """The second step of the package's walk of second order in plain floats, for guesses that change on the way."""
    r, t, s = times

    def model(x, at):
        return 0.6 * x + 0.001 * at[:, None].double()

    first, second, third, _ = sample(model, SCHEDULE, column(0.8, -1.5), [0, s, t, r], order=2)
    assert (first.t, second.t, third.t) == times
    for k in range(2):
        at_r, at_t = (
            (x[k].item() - math.sqrt(1 - ALPHA[j]) * (0.6 * x[k].item() + 0.001 * j)) / math.sqrt(ALPHA[j])
            for x, j in ((first.xt, r), (second.xt, t))
        )
        slope = (at_t - at_r) / (level(t) - level(r))
        middle = at_t + slope * ((level(t) + level(s)) / 2 - level(t))
        close(middle, at_t + (level(s) - level(t)) / (2 * (level(t) - level(r))) * (at_t - at_r))
        y = second.xt[k].item() / math.sqrt(1 - ALPHA[t])
        expected = y + (math.exp(level(s)) - math.exp(level(t))) * middle
        close(third.xt[k].item() / math.sqrt(1 - ALPHA[s]), expected, 1e-9)


@pytest.mark.parametrize("t", [1, 5, 10, 100])
@holds("eq-fewer-last", code="ddim_core.oracle.GaussianDenoiser.x0")
def test_fewer_last(t):
    """The guess at an exact state beside the point where its path ends; the rule errs by less than its square, thrice."""
    m, b = 0.3, 0.5
    for z in (-2.0, 0.5, 2.0):
        x0, xt = m + b * z, math.sqrt(ALPHA[t]) * m + math.sqrt(ALPHA[t] * b**2 + 1 - ALPHA[t]) * z
        ratio = (GaussianDenoiser(m, b, SCHEDULE).x0(column(xt), t).item() - m) / (x0 - m)
        close(ratio, math.sqrt(ALPHA[t] * b**2 / (ALPHA[t] * b**2 + 1 - ALPHA[t])), 1e-9)
        short = (1 - ALPHA[t]) / (2 * b**2)
        assert abs(ratio - (1 - short)) < 3 * short**2


@pytest.mark.parametrize("S", [2, 5, 10, 50, 200])
@holds("eq-fewer-grid", code="ddim_core.Schedule.timesteps")
def test_fewer_grid(S):
    """No time is farther from its level than its neighbours are, unless it was moved on to be distinct."""
    tau = SCHEDULE.timesteps(S, spacing="logsnr")
    for i in range(1, S + 1):
        wanted = level(1) + (i - 1) / (S - 1) * (level(T) - level(1))
        near_by = level(min(tau[i] + 1, T)), level(max(tau[i] - 1, 1))
        assert near_by[0] <= wanted + 1e-12 or tau[i] == tau[i - 1] + 1
        assert wanted - 1e-12 <= near_by[1] or tau[i] == tau[i - 1] + 1


@holds("eq-frechet", code="ddim_core.measures.frechet")
def test_frechet():
    """The mean squared distance of a draw and its partner, paired by the linear map of one Gaussian to the other; no pairing has less."""
    C, other = (spread @ spread.T for spread in randn(2, 3, 3, dtype=torch.float64))
    m, other_m = randn(2, 3, seed=1, dtype=torch.float64)
    F = frechet(m, C, other_m, other).item()

    def power(A, exponent):
        values, vectors = torch.linalg.eigh(A)
        return vectors * values**exponent @ vectors.T

    there = power(C, -0.5) @ power(power(C, 0.5) @ other @ power(C, 0.5), 0.5) @ power(C, -0.5)
    assert torch.allclose(there @ C @ there.T, other), "it is a map to the other Gaussian"
    apart = torch.eye(3, dtype=torch.float64) - there
    close(F, ((m - other_m) ** 2).sum().item() + (apart @ C @ apart.T).trace().item(), 1e-9)
    for turn in randn(50, 3, 3, seed=2, dtype=torch.float64):  # other maps to it: turn what has been made round
        Q = torch.linalg.qr(turn).Q
        apart = torch.eye(3, dtype=torch.float64) - power(other, 0.5) @ Q @ power(C, -0.5)
        assert ((m - other_m) ** 2).sum() + (apart @ C @ apart.T).trace() + 1e-9 > F


# --- the register ---------------------------------------------------------------------------------------------------


def test_every_displayed_equation_has_a_label_and_no_label_stands_twice():
    found = equations.equations()
    assert [f"{e.page}: {e.tex}" for e in found if not e.label] == []
    labels = [e.label for e in found]
    assert sorted({label for label in labels if labels.count(label) > 1}) == []
    assert [label for label in labels if not label.startswith("eq-")] == []


def test_every_equation_has_a_test_and_every_test_an_equation():
    labels = {e.label for e in equations.equations() if e.label}
    assert sorted(labels - HELD.keys()) == [], "equations that no test holds"
    assert sorted(HELD.keys() - labels) == [], "tests of equations that are not in the book"


def test_the_code_that_tests_name_is_there():
    for name in sorted({name for tests in HELD.values() for test in tests for name in test.code}):
        package, *attributes = name.split(".")
        found = importlib.import_module(package)
        for attribute in attributes:
            found = getattr(found, attribute)
        assert callable(found), name


def test_the_page_of_equations_is_up_to_date():
    written = equations.PAGE.read_text(encoding="utf-8")
    assert written == equations.table(HELD, equations.equations()), "run: python book/_ext/equations.py"


def test_equations_are_found_wherever_they_hide():
    text = """
$$ a $$ (eq-a)

Inline $x$ and `$$ code $$`, then

```python
"$$ not this $$"
```

```{exercise}
:label: ex-b

$$
b
$$ (eq-b)
```

```{math}
:label: eq-c
c
```

$$ d $$

\\begin{align}
e
\\end{align}
"""
    assert [e.label for e in equations.displayed("page", text)] == ["eq-a", "eq-b", "eq-c", "", ""]
