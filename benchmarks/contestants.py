"""Who takes part in speed.py, and what each does: for a contestant and a batch size, a function of n that does n steps."""

import inspect
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
sys.path.append(str(ROOT / "tests"))  # for peers.py, which knows diffusers' network

from plain import PlainUNet  # noqa: E402

from ddim_core import UNet, UNetConfig  # noqa: E402
from ddim_core.recipes import RECIPES  # noqa: E402
from ddim_core.train import Trainer  # noqa: E402

TINY = UNetConfig(8, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,), norm_groups=8)


@dataclass(frozen=True)
class Contestant:
    """`original`: dropout 0.1 and 32 groups as in the note, instead of the recipe's none and 8."""

    name: str
    kind: str  # "note", "diffusers" or "ours"
    amp: str = "fp32"
    original: bool = False
    compiled: bool = False
    channels_last: bool = False


def contestants(cuda: bool) -> list[Contestant]:
    ours = [("ours fp32", "fp32", False), ("ours bf16", "bf16", False), ("ours bf16 compiled", "bf16", True)]
    everyone = [
        Contestant("note", "note", original=True),
        Contestant("diffusers fp32", "diffusers", original=True),
        Contestant("diffusers bf16", "diffusers", "bf16", original=True),
        *(Contestant(name, "ours", amp, compiled=compiled) for name, amp, compiled in ours),
        Contestant("ours bf16, original settings", "ours", "bf16", original=True),
    ]
    if cuda:
        everyone += [Contestant(f"{name}, channels_last", "ours", amp, False, c, True) for name, amp, c in ours]
    return everyone


def random_weights(config: UNetConfig) -> dict[str, Tensor]:
    """None of them zero, as they are at first in many layers: a GPU multiplies zeros faster than numbers."""
    generator, state = torch.Generator().manual_seed(0), UNet(config).state_dict()
    for name, p in state.items():
        p.copy_(torch.randn(p.shape, generator=generator) * (0.5 * p[0].numel() ** -0.5 if p.ndim > 1 else 0.1))
        if p.ndim == 1 and name.endswith("weight"):
            p.add_(1)
    return state


class Stage:
    """What all contestants share: the shape, the weights, the images, the device."""

    def __init__(self, device: torch.device, tiny: bool):
        self.device, self.recipe = device, TINY if tiny else RECIPES["mnist"].unet
        self.original = replace(self.recipe, dropout=0.1, norm_groups=32)
        self.weights = random_weights(self.recipe)
        generator, side = torch.Generator().manual_seed(0), self.recipe.resolution
        self.images = torch.randint(
            256, (1024 if tiny else 16384, 1, side, side), generator=generator, dtype=torch.uint8
        )

    def network(self, c: Contestant) -> nn.Module:
        config, weights = self.original if c.original else self.recipe, self.weights
        if c.kind == "diffusers":
            from peers import peer, to_format_b

            model, weights = peer(config, dropout=config.dropout), to_format_b(weights, len(config.ch_mult))
        else:
            model = PlainUNet(config) if c.kind == "note" else UNet(config)
        model.load_state_dict(weights)
        return model.to(self.device, memory_format=torch.channels_last if c.channels_last else torch.preserve_format)

    def autocast(self, c: Contestant):
        return torch.autocast(self.device.type, torch.bfloat16) if c.amp == "bf16" else nullcontext()

    def sample(self, c: Contestant, batch: int):
        """Calls of the network, in inference mode; returns the output of the last."""
        model, size = self.network(c).eval(), (batch, 1, self.recipe.resolution, self.recipe.resolution)
        xt = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(self.device)
        if c.channels_last:
            xt = xt.to(memory_format=torch.channels_last)
        t = torch.full((batch,), 500, device=self.device)
        if c.compiled:
            model = torch.compile(model, mode="reduce-overhead" if self.device.type == "cuda" else None, dynamic=False)

        def run(n: int) -> Tensor:
            with torch.inference_mode(), self.autocast(c):
                for _ in range(n):
                    if c.compiled:
                        torch.compiler.cudagraph_mark_step_begin()  # the last output may be overwritten
                    out = model(xt, t)
            return out if isinstance(out, Tensor) else out.sample

        return run

    def train(self, c: Contestant, batch: int):
        return self._trainer(c, batch) if c.kind == "ours" else self._loop(c, batch)

    def _trainer(self, c: Contestant, batch: int):
        unet = self.original if c.original else self.recipe
        config = replace(RECIPES["mnist"], unet=unet, batch_size=batch, epochs=10_000)
        options = {"compile": c.compiled} if "compile" in inspect.signature(Trainer).parameters else {}
        if c.compiled and not options:
            raise RuntimeError("this version of Trainer does not compile")
        trainer = Trainer(config, self.images, device=str(self.device), amp=c.amp, **options)
        for model in (trainer.model, trainer.ema):
            model.load_state_dict(self.weights)
            if c.channels_last:
                model.to(memory_format=torch.channels_last)

        def run(n: int) -> None:
            for _ in range(n):
                trainer.step()

        return run

    def _loop(self, c: Contestant, batch: int):
        """The note's own loop, or what users of diffusers write."""
        model, note, done = self.network(c).train(), c.kind == "note", 0
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
        home = torch.device("cpu") if note else self.device  # where images are kept and times are drawn
        pictures = (self.images.float() / 255).to(home)
        alpha = RECIPES["mnist"].schedule.alpha.float().to(self.device)

        def step() -> None:
            nonlocal done
            k, done = done * batch % (len(pictures) - batch + 1), done + 1
            x0 = (pictures[k : k + batch] * 2 - 1).to(self.device)
            t = (torch.randint(len(alpha) - 1, (batch,), device=home) + 1).to(self.device)
            noise, a = torch.randn(x0.shape, device=self.device), alpha[t, None, None, None]
            with self.autocast(c):
                out = model(a.sqrt() * x0 + (1 - a).sqrt() * noise, t)
            loss = F.mse_loss((out if note else out.sample).float(), noise)
            optimizer.zero_grad()
            loss.backward()
            if note:
                loss.item()
            else:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        def run(n: int) -> None:
            for _ in range(n):
                step()

        return run
