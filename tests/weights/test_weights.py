"""Weights by name, and a run turned into a file of them."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from helpers import TINY_RUN, randn, tiny_images
from safetensors.torch import load_file, save_file

from ddim_core import UNet, UNetConfig, cli, generate, load_public, shipped
from ddim_core.errors import CheckpointError, DiskError, UsageError
from ddim_core.files import load_tensors, save_tensors, sha256_file
from ddim_core.recipes import RECIPES
from ddim_core.run import CHECKPOINT
from ddim_core.train import Trainer, train
from ddim_core.weights import describe, export, load, load_pretrained, load_weights, manifest, ship, verified


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three short epochs, with a start noted beside it."""
    out = tmp_path_factory.mktemp("run")
    trainer = Trainer(replace(TINY_RUN, ema_decay=0.5), tiny_images(), device="cpu", amp="fp32")
    list(train(trainer, out))
    (out / "starts.jsonl").write_text('{"command": "ddim train tiny", "from_step": 0}\n', encoding="utf-8")
    return out, trainer


@pytest.fixture
def package(tmp_path, monkeypatch, run):
    """A package folder of our own, with one file of weights in its manifest."""
    folder = tmp_path / "assets"
    folder.mkdir()
    export(run[0] / CHECKPOINT, folder / "tiny.safetensors")
    entry = {"file": "tiny.safetensors", "sha256": sha256_file(folder / "tiny.safetensors")}
    (folder / "manifest.json").write_text(json.dumps({"tiny": entry, "digits.gz": {"sha256": "0"}}), encoding="utf-8")
    monkeypatch.setattr(shipped, "assets", lambda: folder)
    return folder


# --- what ships --------------------------------------------------------------------------------------------------


def test_every_file_of_the_manifest_is_there_and_whole():
    names = [name for name, entry in manifest().items() if "file" in entry]
    assert "mnist" in names
    for name in names:
        assert sha256_file(verified(name)) == manifest()[name]["sha256"]
        tensors, _ = load_tensors(verified(name))
        assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())


def test_the_shipped_network():
    model, schedule = load_pretrained("mnist")
    assert isinstance(model, UNet)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(torch.equal(p.half().float(), p) for p in model.parameters()), "rounded to fp16 once"
    assert model.config.resolution == 28
    assert (schedule.T, schedule.alpha[-1].item()) == (1000, pytest.approx(4.0358e-5, rel=1e-4))
    assert {t.dtype for t in load_file(verified("mnist")).values()} == {torch.float16}


def test_the_shipped_network_draws():
    """Digits, roughly: white strokes on a black background."""
    model, schedule = load_pretrained("mnist")
    images = generate(model, schedule, 8, steps=10, seed=0)
    assert images.shape == (8, 1, 28, 28)
    assert 0.5 < (images < -0.8).double().mean() < 0.95
    assert 0.03 < (images > 0.5).double().mean() < 0.3
    edge = torch.ones(28, 28, dtype=torch.bool)
    edge[2:-2, 2:-2] = False
    assert images[:, 0, edge].mean() < -0.7
    assert images[:, 0, 9:19, 9:19].mean() > images[:, 0, edge].mean() + 0.2


def test_the_provenance_of_the_shipped_network():
    found = describe("mnist")
    assert found["sha256"] == manifest()["mnist"]["sha256"]
    assert UNetConfig(**found["unet"]) == load_pretrained("mnist")[0].config
    provenance = found["provenance"]
    assert provenance["averaged"] is True
    assert provenance["steps"] == provenance["history"][-1]["step"]
    assert provenance["images"] == 60_000
    assert provenance["training"]["seed"] == RECIPES["mnist"].seed
    assert len(provenance["data_sha256"]) == 64
    assert all(start["command"].startswith("ddim train") and start["commit"] for start in provenance["starts"])


@pytest.mark.parametrize("name", ["mnits", "", "../mnist", "mnist_train_10k.npy", "MNIST"])
def test_unknown_names(name):
    for function in (load_pretrained, verified):
        with pytest.raises(UsageError, match=r"unknown weights .*: choose one of .*mnist"):
            function(name)


