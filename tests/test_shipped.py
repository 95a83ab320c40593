"""What comes with the package: a manifest, and the files that it states the sha256 of."""

import json

import pytest

from ddim_core import cli, load_pretrained, shipped
from ddim_core.errors import CheckpointError, UsageError
from ddim_core.files import sha256_file
from ddim_core.metrics import load_classifier
from ddim_core.results import save_result
from ddim_core.weights import describe


def test_every_file_of_the_manifest_is_there_and_whole():
    entries = shipped.manifest()
    assert {"mnist", "kanji", "classifier"} <= set(entries)
    for name, entry in entries.items():
        path = shipped.assets() / entry.get("file", name)
        assert shipped.checked(path, entry["sha256"]) == path


def test_a_file_that_is_missing_or_another(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(CheckpointError, match="a: no such file: install the package again"):
        shipped.checked(path, "0" * 64)
    path.write_bytes(b"a")
    assert shipped.checked(path, sha256_file(path)) == path
    with pytest.raises(CheckpointError, match=r"a is damaged .*: install the package again"):
        shipped.checked(path, "0" * 64)


@pytest.mark.parametrize(
    "content",
    [None, "", "{", "[]", "3", "null", '{"mnist": 3}', '{"mnist": {"file": "x"}}', "[" * 10**5 + "]" * 10**5, "\udcff"],
    ids=["missing", "empty", "cut", "list", "number", "null", "no entry", "no sha256", "nested", "not UTF-8"],
)
def test_a_manifest_that_is_none_is_one_line(tmp_path, monkeypatch, capsys, content):
    monkeypatch.setattr(shipped, "assets", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content.encode(errors="surrogateescape"))
    for use in (lambda: load_pretrained("mnist"), lambda: describe("kanji"), load_classifier):
        with pytest.raises(
            CheckpointError, match=r"manifest\.json is missing or not a manifest .*: install the package"
        ) as e:
            use()
        assert "\n" not in str(e.value)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        save_result("x", {}, command="c", weights="mnist")
    for argv in (["sample", "--weights", "mnist", "--out", "x.png"], ["info", "mnist"]):
        assert cli.main(argv) == 4
        assert capsys.readouterr().err.count("\n") == 1


def test_shipping_enters_the_sha256(tmp_path, monkeypatch):
    source = shipped.assets() / shipped.manifest()["classifier"]["file"]
    (tmp_path / "manifest.json").write_text(json.dumps({"digits.gz": {"sha256": "0"}}), encoding="utf-8")
    monkeypatch.setattr(shipped, "assets", lambda: tmp_path)
    copy = shipped.ship(source, "judge")
    assert shipped.manifest()["judge"] == {"file": "judge.safetensors", "sha256": sha256_file(source)}
    assert copy.read_bytes() == source.read_bytes()
    for name in ("", "../judge", "a/b", "-"):
        with pytest.raises(UsageError, match="choose a name of letters, digits, - and _"):
            shipped.ship(source, name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["judge.safetensors", "manifest.json"]
