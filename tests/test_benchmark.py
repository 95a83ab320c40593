"""The benchmark: its plain network is ours, its file has what it promises, and neither an error nor a signal loses it."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import ENV, PYTHON, TINY, randn, randomised, relative

from ddim_core import UNet
from ddim_core.recipes import RECIPES

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import page  # noqa: E402
import speed  # noqa: E402
from contestants import Stage  # noqa: E402
from plain import PlainUNet  # noqa: E402

ARGS = ["--tiny", "--device", "cpu", "--batch", "8", "--budget", "60", "--rounds", "2", "--turn", "0.01"]
MEASURED = {"images_per_second", "lowest", "highest", "ratio_to_note", "share_of_peak", "first_step_seconds"}


@pytest.mark.parametrize(
    "config", [TINY, RECIPES["mnist"].unet, replace(RECIPES["mnist"].unet, norm_groups=32)], ids=["tiny", "8", "32"]
)
def test_the_plain_network_is_ours(config):
    ours, plain = randomised(UNet(config), seed=1), PlainUNet(config)
    plain.load_state_dict(ours.state_dict(), strict=True)
    xt, t = randn(2, 1, config.resolution, config.resolution), torch.tensor([1, 700])
    for model in (ours, plain):
        model.eval()
    with torch.no_grad():
        assert relative(plain(xt, t), ours(xt, t)) < 1e-5


def run(tmp_path, *more: str) -> dict:
    speed.main([*ARGS, "--out", str(tmp_path / "speed.json"), *more])
    return json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))


def test_the_file(tmp_path, capsys):
    report = run(tmp_path)
    assert report["ended"] == "complete"
    assert {"cpu", "gpu", "cores", "threads", "torch", "date"} <= set(report["machine"])
    assert report["settings"]["batch"] == [8]
    assert report["flops_per_image"] > 1e6
    assert set(report["peak_flops"]) == {"fp32", "bf16"}
    names = [c["name"] for c in report["settings"]["contestants"] if not c["compiled"]]
    assert [(r["mode"], r["contestant"]) for r in report["rows"]] == [
        (m, n) for m in ("sample", "train") for n in names
    ]
    for row in report["rows"]:
        assert row["error"] is None
        assert set(row) >= MEASURED
        assert len(row["rounds"]) == len(row["note_rounds"]) == 2
        assert 0 < row["lowest"] <= row["images_per_second"] <= row["highest"]
        if row["mode"] == "sample":  # all of them compute the same function
            assert row["difference"] < (1e-5 if row["amp"] == "fp32" else 0.05)
        if row["contestant"] == "note":
            assert row["ratio_to_note"] == 1
    assert "ours bf16, original settings" in capsys.readouterr().out


def test_an_exception_is_a_row(tmp_path, monkeypatch):
    network = Stage.network

    def broken(self, c):
        if c.kind == "diffusers":
            raise ModuleNotFoundError("No module named 'diffusers'")
        return network(self, c)

    monkeypatch.setattr(Stage, "network", broken)
    report = run(tmp_path, "--only", "fp32")
    errors = {(r["mode"], r["contestant"]): r["error"] for r in report["rows"]}
    assert set(errors) == {(m, n) for m in ("sample", "train") for n in ("note", "diffusers fp32", "ours fp32")}
    for (_, name), error in errors.items():
        assert error == ("ModuleNotFoundError: No module named 'diffusers'" if "diffusers" in name else None)


def test_a_contestant_that_takes_too_long_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(Stage, "train", lambda self, c, batch: lambda n: time.sleep(60))
    start = time.monotonic()
    report = run(tmp_path, "--only", "none other", "--budget", "28")
    assert time.monotonic() - start < 28, "the budget holds"
    assert [r["error"] for r in report["rows"]] == [None, "stopped after 7 s"]


def test_without_time_nothing_is_begun(tmp_path):
    report = run(tmp_path, "--budget", "0.1")
    assert {r["error"] for r in report["rows"]} == {"no time left"}


def test_a_signal_loses_nothing(tmp_path):
    out = tmp_path / "speed.json"
    command = [PYTHON, FOLDER / "speed.py", *ARGS, "--rounds", "100000", "--only", "ours fp32", "--out", out]
    with subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (
            out.exists() and '"ratio_to_note"' in out.read_text(encoding="utf-8")
        ):
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "ended: SIGTERM" in printed
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["ended"] == "SIGTERM"
    assert report["rows"][0]["images_per_second"] > 0


def test_the_page_is_what_was_measured():
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), "run python benchmarks/page.py"
    assert "## NVIDIA H200" in page.page()