@pytest.mark.parametrize("name", ["mnits", "", "MNIST", "mnist_train_10k.npy"])
def test_what_is_neither_a_name_nor_a_path(name):
    for function in (load, describe):
        with pytest.raises(UsageError, match=r"unknown weights .*: choose one of .*mnist"):
            function(name)


@pytest.mark.parametrize("name", ["../mnits", "mnits.safetensors", "mnits.pt", "./mnist"])
def test_a_path_to_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for function in (load, describe):
        with pytest.raises(CheckpointError, match="no such file"):
            function(name)


# --- a run turned into weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("average", [True, False])
def test_export_and_load(run, tmp_path, average):
    out, trainer = run
    description = export(out / CHECKPOINT, tmp_path / "w.safetensors", average=average)
    model, schedule = load_weights(tmp_path / "w.safetensors")
    source = trainer.ema if average else trainer.model
    for name, p in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], p.half().float())
    assert model.config == TINY_RUN.unet
    assert torch.equal(schedule.alpha, TINY_RUN.schedule.alpha)
    xt, t = randn(2, 1, 8, 8), torch.tensor([3, 900])
    with torch.no_grad():
        torch.testing.assert_close(model(xt, t), source.eval()(xt, t), rtol=1e-2, atol=1e-2)
    trainer.model.train()
    provenance = description["provenance"]
    assert provenance["averaged"] is average
    assert provenance["steps"] == 15
    assert provenance["images"] == 43
    assert provenance["data_sha256"] == trainer.data_sha256
    assert provenance["starts"] == [{"command": "ddim train tiny", "from_step": 0}]
    assert [line["epoch"] for line in provenance["history"]] == [1, 2, 3]
    assert provenance["training"]["lr"] == TINY_RUN.lr
    found = describe(str(tmp_path / "w.safetensors"))
    assert found["provenance"] == provenance
    assert found["sha256"] == sha256_file(tmp_path / "w.safetensors")


def test_export_without_starts(run, tmp_path):
    shutil.copy(run[0] / CHECKPOINT, tmp_path / "alone.safetensors")
    assert export(tmp_path / "alone.safetensors", tmp_path / "w.safetensors")["provenance"]["starts"] == []


@pytest.mark.parametrize("content", [b"", b"{\n", b"[1]\n", b"\xff\n", b"[" * 10**5])
def test_export_with_damaged_starts(run, tmp_path, content):
    shutil.copy(run[0] / CHECKPOINT, tmp_path)
    (tmp_path / "starts.jsonl").write_bytes(b'{"from_step": 0}\n\n' + content)
    with pytest.raises(CheckpointError, match=r"starts\.jsonl .*: use another copy, or move it away$") as e:
        export(tmp_path, tmp_path / "w.safetensors")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "w.safetensors").exists()


def test_a_checkpoint_is_not_overwritten_by_its_weights(run, tmp_path):
    checkpoint = tmp_path / CHECKPOINT
    shutil.copy(run[0] / CHECKPOINT, checkpoint)
    (tmp_path / "link.safetensors").symlink_to(checkpoint)
    before = checkpoint.read_bytes()
    for source, out in ((tmp_path, checkpoint), (checkpoint, tmp_path / "link.safetensors")):
        with pytest.raises(UsageError, match="is the checkpoint itself, from which the run goes on: choose another"):
            export(source, out)
    assert checkpoint.read_bytes() == before


