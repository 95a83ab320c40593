"""The U-Net as an ONNX file: the same numbers as in PyTorch, and one line where it cannot be written."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers import randn, randomised

from ddim_core import Adapter, UNet, UNetConfig, cli, generate, load_pretrained
from ddim_core.onnx import export_onnx, graph_of
from ddim_core.schedule import Schedule
from ddim_core.weights import describe

SCHEDULE = Schedule.linear()
NETWORKS = {
    "the book's": UNetConfig(28, ch=8, ch_mult=(1, 2, 2), attn_resolutions=(14,), norm_groups=4),
    "colour, one block, attention below": UNetConfig(
        16, 3, 3, ch=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(8,), norm_groups=4
    ),
    "patches": UNetConfig(16, 3, 3, ch=16, ch_mult=(1, 2), attn_resolutions=(4,), norm_groups=4, patch=2),
    "odd sizes": UNetConfig(15, ch=8, ch_mult=(1, 1, 2), num_res_blocks=1, norm_groups=2),
}


def session(proto):
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def exact_in_fp16(model):
    for p in model.parameters():
        p.data = p.data.half().float()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    out = tmp_path_factory.mktemp("onnx") / "mnist.onnx"
    return out, export_onnx("mnist", out)


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("shifted", [False, True], ids=["t", "t - 1"])
def test_the_graph_is_the_network(config, shifted):
    net = exact_in_fp16(randomised(UNet(config)))
    model = Adapter(net) if shifted else net
    run = session(graph_of(model, SCHEDULE, weights_sha256="0"))
    for n in (1, 3):
        x = randn(n, config.in_channels, config.resolution, config.resolution, seed=n)
        t = torch.tensor([1, 500, 1000][:n])
        (got,) = run.run(None, {"x": x.numpy(), "t": t.numpy()})
        np.testing.assert_allclose(got, model(x, t).numpy(), rtol=0, atol=2e-5)


def test_the_shipped_weights_agree_and_are_stored_in_half(mnist):
    out, done = mnist
    assert done["difference"] < 1e-5
    assert done["bytes"] == out.stat().st_size < 3.5e6
    kept = onnx.load(out)
    halves = sum(np.prod(t.dims) for t in kept.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16)
    model, _ = load_pretrained("mnist")
    assert 0.99 < halves / sum(p.numel() for p in model.parameters()) <= 1, "equal tensors are stored once"


def test_the_metadata_say_what_is_inside(mnist):
    out, done = mnist
    said = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert said["weights_sha256"] == done["weights_sha256"] == describe("mnist")["sha256"]
    schedule = json.loads(said["schedule"])
    model, used = load_pretrained("mnist")
    assert (schedule["T"], schedule["alpha"]) == (used.T, used.alpha.tolist())
    assert UNetConfig(**json.loads(said["unet"])) == model.config


def test_the_same_weights_give_the_same_file(mnist, tmp_path):
    export_onnx("mnist", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == mnist[0].read_bytes()


def test_it_samples_as_the_network_does(mnist):
    model, schedule = load_pretrained("mnist")
    run = onnxruntime.InferenceSession(mnist[0], providers=["CPUExecutionProvider"])

    def network(x, t):
        return torch.from_numpy(run.run(None, {"x": x.numpy(), "t": t.numpy()})[0])

    for eta in (0.0, 1.0):
        options = {"n": 2, "steps": 10, "seed": 3, "eta": eta, "noise": "js", "shape": (1, 28, 28)}
        apart = generate(network, schedule, **options) - generate(model, schedule, **options)
        assert apart.abs().max() < 1e-3


def test_without_onnx_one_line_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert cli.main(["export", "mnist", "--onnx", "--out", str(tmp_path / "mnist.onnx")]) == 2
    said = capsys.readouterr().err
    assert said == "ddim: exporting to ONNX needs the package onnx: pip install 'ddim-core[onnx]'\n"


def test_without_onnxruntime_it_is_written_and_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    out = tmp_path / "mnist.onnx"
    assert cli.main(["export", "mnist", "--onnx", "--out", str(out)]) == 0
    assert capsys.readouterr().out.endswith("MB, not compared with PyTorch: onnxruntime is not installed\n")
    assert out.is_file()


def test_the_command_line_exports(tmp_path, capsys):
    out = tmp_path / "mnist.onnx"
    assert cli.main(["export", "mnist", "--onnx", "--out", str(out)]) == 0
    assert "MB, within " in capsys.readouterr().out
    assert cli.main(["export", "mnist", "--onnx", "--out", str(out), "--last-step"]) == 2
    assert "with --onnx leave them out" in capsys.readouterr().err


def test_a_folder_is_not_taken_for_a_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    for name in ("./mnist", "mnist/"):
        assert cli.main(["export", name, "--onnx", "--out", "w.onnx"]) == 4
        assert "mnist/diffusion_pytorch_model.safetensors: no such file" in capsys.readouterr().err
    assert not (tmp_path / "w.onnx").exists()
