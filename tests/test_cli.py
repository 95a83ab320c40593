"""The command `ddim`: what it makes, and one line and an exit code for every fault."""

import errno
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ENV, PYTHON, TINY_28, TINY_RUN, scenario, tiny_images
from PIL import Image

from ddim_core import UNet, cli, data, generate, run, shipped
from ddim_core.data import load_dataset
from ddim_core.files import load_tensors, save_tensors
from ddim_core.plots import tile
from ddim_core.recipes import RECIPES
from ddim_core.run import CHECKPOINT, METRICS
from ddim_core.train import Trainer
from ddim_core.weights import describe, export, load_weights

TRAIN = ["train", "tiny", "--dataset", "mnist-10k", "--limit", "24", "--epochs", "2", "--amp", "fp32", "--quiet"]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch, tmp_path):
    monkeypatch.setitem(RECIPES, "tiny", TINY_28)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint, its weights, damaged copies, and things that are neither."""
    folder = tmp_path_factory.mktemp("files")
    trainer = Trainer(TINY_28, load_dataset("mnist-10k", limit=24).images, device="cpu", amp="fp32")
    trainer.step()
    run.save(trainer, folder / "run" / CHECKPOINT)
    export(folder / "run" / CHECKPOINT, folder / "w.safetensors")
    for name, path in [("run", folder / "run" / CHECKPOINT), ("w", folder / "w.safetensors")]:
        raw = bytearray(path.read_bytes())
        raw[-9] ^= 4
        (folder / f"flipped-{name}.safetensors").write_bytes(raw)
        (folder / f"cut-{name}.safetensors").write_bytes(raw[:100])
    (folder / "empty.safetensors").touch()
    (folder / "text.safetensors").write_text("these are no weights\n" * 99, encoding="utf-8")
    for name in ("flipped", "cut"):
        (folder / f"{name}-run").mkdir()
        (folder / f"{name}-run" / CHECKPOINT).write_bytes((folder / f"{name}-run.safetensors").read_bytes())
    (folder / "other-run").mkdir()
    run.save(Trainer(TINY_RUN, tiny_images(), device="cpu", amp="fp32"), folder / "other-run" / CHECKPOINT)
    (folder / "file").write_text("not a folder", encoding="utf-8")
    (folder / "images").mkdir()
    Image.effect_noise((20, 16), 50).save(folder / "images" / "a.png")
    return folder


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A folder in torchvision's layout, with 30 images in place of 70,000."""
    monkeypatch.setattr(data.mnist, "COUNT", {"train": 20, "test": 10})
    raw = tmp_path / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    digits = load_dataset("mnist-10k", limit=30)
    for prefix, part in (("train", slice(20)), ("t10k", slice(20, 30))):
        images, labels = digits.images[part, 0], digits.labels[part].to(torch.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (raw / f"{prefix}-{name}-ubyte").write_bytes(head + array.numpy().tobytes())
    return tmp_path / "mnist"


def ddim(*argv):
    """The exit code, also where argparse ends the program."""
    try:
        return cli.main([str(a) for a in argv])
    except SystemExit as end:
        return end.code


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def tree(folder):
    return {p.relative_to(folder): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


# --- faults ------------------------------------------------------------------------------------------------------

SAMPLE = ["sample", "--weights", "{files}/w.safetensors", "--n", "2", "--steps", "2", "--out", "x.png"]
OWN = ["--dataset", "{files}/images", "--out", "run"]
EXPORT = ["export", "{files}/run/last.safetensors", "--out", "new.safetensors"]
FAULTS = [
    # 2: usage
    (2, "the following arguments are required: COMMAND", []),
    (2, "invalid choice: 'trian'", ["trian"]),
    (2, "unrecognized arguments: --fast", [*SAMPLE, "--fast"]),
    (2, "the following arguments are required: RECIPE", ["train", "--out", "run"]),
    (2, "unknown recipe 'mnits': choose one of mnist, mnist-large", ["train", "mnits", "--out", "run"]),
    (2, "argument --epochs: invalid int value: 'ten'", [*TRAIN, "--out", "run", "--epochs", "ten"]),
    (2, "argument --epochs: invalid int value: '1.5'", [*TRAIN, "--out", "run", "--epochs", "1.5"]),
    (2, "epochs must be an integer of at least 1, got 0", [*TRAIN, "--out", "run", "--epochs", "0"]),
    (2, "batch_size must be an integer of at least 1, got -1", [*TRAIN, "--out", "run", "--batch-size", "-1"]),
    (2, "lr must be positive, got 0.0", [*TRAIN, "--out", "run", "--lr", "0"]),
    (2, "lr must be positive, got nan", [*TRAIN, "--out", "run", "--lr", "nan"]),
    (2, "lr must be positive, got -1e-05", [*TRAIN, "--out", "run", "--lr=-1e-5"]),
    (2, "seed must be an integer of at least 0, got -1", [*TRAIN, "--out", "run", "--seed", "-1"]),
    (2, "unknown data set 'cats': choose one of mnist, mnist-10k", [*TRAIN, "--out", "run", "--dataset", "cats"]),
    (2, "limit must be at least 1, got 0", [*TRAIN, "--out", "run", "--limit", "0"]),
    (2, "mnist-10k comes with the package: leave it out", [*TRAIN, "--out", "run", "--data", "{files}"]),
    (2, "mnist-10k comes with the package: leave it out", ["data", "mnist-10k", "--data", "{files}"]),
    (
        2,
        "--init is for a new run of a network that draws images",
        [*TRAIN, "--out", "run", "--resume", "--init", "mnist"],
    ),
    (2, "--init is for a new run of a network that draws images", ["train", "classifier", "--init", "mnist"]),
    (2, "--init mnist: these weights are of another network", [*TRAIN, "--out", "run", "--init", "mnist"]),
    (2, "unknown weights 'mnits': choose one of ", [*TRAIN, "--out", "run", "--init", "mnits"]),
    (2, "unknown weights ''", [*TRAIN, "--out", "run", "--init", ""]),
    (2, "--init is for a new run", [*TRAIN, "--out", "run", "--resume", "--init", ""]),
    (2, "amp must be auto, fp32, bf16 or fp16, got ''", [*TRAIN, "--out", "run", "--amp", ""]),
    (2, "amp must be auto, fp32, bf16 or fp16, got ''", [*TRAIN, "--out", "{files}/run", "--resume", "--amp", ""]),
    (2, "weights cannot come with the package as ''", [*EXPORT, "--ship", ""]),
    (2, "weights cannot come with the package as '../w'", [*EXPORT, "--ship", "../w"]),
    (2, "--last-step and --ship are for checkpoints", [*EXPORT, "--onnx", "--ship", ""]),
    (2, "device 'gpu' cannot be used", [*TRAIN, "--out", "run", "--device", "gpu"]),
    (2, "amp must be auto, fp32, bf16 or fp16, got 'half'", [*TRAIN, "--out", "run", "--amp", "half"]),
    (2, "amp fp16 needs a CUDA GPU", [*TRAIN, "--out", "run", "--amp", "fp16", "--device", "cpu"]),
    (2, f"{CHECKPOINT} exists: go on with --resume, or choose another --out", [*TRAIN, "--out", "{files}/run"]),
    (2, "the following arguments are required: --weights", ["sample", "--out", "x.png"]),
    (2, "unknown weights 'mnits': choose one of ", ["sample", "--weights", "mnits", "--out", "x.png"]),
    (2, "steps must lie in 1..1000, got 0", [*SAMPLE, "--steps", "0"]),
    (2, "steps must lie in 1..1000, got 1001", [*SAMPLE, "--steps", "1001"]),
    (2, "argument --steps: invalid int value: '2.5'", [*SAMPLE, "--steps", "2.5"]),
    (2, "n and batch_size must be at least 1, got 0 and 64", [*SAMPLE, "--n", "0"]),
    (2, "n and batch_size must be at least 1, got 2 and 0", [*SAMPLE, "--batch-size", "0"]),
    (2, "must not be negative", [*SAMPLE, "--seed", "-4"]),
    (2, "eta must lie in [0, 1] or be 'sigma-hat', got 1.5", [*SAMPLE, "--eta", "1.5"]),
    (2, "eta must lie in [0, 1] or be 'sigma-hat', got nan", [*SAMPLE, "--eta", "nan"]),
    (2, "argument --eta: must be a number from 0 to 1, or sigma-hat, got 'sigma'", [*SAMPLE, "--eta", "sigma"]),
    (2, "spacing must be one of uniform, quadratic, logsnr, got 'cubic'", [*SAMPLE, "--spacing", "cubic"]),
    (2, "noise must be one of torch, js, got 'numpy'", [*SAMPLE, "--noise", "numpy"]),
    (2, "noise must be one of torch, js, got 'numpy'", [*SAMPLE, "--noise", "numpy", "--out", "x.npy"]),
    (2, 'noise="js" has seeds and image numbers from 0 to', [*SAMPLE, "--noise", "js", "--seed", str(2**32)]),
    (2, "unrecognized arguments: --noise", ["evaluate", "--weights", "mnist", "--noise", "js"]),
    (2, "--out must end in .png or .npy, got x.jpg", [*SAMPLE, "--out", "x.jpg"]),
    (2, "--columns must be at least 1, got 0", [*SAMPLE, "--columns", "0"]),
    (2, "device 'cuda:99' cannot be used", [*SAMPLE, "--device", "cuda:99"]),
    (2, "device 'meta' cannot be used", [*SAMPLE, "--device", "meta"]),
    (2, "device 'mkldnn' cannot be used", [*SAMPLE, "--device", "mkldnn"]),
    (2, "amp must be auto, fp32, bf16 or fp16, got 'half'", [*SAMPLE, "--amp", "half"]),
    (2, "amp fp16 needs a CUDA GPU", [*SAMPLE, "--amp", "fp16", "--device", "cpu"]),
    (
        2,
        "1000000000 images are too many for one PNG: --n 24806 at most, or --out FILE.npy",
        [*SAMPLE, "--n", "1000000000"],
    ),
    (2, "--out must end in .safetensors, got w.pt", ["export", "{files}/run/last.safetensors", "--out", "w.pt"]),
    (2, "unknown data set 'cats'", ["data", "cats"]),
    (2, "unknown weights 'cats'", ["info", "cats"]),
    (2, "--resolution must be at least 4 for the recipe tiny, got 0", [*TRAIN, *OWN, "--resolution", "0"]),
    (2, "--resolution must be at least 4 for the recipe tiny, got -5", [*TRAIN, *OWN, "--resolution", "-5"]),
    (2, "--resolution must be at least 4 for the recipe tiny, got 3", [*TRAIN, *OWN, "--resolution", "3"]),
    (2, "epochs must be an integer of at least 1, got 0", ["train", "classifier", "--out", "run", "--epochs", "0"]),
    *(
        (
            2,
            f"the classifier is trained in one way only, from its start: leave out {option}",
            ["train", "classifier", "--out", "run", option, *value],
        )
        for option, *value in [
            ["--resume"],
            ["--lr", "0"],
            ["--batch-size", "32"],
            ["--loss-weight", "plain"],
            ["--device", "cpu"],
            ["--amp", "fp32"],
            ["--compile"],
        ]
    ),
    (2, "leave out --resume, --lr", ["train", "classifier", "--out", "run", "--lr", "1e-3", "--resume"]),
    (2, "n must be at most ", [*SAMPLE, "--n", "1" + "0" * 400]),
    # 3: data
    (3, "no readable MNIST under nowhere/MNIST/raw", ["train", "mnist", "--out", "run", "--data", "nowhere"]),
    (3, "no readable MNIST under nowhere/MNIST/raw", ["data", "mnist", "--data", "nowhere"]),
    (3, "no readable MNIST under nowhere/MNIST/raw", ["evaluate", "--weights", "mnist", "--data", "nowhere"]),
    (3, "no readable MNIST under", ["train", "classifier", "--out", "run", "--data", "{files}/file"]),
    # 4: checkpoints and weights
    (4, f"run/{CHECKPOINT}: no such file", [*TRAIN, "--out", "run", "--resume"]),
    (4, f"flipped-run/{CHECKPOINT} is damaged", [*TRAIN, "--out", "{files}/flipped-run", "--resume"]),
    (4, f"cut-run/{CHECKPOINT} is damaged", [*TRAIN, "--out", "{files}/cut-run", "--resume"]),
    (4, "is of a run with another ", [*TRAIN, "--out", "{files}/other-run", "--resume"]),
    (4, "is of a run with another dataset, seed", [*TRAIN, "--out", "{files}/run", "--resume", "--seed", "8"]),
    (4, "nothing.safetensors: no such file", [*TRAIN, "--out", "run", "--init", "nothing.safetensors"]),
    (4, "nothing.safetensors: no such file", [*SAMPLE, "--weights", "nothing.safetensors"]),
    (4, "run.safetensors is damaged", [*SAMPLE, "--weights", "{files}/cut-run.safetensors"]),
    (4, "flipped-w.safetensors is damaged", [*SAMPLE, "--weights", "{files}/flipped-w.safetensors"]),
    (4, "empty.safetensors is damaged", [*SAMPLE, "--weights", "{files}/empty.safetensors"]),
    (4, "text.safetensors is damaged", [*SAMPLE, "--weights", "{files}/text.safetensors"]),
    (4, "holds 'training', not 'weights': turn it into", [*SAMPLE, "--weights", "{files}/run/last.safetensors"]),
    (4, "run/last.safetensors holds 'training', not 'weights': turn it into", [*SAMPLE, "--weights", "{files}/run"]),
    (
        4,
        "run/last.safetensors holds 'training', not 'weights': turn",
        [*TRAIN, "--out", "run", "--init", "{files}/run"],
    ),
    (4, "holds 'weights', not 'training'", ["export", "{files}/w.safetensors", "--out", "x.safetensors"]),
    (4, "nothing: no such file", ["export", "nothing", "--out", "x.safetensors"]),
    (4, "nothing.safetensors: no such file", ["info", "nothing.safetensors"]),
    (4, "text.safetensors is damaged", ["info", "{files}/text.safetensors"]),
    # 6: disk
    (6, "cannot write {files}/file/run/config.json", [*TRAIN, "--out", "{files}/file/run"]),
    (6, "cannot write {files}/file/config.json", [*TRAIN, "--out", "{files}/file"]),
    (6, "cannot write {files}/file/x.png", [*SAMPLE, "--out", "{files}/file/x.png"]),
    (6, "cannot write {files}/file/x.npy", [*SAMPLE, "--out", "{files}/file/x.npy"]),
    (6, "cannot write new/x.npy (3136000.0 GB, and ", [*SAMPLE, "--out", "new/x.npy", "--n", "1000000000000"]),
    (
        6,
        "cannot write {files}/file/w.safetensors",
        ["export", "{files}/run/last.safetensors", "--out", "{files}/file/w.safetensors"],
    ),
]


@pytest.mark.parametrize(
    ("code", "message", "argv"), FAULTS, ids=lambda x: " ".join(x) if isinstance(x, list) else None
)
def test_a_fault_is_one_line_and_a_code(files, tmp_path, capsys, code, message, argv):
    before = tree(files), tree(tmp_path)
    assert ddim(*(a.format(files=files) for a in argv)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ddim: ")
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    assert message.format(files=files) in err
    assert (tree(files), tree(tmp_path)) == before, "nothing was written"


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "mnist", "--out", "run"],
        ["train", "classifier", "--out", "run"],
        ["data", "mnist"],
        ["evaluate", "--weights", "mnist"],
    ],
    ids=" ".join,
)
def test_a_download_that_is_not_possible(offline, tmp_path, capsys, argv):
    assert ddim(*argv) == 7
    err = capsys.readouterr().err
    assert err.startswith("ddim: MNIST cannot be downloaded (")
    assert err.count("\n") == 1
    assert "--data FOLDER" in err
    assert tree(tmp_path) == {}