def test_export_of_what_is_no_checkpoint(run, tmp_path):
    export(run[0] / CHECKPOINT, tmp_path / "w.safetensors")
    (tmp_path / "cut").write_bytes((run[0] / CHECKPOINT).read_bytes()[:-1])
    for path, message in [
        ("w.safetensors", "holds 'weights', not 'training'"),
        ("cut", "damaged"),
        ("no", "no such file"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            export(tmp_path / path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_export_to_where_nothing_can_be_written(run, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DiskError, match="cannot write"):
        export(run[0] / CHECKPOINT, tmp_path / "file" / "w.safetensors")


def test_a_checkpoint_is_no_file_of_weights(run):
    with pytest.raises(CheckpointError, match="holds 'training', not 'weights'"):
        load_weights(run[0] / CHECKPOINT)


def test_the_classifier_draws_nothing():
    """And no export would make it: that is advised for checkpoints alone."""
    with pytest.raises(CheckpointError, match=r"classifier\.safetensors holds 'classifier', not 'weights'$"):
        load("classifier")


@pytest.mark.parametrize("name", [CHECKPOINT, ""], ids=["its checkpoint", "its folder"])
def test_a_run_given_as_weights_is_told_what_to_do(run, tmp_path, monkeypatch, name):
    """And the command that is named does it."""
    monkeypatch.chdir(tmp_path)
    path = str(run[0] / name)
    for function in (load, load_public):
        with pytest.raises(CheckpointError, match="holds 'training', not 'weights': turn it into weights with") as e:
            function(path)
        assert "\n" not in str(e.value)
    command = re.search("`ddim (.*)`", str(e.value))[1]
    assert cli.main(command.replace("FILE", "w").split()) == 0
    assert load("w.safetensors")[0].config == TINY_RUN.unet


def test_the_folder_of_a_run_is_exported_as_its_checkpoint_is(run, tmp_path):
    assert export(run[0], tmp_path / "a.safetensors") == export(run[0] / CHECKPOINT, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize(("value", "shown"), [(1e5, "1e+05"), (float("nan"), "nan"), (float("inf"), "inf")])
def test_what_is_not_finite_in_fp16_is_not_exported(run, tmp_path, value, shown):
    tensors, description = load_tensors(run[0] / CHECKPOINT)
    tensors["ema.conv_in.bias"][2] = value
    tensors["ema.up.0.block.1.conv2.bias"][0] = 7e8  # one that is named, with its own number, is enough
    save_tensors(tmp_path / CHECKPOINT, tensors, {k: v for k, v in description.items() if k != "content_sha256"})
    with pytest.raises(CheckpointError, match=r"'conv_in\.bias' reaches ") as e:
        export(tmp_path / CHECKPOINT, tmp_path / "w.safetensors")
    assert f"reaches {shown}, and fp16" in str(e.value)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "w.safetensors").exists()


def test_weights_that_are_not_finite_are_not_loaded(run, tmp_path):
    path = tmp_path / "w.safetensors"
    export(run[0] / CHECKPOINT, path)
    tensors, description = load_tensors(path)
    tensors["up.0.block.1.conv2.weight"][0, 0] = float("inf")
    save_tensors(path, tensors, description)
    for function in (load, load_weights, describe):
        with pytest.raises(
            CheckpointError, match=r"'up\.0\.block\.1\.conv2\.weight' holds numbers that are not finite"
        ):
            function(str(path))


def damaged(tensors, description, name):
    if name == "missing":
        tensors.pop("conv_in.bias")
    elif name == "extra":
        tensors["more"] = torch.zeros(1)
    elif name == "shape":
        tensors["conv_in.bias"] = torch.zeros(3)
    elif name == "unknown field":
        description["unet"]["heads"] = 8
    elif name == "bad field":
        description["unet"]["ch"] = 7
    elif name == "no network":
        del description["unet"]
    elif name == "no schedule":
        del description["schedule"]
    elif name == "bad schedule":
        description["schedule"]["T"] = 0


@pytest.mark.parametrize(
    "name", ["missing", "extra", "shape", "unknown field", "bad field", "no network", "no schedule", "bad schedule"]
)
def test_weights_of_another_network_than_they_say(run, tmp_path, name):
    path = tmp_path / "w.safetensors"
    export(run[0] / CHECKPOINT, path)
    tensors, description = load_tensors(path)
    damaged(tensors, description, name)
    save_tensors(path, tensors, {k: v for k, v in description.items() if not k.endswith("sha256")})
    with pytest.raises(CheckpointError, match="does not hold the weights of the network it describes") as e:
        load_weights(path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "unet",
    [
        {"ch": 10**9},
        {"ch": 10**12},
        {"ch": 10**30},
        {"num_res_blocks": 10**9},
        {"in_channels": 10**18},
        {"resolution": 2**99, "ch_mult": [1] * 99, "attn_resolutions": []},
        {"patch": 2**31, "resolution": 2**32},
        {"ch_mult": [[1]]},
        {"ch_mult": 3},
        {"dropout": "x"},
        {"attn_resolutions": [[4]]},
    ],
    ids=str,
)
def test_an_absurd_network_takes_no_memory(run, tmp_path, unet):
    path = tmp_path / "w.safetensors"
    description = export(run[0] / CHECKPOINT, path)
    description["unet"] = description["unet"] | unet
    save_tensors(path, load_tensors(path)[0], description)
    for function in (load_weights, load, describe):
        with pytest.raises(CheckpointError, match="does not hold the weights of the network it describes") as e:
            function(str(path))
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("schedule", [{"T": 10**12}, {"T": "x"}, {}, [1], {"T": float("nan")}], ids=str)
def test_an_absurd_schedule_takes_no_memory(run, tmp_path, schedule):
    path = tmp_path / "w.safetensors"
    description = export(run[0] / CHECKPOINT, path)
    save_tensors(path, load_tensors(path)[0], description | {"schedule": schedule})
    with pytest.raises(CheckpointError, match="does not hold the weights of the network it describes") as e:
        load(str(path))
    assert "\n" not in str(e.value)


def test_a_description_nested_too_deep(run, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"ddim_core": "[" * 10**5 + "]" * 10**5})
    for function in (load_weights, load, describe, lambda path: export(path, tmp_path / "out")):
        with pytest.raises(CheckpointError, match=r"w\.safetensors was not written by ddim_core") as e:
            function(str(path))
        assert "\n" not in str(e.value)


def test_the_home_directory(run, tmp_path, package, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(run[0], tmp_path / "home" / "run")
    export(f"~/run/{CHECKPOINT}", "~/new/w.safetensors")
    for function in (load, load_weights, describe):
        assert function("~/new/w.safetensors")
    argv = ["--n", "1", "--steps", "1", "--out=~/out/x.png"]
    assert cli.main(["sample", "--weights=~/new/w.safetensors", *argv]) == 0
    assert (tmp_path / "home" / "out" / "x.png").is_file()
    assert ship("~/new/w.safetensors", "new").is_file()
    for function in (load, load_weights, describe, load_public):
        with pytest.raises(CheckpointError, match=f"^{tmp_path}/home/no.safetensors: no such file"):
            function("~/no.safetensors")


def test_our_weights_are_not_public_ones(run, tmp_path):
    export(run[0] / CHECKPOINT, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"w\.safetensors holds weights of this package: load them with"):
        load_public(tmp_path / "w.safetensors")


# --- by name, verified -------------------------------------------------------------------------------------------


def test_a_name_of_the_manifest(package):
    model, _ = load_pretrained("tiny", "cpu")
    assert model.config == TINY_RUN.unet
    with pytest.raises(
        UsageError, match="choose one of tiny, cifar10, google/ddpm-cifar10-32, google/ddpm-celebahq-256"
    ):
        load_pretrained("mnist")


def test_another_file_under_the_name_is_refused(package, run):
    """It may be whole in itself: the manifest says which one it has to be."""
    export(run[0] / CHECKPOINT, package / "tiny.safetensors", average=False)
    for function in (load_pretrained, describe):
        with pytest.raises(CheckpointError, match=r"tiny\.safetensors is damaged .*: install the package again"):
            function("tiny")


def test_a_missing_file_is_told(package):
    (package / "tiny.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors: no such file: install the package again"):
        load_pretrained("tiny")


def test_shipping(package, run, tmp_path):
    export(run[0] / CHECKPOINT, tmp_path / "new.safetensors", average=False)
    target = ship(tmp_path / "new.safetensors", "new")
    assert target == package / "new.safetensors"
    assert target.read_bytes() == (tmp_path / "new.safetensors").read_bytes()
    assert set(manifest()) == {"digits.gz", "new", "tiny"}
    assert load_pretrained("new")[0].config == TINY_RUN.unet
    before = (package / "manifest.json").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(target.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        ship(tmp_path / "cut.safetensors", "tiny")
    assert (package / "manifest.json").read_bytes() == before
    assert load_pretrained("tiny")
