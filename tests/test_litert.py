"""The U-Net as a LiteRT file: the same numbers as in PyTorch, and one line where it cannot be written."""

import json
import sys

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from helpers import randn, randomised
from test_onnx import NETWORKS, SCHEDULE, exact_in_fp16

from ddim_core import Adapter, UNet, cli, generate, load_pretrained
from ddim_core.litert import export_litert, model_of
from ddim_core.weights import describe


def runner(content):
    return Interpreter(model_content=content, num_threads=1).get_signature_runner("serving_default")


def ask(run, x, t):
    """One image a call."""
    answers = [run(x=a[None].numpy(), t=b[None].int().numpy())["eps"] for a, b in zip(x, t, strict=True)]
    return torch.from_numpy(np.concatenate(answers))


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    out = tmp_path_factory.mktemp("litert") / "mnist.tflite"
    return out, export_litert("mnist", out)


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("shifted", [False, True], ids=["t", "t - 1"])
def test_the_graph_is_the_network(config, shifted):
    net = exact_in_fp16(randomised(UNet(config)))
    model = Adapter(net) if shifted else net
    run = runner(model_of(model, SCHEDULE, weights_sha256="0"))
    x, t = randn(3, config.in_channels, config.resolution, config.resolution, seed=1), torch.tensor([1, 500, 1000])
    torch.testing.assert_close(ask(run, x, t), model(x, t), rtol=0, atol=5e-5)


def test_channels_far_from_zero_are_normalised_as_exactly():
    """A mean of a hundred, from which differences of one are taken: closer to float64 than PyTorch's own float32."""
    net = randomised(UNet(NETWORKS["the book's"]))
    net.conv_in.bias.data += 100
    net = exact_in_fp16(net)
    run = runner(model_of(net, SCHEDULE, weights_sha256="0"))
    x, t = randn(2, 1, 28, 28, seed=2), torch.tensor([3, 700])
    torch.testing.assert_close(ask(run, x, t).double(), net.double()(x.double(), t), rtol=0, atol=5e-6)


def test_the_shipped_weights_agree_and_are_stored_in_half(mnist):
    out, done = mnist
    assert done["difference"] < 1e-5
    assert done["bytes"] == out.stat().st_size < 3.7e6
    (graph,) = schema.ModelT.InitFromPackedBuf(out.read_bytes()).subgraphs
    halves = sum(np.prod(tensor.shape) for tensor in graph.tensors if tensor.type == schema.TensorType.FLOAT16)
    model, _ = load_pretrained("mnist")
    assert 0.99 < halves / sum(p.numel() for p in model.parameters()) <= 1, "equal tensors are stored once"


def test_the_file_says_what_it_holds(mnist):
    model, schedule = load_pretrained("mnist")
    kept = schema.ModelT.InitFromPackedBuf(mnist[0].read_bytes())
    said = {entry.name.decode(): bytes(kept.buffers[entry.buffer].data).decode() for entry in kept.metadata}
    assert said["weights_sha256"] == describe("mnist")["sha256"] == mnist[1]["weights_sha256"]
    assert json.loads(said["schedule"]) == {"T": schedule.T, "alpha": schedule.alpha.tolist()}
    assert json.loads(said["unet"]) == json.loads(json.dumps(model.config.to_dict()))
    (inputs,) = [{n: d["dtype"] for n, d in runner(mnist[0].read_bytes()).get_input_details().items()}]
    assert inputs == {"x": np.float32, "t": np.int32}


def test_the_same_weights_give_the_same_file(mnist, tmp_path):
    export_litert("mnist", tmp_path / "again.tflite")
    assert (tmp_path / "again.tflite").read_bytes() == mnist[0].read_bytes()


def test_it_samples_as_the_network_does(mnist):
    model, schedule = load_pretrained("mnist")
    run = runner(mnist[0].read_bytes())
    for eta in (0.0, 1.0):
        options = {"n": 2, "steps": 10, "seed": 3, "eta": eta, "noise": "js", "shape": (1, 28, 28)}
        apart = generate(lambda x, t: ask(run, x, t), schedule, **options) - generate(model, schedule, **options)
        assert apart.abs().max() < 1e-3


def test_without_the_package_one_line_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    assert cli.main(["export", "mnist", "--litert", "--out", str(tmp_path / "mnist.tflite")]) == 2
    said = capsys.readouterr().err
    assert said == "ddim: exporting to LiteRT needs the package ai-edge-litert: pip install 'ddim-core[litert]'\n"


def test_the_command_line_exports(tmp_path, capsys):
    out = tmp_path / "mnist.tflite"
    assert cli.main(["export", "mnist", "--litert", "--out", str(out)]) == 0
    assert "MB, within " in capsys.readouterr().out
    assert cli.main(["export", "mnist", "--litert", "--out", str(out), "--last-step"]) == 2
    assert "with --litert leave them out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["export", "mnist", "--litert", "--onnx", "--out", str(out)])
    assert "not allowed with" in capsys.readouterr().err
