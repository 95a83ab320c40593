r"""Our U-Net as an ONNX file, for programs that have no PyTorch.

The graph is written out operator by operator, beside the forward pass in `unet` that it repeats; so it needs neither
tracing nor a particular PyTorch, and can be read. Weights are stored in fp16, which halves the file, and a Cast beside
each takes them to float32, in which everything is computed.

    inputs    x float32 [n, C, H, W], pixels of x_t;   t int64 [n], in 1..T
    output    eps float32 [n, C, H, W]

The file's metadata say which weights it holds (sha256 of their file), their network and their schedule.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from .adapt import Adapter
from .errors import UsageError
from .graph import export_graph, metadata_of, unet_of
from .schedule import Schedule
from .unet import UNet, frequencies

__all__ = ["export_onnx", "graph_of"]

OPSET, IR_VERSION = 18, 8  # what every ONNX Runtime since 2023 reads


def export_onnx(name: str | Path, out: str | Path) -> dict[str, Any]:
    """Write weights as an ONNX file, and compare it with the network in PyTorch where onnxruntime is installed.

    Args:
        name: what `weights.load` takes: a name or a path. The network must be a U-Net of ours, with or without the
            shift of t that public weights need (it goes into the graph).
        out: the file, ending in .onnx.

    Returns:
        "weights_sha256", "bytes", and "difference": the largest one from the network in PyTorch with the same rounded
        weights, relative to its largest value; None if onnxruntime is not installed.

    Raises:
        UsageError: another ending, an unknown name, or another kind of network; the package onnx is missing.
        CheckpointError: weights that cannot be loaded, that fp16 cannot hold, or that give other results in onnxruntime
        than in PyTorch. DiskError: `out` cannot be written.
    """
    _onnx()  # if it is missing, that is said before anything else is done

    def build(model: nn.Module, schedule: Schedule, digest: str) -> bytes:
        return graph_of(model, schedule, weights_sha256=digest).SerializeToString(deterministic=True)

    return export_graph(name, out, ".onnx", build, _answer)


def graph_of(model: nn.Module, schedule: Schedule, *, weights_sha256: str):
    """The network as an `onnx.ModelProto`; its parameters must be exact in fp16.

    Args:
        model: a `UNet`, or an `Adapter` around one.
        weights_sha256: of the file that the weights come from, for the metadata.

    Raises:
        UsageError: another kind of network; the package onnx is missing.
    """
    onnx = _onnx()
    net = unet_of(model)
    g, config, float32 = _Graph(onnx), net.config, onnx.TensorProto.FLOAT
    size = (config.resolution, config.resolution)
    t = g.op("Sub", "t", g.constant(np.array(1, np.int64))) if isinstance(model, Adapter) else "t"
    g.op("Identity", _unet(g, net, "x", t, size).name, name="eps")
    images = [
        (key, ["n", channels, *size]) for key, channels in (("x", config.in_channels), ("eps", config.out_channels))
    ]
    value = onnx.helper.make_tensor_value_info
    x, eps = (value(key, float32, shape) for key, shape in images)
    times = value("t", onnx.TensorProto.INT64, ["n"])
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(g.nodes, "unet", [x, times], [eps], g.initializers),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="ddim_core",
    )
    onnx.helper.set_model_props(proto, metadata_of(net, schedule, weights_sha256))
    onnx.checker.check_model(proto)
    return proto


def _onnx():
    try:
        import onnx
    except ImportError as error:
        raise UsageError("exporting to ONNX needs the package onnx: pip install 'ddim-core[onnx]'") from error
    return onnx


def _answer(content: bytes, x: Tensor, t: Tensor) -> np.ndarray | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    onnxruntime.set_default_logger_severity(3)  # it remarks on machines without the hardware that it looks for
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return session.run(None, {"x": x.numpy(), "t": t.numpy()})[0]
    except Exception as error:  # its own kinds have nothing in common that is public
        raise RuntimeError(f"onnxruntime says {error}") from error


# --- the forward pass of `unet`, line by line ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Image:
    """A value of the graph: its name, its channels, height and width."""

    name: str
    channels: int
    size: tuple[int, int]


class _Graph:
    """Nodes and stored tensors, in order; every value has a name."""

    def __init__(self, onnx):
        self.onnx, self.nodes, self.initializers = onnx, [], []
        self.known: dict[tuple, str] = {}

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes) -> str:
        name = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [name], name=f"node_{name}", **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self.known:
            self.known[key] = f"constant_{len(self.initializers)}"
            self.initializers.append(self.onnx.numpy_helper.from_array(array, self.known[key]))
        return self.known[key]

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def weight(self, tensor: Tensor) -> str:
        """Stored in fp16, taken to float32 by a Cast, which runtimes apply once, when they load the file."""
        stored = self.constant(tensor.detach().cpu().contiguous().half().numpy())
        return self.op("Cast", stored, to=self.onnx.TensorProto.FLOAT)

    # what has parameters

    def dense(self, x: str, layer: nn.Linear) -> str:
        return self.op("Gemm", x, self.weight(layer.weight), self.weight(layer.bias), transB=1)

    def conv(self, x: _Image, layer: nn.Conv2d, pads: tuple[int, int, int, int] | None = None) -> _Image:
        (k, _), (stride, _), (p, _) = layer.kernel_size, layer.stride, layer.padding
        pads = pads or (p, p, p, p)  # top, left, bottom, right
        name = self.op(
            "Conv", x.name, self.weight(layer.weight), self.weight(layer.bias), pads=pads, strides=(stride, stride)
        )
        height = (x.size[0] + pads[0] + pads[2] - k) // stride + 1
        width = (x.size[1] + pads[1] + pads[3] - k) // stride + 1
        return _Image(name, layer.out_channels, (height, width))

    def group_norm(self, x: _Image, layer: nn.GroupNorm) -> _Image:
        G = layer.num_groups
        ones, zeros = self.constant(np.ones(G, np.float32)), self.constant(np.zeros(G, np.float32))
        flat = self.op("Reshape", x.name, self.ints(0, G, -1))
        flat = self.op("InstanceNormalization", flat, ones, zeros, epsilon=layer.eps)
        h = self.op("Reshape", flat, self.ints(0, x.channels, *x.size))
        scale, shift = (self.weight(p.view(-1, 1, 1)) for p in (layer.weight, layer.bias))
        return _Image(self.op("Add", self.op("Mul", h, scale), shift), x.channels, x.size)

    # what has none

    def silu(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))

    def image(self, kind: str, like: _Image, *inputs: str, **attributes) -> _Image:
        return _Image(self.op(kind, *inputs, **attributes), like.channels, like.size)


def _unet(g: _Graph, net: UNet, x: str, t: str, size: tuple[int, int]) -> _Image:
    config, p = net.config, net.config.patch
    temb = _time(g, net.temb, t)
    h = _Image(x, config.in_channels, size)
    if p > 1:  # pixel_unshuffle
        small = (size[0] // p, size[1] // p)
        cut = g.op("Reshape", x, g.ints(0, h.channels, small[0], p, small[1], p))
        cut = g.op("Transpose", cut, perm=(0, 1, 3, 5, 2, 4))
        h = _Image(g.op("Reshape", cut, g.ints(0, h.channels * p * p, *small)), h.channels * p * p, small)
    h = g.conv(h, net.conv_in)
    skips = [h]
    for level in net.down:
        for j, block in enumerate(level.block):
            h = _residual(g, block, h, temb)
            if level.attn:
                h = _attention(g, level.attn[j], h)
            skips.append(h)
        if hasattr(level, "downsample"):
            h = g.conv(h, level.downsample.conv, pads=(0, 0, 1, 1))
            skips.append(h)
    h = _residual(g, net.mid.block_1, h, temb)
    h = _residual(g, net.mid.block_2, _attention(g, net.mid.attn_1, h), temb)
    for level in reversed(net.up):
        for j, block in enumerate(level.block):
            skip = skips.pop()
            both = g.op("Concat", h.name, skip.name, axis=1)
            h = _residual(g, block, _Image(both, h.channels + skip.channels, h.size), temb)
            if level.attn:
                h = _attention(g, level.attn[j], h)
        if hasattr(level, "upsample"):
            h = g.conv(_enlarged(g, h, skips[-1].size), level.upsample.conv)
    h = g.group_norm(h, net.norm_out)
    h = g.conv(g.image("Mul", h, h.name, g.op("Sigmoid", h.name)), net.conv_out)
    return g.image("DepthToSpace", h, h.name, blocksize=p, mode="CRD") if p > 1 else h


def _time(g: _Graph, temb: nn.Module, t: str) -> str:
    column = g.op("Unsqueeze", g.op("Cast", t, to=g.onnx.TensorProto.FLOAT), g.ints(1))
    angle = g.op("Mul", column, g.constant(frequencies(temb.ch).numpy()))
    h = g.op("Concat", g.op("Sin", angle), g.op("Cos", angle), axis=1)
    return g.dense(g.silu(g.dense(h, temb.dense[0])), temb.dense[1])


def _residual(g: _Graph, block: nn.Module, x: _Image, temb: str) -> _Image:
    h = g.group_norm(x, block.norm1)
    h = g.conv(g.image("Mul", h, h.name, g.op("Sigmoid", h.name)), block.conv1)
    time = g.op("Unsqueeze", g.dense(g.silu(temb), block.temb_proj), g.ints(2, 3))
    h = g.group_norm(g.image("Add", h, h.name, time), block.norm2)
    h = g.conv(g.image("Mul", h, h.name, g.op("Sigmoid", h.name)), block.conv2)
    beside = g.conv(x, block.nin_shortcut) if block.changes_channels else x
    return g.image("Add", h, beside.name, h.name)


def _attention(g: _Graph, block: nn.Module, x: _Image) -> _Image:
    C, positions = x.channels, x.size[0] * x.size[1]
    h = g.group_norm(x, block.norm)
    q, k, v = (g.op("Reshape", g.conv(h, m).name, g.ints(0, C, positions)) for m in (block.q, block.k, block.v))
    scores = g.op("MatMul", g.op("Transpose", q, perm=(0, 2, 1)), k)
    weights = g.op("Softmax", g.op("Mul", scores, g.constant(np.array(C**-0.5, np.float32))), axis=-1)
    mixed = g.op("Transpose", g.op("MatMul", weights, g.op("Transpose", v, perm=(0, 2, 1))), perm=(0, 2, 1))
    h = g.conv(_Image(g.op("Reshape", mixed, g.ints(0, C, *x.size)), C, x.size), block.proj_out)
    return g.image("Add", x, x.name, h.name)


def _enlarged(g: _Graph, x: _Image, size: tuple[int, int]) -> _Image:
    # a height of 7 from 3: 7/3 in float32 lies below 7/3, which would give 6; twice the height needs no such care
    scales = [np.float32(wide / narrow) for wide, narrow in zip(size, x.size, strict=True)]
    scales = [
        s if float(s) * n >= w else np.nextafter(s, np.float32(9)) for s, n, w in zip(scales, x.size, size, strict=True)
    ]
    scales = g.constant(np.array([1, 1, *scales], np.float32))
    rule = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return _Image(g.op("Resize", x.name, "", scales, **rule), x.channels, size)
