"""`make results`: every script has its place, and what is stale is known by the hashes."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from ddim_core import results as stored
from ddim_core.results import load_result, save_result

ROOT = Path(__file__).resolve().parents[1]
COMPUTE = ROOT / "book" / "_compute"
spec = importlib.util.spec_from_file_location("compute_results", COMPUTE / "results.py")
compute = importlib.util.module_from_spec(spec)
sys.modules["compute_results"] = compute
spec.loader.exec_module(compute)
NAMES = [result.name for result in compute.RESULTS]


def test_every_script_and_every_stored_result_has_its_place():
    assert sorted(NAMES) == sorted(path.stem for path in COMPUTE.glob("*.py") if path.stem != "results")
    assert sorted(NAMES) == stored.results()


@pytest.mark.parametrize("result", compute.RESULTS, ids=lambda result: result.name)
def test_a_result_comes_after_those_that_it_reads(result):
    tree = ast.parse((COMPUTE / f"{result.name}.py").read_text(encoding="utf-8"))
    reads = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "load_result"
    }
    assert reads - {result.name} == set(result.after)
    assert all(NAMES.index(name) < NAMES.index(result.name) for name in result.after)


@pytest.mark.parametrize("result", compute.RESULTS, ids=lambda result: result.name)
def test_the_command_is_the_one_in_the_provenance(result):
    """With FOLDER and FILE for what is given: what is stored is what this script would make again."""
    said = load_result(result.name)[1]["command"]
    given = {"data": "FOLDER", "young": "FILE", "run": "runs/mnist"}
    made = "python " + " ".join(compute.command(result, given))
    assert made == said.replace(" --data FOLDER --young", " --young"), "change the table, or the script's options"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "_FOLDER", tmp_path)
    for result in compute.RESULTS:
        save_result(result.name, {"x": np.zeros(1)}, command="c", weights="mnist")
    return tmp_path


def staleness():
    stale = {}
    for result in compute.RESULTS:
        if why := compute.why_stale(result, set(stale)):
            stale[result.name] = why
    return stale


def test_what_is_fresh_is_left_alone(folder, capsys):
    assert staleness() == {}
    assert compute.main([]) == 0
    assert capsys.readouterr().out == "all results are up to date\n"


def test_other_weights_make_it_stale_and_what_reads_it(folder, monkeypatch, capsys):
    known = compute.manifest()
    other = known | {"mnist": known["mnist"] | {"sha256": "0" * 64}}
    monkeypatch.setattr(compute, "manifest", lambda: other)
    assert staleness().keys() == set(NAMES)
    monkeypatch.undo()
    monkeypatch.setattr(stored, "_FOLDER", folder)
    (folder / "skip.npz").unlink()
    assert staleness() == {"skip": "it is not there", "fewer": "it reads skip"}
    assert compute.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^skip +5 min  it is not there$", out, re.MULTILINE)
    assert "2 of 13 are stale: about 10 minutes" in out


def test_a_damaged_result_is_stale(folder):
    (folder / "flood.npz").write_bytes(b"no archive")
    assert staleness() == {"flood": "it is damaged"}


def test_what_needs_something_says_what(folder, capsys):
    assert compute.main(["--only", "mnist_epochs", "kanji"]) == 3
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" is left out: it needs ")[0] for line in said] == ["mnist_epochs", "kanji"]
    assert "RUN=FOLDER" in said[0]
    assert "YOUNG=FILE" in said[1]


def test_an_unknown_name(capsys):
    assert compute.main(["--only", "nothing"]) == 2
    assert re.fullmatch(r"no result nothing: there are mnist_epochs, .*measured\n", capsys.readouterr().err)


def test_a_script_that_fails_ends_it(folder, capfd):
    assert compute.main(["--only", "mnist_epochs", "skip", "--run", str(folder / "nowhere")]) == 1
    said = capfd.readouterr()
    assert "mnist_epochs failed with exit code 1; those after it were not made" in said.err
    assert "skip.py" not in said.out
