"""ddim_core: Denoising Diffusion Implicit Models, small enough to read."""

from .adapt import Adapter
from .sample import ddim_step, encode, generate, lerp, sample, slerp
from .schedule import Schedule, add_noise, predict_eps, predict_x0
from .seeds import image_generators, image_noise
from .unet import UNet, UNetConfig
from .weights import load_pretrained
from .weights.formats import load_public

__version__ = "0.1.0"
__all__ = [
    "Adapter",
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
