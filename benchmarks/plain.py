"""The note's network: the U-Net of DDPM as the first PyTorch port computes it, written again, without later ideas.

Attention is two batched products around a softmax, swish is x * sigmoid(x), and everything is plain float32 code. The
parameters have the names of `ddim_core.UNet`, so both take the same weights, and then give the same output.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddim_core import UNetConfig

__all__ = ["PlainUNet"]


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def conv3(c_in: int, c_out: int, stride: int = 1, padding: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel_size=3, stride=stride, padding=padding)


def conv1(c_in: int, c_out: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel_size=1)


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, config: UNetConfig):
        super().__init__()
        self.norm1 = nn.GroupNorm(config.norm_groups, c_in, eps=1e-6)
        self.conv1 = conv3(c_in, c_out)
        self.temb_proj = nn.Linear(4 * config.ch, c_out)
        self.norm2 = nn.GroupNorm(config.norm_groups, c_out, eps=1e-6)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = conv3(c_out, c_out)
        self.nin_shortcut = conv1(c_in, c_out) if c_in != c_out else None

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv1(swish(self.norm1(x)))
        h = h + self.temb_proj(swish(temb))[:, :, None, None]
        h = self.conv2(self.dropout(swish(self.norm2(h))))
        if self.nin_shortcut is not None:
            x = self.nin_shortcut(x)
        return x + h


class Attention(nn.Module):
    def __init__(self, c: int, config: UNetConfig):
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_groups, c, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (conv1(c, c) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        h = self.norm(x)
        q = self.q(h).reshape(b, c, height * width).permute(0, 2, 1)
        k = self.k(h).reshape(b, c, height * width)
        v = self.v(h).reshape(b, c, height * width)
        weights = F.softmax(torch.bmm(q, k) * c**-0.5, dim=2)  # [b, queries, keys]
        h = torch.bmm(v, weights.permute(0, 2, 1)).reshape(b, c, height, width)
        return x + self.proj_out(h)


class Level(nn.Module):
    """Blocks of one resolution, each followed by attention where there is some."""

    def __init__(self, widths: list[tuple[int, int]], attention: bool, config: UNetConfig):
        super().__init__()
        self.block = nn.ModuleList(Block(c_in, c_out, config) for c_in, c_out in widths)
        self.attn = nn.ModuleList(Attention(c_out, config) for _, c_out in widths if attention)

    def one(self, j: int, h: Tensor, temb: Tensor) -> Tensor:
        h = self.block[j](h, temb)
        return self.attn[j](h) if len(self.attn) else h


def resampling(c: int, stride: int) -> nn.Module:
    module = nn.Module()
    module.conv = conv3(c, c, stride=2, padding=0) if stride == 2 else conv3(c, c)
    return module


class PlainUNet(nn.Module):
    """Call as `model(xt, t)`: xt `[B, C, H, W]`, t `[B]`, as `ddim_core.UNet` (without its patches)."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        ch, n = config.ch, config.num_res_blocks
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(ch, 4 * ch), nn.Linear(4 * ch, 4 * ch)])
        self.conv_in = conv3(config.in_channels, ch)
        has = [r in config.attn_resolutions for r in config.resolutions]
        last = len(has) - 1

        c, kept = ch, [ch]  # kept: channels of the outputs that wait for the way up
        self.down = nn.ModuleList()
        for i, mult in enumerate(config.ch_mult):
            level = Level([(c if j == 0 else ch * mult, ch * mult) for j in range(n)], has[i], config)
            c = ch * mult
            kept += [c] * n
            if i < last:
                level.downsample = resampling(c, stride=2)
                kept.append(c)
            self.down.append(level)

        self.mid = nn.Module()
        self.mid.block_1, self.mid.attn_1 = Block(c, c, config), Attention(c, config)
        self.mid.block_2 = Block(c, c, config)

        levels = []
        for i in range(last, -1, -1):
            width = ch * config.ch_mult[i]
            level = Level([((c if j == 0 else width) + kept.pop(), width) for j in range(n + 1)], has[i], config)
            c = width
            if i > 0:
                level.upsample = resampling(c, stride=1)
            levels.append(level)
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = nn.GroupNorm(config.norm_groups, c, eps=1e-6)
        self.conv_out = conv3(c, config.out_channels)

    def embed(self, t: Tensor) -> Tensor:
        half = self.config.ch // 2
        steps = torch.arange(half, dtype=torch.float32, device=t.device)
        angle = t.float()[:, None] * torch.exp(steps * (-math.log(10000) / (half - 1)))[None, :]
        first, second = self.temb.dense
        return second(swish(first(torch.cat([torch.sin(angle), torch.cos(angle)], dim=1))))

    def forward(self, xt: Tensor, t: Tensor) -> Tensor:
        temb, hs = self.embed(t), [self.conv_in(xt)]
        for level in self.down:
            for j in range(len(level.block)):
                hs.append(level.one(j, hs[-1], temb))
            if hasattr(level, "downsample"):
                hs.append(level.downsample.conv(F.pad(hs[-1], (0, 1, 0, 1))))
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(hs[-1], temb)), temb)
        for level in reversed(self.up):
            for j in range(len(level.block)):
                h = level.one(j, torch.cat([h, hs.pop()], dim=1), temb)
            if hasattr(level, "upsample"):
                h = level.upsample.conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.conv_out(swish(self.norm_out(h)))
