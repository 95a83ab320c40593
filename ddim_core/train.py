"""Training: the six steps of the loop, made fit for real runs.

    1. draw images x_0              4. x_t by equation 1
    2. draw times t in 1..T         5. loss = mean (eps_theta(x_t, t) - eps)^2     (DDPM, eq. 14)
    3. draw noise eps               6. move theta down the gradient

Around them: averaged weights (EMA), learning-rate warm-up and decay, gradient clipping, mixed precision, several
processes, and checkpoints from which a run goes on exactly. On a GPU one step is recorded and replayed (`device.Replay`):
asked for one by one, its many small kernels keep the CPU busy for several times as long as the GPU.

Step k of a run draws its images, times and noise from seeds derived from (seed, k), so neither an interruption nor the
number of processes changes them. (Dropout also survives an interruption, but is drawn by each process for itself.)
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .data import fingerprint, to_model
from .device import Replay, autocast, choose_amp, choose_device, enough_memory
from .errors import UsageError
from .lock import alone
from .recipes import TrainConfig
from .run import CHECKPOINT, Record, save, write_metrics
from .schedule import add_noise
from .seeds import derive_seed
from .unet import UNet
from .weighting import LossByTime, min_snr

__all__ = ["TrainConfig", "TrainStep", "Trainer", "train"]

_SAVE_EVERY = 900  # seconds: of an epoch that takes hours, no more is lost
_SAVE_APART = 10  # seconds between the ends of two epochs that are saved: on a GPU one may take a second
_AGREE_EVERY = 4  # steps between agreements of several processes on whether to stop
_INIT, _ORDER, _DRAW, _DROPOUT = range(4)  # purposes of seeds


@dataclass(frozen=True)
class TrainStep:
    """What one step leaves behind.

    Attributes:
        step: number of steps done; epoch: number of the epoch it belongs to, from 1.
        loss: the step's loss without weights, a scalar tensor on the device (reading it makes a GPU wait). lr: its learning rate.
        metrics: at the last step of an epoch, that epoch's line of the metrics file; else None.
    """

    step: int
    epoch: int
    loss: Tensor
    lr: float
    metrics: dict | None = field(default=None)


class Trainer:
    """The state of a run: network, averaged network, optimiser, and how many steps were done.

    Under torchrun each process makes one and takes its share of every batch.

    Args:
        config: the run.
        images: uint8 `[N, C, H, W]`; moved to the device once.
        device, amp: see `choose_device` and `choose_amp`.
        compile: have torch.compile turn the network into fewer, larger kernels: a minute or two at the start, which a
            long run on a GPU wins back.

    Raises:
        UsageError: images that do not fit the network, or more processes than images in a batch.
    """

    def __init__(
        self,
        config: TrainConfig,
        images: Tensor,
        *,
        device: str | None = None,
        amp: str = "auto",
        compile: bool = False,
    ):
        u = config.unet
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (u.in_channels, u.resolution, u.resolution):
            raise UsageError(
                f"images must be uint8 [N, {u.in_channels}, {u.resolution}, {u.resolution}], "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        self.config, self.schedule = config, config.schedule
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.batch_size = min(config.batch_size, len(images))
        if self.batch_size % self.world:
            raise UsageError(f"batch_size {self.batch_size} cannot be shared by {self.world} processes")
        self.device = choose_device(device)
        self.amp = choose_amp(self.device, amp)
        self.data_sha256 = fingerprint(images)
        self.images = images.to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, _INIT))
            self.model = UNet(config.unet).to(self.device).train()
            self.ema = UNet(config.unet).to(self.device).eval().requires_grad_(False)
        on_gpu = self.device.type == "cuda"
        if on_gpu:  # the layout that its convolutions work in
            self.model.to(memory_format=torch.channels_last)
            self.ema.to(memory_format=torch.channels_last)
        self.ema.load_state_dict(self.model.state_dict())
        self.parallel = self.model
        if self.world > 1:
            # harmless, and said once a process: 1x1 convolutions leave gradients with strides of their own on a CPU
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            self.parallel = nn.parallel.DistributedDataParallel(self.model)
        # what is replayed cannot draw dropout from a seed of its own at each step
        self.replay = Replay(self.update, on_gpu and self.world == 1 and config.unet.dropout == 0)
        if compile:
            mode = "reduce-overhead" if on_gpu and self.world == 1 and not self.replay.enabled else None
            self.parallel = torch.compile(self.parallel, mode=mode)
        if on_gpu:
            warnings.filterwarnings(
                "ignore", message=".*constructed with capturable=True"
            )  # the steps before recording
        lr = torch.tensor(config.lr, device=self.device) if on_gpu else config.lr
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=lr, fused=on_gpu, capturable=on_gpu)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == "fp16")
        self.generator = torch.Generator(self.device)
        self.steps_done = 0
        self.record = Record(self.device)
        self.origin: dict | None = (
            None  # the weights that the run started from, where it did not start from random ones
        )
        self.saved = False  # whether there is a checkpoint to go back to
        self.loaded: dict = {}  # how the command line found the images, for the next time
        self.loss_by_time = LossByTime(self.schedule.T, device=self.device)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    @property
    def steps_per_epoch(self) -> int:
        return len(self.images) // self.batch_size

    @property
    def total_steps(self) -> int:
        return self.config.epochs * self.steps_per_epoch

    def lr(self, step: int) -> float:
        """Learning rate of step `step` (from 0): linear warm-up, then half a cosine down to zero."""
        c = self.config
        warm = min(1.0, (step + 1) / c.warmup) if c.warmup else 1.0
        return c.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.total_steps)))

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """(x_0, t, eps) of step `step`: steps 1 to 3 of the loop, this process's share."""
        epoch, k = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.config.seed, _ORDER, epoch))
            self._order = (epoch, torch.randperm(len(self.images), generator=generator).to(self.device))
        chosen = self._order[1][k * self.batch_size : (k + 1) * self.batch_size]
        # every process draws for the whole batch and keeps its share, so their number changes nothing
        self.generator.manual_seed(derive_seed(self.config.seed, _DRAW, step))
        t = torch.randint(1, self.schedule.T + 1, chosen.shape, generator=self.generator, device=self.device)
        shape = (len(chosen), *self.images.shape[1:])
        eps = torch.randn(shape, generator=self.generator, device=self.device)
        share = slice(self.rank * len(chosen) // self.world, (self.rank + 1) * len(chosen) // self.world)
        return to_model(self.images[chosen[share]]), t[share], eps[share]

    def step(self) -> TrainStep:
        """Do one step."""
        start, step = time.perf_counter(), self.steps_done
        x0, t, eps = self.batch(step)
        xt = add_noise(x0, t, eps, self.schedule)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(self.lr(step))
            else:
                group["lr"] = self.lr(step)
        losses = self.replay(xt, t, eps, self.weight(t))
        self._update_ema(step)
        self.steps_done = step + 1
        loss = self._note_losses(t, losses)
        metrics = self.record.add(self, loss, start)
        return TrainStep(self.steps_done, step // self.steps_per_epoch + 1, loss, self.lr(step), metrics)

    def update(self, xt: Tensor, t: Tensor, eps: Tensor, weight: Tensor) -> Tensor:
        """Steps 5 and 6 of the loop: down the gradient of the weighted loss. Returns each image's loss without weight, `[B]`."""
        self.optimizer.zero_grad(set_to_none=True)
        with self._dropout_seed(self.steps_done), autocast(self.device, self.amp):
            prediction = self.parallel(xt, t)
        losses = (prediction.float() - eps).square().flatten(1).mean(1)
        self.scaler.scale((weight * losses).mean()).backward()
        if self.config.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return losses.detach()

    def weight(self, t: Tensor) -> Tensor:
        """How much an image at each of these times counts in the loss, `[B]`."""
        if self.config.loss_weight == "balanced":
            return self.loss_by_time.weight(t)
        return min_snr(t, self.schedule) if self.config.loss_weight == "min-snr" else torch.ones_like(t).float()

    def _note_losses(self, t: Tensor, losses: Tensor) -> Tensor:
        """Enter the losses of this process's images; returns the mean over all processes, without weights."""
        added = self.loss_by_time.measured(t, losses)
        if self.world > 1:
            dist.all_reduce(added)
        self.loss_by_time.add(added, self.batch_size)
        return added[0].sum() / self.batch_size

    @contextmanager
    def _dropout_seed(self, step: int):
        """Dropout draws from the global generator: seed it for the step, and give it back as it was."""
        if self.config.unet.dropout == 0:
            yield
            return
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(derive_seed(self.config.seed, _DROPOUT, step, self.rank))
            yield

    @torch.no_grad()
    def _update_ema(self, step: int) -> None:
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)


def train(
    trainer: Trainer, out: str | Path | None = None, *, stop: Callable[[], bool] = lambda: False
) -> Iterator[TrainStep]:
    """Run to the end of the last epoch, yielding after each step.

    With `out`, the first process writes `last.safetensors` and `metrics.jsonl` there at the end of each epoch (of short
    ones not more than every 10 seconds), within a long epoch every 15 minutes, and when `stop()` turns true (looked at
    after each step; after every 4th with several processes, which agree on it), and the loop ends. Meanwhile no other
    process can train there.

    Raises:
        UsageError: another process trains in `out`, or memory runs out. NonFiniteError: the loss is no longer finite. DiskError: `out` cannot be written.
    """
    with alone(out) if out is not None else nullcontext():
        yield from _train(trainer, out, stop)


def _train(trainer: Trainer, out: str | Path | None, stop: Callable[[], bool]) -> Iterator[TrainStep]:
    saved = time.monotonic()
    while trainer.steps_done < trainer.total_steps:
        with enough_memory("train with a smaller --batch-size, or smaller images (--resolution)"):
            result = trainer.step()
        stopping = _agree(stop, trainer)
        age = time.monotonic() - saved
        at_end = result.metrics and (age > _SAVE_APART or trainer.steps_done == trainer.total_steps)
        due = at_end or stopping or age > _SAVE_EVERY
        if out is not None and trainer.rank == 0 and due:
            save(trainer, Path(out) / CHECKPOINT)
            write_metrics(trainer, Path(out))
            saved = time.monotonic()
        yield result
        if stopping:
            return


def _agree(stop: Callable[[], bool], trainer: Trainer) -> bool:
    if trainer.world == 1:
        return stop()
    if trainer.steps_done % _AGREE_EVERY:
        return False
    flag = torch.tensor(float(stop()), device=trainer.device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag.item())
