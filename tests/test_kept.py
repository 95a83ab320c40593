"""The files of `ddim evaluate`: what is written is read again, and what is not theirs is refused and left alone."""

import json
import os
import subprocess

import pytest
import torch
from helpers import ENV, PYTHON

from ddim_core.errors import DataError, UsageError
from ddim_core.kept import merge_results, read_results, read_samples, samples_name, write_results, write_samples

CELL = {"weights_sha256": "w", "steps": 5, "spacing": "uniform", "eta": "sigma-hat", "order": 1, "clip": False}
CELL |= {"n": 3, "seed": 2, "amp": "fp32", "classifier_sha256": "c"}
OF = {"weights_sha256": "w", "classifier_sha256": "c", "train_sha256": "a", "test_sha256": "b", "seed": 0}
OF |= {"n": 8, "n_slow": None}
FOUND = {
    "of": OF,
    "real": {"test_images": 1},
    "rows": [{"settings": CELL, "figures": {"kid": 1.5, "frechet": 2.5, "floor": {}}, "made": {}}],
}
IMAGES = (torch.arange(3 * 784) % 256).to(torch.uint8).view(3, 1, 28, 28)


def test_results_come_back(tmp_path):
    write_results(tmp_path / "f.json", FOUND)
    assert read_results(tmp_path / "f.json", OF) == FOUND
    assert read_results(tmp_path / "f.json", {**OF, "n": None, "n_slow": 4})["of"] == {**OF, "n_slow": 4}


OTHER = """
import json, sys, time
from pathlib import Path
from ddim_core.kept import write_results
from ddim_core.lock import in_turn

out = Path(sys.argv[1])
with in_turn(out):
    found = json.loads(out.read_text(encoding="utf-8"))
    print("read", flush=True)
    time.sleep(1)
    row = found["rows"][0]
    write_results(out, {**found, "rows": [row, {**row, "settings": {**row["settings"], "steps": 6}}]})
"""


def test_two_processes_lose_no_row(tmp_path):
    """What another has read and not yet written is waited for."""
    out, (row,) = tmp_path / "f.json", FOUND["rows"]
    write_results(out, FOUND)
    with subprocess.Popen([PYTHON, "-c", OTHER, out], env=ENV, stdout=subprocess.PIPE, encoding="utf-8") as other:
        assert other.stdout.readline() == "read\n"
        mine = {**FOUND, "real": {}, "rows": [row, {**row, "settings": {**CELL, "steps": 7}}]}
        merge_results(out, mine)
    assert [r["settings"]["steps"] for r in read_results(out, OF)["rows"]] == [5, 7, 6]
    assert read_results(out, OF) == mine
    assert mine["real"] == FOUND["real"], "rows are never without what they are compared with"
    assert os.listdir(tmp_path) == ["f.json"]


@pytest.mark.parametrize(("key", "word"), [("test_sha256", "set of test images"), ("seed", "--seed"), ("n", "--n")])
def test_results_of_something_else(key, word, tmp_path):
    write_results(tmp_path / "f.json", FOUND)
    with pytest.raises(UsageError, match=f"f.json was made with another {word}: use the same"):
        read_results(tmp_path / "f.json", {**OF, key: 7})
    assert json.loads((tmp_path / "f.json").read_text(encoding="utf-8")) == FOUND


def test_samples_come_back(tmp_path):
    path = tmp_path / samples_name(CELL)
    assert path.name == "S5_uniform_etasigma-hat_order1_fp32_n3_seed2.npz"
    assert samples_name({**CELL, "clip": True}) == "S5_uniform_etasigma-hat_order1_clip_fp32_n3_seed2.npz"
    write_samples(path, IMAGES, CELL, {"seconds": 1.5})
    images, sampled = read_samples(path, {**CELL, "classifier_sha256": "another: it did not draw them"})
    assert torch.equal(images, IMAGES)
    assert sampled == {"seconds": 1.5}
    with pytest.raises(DataError, match="holds samples made with another eta, --seed: choose another folder"):
        read_samples(path, {**CELL, "eta": 0.0, "seed": 3})


def test_samples_of_another_number_than_they_say(tmp_path):
    write_samples(tmp_path / "x.npz", IMAGES[:2], CELL, {})
    with pytest.raises(DataError, match=r"x.npz is damaged \(images of \(2, 28, 28\)\): remove it"):
        read_samples(tmp_path / "x.npz", CELL)