def test_a_loss_that_is_not_finite(tmp_path, capsys):
    assert ddim(*TRAIN, "--out", "run", "--batch-size", "3", "--lr", "1e30") == 5
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "not finite by step 8 (lr" in err
    assert err.endswith("nothing was saved yet; begin again with a smaller --lr\n")
    assert sorted(os.listdir("run")) == ["config.json", "starts.jsonl"], "no checkpoint of it"
    assert ddim(*TRAIN, "--out", "run", "--batch-size", "3", "--lr", "1e-3") == 0, "begun again, as the line says"


def test_a_full_disk(tmp_path):
    result = scenario("full_disk", tmp_path)
    assert result["codes"] == [6, 6]
    assert result["new"] == ["config.json", "starts.jsonl"]
    assert result["old_intact"]
    assert result["left"] == []
    for stderr, name in zip(result["stderr"], ("new", "old"), strict=True):
        assert stderr.startswith(f"ddim: cannot write {tmp_path}/{name}/{CHECKPOINT} (File too large)")
        assert stderr.count("\n") == 1


LONG = "x" * 300  # more than a file system takes


@pytest.mark.parametrize(
    "argv",
    [
        [*TRAIN, "--out", f"{LONG}/run"],
        ["train", "classifier", "--out", f"{LONG}/run"],
        ["train", "kanji", "--data", LONG],
        ["sample", "--weights", "mnist", "--n", "1", "--steps", "1", "--out", f"{LONG}/a/x.npy"],
        ["data", "mnist", "--data", LONG],
        ["data", "kuzushiji", "--data", LONG],
    ],
    ids=lambda argv: " ".join(argv).replace(LONG, "LONG"),
)
def test_a_place_that_cannot_even_be_looked_at(tmp_path, capsys, argv):
    assert ddim(*argv) in (3, 6)
    err = capsys.readouterr().err
    assert err.startswith("ddim: ")
    assert LONG in err
    assert "File name too long" in err or sys.version_info >= (3, 14), "later Pythons answer that it is not there"
    assert err.count("\n") == 1
    assert tree(tmp_path) == {}


