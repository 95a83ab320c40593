"""What `ddim data` says; fetching and unpacking are tested with each data set."""

import pytest
from PIL import Image

from ddim_core.data.prepare import prepare
from ddim_core.errors import DataError, UsageError


def lines(*args, **options):
    said = []
    prepare(*args, say=said.append, **options)
    return said


def test_what_comes_with_the_package():
    first, attribution = lines("mnist-10k")
    assert first == "mnist-10k train: 10000 images of (1, 28, 28), 10 classes"
    assert "CC BY-SA 3.0" in attribution


def test_a_folder_of_images(tmp_path):
    for kind, n in (("cat", 2), ("dog", 1)):
        (tmp_path / kind).mkdir()
        for i in range(n):
            Image.new("RGB", (8 + i, 6), (200, 10, 10)).save(tmp_path / kind / f"{i}.png")
    (tmp_path / "notes.txt").touch()
    assert lines(str(tmp_path)) == [
        f"{tmp_path}: 3 images of 8x6 to 9x6, 3 colour, 0 grey",
        "2 classes: cat 2, dog 1",
        "passed over: 1 other file (.txt)",
    ]
    with pytest.raises(UsageError, match="--data is for a data set known by name, not for the folder"):
        lines(str(tmp_path), tmp_path)


@pytest.mark.parametrize(("option", "of"), [("fonts", "brush-kanji"), ("archive", "kuzushiji"), ("count", "kuzushiji")])
def test_an_option_of_another_data_set(tmp_path, option, of):
    with pytest.raises(UsageError, match=f"--{option} is for {of} only, not for 'mnist-10k'"):
        lines("mnist-10k", **{option: 3})


def test_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match=f"^{tmp_path}/no.tar: no such file: name kkanji.tar with --archive"):
        lines("kuzushiji", "~/k", archive="~/no.tar")
