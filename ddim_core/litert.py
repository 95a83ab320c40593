r"""Our U-Net as a LiteRT file (.tflite), for programs that have no PyTorch: the book's own pages run it in the reader's browser.

As in `onnx`, the graph is written out operator by operator, beside the forward pass in `unet` that it repeats, and weights
are stored in fp16 and computed with in float32. LiteRT's convolutions are twice as fast in a browser as those of ONNX
Runtime, but its shapes are fixed: one image a call, at the resolution of the network.

    inputs    x float32 [1, C, H, W], pixels of x_t;   t int32 [1], in 1..T
    output    eps float32 [1, C, H, W]

Inside, channels come last. The file's metadata say which weights it holds (sha256 of their file), their network and their
schedule.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .adapt import Adapter
from .errors import UsageError
from .graph import export_graph, metadata_of, unet_of
from .schedule import Schedule
from .unet import UNet, frequencies

__all__ = ["export_litert", "model_of"]

TYPES = {"float32": 0, "float16": 1, "int32": 2}  # TensorType in the format's schema
VERSIONS = {"DEQUANTIZE": 3}  # of operators; all others are as in their first one


def export_litert(name: str | Path, out: str | Path) -> dict[str, Any]:
    """Write weights as a LiteRT file, and compare it with the network in PyTorch.

    Args:
        name: what `weights.load` takes: a name or a path. The network must be a U-Net of ours, with or without the
            shift of t that public weights need (it goes into the graph).
        out: the file, ending in .tflite.

    Returns:
        "weights_sha256", "bytes", and "difference": the largest one from the network in PyTorch with the same rounded
        weights, relative to its largest value.

    Raises:
        UsageError: another ending, an unknown name, or another kind of network; the package ai-edge-litert is missing.
        CheckpointError: weights that cannot be loaded, that fp16 cannot hold, or that give other results in LiteRT than in
        PyTorch. DiskError: `out` cannot be written.
    """
    _schema()  # if it is missing, that is said before anything else is done

    def build(model: nn.Module, schedule: Schedule, digest: str) -> bytes:
        return model_of(model, schedule, weights_sha256=digest)

    return export_graph(name, out, ".tflite", build, _answer)


def model_of(model: nn.Module, schedule: Schedule, *, weights_sha256: str) -> bytes:
    """The network as the bytes of a LiteRT file; its parameters must be exact in fp16.

    Args:
        model: a `UNet`, or an `Adapter` around one.
        weights_sha256: of the file that the weights come from, for the metadata.

    Raises:
        UsageError: another kind of network; the package ai-edge-litert is missing.
    """
    g = _Graph(_schema())
    net = unet_of(model)
    config = net.config
    side = config.resolution
    x = g.value("x", (1, config.in_channels, side, side))
    t = g.value("t", (1,), "int32")
    time = g.op("CAST", t, shape=(1, 1), inDataType=TYPES["int32"])
    if isinstance(model, Adapter):
        time = g.op("SUB", time, g.constant(np.ones((1, 1), np.float32)))
    h = _unet(g, net, g.op("TRANSPOSE", x, g.ints(0, 2, 3, 1), shape=(1, side, side, config.in_channels)), time)
    eps = g.op("TRANSPOSE", h, g.ints(0, 3, 1, 2), shape=(1, config.out_channels, side, side), name="eps")
    return g.packed({"x": x, "t": t}, {"eps": eps}, metadata_of(net, schedule, weights_sha256))


def _schema():
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise UsageError(
            "exporting to LiteRT needs the package ai-edge-litert: pip install 'ddim-core[litert]'"
        ) from error
    return schema


def _answer(content: bytes, x: Tensor, t: Tensor) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # the one that the browsers' runtime has announces itself
    run = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=plain).get_signature_runner()
    images = zip(x, t, strict=True)
    return np.concatenate([run(x=a[None].numpy(), t=b[None].int().numpy())["eps"] for a, b in images])


class _Graph:
    """Operators and stored tensors in order, in the format's own classes; a value is the number of its tensor."""

    def __init__(self, schema):
        self.schema, self.tensors, self.operators = schema, [], []
        self.buffers = [schema.BufferT()]  # the first is that of values that are computed
        self.codes: dict[str, int] = {}
        self.known: dict[tuple, int] = {}

    def value(self, name: str, shape: tuple[int, ...], dtype: str = "float32", buffer: int = 0) -> int:
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.hasRank = name, np.array(shape, np.int32), True
        tensor.type, tensor.buffer = TYPES[dtype], buffer
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def shape(self, value: int) -> tuple[int, ...]:
        return tuple(self.tensors[value].shape.tolist())

    def constant(self, array: np.ndarray) -> int:
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self.known:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(array.tobytes(), np.uint8)
            self.buffers.append(buffer)
            k = len(self.buffers) - 1
            self.known[key] = self.value(f"constant_{k}", array.shape, str(array.dtype), k)
        return self.known[key]

    def ints(self, *values: int) -> int:
        return self.constant(np.array(values, np.int32))

    def weight(self, tensor: Tensor) -> int:
        """Stored in fp16, taken to float32 once, when the file is loaded."""
        array = np.ascontiguousarray(tensor.detach().cpu().half().numpy())
        key = ("weight", array.shape, array.tobytes())
        if key not in self.known:
            self.known[key] = self.op("DEQUANTIZE", self.constant(array))
        return self.known[key]

    def op(
        self, kind: str, *inputs: int, shape: tuple[int, ...] | None = None, name: str | None = None, **options
    ) -> int:
        """The value of one operator. `shape`: of it, that of the first input if left out."""
        s = self.schema
        operator = s.OperatorT()
        operator.opcodeIndex = self.codes.setdefault(kind, len(self.codes))
        operator.inputs = np.array(inputs, np.int32)
        if kind in _OPTIONS:
            operator.builtinOptionsType = getattr(s.BuiltinOptions, _OPTIONS[kind])
            operator.builtinOptions = getattr(s, f"{_OPTIONS[kind]}T")()
            for key, setting in options.items():
                setattr(operator.builtinOptions, key, setting)
        out = self.value(name or f"{kind.lower()}_{len(self.operators)}", shape or self.shape(inputs[0]))
        operator.outputs = np.array([out], np.int32)
        self.operators.append(operator)
        return out

    def packed(self, inputs: dict[str, int], outputs: dict[str, int], metadata: dict[str, str]) -> bytes:
        import flatbuffers

        s = self.schema
        graph = s.SubGraphT()
        graph.name, graph.tensors, graph.operators = "unet", self.tensors, self.operators
        graph.inputs, graph.outputs = (np.array(list(d.values()), np.int32) for d in (inputs, outputs))
        model, signature = s.ModelT(), s.SignatureDefT()
        signature.signatureKey = "serving_default"
        signature.inputs, signature.outputs = (
            [self._named(s.TensorMapT(), *p) for p in d.items()] for d in (inputs, outputs)
        )
        model.version, model.description = 3, "ddim_core"
        model.subgraphs, model.signatureDefs, model.buffers = [graph], [signature], self.buffers
        model.operatorCodes = [self._code(kind) for kind in self.codes]
        model.metadata = []
        for name, text in metadata.items():
            entry, buffer = s.MetadataT(), s.BufferT()
            buffer.data = np.frombuffer(text.encode(), np.uint8)
            entry.name, entry.buffer = name, len(self.buffers)
            self.buffers.append(buffer)
            model.metadata.append(entry)
        builder = flatbuffers.Builder(2**20)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _named(self, entry, name: str, value: int):
        entry.name, entry.tensorIndex = name, value
        return entry

    def _code(self, kind: str):
        code = self.schema.OperatorCodeT()
        code.builtinCode = getattr(self.schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = VERSIONS.get(kind, 1)
        return code

    # what has parameters; images are [1, H, W, C]

    def dense(self, x: int, layer: nn.Linear) -> int:
        weight, bias = self.weight(layer.weight), self.weight(layer.bias)
        return self.op("FULLY_CONNECTED", x, weight, bias, shape=(1, layer.out_features))

    def conv(self, x: int, weight: Tensor, bias: Tensor, stride: int = 1) -> int:
        """Around every pixel, or without a border where the stride is 2. weight: `[out, in, k, k]`."""
        _, height, width, _ = self.shape(x)
        out, _, k, _ = weight.shape
        if stride > 1:
            height, width = ((side - k) // stride + 1 for side in (height, width))
        return self.op(
            "CONV_2D",
            x,
            self.weight(weight.permute(0, 2, 3, 1)),
            self.weight(bias),
            shape=(1, height, width, out),
            padding=int(stride > 1),
            strideH=stride,
            strideW=stride,
        )

    def group_norm(self, x: int, layer: nn.GroupNorm) -> int:
        """As a multiple of x and a shift for each channel, from means over pixels, then over the channels of a group."""
        C = layer.num_channels
        together = torch.block_diag(
            *[torch.full((C // layer.num_groups,) * 2, layer.num_groups / C)] * layer.num_groups
        )
        average = self.constant(together.numpy()), self.constant(np.zeros(C, np.float32))

        def mean(value: int) -> int:
            pixels = self.op("MEAN", value, self.ints(1, 2), shape=(1, C))
            return self.op(
                "RESHAPE", self.op("FULLY_CONNECTED", pixels, *average), self.ints(1, 1, 1, C), shape=(1, 1, 1, C)
            )

        centre = mean(x)
        variance = mean(self.op("SQUARED_DIFFERENCE", x, centre))
        deviation = self.op(
            "RSQRT", self.op("ADD", variance, self.constant(np.full((1, 1, 1, 1), layer.eps, np.float32)))
        )
        scale = self.op("MUL", deviation, self.weight(layer.weight.view(1, 1, 1, -1)))
        shift = self.op("SUB", self.weight(layer.bias.view(1, 1, 1, -1)), self.op("MUL", centre, scale))
        return self.op("ADD", self.op("MUL", x, scale), shift)

    # what has none

    def silu(self, x: int) -> int:
        return self.op("MUL", x, self.op("LOGISTIC", x))


_OPTIONS = {
    "ADD": "AddOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "CAST": "CastOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "MEAN": "ReducerOptions",
    "MUL": "MulOptions",
    "PAD": "PadOptions",
    "RESHAPE": "ReshapeOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "SOFTMAX": "SoftmaxOptions",
    "SPACE_TO_DEPTH": "SpaceToDepthOptions",
    "SUB": "SubOptions",
    "TRANSPOSE": "TransposeOptions",
}


# --- the forward pass of `unet`, line by line ------------------------------------------------------------------------


def _unet(g: _Graph, net: UNet, x: int, t: int) -> int:
    config, p = net.config, net.config.patch
    temb = _time(g, net.temb, t)
    h = x
    into, out_of = net.conv_in.weight, (net.conv_out.weight, net.conv_out.bias)
    if p > 1:  # pixel_unshuffle, whose channels come in another order here: those of a pixel together
        _, height, width, channels = g.shape(x)
        h = g.op("SPACE_TO_DEPTH", h, shape=(1, height // p, width // p, channels * p * p), blockSize=p)
        into = into.unflatten(1, (channels, p * p)).transpose(1, 2).flatten(1, 2)
        out_of = tuple(w.unflatten(0, (config.out_channels, p * p)).transpose(0, 1).flatten(0, 1) for w in out_of)
    h = g.conv(h, into, net.conv_in.bias)
    skips = [h]
    for level in net.down:
        for j, block in enumerate(level.block):
            h = _residual(g, block, h, temb)
            if level.attn:
                h = _attention(g, level.attn[j], h)
            skips.append(h)
        if hasattr(level, "downsample"):
            h = _smaller(g, h, level.downsample.conv)
            skips.append(h)
    h = _residual(g, net.mid.block_1, h, temb)
    h = _residual(g, net.mid.block_2, _attention(g, net.mid.attn_1, h), temb)
    for level in reversed(net.up):
        for j, block in enumerate(level.block):
            skip = skips.pop()
            (*size, a), (*_, b) = g.shape(h), g.shape(skip)
            h = _residual(g, block, g.op("CONCATENATION", h, skip, shape=(*size, a + b), axis=3), temb)
            if level.attn:
                h = _attention(g, level.attn[j], h)
        if hasattr(level, "upsample"):
            (_, height, width, _), (*_, C) = g.shape(skips[-1]), g.shape(h)
            h = g.op("RESIZE_NEAREST_NEIGHBOR", h, g.ints(height, width), shape=(1, height, width, C))
            h = g.conv(h, level.upsample.conv.weight, level.upsample.conv.bias)
    h = g.conv(g.silu(g.group_norm(h, net.norm_out)), *out_of)
    return g.op("DEPTH_TO_SPACE", h, shape=(*g.shape(x)[:3], config.out_channels), blockSize=p) if p > 1 else h


def _time(g: _Graph, temb: nn.Module, t: int) -> int:
    half = temb.ch // 2
    angle = g.op("MUL", t, g.constant(frequencies(temb.ch)[None].numpy()), shape=(1, half))
    h = g.op("CONCATENATION", g.op("SIN", angle), g.op("COS", angle), shape=(1, 2 * half), axis=1)
    return g.dense(g.silu(g.dense(h, temb.dense[0])), temb.dense[1])


def _residual(g: _Graph, block: nn.Module, x: int, temb: int) -> int:
    h = g.conv(g.silu(g.group_norm(x, block.norm1)), block.conv1.weight, block.conv1.bias)
    C = block.conv1.out_channels
    time = g.op("RESHAPE", g.dense(g.silu(temb), block.temb_proj), g.ints(1, 1, 1, C), shape=(1, 1, 1, C))
    h = g.group_norm(g.op("ADD", h, time), block.norm2)
    h = g.conv(g.silu(h), block.conv2.weight, block.conv2.bias)
    beside = g.conv(x, block.nin_shortcut.weight, block.nin_shortcut.bias) if block.changes_channels else x
    return g.op("ADD", beside, h)


def _attention(g: _Graph, block: nn.Module, x: int) -> int:
    _, height, width, C = g.shape(x)
    h, P = g.group_norm(x, block.norm), height * width
    q, k, v = (
        g.op("RESHAPE", g.conv(h, m.weight, m.bias), g.ints(1, P, C), shape=(1, P, C))
        for m in (block.q, block.k, block.v)
    )
    q = g.op("MUL", q, g.constant(np.full((1, 1, 1), C**-0.5, np.float32)))
    weights = g.op("SOFTMAX", g.op("BATCH_MATMUL", q, k, shape=(1, P, P), adjY=True), beta=1.0)
    mixed = g.op(
        "RESHAPE", g.op("BATCH_MATMUL", weights, v, shape=(1, P, C)), g.ints(1, height, width, C), shape=g.shape(x)
    )
    return g.op("ADD", x, g.conv(mixed, block.proj_out.weight, block.proj_out.bias))


def _smaller(g: _Graph, x: int, layer: nn.Conv2d) -> int:
    """Padded by one pixel at the bottom and on the right."""
    _, height, width, C = g.shape(x)
    border = g.constant(np.array([[0, 0], [0, 1], [0, 1], [0, 0]], np.int32))
    padded = g.op("PAD", x, border, shape=(1, height + 1, width + 1, C))
    return g.conv(padded, layer.weight, layer.bias, stride=2)