def test_a_closed_folder_is_named_with_its_remedy(monkeypatch, capsys):
    """A stand-in: these tests may run as root, to whom nothing is closed."""

    def closed(args):
        raise PermissionError(errno.EACCES, "Permission denied", "a/closed\nfolder")

    monkeypatch.setattr(cli, "_info", closed)
    assert ddim("info", "mnist") == 6
    said = "ddim: a/closed folder cannot be used (Permission denied): choose another, or change its permissions\n"
    assert capsys.readouterr() == ("", said)


def ended(argv, stdout):
    """The exit code and what is said of a command in a process of its own."""
    command = [PYTHON, "-m", "ddim_core", *argv]
    done = subprocess.run(command, env=ENV, stdout=stdout, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    return done.returncode, done.stderr


@pytest.mark.parametrize(("argv", "code"), [(["data", "mnist-10k"], 141), (["info", "mnist"], 0)], ids=["data", "info"])
def test_nobody_reads_the_output(argv, code):
    """As `ddim ... | true`: what was to be made is not taken for made; a description may be read in part."""
    read, write = os.pipe()
    os.close(read)
    try:
        assert ended(argv, write) == (code, "")
    finally:
        os.close(write)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full, of Linux")
@pytest.mark.parametrize("argv", [["data", "mnist-10k"], ["info", "mnist"]], ids=["data", "info"])
def test_standard_output_is_full(argv):
    said = "ddim: standard output cannot be used (No space left on device): free some space, or choose another\n"
    with open("/dev/full", "w", encoding="utf-8") as full:
        assert ended(argv, full) == (6, said)


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError(errno.EIO, "of a file that nobody named")], ids=repr)
def test_a_mistake_of_ours_is_not_hidden(monkeypatch, error):
    def mistaken(args):
        raise error

    monkeypatch.setattr(cli, "_info", mistaken)
    with pytest.raises(type(error)):
        ddim("info", "mnist")


