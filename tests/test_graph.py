"""What both graph formats have in common: what is refused, and that nothing is written then."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers import randomised
from test_onnx import NETWORKS, SCHEDULE, exact_in_fp16

from ddim_core import Adapter, UNet, graph
from ddim_core.errors import CheckpointError, DiskError, UsageError
from ddim_core.graph import metadata_of, rounded, unet_of
from ddim_core.litert import export_litert, model_of
from ddim_core.onnx import export_onnx, graph_of

EXPORTS = pytest.mark.parametrize(
    ("export", "name"), [(export_onnx, "w.onnx"), (export_litert, "w.tflite")], ids=["onnx", "litert"]
)


@pytest.fixture
def net(monkeypatch):
    """What the name of weights stands for."""
    net = exact_in_fp16(randomised(UNet(NETWORKS["the book's"])))
    monkeypatch.setattr(graph, "load", lambda name: (net, SCHEDULE))
    monkeypatch.setattr(graph, "describe", lambda name: {"sha256": "0"})
    return net


@EXPORTS
@pytest.mark.parametrize(
    ("value", "says"), [(1e5, "goes beyond 65504"), (float("nan"), "has values that are no numbers")], ids=str
)
def test_weights_beyond_half_precision_are_refused(net, export, name, value, says, tmp_path):
    net.conv_in.weight.data[0, 0, 0, 0] = value
    with pytest.raises(CheckpointError, match=f"'conv_in.weight' {says}"):
        export("w.safetensors", tmp_path / name)
    assert not list(tmp_path.iterdir())


@EXPORTS
def test_a_graph_that_differs_is_not_written(net, export, name, tmp_path):
    """A network that does something else than the graph says: its guess is twice as large."""
    net.register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(CheckpointError, match=r"differs from the network in PyTorch by 0\.5"):
        export("w.safetensors", tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_a_graph_that_the_runtime_cannot_run_is_not_written(net, error, tmp_path):
    def answer(content, x, t):
        raise error("no such operator:\n  'ROLL'")

    with pytest.raises(
        CheckpointError,
        match=r"^w.safetensors: the graph cannot be run, so nothing was written: no such operator: 'ROLL'$",
    ):
        graph.export_graph("w.safetensors", tmp_path / "w.any", ".any", lambda *_: b"graph", answer)
    assert not list(tmp_path.iterdir())


@EXPORTS
def test_names_and_places_that_cannot_be_are_refused(export, name, tmp_path):
    with pytest.raises(UsageError, match=rf"--out must end in \{name[1:]}, got .*mnist.pt$"):
        export("mnist", tmp_path / "mnist.pt")
    with pytest.raises(UsageError, match="unknown weights 'mnits'"):
        export("mnits", tmp_path / name)
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    with pytest.raises(DiskError):
        export("mnist", tmp_path / "file" / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@EXPORTS
def test_what_the_runtimes_themselves_refuse_is_not_written(net, export, name, monkeypatch, tmp_path):
    """A graph that is none."""
    monkeypatch.setattr(
        "ddim_core.onnx.graph_of", lambda *_, **__: SimpleNamespace(SerializeToString=lambda **_: b"none")
    )
    monkeypatch.setattr("ddim_core.litert.model_of", lambda *_, **__: b"none")
    with pytest.raises(
        CheckpointError, match=r"^w.safetensors: the graph cannot be run, so nothing was written: [^\n]+$"
    ):
        export("w.safetensors", tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_without_a_runtime_it_is_written_and_not_compared(net, tmp_path):
    done = graph.export_graph("w", tmp_path / "w.any", ".any", lambda *_: b"graph", lambda *_: None)
    assert done == {"weights_sha256": "0", "bytes": 5, "difference": None}
    assert (tmp_path / "w.any").read_bytes() == b"graph"


def test_rounding_leaves_the_network_itself_alone():
    net = randomised(UNet(NETWORKS["the book's"]))
    before = net.conv_in.weight.clone()
    again = rounded(net, "w")
    assert torch.equal(net.conv_in.weight, before)
    assert torch.equal(again.conv_in.weight, before.half().float())
    assert not torch.equal(again.conv_in.weight, before)


def test_the_u_net_is_found_and_described():
    net = UNet(NETWORKS["odd sizes"])
    assert unet_of(net) is unet_of(Adapter(net)) is net
    for builds in (unet_of, *(partial(build, schedule=SCHEDULE, weights_sha256="0") for build in (graph_of, model_of))):
        with pytest.raises(UsageError, match="only a U-Net of ours can be exported, got Linear"):
            builds(torch.nn.Linear(2, 2))
    said = metadata_of(net, SCHEDULE, "abc")
    assert said["weights_sha256"] == "abc"
    assert UNet(type(net.config)(**json.loads(said["unet"]))).config == net.config
    assert json.loads(said["schedule"])["alpha"] == SCHEDULE.alpha.tolist()
