"""Other people's networks as denoisers of ours: `model(x_t, t) -> eps`, with t in 1..T.

Two conventions differ. Most networks, those of diffusers among them, were trained on times 0, ..., T - 1 where ours count
1, ..., T: the same noise, one number lower. And some return their answer inside an object. Both are settled in one
place, `Adapter`.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

__all__ = ["Adapter", "Denoiser", "as_denoiser", "picture_shape"]

Denoiser = Callable[[Tensor, Tensor], Tensor]


class Adapter(nn.Module):
    """A noise predictor trained on times 0, ..., T - 1, as a denoiser of 1, ..., T: `model(x_t, t) -> net(x_t, t - 1)`.

    Only what the network is told is shifted; the schedule keeps alpha_t.

    Args:
        net: a module or function that takes x_t `[B, C, H, W]` and times int64 `[B]`, and returns eps of the shape of
            x_t: as a tensor, as the attribute `sample` (diffusers), or first in a tuple.
        shape: `(C, H, W)` of a picture; left out, what the network's configuration says.

    Raises:
        ValueError: (when called) a time below 1, not looked for in the memory of a GPU.
    """

    def __init__(self, net: Callable, shape: tuple[int, ...] | None = None):
        super().__init__()
        self.net = net
        self.shape = picture_shape(net) if shape is None else tuple(shape)

    @property
    def config(self):
        """The network's, None where it has none."""
        return getattr(self.net, "config", None)

    @property
    def training(self) -> bool:
        """Whether the network is in training mode: whoever set it may have done so without knowing of the adapter."""
        return isinstance(self.net, nn.Module) and self.net.training

    @training.setter
    def training(self, mode: bool) -> None:
        pass  # nn.Module.train and eval go on to the network themselves

    def forward(self, xt: Tensor, t: Tensor) -> Tensor:
        if t.device.type == "cpu" and bool((t < 1).any()):
            raise ValueError(f"the network knows times from 1 on, got {t.min().item()}")
        answer = self.net(xt, t - 1)
        if isinstance(answer, tuple):
            return answer[0]
        return answer if isinstance(answer, Tensor) else answer.sample


def as_denoiser(model: Callable) -> Denoiser:
    """The model itself; a network of diffusers (UNet2DModel and its kin) behind an `Adapter`.

    It is known by its configuration, a mapping with `sample_size`, and by what it could be registered with.
    """
    config = getattr(model, "config", None)
    theirs = isinstance(config, Mapping) and "sample_size" in config and hasattr(model, "register_to_config")
    return Adapter(model) if theirs else model


def picture_shape(model: Callable) -> tuple[int, ...] | None:
    """The shape `(C, H, W)` of the pictures that a model knows, None where it does not say.

    It says so by an attribute `shape` (`Adapter`, `oracle.DatasetDenoiser`), or by a configuration: of our U-Net, with
    `in_channels` and `resolution`; or of diffusers, with `in_channels` and `sample_size`.
    """
    shape, config = getattr(model, "shape", None), getattr(model, "config", None)
    if shape is not None:
        return tuple(shape)
    if isinstance(config, Mapping):
        channels, size = config.get("in_channels"), config.get("sample_size")
    else:
        channels, size = getattr(config, "in_channels", None), getattr(config, "resolution", None)
    if channels is None or size is None:
        return None
    return (channels, size, size) if isinstance(size, int) else (channels, *size)


def first_parameter(model: Callable) -> Tensor | None:
    """The first floating-point parameter of a network: it tells the device and the dtype that it works on and in."""
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    return next((p for p in parameters if p.is_floating_point()), None)