@pytest.mark.parametrize(
    "argv", [["--version"], ["--help"], *([c, "--help"] for c in ("train", "sample", "download", "export", "info"))]
)
def test_help_and_version(capsys, argv):
    assert ddim(*argv) == 0
    out, err = capsys.readouterr()
    assert "ddim" in out
    assert err == ""


# --- train -------------------------------------------------------------------------------------------------------


def test_train_and_what_it_leaves(tmp_path, capsys):
    assert ddim(*TRAIN, "--out", "a/run") == 0
    out, err = capsys.readouterr()
    assert [re.sub(r"[\d.]+ images", "N images", line) for line in out.splitlines()] == [
        line for e in (1, 2) for line in [f"epoch {e}: loss {_loss('a/run', e):.5f}, N images/s"]
    ]
    assert err == ""
    names = [CHECKPOINT, METRICS, "config.json", "samples_epoch_001.png", "samples_epoch_002.png", "starts.jsonl"]
    assert sorted(os.listdir("a/run")) == sorted(names)
    config = json.loads(Path("a/run/config.json").read_text(encoding="utf-8"))
    assert config["config"]["unet"]["ch"] == 4
    assert config["config"]["epochs"] == 2
    assert config["images"] == 24
    start = json.loads(Path("a/run/starts.jsonl").read_text(encoding="utf-8"))
    assert start["command"] == " ".join(["ddim", *TRAIN, "--out", "a/run"])
    assert start["from_step"] == 0
    assert (start["processes"], start["amp"]) == (1, "fp32")
    assert start["commit"] is None or re.fullmatch(r"[0-9a-f]{40}\+?", start["commit"])
    assert pixels("a/run/samples_epoch_002.png").shape[::-1] == (8 * 30 + 2, 8 * 30 + 2)


def _loss(run, epoch):
    return json.loads((Path(run) / METRICS).read_text(encoding="utf-8").splitlines()[epoch - 1])["loss"]


def test_resume_when_done_and_when_not(capsys):
    assert ddim(*TRAIN, "--out", "run") == 0
    content = tree("run")
    assert ddim(*TRAIN, "--out", "run", "--resume") == 0
    assert "has done all 2 epochs: ask for more with --epochs" in capsys.readouterr().out
    assert tree("run") == content
    assert ddim(*TRAIN, "--out", "run", "--resume", "--epochs", "3") == 0
    assert [
        json.loads(line)["from_step"] for line in Path("run/starts.jsonl").read_text(encoding="utf-8").splitlines()
    ] == [0, 6]
    assert load_tensors(f"run/{CHECKPOINT}")[1]["steps_done"] == 9


BEGUN = [
    ["--epochs", "3", "--limit", "16", "--dataset", "mnist-10k"],
    ["--epochs", "3", "--limit", "16", "--dataset", "mnist-10k", "--batch-size", "4", "--lr", "0.002", "--seed", "5"],
    ["--epochs", "3", "--limit", "16", "--dataset", "mnist-10k", "--amp", "fp32", "--loss-weight", "balanced"],
    ["--epochs", "3", "--limit", "9", "--dataset", "mnist", "--data", "{mnist}"],
    ["--epochs", "3", "--dataset", "images", "--grey", "--resolution", "16"],
]


