"""What the network has in common as an ONNX and as a LiteRT file: its weights in fp16, and that it agrees with PyTorch.

`onnx` and `litert` write out the graph itself.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .adapt import Adapter, image_shape
from .errors import CheckpointError, UsageError
from .files import write_atomically
from .schedule import Schedule
from .unet import UNet
from .weights import describe, load

__all__ = ["export_graph", "metadata_of", "rounded", "unet_of"]

TOLERANCE = 1e-4  # of the largest value: the two differ by rounding in float32, some 1e-6


def export_graph(
    name: str | Path,
    out: str | Path,
    ending: str,
    build: Callable[[nn.Module, Schedule, str], bytes],
    answer: Callable[[bytes, Tensor, Tensor], np.ndarray | None],
) -> dict[str, Any]:
    """Write weights as a file that `build` makes of them, if it gives the same results as the network in PyTorch.

    Args:
        name: what `weights.load` takes: a name or a path.
        out: the file. ending: what its name must end in.
        build: of the network with rounded weights, its schedule and the sha256 of its file, the content.
        answer: what a runtime makes of that content, x `[n, C, H, W]` and t `[n]`; None if there is no runtime.

    Returns:
        "weights_sha256", "bytes", and "difference": the largest one from the network in PyTorch with the same rounded
        weights, relative to its largest value; None if it was not compared.

    Raises:
        UsageError: another ending, an unknown name. CheckpointError: weights that cannot be loaded, that fp16 cannot hold, or that give
        other results than in PyTorch, or none. DiskError: `out` cannot be written.
    """
    out = Path(out).expanduser()
    if out.suffix != ending:
        raise UsageError(f"--out must end in {ending}, got {out}")
    model, schedule = load(name)
    model, digest = rounded(model, name), describe(name)["sha256"]
    content = build(model, schedule, digest)
    t = torch.tensor([1, max(schedule.T // 2, 1), schedule.T])
    x = torch.randn(len(t), *image_shape(model), generator=torch.Generator().manual_seed(0))
    try:
        got = answer(content, x, t)
    except (RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise CheckpointError(f"{name}: the graph cannot be run, so nothing was written: {said}") from error
    difference = None
    if got is not None:
        with torch.no_grad():
            wanted = model.eval()(x, t).numpy()
        difference = float(np.abs(got - wanted).max() / np.abs(wanted).max())
        if not difference < TOLERANCE:
            raise CheckpointError(
                f"{name}: the graph differs from the network in PyTorch by {difference:.2g} of its largest value, more "
                f"than {TOLERANCE}: nothing was written; use another version of the runtime"
            )
    write_atomically(out, content)
    return {"weights_sha256": digest, "bytes": len(content), "difference": difference}


def rounded(model: nn.Module, name: str | Path) -> nn.Module:
    """A copy of the network whose weights are rounded to fp16; those of ours are already.

    Raises:
        CheckpointError: weights that fp16 cannot hold; `name` is whose they are.
    """
    model = deepcopy(model)
    for key, parameter in model.named_parameters():
        half = parameter.detach().half()
        if not half.isfinite().all():
            if not parameter.isfinite().all():
                raise CheckpointError(f"{name}: {key!r} has values that are no numbers: use other weights")
            raise CheckpointError(f"{name}: {key!r} goes beyond 65504, the largest number in fp16: use other weights")
        parameter.data.copy_(half)
    return model


def unet_of(model: nn.Module) -> UNet:
    """The U-Net itself, or the one in an `Adapter`. Raises UsageError for another kind of network."""
    net = model.net if isinstance(model, Adapter) else model
    if not isinstance(net, UNet):
        raise UsageError(f"only a U-Net of ours can be exported, got {type(net).__name__}")
    return net


def metadata_of(net: UNet, schedule: Schedule, weights_sha256: str) -> dict[str, str]:
    """What a file says of the weights that it holds: their sha256, the network and the schedule as JSON."""
    return {
        "weights_sha256": weights_sha256,
        "unet": json.dumps(net.config.to_dict()),
        "schedule": json.dumps({"T": schedule.T, "alpha": schedule.alpha.tolist()}),
    }
