"""ddim_core: Denoising Diffusion Implicit Models, small enough to read."""

from .noise import image_generators, image_noise
from .public import load_public
from .sample import ddim_step, encode, generate, lerp, sample, slerp
from .schedule import Schedule, add_noise, predict_eps, predict_x0
from .unet import UNet, UNetConfig
from .weights import load_pretrained

__version__ = "0.1.0"
__all__ = [
    "Schedule",
    "UNet",
    "UNetConfig",
    "add_noise",
    "ddim_step",
    "encode",
    "generate",
    "image_generators",
    "image_noise",
    "lerp",
    "load_pretrained",
    "load_public",
    "predict_eps",
    "predict_x0",
    "sample",
    "slerp",
]
