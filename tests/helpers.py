"""What several test files need: a network small enough to train in a second, seeded tensors, distances."""

import os
import sys

import torch
from torch import Tensor

from ddim_core import UNet, UNetConfig

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
PYTHON = sys.executable
TINY = UNetConfig(8, ch=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,), dropout=0.1, norm_groups=4)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """All parameters random and none without effect; of the size that PyTorch gives them at first."""
    generator = seeded(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
            if p.ndim > 1:
                p.mul_(0.5 * p[0].numel() ** -0.5)
            elif name.endswith("bias"):
                p.mul_(0.1)
            else:  # the scale of a normalisation
                p.mul_(0.3).add_(1)
    return model


def tiny_unet(seed: int = 0, config: UNetConfig = TINY) -> UNet:
    return randomised(UNet(config), seed).eval()


def relative(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||"""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()
