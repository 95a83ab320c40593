"""Names: what each stands for, where it comes from, and what is no name."""

import hashlib
import json
import time
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import numpy as np
import pytest
from helpers import served

from ddim_core import UNetConfig, cli, load_pretrained
from ddim_core.errors import DDIMError, UsageError
from ddim_core.weights import describe, load, manifest, verified
from ddim_core.weights.formats import CIFAR10
from ddim_core.weights.registry import CIFAR10_ON_HUB, SOURCES, Hub, Local, Source, find, resolve

CONTENT = np.random.default_rng(0).bytes(100_000)
COMMIT = "a" * 40


def ddim(*argv):
    return cli.main([str(a) for a in argv])


def tagged(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def cached(tmp_path):
    return [p for p in (tmp_path / "cache").rglob("*") if not p.is_dir()]


# --- what a name stands for --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_names_of_the_package():
    assert isinstance(find("cifar10"), Source)
    shipped = find("mnist")
    assert (resolve("mnist"), resolve("mnist", "shipped")) == (shipped.path, shipped.path)
    assert verified("mnist") == shipped.path
    assert shipped.sha256 == manifest()["mnist"]["sha256"]
    Path("mnist").mkdir()
    Path("cifar10").touch()
    assert find("mnist") == shipped, "a name comes before a folder"
    assert isinstance(find("cifar10"), Source)


def test_names_on_the_hub(tmp_path):
    for what in ("celebahq", "bedroom", "church", "cat"):
        assert find(f"google/ddpm-{what}-256") == Hub(f"google/ddpm-{what}-256")
        assert find(f"google/ddpm-ema-{what}-256@main") == Hub(f"google/ddpm-ema-{what}-256", "main")
    for name, revision in [("", None), ("@", None), ("@main", "main"), (f"@{COMMIT}", COMMIT)]:
        assert find(CIFAR10_ON_HUB + name) == Hub(CIFAR10_ON_HUB, revision)
        assert find(CIFAR10_ON_HUB + name, "public") == Hub(CIFAR10_ON_HUB, revision)
    for name in ("google/other", "google/ddpm-dog-256", f"./{CIFAR10_ON_HUB}", f"{CIFAR10_ON_HUB}/config.json"):
        assert find(name) == Local(Path(name))
        with pytest.raises(UsageError, match="unknown public weights"):
            find(name, "public")
    Path(CIFAR10_ON_HUB).mkdir(parents=True)
    assert find(CIFAR10_ON_HUB) == Local(Path(CIFAR10_ON_HUB)), "a folder of that name comes first"
    with pytest.raises(UsageError, match="unknown weights"):
        load_pretrained(CIFAR10_ON_HUB)


def test_paths(tmp_path):
    Path("plain").touch()
    for name in ("plain", "a/b", "x.safetensors", "x.pt", "x.pth", "x.ckpt", "x.bin", "../mnist"):
        assert find(name) == Local(Path(name))
        assert resolve(name) == Path(name), "taken as it is"
        with pytest.raises(UsageError, match="choose one of"):
            find(name, "public", "shipped")
    assert resolve("~/x.pt") == tmp_path / "home" / "x.pt"
    for path in (Path("mnist"), Path("cifar10"), Path(CIFAR10_ON_HUB), Path("~/x.pt")):
        assert find(path) == Local(path.expanduser()), "a Path is no name"
        with pytest.raises(UsageError, match="is a path, not a name: load files with load_weights or load_public"):
            load_pretrained(path)
    for name in ("google", "x.png", "", "~", "MNIST"):
        with pytest.raises(UsageError, match=r"unknown weights .*: choose one of .*mnist.*cifar10"):
            find(name)


@pytest.mark.parametrize(
    "name", ["\0", "a" * 5000, "a" * 5000 + ".pt", "\0.pt", "a" * 5000 + ".safetensors", "~no one/x.bin"]
)
def test_names_that_no_file_can_have(name):
    for function in (load, describe):
        with pytest.raises(DDIMError, match=r"unknown weights|no such file") as e:
            function(name)
        assert "\n" not in str(e.value)


def test_what_is_known_of_the_larger_networks():
    found = describe("google/ddpm-ema-bedroom-256@main")
    config = UNetConfig(**found["unet"])
    assert (config.resolution, config.ch_mult, config.attn_resolutions) == (256, (1, 1, 2, 2, 4, 4), (16,))
    assert (found["sha256"], found["provenance"]["file"]) == (None, None)
    assert found["provenance"]["url"].endswith("/google/ddpm-ema-bedroom-256/tree/main")
    assert found["provenance"]["of"].endswith("; averaged weights")
    assert describe("google/ddpm-cat-256")["provenance"]["of"].endswith("; its settings do not say whether averaged")


def test_what_is_known_of_the_original_network():
    expected = UNetConfig(32, 3, 3, 128, (1, 2, 2, 2), 2, (16,), 0.1, 32)
    for name in ("cifar10", CIFAR10_ON_HUB):
        found = describe(name)
        assert UNetConfig(**found["unet"]) == expected
        assert found["schedule"] == {"T": 1000, "beta_1": 1e-4, "beta_T": 0.02}
        assert found["times"] == "the network is told t - 1"


def test_places_are_records():
    """Nothing changes one after it was checked."""
    for place in (find("mnist"), find("cifar10"), find(CIFAR10_ON_HUB)):
        with pytest.raises(FrozenInstanceError):
            setattr(place, fields(place)[0].name, "x")
        assert len({place, replace(place)}) == 1


# --- where it comes from -----------------------------------------------------------------------------------------


def test_where_the_weights_come_from(monkeypatch):
    official = find("cifar10")
    assert official.hash == "md5:1fa350b952534ae442b1d5235cce5cd3"
    assert official.url == "https://heibox.uni-heidelberg.de/f/2e4f01e2d9ee49bab1d5/?dl=1"
    monkeypatch.setenv("DDIM_CORE_CIFAR10_URL", "https://mirror.example/ema")
    mirror = find("cifar10")
    assert mirror == Source("https://mirror.example/ema", official.hash), "a mirror has to serve the same file"
    assert mirror.path == official.path
    monkeypatch.setenv("DDIM_CORE_CIFAR10_HASH", tagged(b"other"))
    assert find("cifar10").path != official.path, "another file never takes the place of the official one"
    for digest in ("none", "sha256:", "md5:" + "0" * 31, "sha256:" + "g" * 64, "0" * 64):
        monkeypatch.setenv("DDIM_CORE_CIFAR10_HASH", digest)
        with pytest.raises(UsageError, match="is not the hash of a file"):
            load_pretrained("cifar10")
    monkeypatch.delenv("DDIM_CORE_CIFAR10_HASH")
    for url in ("file:///etc/passwd", "ema.ckpt", "ftp://x/y"):
        monkeypatch.setenv("DDIM_CORE_CIFAR10_URL", url)
        with pytest.raises(UsageError, match="give a URL that starts with https://"):
            load_pretrained("cifar10")
    with pytest.raises(
        UsageError, match="unknown public weights 'mnist': choose one of cifar10, google/ddpm-cifar10-32"
    ):
        find("mnist", "public")


def test_info_and_download(tmp_path, monkeypatch, capsys):
    assert ddim("info", "cifar10") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["provenance"]["url"] == SOURCES["cifar10"].url
    assert found["provenance"]["file"] is None
    assert found["sha256"] is None
    assert UNetConfig(**found["unet"]) == CIFAR10
    with served(CONTENT, "whole") as (url, _):
        monkeypatch.setenv("DDIM_CORE_CIFAR10_URL", url)
        monkeypatch.setenv("DDIM_CORE_CIFAR10_HASH", tagged(CONTENT))
        assert ddim("download", "cifar10") == 0
    (path,) = cached(tmp_path)
    assert capsys.readouterr().out == f"{path}: {tagged(CONTENT)}, verified\n"
    assert ddim("info", "cifar10") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["provenance"]["file"], f"sha256:{found['sha256']}") == (str(path), tagged(CONTENT))


def test_download_of_what_is_not_public(capsys):
    assert ddim("download", "mnist") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("ddim: unknown public weights 'mnist': choose one of cifar10, google/ddpm-cifar10-32, ")


@pytest.mark.parametrize("argv", [["download", "cifar10"], ["sample", "--weights", "cifar10", "--out", "x.png"]])
def test_offline(offline, monkeypatch, tmp_path, capfd, argv):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.chdir(tmp_path)
    assert ddim(*argv) == 7
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"ddim: weights cannot be downloaded from {SOURCES['cifar10'].url} (")
    assert err.count("\n") == 1
    assert "--weights PATH" in err
    assert [p for p in tmp_path.rglob("*") if not p.is_dir()] == []
