"""The U-Net of DDPM and DDIM (DDPM, appendix B), as a denoiser `model(x_t, t) -> eps`.

An image goes down through levels of halving resolution and comes back up; at each level it passes through residual
blocks that are told the time t and, at chosen resolutions, through self-attention. Every block on the way down leaves
its output for the way up (a skip connection). Parameter names are those of the public DDPM weights, so that these load
without renaming.
"""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["UNet", "UNetConfig"]


@dataclass(frozen=True)
class UNetConfig:
    """What fixes the shape of a U-Net.

    Args:
        resolution: height and width at which it is trained.
        in_channels, out_channels: of the image and of the predicted noise.
        ch: channels at the highest resolution.
        ch_mult: channels of each level, in units of ch; its length is the number of levels.
        num_res_blocks: residual blocks per level on the way down (one more on the way up).
        attn_resolutions: resolutions whose levels have self-attention.
        dropout: probability, in [0, 1).
        norm_groups: groups of each group normalisation; must divide every level's channels.
        patch: side p of the squares of pixels that the network takes in as one pixel with p * p times the channels (and
            gives back as a square). 1, each pixel by itself, is the original; 2 saves most of the work at the highest
            resolution, where a U-Net spends the most.

    Raises:
        ValueError: values that define no network.
    """

    resolution: int
    in_channels: int = 1
    out_channels: int = 1
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 2)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = ()
    dropout: float = 0.0
    norm_groups: int = 32
    patch: int = 1

    def __post_init__(self):
        object.__setattr__(self, "ch_mult", tuple(self.ch_mult))
        object.__setattr__(self, "attn_resolutions", tuple(self.attn_resolutions))
        for name in ("resolution", "in_channels", "out_channels", "ch", "num_res_blocks", "norm_groups", "patch"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if not self.ch_mult or any(not isinstance(m, int) or m < 1 for m in self.ch_mult):
            raise ValueError(f"ch_mult must be positive integers, got {self.ch_mult}")
        if self.ch % 2:
            raise ValueError(f"ch must be even (half sines, half cosines in the embedding of t), got {self.ch}")
        for m in (1, *self.ch_mult):
            if self.ch * m % self.norm_groups:
                raise ValueError(f"norm_groups = {self.norm_groups} does not divide {self.ch * m} channels")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if self.resolution % self.patch:
            raise ValueError(f"patch = {self.patch} does not divide resolution {self.resolution}")
        if self.resolutions[-1] < 1:
            raise ValueError(f"{len(self.ch_mult)} levels are too many for resolution {self.resolution}")
        if missing := set(self.attn_resolutions) - set(self.resolutions):
            raise ValueError(f"no level has resolution {sorted(missing)}: the levels have {self.resolutions}")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Resolution of each level, highest first."""
        return tuple(self.resolution // self.patch // 2**i for i in range(len(self.ch_mult)))

    def to_dict(self) -> dict:
        """Plain values, for JSON; `UNetConfig(**d)` makes the same configuration."""
        return asdict(self)


def frequencies(channels: int, device: torch.device | None = None) -> Tensor:
    """Those of the embedding of t, `[channels / 2]`: geometric, from 1 down to 1e-4."""
    half = channels // 2
    return torch.exp(torch.arange(half, dtype=torch.float32, device=device) * (-math.log(1e4) / max(half - 1, 1)))


def timestep_embedding(t: Tensor, channels: int) -> Tensor:
    """Sines, then cosines, of t at `channels / 2` frequencies from 1 down to 1e-4 (geometric), `[B] -> [B, channels]`."""
    angle = t.float()[:, None] * frequencies(channels, t.device)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class TimestepEmbedding(nn.Module):
    """The embedding of t, through two dense layers: `[B] -> [B, 4 ch]`."""

    def __init__(self, ch: int):
        super().__init__()
        self.ch = ch
        self.dense = nn.ModuleList([nn.Linear(ch, 4 * ch), nn.Linear(4 * ch, 4 * ch)])

    def forward(self, t: Tensor) -> Tensor:
        h = timestep_embedding(t, self.ch).to(self.dense[0].weight.dtype)
        return self.dense[1](F.silu(self.dense[0](h)))


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside the identity (a 1x1 convolution where channels change); t is added in between."""

    def __init__(self, c_in: int, c_out: int, c_time: int, dropout: float, groups: int):
        super().__init__()
        self.norm1 = group_norm(c_in, groups)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.temb_proj = nn.Linear(c_time, c_out)
        self.norm2 = group_norm(c_out, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        if c_in != c_out:
            self.nin_shortcut = nn.Conv2d(c_in, c_out, 1)
        self.changes_channels = c_in != c_out

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.temb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return (self.nin_shortcut(x) if self.changes_channels else x) + h


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(C)) v, all `[B, heads, positions, C]`."""
    if q.requires_grad and q.device.type == "cpu":
        # On a CPU the fused kernel's backward pass is slow: two plain products make a training step 10 % faster.
        # In the precision that q has: autocast would take the softmax to float32 and back.
        with torch.autocast("cpu", enabled=False):
            return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions, beside the identity."""

    def __init__(self, c: int, groups: int):
        super().__init__()
        self.norm = group_norm(c, groups)
        self.q = nn.Conv2d(c, c, 1)
        self.k = nn.Conv2d(c, c, 1)
        self.v = nn.Conv2d(c, c, 1)
        self.proj_out = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        h = self.norm(x)

        # [B, heads = 1, positions, channels], contiguous: the layout for which the CPU has a fused kernel
        def tokens(y: Tensor) -> Tensor:
            return y.reshape(B, 1, C, H * W).transpose(2, 3).contiguous()

        h = attention(tokens(self.q(h)), tokens(self.k(h)), tokens(self.v(h)))
        return x + self.proj_out(h.transpose(2, 3).reshape(B, C, H, W))


class Downsample(nn.Module):
    """Halve the resolution: a 3x3 convolution of stride 2, padded at the bottom and on the right only."""

    def __init__(self, c: int):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Enlarge to `size` (twice the resolution, if that was even) by repeating pixels, then a 3x3 convolution."""

    def __init__(self, c: int):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class UNet(nn.Module):
    """Predict the noise in x_t.

    Call as `model(xt, t)` with xt `[B, in_channels, H, W]` and t int64 `[B]`; returns `[B, out_channels, H, W]`.
    H and W need not be `config.resolution`, only multiples of `config.patch` and large enough to be halved from level
    to level: levels keep their attention whatever the size.

    Raises:
        ValueError: xt or t of the wrong shape. TypeError: t is not of an integer type.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        ch, groups, drop = config.ch, config.norm_groups, config.dropout
        c_time, levels = 4 * ch, len(config.ch_mult)
        self.temb = TimestepEmbedding(ch)
        self.conv_in = nn.Conv2d(config.in_channels * config.patch**2, ch, 3, padding=1)

        skips, c = [ch], ch
        self.down = nn.ModuleList()
        for i, (mult, resolution) in enumerate(zip(config.ch_mult, config.resolutions, strict=True)):
            level = nn.Module()
            level.block, level.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(config.num_res_blocks):
                level.block.append(ResidualBlock(c, ch * mult, c_time, drop, groups))
                c = ch * mult
                if resolution in config.attn_resolutions:
                    level.attn.append(AttentionBlock(c, groups))
                skips.append(c)
            if i < levels - 1:
                level.downsample = Downsample(c)
                skips.append(c)
            self.down.append(level)

        self.mid = nn.Module()
        self.mid.block_1 = ResidualBlock(c, c, c_time, drop, groups)
        self.mid.attn_1 = AttentionBlock(c, groups)
        self.mid.block_2 = ResidualBlock(c, c, c_time, drop, groups)

        up = []
        for i in reversed(range(levels)):
            level = nn.Module()
            level.block, level.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(config.num_res_blocks + 1):
                level.block.append(ResidualBlock(c + skips.pop(), ch * config.ch_mult[i], c_time, drop, groups))
                c = ch * config.ch_mult[i]
                if config.resolutions[i] in config.attn_resolutions:
                    level.attn.append(AttentionBlock(c, groups))
            if i > 0:
                level.upsample = Upsample(c)
            up.insert(0, level)  # up.0 is the highest resolution, as down.0 is
        self.up = nn.ModuleList(up)

        self.norm_out = group_norm(c, groups)
        self.conv_out = nn.Conv2d(c, config.out_channels * config.patch**2, 3, padding=1)
        self._start_as_identity()

    def _start_as_identity(self) -> None:
        """Zero the last layer of every branch (DDPM does the same): at first each block passes its input on."""
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                nn.init.zeros_(module.conv2.weight)
                nn.init.zeros_(module.conv2.bias)
            elif isinstance(module, AttentionBlock):
                nn.init.zeros_(module.proj_out.weight)
                nn.init.zeros_(module.proj_out.bias)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, xt: Tensor, t: Tensor) -> Tensor:
        self._check(xt, t)
        temb = self.temb(t)
        h = self.conv_in(F.pixel_unshuffle(xt, self.config.patch))
        if h.device.type == "cpu":  # the layout in which its convolutions work: large batches are a fifth faster
            h = h.contiguous(memory_format=torch.channels_last)
        skips = [h]
        for level in self.down:
            for j, block in enumerate(level.block):
                h = block(h, temb)
                if level.attn:
                    h = level.attn[j](h)
                skips.append(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
                skips.append(h)
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h, temb)), temb)
        for level in reversed(self.up):
            for j, block in enumerate(level.block):
                h = block(torch.cat([h, skips.pop()], dim=1), temb)
                if level.attn:
                    h = level.attn[j](h)
            if hasattr(level, "upsample"):
                h = level.upsample(h, skips[-1].shape[-2:])
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.config.patch)

    def _check(self, xt: Tensor, t: Tensor) -> None:
        if xt.ndim != 4 or xt.shape[1] != self.config.in_channels:
            raise ValueError(f"xt must be [B, {self.config.in_channels}, H, W], got {tuple(xt.shape)}")
        if xt.shape[2] % self.config.patch or xt.shape[3] % self.config.patch:
            raise ValueError(
                f"height and width must be multiples of patch = {self.config.patch}, got {tuple(xt.shape)}"
            )
        levels, least = len(self.config.ch_mult), self.config.patch * 2 ** (len(self.config.ch_mult) - 1)
        if min(xt.shape[2:]) < least:
            raise ValueError(f"{levels} levels need images of {least} x {least} pixels or more, got {tuple(xt.shape)}")
        if t.ndim != 1 or t.shape[0] != xt.shape[0]:
            raise ValueError(f"t must be [{xt.shape[0]}], one time per image, got {tuple(t.shape)}")
        if t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
            raise TypeError(f"t must be of an integer type, got {t.dtype}")
