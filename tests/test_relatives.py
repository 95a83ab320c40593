"""What other systems leave beside files (`._NAME` and .DS_Store of macOS, Thumbs.db of Windows): every reader passes over it.

What readers of images do with it is in tests/data; here it lies about in all of them at once, and in the project itself.
"""

import shutil
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ddim_core import results
from ddim_core.data import load_dataset
from ddim_core.data.folder import find_images, survey
from ddim_core.data.kanji import FOLDER
from ddim_core.data.kuzushiji import unpack
from ddim_core.results import save_result

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
NAMES = (".DS_Store", "Thumbs.db", "desktop.ini")
APPLE = b"\0\5\26\7\0\2\0\0Mac OS X        "


def strew(folder: Path) -> None:
    """Beside every file and in every folder."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            for name in NAMES:
                (path / name).write_bytes(b"\0")
        elif path.name not in NAMES:
            path.with_name(f"._{path.name}").write_bytes(APPLE)


@pytest.fixture
def kanji(tmp_path):
    for code in ("U+4E00", "U+4E8C"):
        place = tmp_path / "kanji" / FOLDER / code
        place.mkdir(parents=True)
        for i in range(2):
            pixels = np.full((64, 64), 100 * i + len(code), np.uint8)
            Image.fromarray(pixels).save(place / f"{i}{15 * 'a'}.png")
    strew(tmp_path / "kanji")
    return tmp_path / "kanji"


@pytest.mark.parametrize("name", ["brush-kanji", "kuzushiji"])
def test_kanji(kanji, name):
    found = load_dataset(name, kanji)
    assert (len(found), found.classes) == (4, ("一", "二"))


def test_the_archive(kanji, tmp_path):
    with tarfile.open(tmp_path / "k.tar", "w") as tar:
        tar.add(kanji / FOLDER, FOLDER)
    unpack(tmp_path / "k.tar", tmp_path / "new", count=4)
    assert len(load_dataset("kuzushiji", tmp_path / "new")) == 4
    assert len([p for p in (tmp_path / "new").rglob("*") if p.is_file()]) == 4


def test_own_images(kanji):
    found = find_images(kanji)
    assert len(found.images) == 4
    assert len(survey(found)[0]) == 4
    images = load_dataset(kanji, resolution=8)
    assert len(images) == 4
    assert images.notes == ("passed over: 16 hidden files",)


def test_results(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "_FOLDER", tmp_path)
    save_result("a", {}, command="c", weights=None)
    strew(tmp_path)
    assert results.results() == ["a"]


def test_chapters(tmp_path, monkeypatch):
    import address
    import equations

    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("_*", "images"))
    for file in ("_toc.yml", "_config.yml", "README.md"):
        shutil.copy(ROOT / file, tmp_path / file)
    before = address.stamped(tmp_path)
    strew(tmp_path / "book")
    assert address.stamped(tmp_path) == before
    monkeypatch.setattr(equations, "ROOT", tmp_path)
    monkeypatch.setattr(equations, "BOOK", tmp_path / "book")
    assert len(equations.pages()) > 10
    assert not [p.name for p in equations.pages() if p.name.startswith(".")]


def test_plots_of_the_built_book(tmp_path):
    import ddim_book

    (tmp_path / "_images").mkdir()
    Image.new("RGBA", (8, 8), (7, 7, 7, 255)).save(tmp_path / "_images" / "a.png", compress_level=0)
    strew(tmp_path / "_images")
    ddim_book.shrink_images(SimpleNamespace(outdir=str(tmp_path)), None)
    with Image.open(tmp_path / "_images" / "a.png") as image:
        assert (image.mode, image.getpixel((0, 0))) == ("L", 7)
    assert (tmp_path / "_images" / "._a.png").read_bytes() == APPLE
