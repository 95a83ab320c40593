"""Stored results: arrays there and back, with where they come from."""

import json
import re

import numpy as np
import pytest

from ddim_core import results
from ddim_core.errors import DataError, UsageError
from ddim_core.results import load_result, save_result
from ddim_core.weights import manifest

ARRAYS = {
    "times": np.array([1.5, 2.5]),
    "images": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "names": np.array(["a", "bc"]),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "_FOLDER", tmp_path / "results")
    return tmp_path / "results"


def test_there_and_back(folder):
    path = save_result("speed", ARRAYS, command="python script.py", weights="mnist", seeds=[1, 2])
    assert path == folder / "speed.npz"
    arrays, provenance = load_result("speed")
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert provenance["command"] == "python script.py"
    assert provenance["seeds"] == [1, 2]
    assert provenance["weights_sha256"] == manifest()["mnist"]["sha256"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", provenance["date"])
    assert results.results() == ["speed"]


def test_without_weights(folder):
    save_result("plain", {}, command="c", weights=None)
    arrays, provenance = load_result("plain")
    assert arrays == {}
    assert set(provenance) == {"command", "date"}


def test_weights_have_to_be_known(folder):
    with pytest.raises(UsageError, match=r"^no weights 'nothing' come with the package: choose one of .*mnist"):
        save_result("x", ARRAYS, command="c", weights="nothing")
    assert results.results() == []


def test_no_such_result(folder):
    with pytest.raises(DataError, match="no result 'speed': there are none"):
        load_result("speed")
    save_result("other", {}, command="c", weights=None)
    with pytest.raises(DataError, match="no result 'speed': there are other"):
        load_result("speed")


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-20], lambda b: b"", lambda b: b"text", lambda b: b[:80] + b"\xff" * 9 + b[89:]]
)
def test_damage(folder, damage):
    path = save_result("speed", ARRAYS, command="c", weights=None)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"speed\.npz is damaged .*: install the package again"):
        load_result("speed")


@pytest.mark.parametrize(
    ("provenance", "reason"),
    [
        ({}, "it does not say where it comes from"),
        ({"provenance": "{"}, "Expecting property name"),
        ({"provenance": [1, 2]}, "one element|size 1"),
        ({"provenance": "[1, 2]"}, "its provenance is no record"),
    ],
    ids=["none", "cut", "numbers", "a list"],
)
def test_a_provenance_that_is_none(folder, provenance, reason):
    folder.mkdir()
    np.savez(folder / "speed.npz", x=np.zeros(2), **{k: np.array(v) for k, v in provenance.items()})
    with pytest.raises(DataError, match=rf"speed\.npz is damaged \(.*({reason}).*\): install the package again") as e:
        load_result("speed")
    assert "\n" not in str(e.value)


def test_objects_are_not_unpickled(folder):
    path = save_result("speed", {"x": np.array([{"a": 1}], dtype=object)}, command="c", weights=None)
    with pytest.raises(DataError, match="damaged"):
        load_result("speed")
    assert path.exists()


def test_what_ships_can_be_read():
    for name in results.results():
        arrays, provenance = load_result(name)
        assert arrays
        assert provenance["command"]
        assert json.dumps(provenance)
