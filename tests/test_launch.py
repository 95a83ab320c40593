"""A run begun or taken up as the command asks for it; the command itself is tested in `test_cli`."""

import json
from pathlib import Path

import pytest
from helpers import TINY_28
from PIL import Image

from ddim_core import run
from ddim_core.errors import UsageError
from ddim_core.files import load_tensors
from ddim_core.launch import launch
from ddim_core.recipes import RECIPES

NOTHING = {"data": None, "limit": None, "resolution": None, "grey": False}
QUIET = {"device": "cpu", "amp": "fp32", "bar": False, "command": "c"}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch, tmp_path):
    monkeypatch.setitem(RECIPES, "tiny", TINY_28)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for i in range(8):
        Image.effect_noise((20, 16), 20 + 10 * i).save(f"images/{i}.png")


def begin(out="run", resume=False, changes=(), **images):
    said = []
    changes = {"dataset": "mnist-10k", "epochs": 1} | dict(changes) if not resume else dict(changes)
    images = NOTHING | ({"limit": 16} if not resume and "resolution" not in images else {}) | images
    stopped = launch("tiny", Path(out), changes, images, resume=resume, say=said.append, **QUIET)
    return stopped, said


def test_begun_and_taken_up():
    assert begin() == (0, [])
    assert load_tensors("run/last.safetensors")[1]["steps_done"] == 2
    assert begin(resume=True) == (0, ["run/last.safetensors has done all 1 epochs: ask for more with --epochs"])
    stopped, said = begin(resume=True, changes={"epochs": 2})
    assert (stopped, said) == (0, ["epochs 2 instead of 1, which the run had before"])
    assert [
        json.loads(line)["command"] for line in Path("run/starts.jsonl").read_text(encoding="utf-8").splitlines()
    ] == ["c", "c"]
    with pytest.raises(UsageError, match="exists: go on with --resume, or choose another --out"):
        begin()


@pytest.mark.parametrize(
    ("option", "said"), [("limit", "limit must be at least 1, got 0"), ("resolution", "least 4 for")]
)
def test_a_zero_is_not_passed_over_when_a_run_goes_on(option, said):
    """In favour of what the run had before."""
    begin(changes={"dataset": "images"}, resolution=4, limit=8)
    with pytest.raises(UsageError, match=said):
        begin(resume=True, **{option: 0})


def test_stopped_by_a_signal(monkeypatch):
    monkeypatch.setattr(run.Stop, "__call__", lambda self: setattr(self, "signal", 15) or True)
    stopped, said = begin(changes={"epochs": 3})
    assert stopped == 15
    assert said == ["stopped at step 1 of 6; go on with --resume"]


@pytest.mark.parametrize("resolution", [0, -1, -64, 3, 1])
def test_a_resolution_below_what_the_recipe_can_halve(resolution):
    """What the message names is enough."""
    with pytest.raises(UsageError) as e:
        begin(changes={"dataset": "images"}, resolution=resolution)
    assert str(e.value) == f"--resolution must be at least 4 for the recipe tiny, got {resolution}"
    assert not Path("run").exists()
    assert begin(changes={"dataset": "images/"}, resolution=4)[0] == 0
    assert load_tensors("run/last.safetensors")[1]["config"]["dataset"] == "images", "without the shell's /"