@pytest.mark.parametrize("options", BEGUN, ids=lambda o: " ".join(o))
def test_to_go_on_its_folder_suffices(options, mnist, monkeypatch):
    """Stopped after a few steps and resumed with nothing but --out and --resume: the run that was begun, to the end."""
    Path("images").mkdir()
    for i in range(12):
        Image.effect_noise((20, 16), 20 + 10 * i).save(f"images/{i}.png")
    options = [o.format(mnist=mnist) for o in options]
    assert ddim("train", "tiny", *options, "--quiet", "--out", "whole") == 0
    real = run.Stop.__call__
    calls = []
    monkeypatch.setattr(run.Stop, "__call__", lambda self: calls.append(0) or len(calls) >= 2)
    ddim("train", "tiny", *options, "--quiet", "--out", "cut")
    assert 0 < load_tensors(f"cut/{CHECKPOINT}")[1]["steps_done"] < load_tensors(f"whole/{CHECKPOINT}")[1]["steps_done"]
    monkeypatch.setattr(run.Stop, "__call__", real)
    assert ddim("train", "tiny", "--resume", "--quiet", "--out", "cut") == 0
    (a, whole), (b, cut) = (load_tensors(f"{name}/{CHECKPOINT}") for name in ("whole", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert cut["config"] == whole["config"]
    assert cut["amp"] == whole["amp"]
    assert [line["lr"] for line in cut["history"]] == [line["lr"] for line in whole["history"]]
    assert json.loads(Path("cut/config.json").read_text(encoding="utf-8")) == json.loads(
        Path("whole/config.json").read_text(encoding="utf-8")
    )


def test_what_is_another_is_said_or_refused(capsys):
    assert ddim(*TRAIN, "--out", "run") == 0
    capsys.readouterr()
    go_on = ["train", "tiny", "--resume", "--quiet", "--out", "run"]
    assert ddim(*go_on, "--epochs", "3", "--lr", "0.0001", "--amp", "bf16") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:3] == [
        "epochs 3 instead of 2, which the run had before",
        "lr 0.0001 instead of 0.001, which the run had before",
        "amp bf16 instead of fp32, which the run had before",
    ]
    last = json.loads(Path("run/starts.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert last["amp"] == "bf16"
    assert "--lr 0.0001" in last["command"]
    assert load_tensors(f"run/{CHECKPOINT}")[1]["config"]["lr"] == 0.0001
    assert ddim(*go_on, "--epochs", "4", "--batch-size", "4") == 4
    assert "is of a run with another batch_size" in capsys.readouterr().err
    assert ddim("train", "kanji", "--resume", "--out", "run") == 2
    assert "belongs to a run of the recipe tiny, not of kanji" in capsys.readouterr().err


def test_the_remedies_for_a_loss_that_is_not_finite_work(capsys):
    assert ddim(*TRAIN, "--out", "run", "--epochs", "1") == 0
    go_on = ["train", "tiny", "--resume", "--quiet", "--out", "run", "--epochs", "3"]
    assert ddim(*go_on, "--lr", "1e30") == 5
    said = capsys.readouterr().err
    assert "the last checkpoint is untouched; go on from it with --resume and a smaller --lr" in said
    assert "--amp" not in said, "it is in fp32 already"
    assert ddim(*go_on, "--lr", "1e-4") == 0
    assert ddim(*TRAIN, "--amp", "bf16", "--out", "other", "--epochs", "1") == 0
    go_on[go_on.index("run")] = "other"
    assert ddim(*go_on, "--lr", "1e30") == 5
    assert capsys.readouterr().err.endswith("a smaller --lr or --amp fp32\n")
    assert ddim(*go_on, "--amp", "fp32") == 0


def test_the_remedy_of_fp32_works(tmp_path, capsys):
    """A bias that float32 still holds, and bf16 does not: silu makes 0 of it in the one, and no number in the other."""
    net = UNet(TINY_28.unet)
    with torch.no_grad():
        net.temb.dense[0].bias[0] = -3.4e38
    description = {"kind": "weights", "unet": TINY_28.unet.to_dict(), "provenance": {}}
    schedule = {"T": 1000, "beta_1": 1e-4, "beta_T": 0.02}
    save_tensors("w.safetensors", net.state_dict(), {**description, "schedule": schedule})
    train = [*TRAIN, "--out", "run", "--init", "w.safetensors"]
    draw = ["sample", "--weights", "w.safetensors", "--n", "2", "--steps", "2", "--out", "x.png"]
    for argv, said in (
        (train, "the loss is not finite by step 3 (lr 0.00045, bf16): nothing was saved yet; begin again with a"),
        (draw, "the images of w.safetensors are not finite (bf16; "),
    ):
        assert ddim(*argv, "--amp", "bf16", "--device", "cpu") == 5
        err = capsys.readouterr().err
        assert said in err
        assert "--amp fp32" in err
        assert ddim(*argv, "--amp", "fp32", "--device", "cpu") == 0


def test_leftovers_of_a_killed_writer_are_removed_and_nothing_else():
    halves = [f".{name}.123.0123abcd.tmp" for name in (CHECKPOINT, METRICS, "samples_epoch_007.png")]
    own = [".notes.tmp", ".table.json.123.0123abcd.tmp", f".{CHECKPOINT}.tmp"]
    young = f".{CHECKPOINT}.{os.getppid()}.0123abcd.tmp"
    Path("run", ".folder.tmp").mkdir(parents=True)
    for name in [*halves, *own, young]:
        Path("run", name).write_bytes(b"half")
        if name != young:
            os.utime(Path("run", name), (time.time() - 7200,) * 2)
    assert ddim(*TRAIN, "--out", "run", "--epochs", "1") == 0
    assert {p.name for p in Path("run").glob(".*")} == {*own, young, ".folder.tmp"}


def test_options_reach_the_run():
    assert ddim(*TRAIN, "--out", "run", "--batch-size", "6", "--lr", "0.002", "--seed", "5", "--epochs", "1") == 0
    config = json.loads(Path("run/config.json").read_text(encoding="utf-8"))["config"]
    assert [config[k] for k in ("batch_size", "lr", "seed", "epochs", "dataset")] == [6, 0.002, 5, 1, "mnist-10k"]


def test_begun_with_given_weights(files):
    weights = str(files / "w.safetensors")
    assert ddim(*TRAIN, "--out", "run", "--epochs", "1", "--init", weights) == 0
    digest = describe(weights)["sha256"]
    assert json.loads(Path("run/starts.jsonl").read_text(encoding="utf-8"))["init"] == digest
    assert ddim(*TRAIN, "--out", "run", "--resume") == 0
    assert [json.loads(line)["init"] for line in Path("run/starts.jsonl").read_text(encoding="utf-8").splitlines()] == [
        digest
    ] * 2
    assert ddim("export", f"run/{CHECKPOINT}", "--out", "w.safetensors") == 0
    origin = describe("w.safetensors")["provenance"]["origin"]
    assert (origin["weights"], origin["sha256"], origin["provenance"]["steps"]) == (weights, digest, 1)


def test_the_command_trains_as_the_library_does():
    assert ddim(*TRAIN, "--out", "run") == 0
    config = replace(TINY_28, dataset="mnist-10k", epochs=2)
    trainer = Trainer(config, load_dataset("mnist-10k", limit=24).images, device="cpu", amp="fp32")
    while trainer.steps_done < 6:
        trainer.step()
    tensors, _ = load_tensors(f"run/{CHECKPOINT}")
    assert all(torch.equal(tensors[f"ema.{k}"], v) for k, v in trainer.ema.state_dict().items())


def test_stopped_and_killed_commands_go_on(tmp_path):
    """SIGTERM and SIGINT end the command with 128 + signal and a checkpoint; kill -9 leaves the last one."""
    result = scenario("stopped_commands", tmp_path)
    term, interrupt, kill = result["stops"]
    assert all(stop["alive"] for stop in result["stops"])
    assert term["code"] == 128 + signal.SIGTERM
    assert interrupt["code"] == 128 + signal.SIGINT
    assert kill["code"] == -signal.SIGKILL
    assert all(stop["went_on"] >= 1 for stop in result["stops"])
    assert term["went_on"] >= 9, "an epoch of 8 steps, and more"
    assert result["last"] == result["again"] == 0
    epochs, seen = result["epochs"]
    assert seen == list(range(1, epochs + 1)), "each epoch once"
    assert result["steps"] == 8 * epochs
    assert result["starts"][0] == 0
    assert result["starts"] == sorted(result["starts"])
    assert len(result["starts"]) == 4
    assert result["images"] == f"samples_epoch_{epochs:03d}.png"
    assert result["left"] == []
    assert len(re.findall(r"stopped at step \d+ of 4000; go on with --resume\n", result["stdout"])) == 2
    assert f"has done all {epochs} epochs" in result["stdout"]
    assert result["stderr"] == ""


def test_the_real_recipe_stops_when_told(tmp_path):
    """`python -m ddim_core train mnist`, as it is."""
    run = tmp_path / "run"
    argv = ["train", "mnist", "--dataset", "mnist-10k", "--limit", "512", "--batch-size", "8", "--out", run]
    process = subprocess.Popen(
        [PYTHON, "-m", "ddim_core", *map(str, argv)],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        assert process.stderr.read(1), "the bar: it trains"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM, err
    done = load_tensors(run / CHECKPOINT)[1]["steps_done"]
    assert out == f"stopped at step {done} of {RECIPES['mnist'].epochs * 64}; go on with --resume\n"
    assert done >= 1
    assert "Traceback" not in err
    assert (run / METRICS).read_text(encoding="utf-8") == ""


# --- sample, export, info, data, evaluate ------------------------------------------------------------------------


def test_sample_png(files):
    argv = ["sample", "--weights", files / "w.safetensors", "--n", "5", "--steps", "3", "--seed", "2", "--out"]
    assert ddim(*argv, "deep/a.png") == 0
    assert ddim(*argv, "b.PNG", "--batch-size", "64") == 0
    assert Path("deep/a.png").read_bytes() == Path("b.PNG").read_bytes(), "the same command, the same bytes"
    model, schedule = load_weights(files / "w.safetensors")
    expected = tile(generate(model, schedule, 5, steps=3, seed=2), 3, scale=2)
    np.testing.assert_array_equal(pixels("deep/a.png"), np.asarray(expected))
    assert ddim(*argv, "c.png", "--columns", "5") == 0
    assert pixels("c.png").shape[::-1] == (2 * (5 * 30 + 2), 2 * 32)


def test_sample_npy(files):
    argv = ["sample", "--weights", files / "w.safetensors", "--n", "3", "--steps", "4", "--eta", "0.5", "--out"]
    assert ddim(*argv, "a.npy") == 0
    assert ddim(*argv, "b.npy", "--batch-size", "1") == 0
    a, b = np.load("a.npy"), np.load("b.npy")
    assert a.shape == (3, 1, 28, 28)
    assert a.dtype == np.float32
    assert -1 <= a.min() < a.max() <= 1
    np.testing.assert_allclose(a, b, atol=1e-4)
    assert ddim(*argv, "c.npy", "--eta", "sigma-hat") == 0
    assert np.abs(np.load("c.npy") - a).max() > 0.1
    assert ddim(*argv, "d.npy", "--clip") == 0
    model, schedule = load_weights(files / "w.safetensors")
    clipped = generate(model, schedule, 3, steps=4, eta=0.5, clip=True).numpy()
    np.testing.assert_allclose(np.load("d.npy"), clipped, atol=1e-4)
    assert np.abs(clipped - a).max() > 0.1


def test_sample_with_the_noise_of_the_pages(files):
    argv = ["sample", "--weights", files / "w.safetensors", "--n", "3", "--steps", "2", "--eta", "1", "--seed", "7"]
    assert ddim(*argv, "--noise", "js", "--batch-size", "2", "--out", "js.npy") == 0
    assert ddim(*argv, "--noise", "torch", "--out", "torch.npy") == 0
    model, schedule = load_weights(files / "w.safetensors")
    for noise in ("js", "torch"):
        expected = generate(model, schedule, 3, steps=2, eta=1, seed=7, noise=noise).numpy()
        np.testing.assert_allclose(np.load(f"{noise}.npy"), expected, atol=1e-4)
    assert np.abs(np.load("js.npy") - np.load("torch.npy")).max() > 0.1


def test_sample_npy_is_the_file_that_numpy_writes(files, monkeypatch):
    """Although it is written batch by batch, none of which stays in memory."""
    drawn = []

    def watched(*args, **options):
        images = generate(*args, **options)
        drawn.append((len(images), options["first"]))
        return images

    monkeypatch.setattr(sys.modules["ddim_core.sample"], "generate", watched)
    argv = ["--n", "7", "--steps", "2", "--batch-size", "3", "--seed", "5", "--out", "a.npy"]
    assert ddim("sample", "--weights", files / "w.safetensors", *argv) == 0
    assert drawn == [(3, 0), (3, 3), (1, 6)]
    model, schedule = load_weights(files / "w.safetensors")
    np.save("b.npy", generate(model, schedule, 7, steps=2, batch_size=3, seed=5).numpy())
    assert Path("a.npy").read_bytes() == Path("b.npy").read_bytes()


@pytest.mark.parametrize("name", ["x.png", "x.npy"])
@pytest.mark.parametrize("when", [0, 1], ids=["in the first batch", "in the second batch"])
def test_out_of_memory(files, monkeypatch, capsys, name, when):
    batches = iter(range(9))

    def limited(*args, **options):
        if next(batches) == when:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
            )
        return generate(*args, **options)

    monkeypatch.setattr(sys.modules["ddim_core.sample"], "generate", limited)
    Path(name).write_text("old", encoding="utf-8")
    assert ddim(*(a.format(files=files) for a in SAMPLE), "--batch-size", "1", "--out", name) == 2
    assert capsys.readouterr().err == "ddim: out of memory: draw fewer images at once with --batch-size\n"
    assert tree(".") == {Path(name): b"old"}


def test_sample_amp(files):
    argv = ["sample", "--weights", files / "w.safetensors", "--n", "2", "--steps", "3", "--device", "cpu", "--out"]
    for name, options in [("plain", []), ("fp32", ["--amp", "fp32"]), ("bf16", ["--amp", "bf16"])]:
        assert ddim(*argv, f"{name}.npy", *options) == 0
    plain, bf16 = np.load("plain.npy"), np.load("bf16.npy")
    assert Path("plain.npy").read_bytes() == Path("fp32.npy").read_bytes()
    model, schedule = load_weights(files / "w.safetensors")
    np.testing.assert_array_equal(bf16, generate(model, schedule, 2, steps=3, amp="bf16").numpy())
    assert bf16.dtype == np.float32
    assert (bf16 != plain).any()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("terminal", [False, True])
def test_a_bar_on_a_terminal_only(files, mnist, monkeypatch, capsys, terminal):
    for command in (["sample", "--out", "x.png"], ["sample", "--out", "x.npy"], ["evaluate", "--data", mnist]):
        err = Terminal() if terminal else io.StringIO()
        monkeypatch.setattr("sys.stderr", err)
        options = ["--weights", files / "w.safetensors", "--n", "5", "--steps", "4", "--batch-size", "2"]
        assert ddim(*command, *options) == 0
        assert ("12/12" in err.getvalue()) == bool(err.getvalue()) == terminal
        assert "12/12" not in capsys.readouterr().out


def test_a_fault_does_not_share_a_line_with_the_bar(files, monkeypatch):
    """A disk that is full after the first batch of three."""

    class Full:
        def cpu(self):
            return self

        def isfinite(self):
            return torch.ones(1)

        def numpy(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    err, batches = Terminal(), iter([torch.zeros(1, 1, 28, 28), Full()])
    monkeypatch.setattr("sys.stderr", err)
    monkeypatch.setattr(sys.modules["ddim_core.sample"], "generate", lambda *args, **options: next(batches))
    assert ddim(*(a.format(files=files) for a in SAMPLE), "--n", "3", "--batch-size", "1", "--out", "x.npy") == 6
    message = "ddim: cannot write x.npy (No space left on device): free some space"
    assert err.getvalue().splitlines()[-1] == message
    assert tree(".") == {}


def test_sample_by_name():
    assert ddim("sample", "--weights", "mnist", "--n", "2", "--steps", "2", "--out", "x.png") == 0
    assert pixels("x.png").shape[::-1] == (2 * 62, 2 * 32)


def test_export(files, capsys):
    assert ddim("export", files / "run" / CHECKPOINT, "--out", "new/w.safetensors") == 0
    assert "1 steps on 24 images" in capsys.readouterr().out
    assert load_tensors("new/w.safetensors")[0].keys() == load_tensors(files / "w.safetensors")[0].keys()
    assert ddim("export", files / "run" / CHECKPOINT, "--out", "last.safetensors", "--last-step") == 0
    assert describe("last.safetensors")["provenance"]["averaged"] is False


def test_export_and_ship(files, tmp_path, monkeypatch, capsys):
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(shipped, "assets", lambda: tmp_path)
    assert ddim("export", files / "run" / CHECKPOINT, "--out", "w.safetensors", "--ship", "own") == 0
    assert "shipped as" in capsys.readouterr().out
    assert ddim("sample", "--weights", "own", "--n", "1", "--steps", "1", "--out", "x.png") == 0


def test_a_tilde_is_the_home_directory_in_every_path(files, mnist, tmp_path, monkeypatch, capsys):
    """No shell expands it behind `=`."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))  # matplotlib makes folders at home where it is imported first
    shutil.copytree(files / "images", home / "images")
    shutil.copytree(mnist, home / "mnist")
    options = ["--epochs=1", "--amp=fp32", "--quiet", "--device=cpu"]
    assert ddim("train", "tiny", "--dataset=~/images", "--out=~/own", "--resolution=8", "--batch-size=1", *options) == 0
    assert ddim("train", "tiny", "--dataset=mnist", "--data=~/mnist", "--out=~/run", *options) == 0
    assert ddim("train", "tiny", "--data=~/mnist", "--out=~/run", "--resume", "--epochs=2", "--quiet") == 0
    assert ddim("export", f"~/run/{CHECKPOINT}", "--out=~/w.safetensors") == 0
    assert (
        ddim("train", "tiny", "--dataset=mnist", "--data=~/mnist", "--out=~/next", "--init=~/w.safetensors", *options)
        == 0
    )
    for name in ("x.png", "x.npy"):
        assert ddim("sample", "--weights=~/w.safetensors", "--n=1", "--steps=1", f"--out=~/{name}") == 0
    assert ddim("evaluate", "--weights=~/w.safetensors", "--n=5", "--steps=1", "--data=~/mnist", "--out=~/f.json") == 0
    assert ddim("info", "~/w.safetensors") == ddim("data", "~/images") == ddim("data", "mnist", "--data=~/mnist") == 0
    there = {"f.json", "mnist", "next", "own", "images", "run", "w.safetensors", "x.npy", "x.png"}
    assert set(os.listdir(home)) == there
    capsys.readouterr()
    assert ddim("data", "kuzushiji", "--archive=~/no.tar", "--data=~/k") == 3
    assert f"{home}/no.tar: no such file" in capsys.readouterr().err
    assert ddim("data", "brush-kanji", "--fonts=~/no", "--data=~/k") == 7
    assert f"under {home}/no: " in capsys.readouterr().err
    assert not list(Path().glob("~*"))


@pytest.mark.parametrize("name", ["mnist", "classifier", "{files}/w.safetensors"])
def test_info_is_json(files, capsys, name):
    assert ddim("info", name.format(files=files)) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["sha256"]) == 64
    assert found["provenance"]


def test_data(mnist, capsys):
    assert ddim("data", "mnist-10k") == 0
    out = capsys.readouterr().out
    assert "mnist-10k train: 10000 images of (1, 28, 28), 10 classes" in out
    assert "CC BY-SA 3.0" in out
    assert ddim("data", "mnist", "--data", mnist) == 0
    out = capsys.readouterr().out
    assert "mnist train: 20 images" in out
    assert "mnist test: 10 images" in out


def test_the_commit_is_this_project_s_or_none(tmp_path):
    """A package that lies untracked in another project's repository does not report that project's commit."""
    shutil.copytree(Path(cli.__file__).parent, tmp_path / "ddim_core", ignore=shutil.ignore_patterns("assets"))
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "another project"], check=True)
    ask = [PYTHON, "-c", "from ddim_core.run import _commit; print(_commit())"]

    def commit():
        done = subprocess.run(ask, cwd=tmp_path, env=ENV, capture_output=True, text=True, check=True, encoding="utf-8")
        return done.stdout.strip()

    assert commit() == "None"
    subprocess.run([*git, "add", "."], check=True)
    assert re.fullmatch(r"[0-9a-f]{40}\+", commit())
    subprocess.run([*git, "commit", "-q", "-m", "the package"], check=True)
    assert re.fullmatch(r"[0-9a-f]{40}", commit())


def test_evaluate(files, mnist, capsys):
    argv = ["evaluate", "--weights", "mnist", "--n", "6", "--steps", "4", "--data", mnist]
    assert ddim(*argv, "--out", "figures.json") == 0
    out = capsys.readouterr().out
    found = json.loads(Path("figures.json").read_text(encoding="utf-8"))
    assert found["of"]["weights_sha256"] == describe("mnist")["sha256"]
    assert found["real"]["classifier_test_accuracy"] > 0.8
    (row,) = found["rows"]
    asked = row["settings"]
    assert [asked[k] for k in ("n", "steps", "seed", "eta", "order", "spacing", "clip", "amp")] == [
        *(6, 4, 0, 0.0, 1, "uniform", False, "fp32")
    ]
    assert sum(row["figures"]["classes"]) == 6
    assert 0 <= row["figures"]["share_sure"]["value"] <= 1
    assert row["made"]["command"].startswith("ddim evaluate --weights mnist --n 6")
    assert out.startswith(f"{mnist}/MNIST/raw")
    assert [": not the original MNIST (t" in line for line in out.splitlines()[:3]] == [True, True, False]
    assert "of 6 samples at 4 steps" in out
    once = Path("figures.json").read_bytes()
    assert ddim(*argv, "--out", "figures.json") == 0
    again = capsys.readouterr()
    assert again.out == out, "the same, at once"
    assert again.err == ""
    assert Path("figures.json").read_bytes() == once


def test_evaluate_a_table(files, mnist, capsys):
    argv = ["evaluate", "--weights", files / "w.safetensors", "--n", "5", "--data", mnist, "--out", "f.json"]
    several = ["--steps", "3", "2", "--eta", "0", "sigma-hat", "--order", "1", "2", "--spacing", "uniform", "logsnr"]
    assert ddim(*argv, *several, "--clip", "--save-samples", "new") == 0
    out = capsys.readouterr().out
    rows = json.loads(Path("f.json").read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 12
    assert len(os.listdir("new")) == 12
    assert [line.split(":")[0] for line in out.splitlines()[2:14]] == [f"row {i} of 12" for i in range(1, 13)]
    assert out.count(" clip ") == 12, "a row of the table for each"
    Path("f.json").unlink()
    assert ddim(*argv, *several, "--clip", "--samples", "new") == 0
    again = json.loads(Path("f.json").read_text(encoding="utf-8"))["rows"]
    assert [r["figures"] for r in again] == [r["figures"] for r in rows]


def test_evaluate_faults(files, mnist, capsys, tmp_path):
    argv = ["evaluate", "--weights", files / "w.safetensors", "--n", "5", "--steps", "1", "--data", mnist]
    assert ddim(*argv, "--out", "f.json") == 0
    capsys.readouterr()
    before = tree(tmp_path)
    for code, message, *more in (
        (
            2,
            "f.json was made with another --seed: use the same, or choose another --out",
            "--out",
            "f.json",
            "--seed",
            "1",
        ),
        (2, "order 2 needs eta 0, and no other cell is asked for: add --eta 0", "--order", "2", "--eta", "1"),
        (2, "judging needs at least 5 samples, got --n-slow 3", "--n-slow", "3"),
        (2, "choose one", "--samples", "a", "--save-samples", "b"),
        (3, "a/S1_uniform_eta0.0_order1_fp32_n5_seed0.npz: no such file: draw these samples with", "--samples", "a"),
        (6, f"cannot write {files}/file/f.json", "--out", files / "file" / "f.json"),
    ):
        assert ddim(*argv, *more) == code
        err = capsys.readouterr().err
        assert err.startswith("ddim: ")
        assert err.count("\n") == 1
        assert message in err
        assert tree(tmp_path) == before


def test_evaluate_needs_pictures_that_the_classifier_knows(mnist, capsys, tmp_path):
    run.save(Trainer(TINY_RUN, tiny_images(), device="cpu", amp="fp32"), tmp_path / CHECKPOINT)
    export(tmp_path / CHECKPOINT, "w.safetensors")
    assert ddim("evaluate", "--weights", "w.safetensors", "--n", "5", "--steps", "2", "--data", mnist) == 2
    assert capsys.readouterr().err.endswith(
        "w.safetensors draw images of (1, 8, 8), not of (1, 28, 28) as the classifier needs\n"
    )


def test_train_without_a_folder():
    assert ddim(*TRAIN[:-1], "--quiet") == 0
    assert (Path("runs") / "tiny" / CHECKPOINT).exists()


def test_train_classifier(mnist, capsys):
    argv = ["train", "classifier", "--data", mnist, "--epochs", "1", "--seed", "3", "--out", "run"]
    assert ddim(*argv) == 0
    assert "of 10 test images" in capsys.readouterr().out
    provenance = describe("run/classifier.safetensors")["provenance"]
    assert (provenance["epochs"], provenance["seed"], provenance["images"]) == (1, 3, 20)
    argv = ["train", "classifier", "--dataset", "mnist-10k", "--limit", "30", "--data", mnist, "--epochs", "1"]
    assert ddim(*argv, "--out", "other") == 0
    assert describe("other/classifier.safetensors")["provenance"]["images"] == 30
