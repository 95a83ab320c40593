"""Kanji: drawn from the real brush fonts, cut down to a few characters; the folder's reader and its faults."""

import hashlib
import io
import os
import resource
import shutil
import struct
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools import subset
from fontTools.ttLib import TTFont
from PIL import Image

from ddim_core import UNetConfig, cli
from ddim_core.data import kanji, load_dataset
from ddim_core.data.kanji import BRUSH_FONTS, FOLDER, find_fonts, new_folder, read_folder, read_png, render_brush
from ddim_core.errors import DataError, DiskError, UnavailableError
from ddim_core.recipes import RECIPES, TrainConfig

# 營 is the old form of 営, and looks the same in the cursive font; 鑭 is empty in most; 神 stands at U+FA19
KANJI = "一日龍営營鑭\ufa19"
OTHERS = "あA。"
CURSIVE = "KouzanBrushFontSousyo.ttf"


@pytest.fixture(scope="module")
def fonts(tmp_path_factory):
    """A folder with the five fonts, cut down to `KANJI` and `OTHERS`."""
    try:
        paths = find_fonts()
    except UnavailableError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("fonts")
    for path in paths:
        cut = subset.Subsetter(subset.Options(layout_features=[], drop_tables=["GSUB", "GPOS", "gasp", "vhea", "vmtx"]))
        cut.populate(text=KANJI + OTHERS)
        (folder / BRUSH_FONTS[path.name]).mkdir(exist_ok=True)
        with TTFont(path, lazy=True) as font:
            cut.subset(font)
            font.save(folder / BRUSH_FONTS[path.name] / path.name)
    return folder


@pytest.fixture(scope="module")
def drawn(fonts, tmp_path_factory):
    """A folder of brush kanji, and what `render_brush` said of it."""
    folder, reports = tmp_path_factory.mktemp("drawn"), []
    counts = render_brush(folder, fonts, report=lambda *r: reports.append(r))
    return folder, counts, reports


def copied(fonts, to):
    """The fonts in a flat folder of their own."""
    to.mkdir()
    for path in fonts.rglob("*.ttf"):
        (to / path.name).write_bytes(path.read_bytes())
    return to


def tree(folder):
    return {p.relative_to(folder): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def pixels(path):
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        return np.asarray(image)


def noise(seed, size=(64, 64)):
    return np.random.default_rng(seed).integers(0, 256, size[::-1], np.uint8)


def write(folder, name, array):
    path = folder / FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, "PNG")
    return path


# --- drawing -----------------------------------------------------------------------------------------------------


def test_layout_and_counts(drawn):
    folder, counts, reports = drawn
    assert os.listdir(folder) == [FOLDER]
    files = sorted((folder / FOLDER).rglob("*.png"))
    assert {p.parent.name for p in files} == {f"U+{ord(c):04X}" for c in KANJI}, "kanji, and nothing else"
    assert all(p.stem == hashlib.sha256(pixels(p).tobytes()).hexdigest()[:16] for p in files)
    assert counts["drawn"] == len(files)
    assert counts["listed"] == 5 * len(KANJI) == counts["drawn"] + counts["empty"] + counts["duplicates"]
    assert counts["characters"] == len(KANJI)
    assert counts["duplicates"] == 1, "營 in the cursive font"
    assert counts["empty"] > 0
    assert [name for name, *_ in reports] == list(BRUSH_FONTS)
    assert sum(kept for _, kept, _ in reports) == counts["drawn"]
    assert {listed for *_, listed in reports} == {len(KANJI)}
    everywhere = Counter(p.parent.name for p in files)
    assert everywhere["U+4E00"] == everywhere["U+65E5"] == everywhere["U+9F8D"] == 5, "each font has these"


def test_each_fits_into_58_pixels_and_stands_in_the_middle(drawn):
    for path in (drawn[0] / FOLDER).rglob("*.png"):
        image = pixels(path)
        assert image.shape == (64, 64)
        assert image.max() > 200
        rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
        sides = [ink[-1] - ink[0] + 1 for ink in (rows, columns)]
        assert 55 <= max(sides) <= 58
        for ink in (rows, columns):
            assert abs((ink[0] + ink[-1]) / 2 - 31.5) <= 1.5


def test_the_images_are_of_their_characters(drawn):
    for path in (drawn[0] / FOLDER / "U+4E00").iterdir():
        rows, columns = (np.flatnonzero((pixels(path) > 64).any(axis)).size for axis in (1, 0))
        assert columns > 2 * rows, "one stroke from left to right"
    ink = {
        name: np.mean([pixels(p).mean() for p in (drawn[0] / FOLDER / name).iterdir()]) for name in ("U+4E00", "U+9F8D")
    }
    assert ink["U+9F8D"] > 1.3 * ink["U+4E00"], "龍 has 16 strokes"


def test_the_same_fonts_give_the_same_bytes(drawn, fonts, tmp_path):
    assert render_brush(tmp_path, copied(fonts, tmp_path / "elsewhere")) == drawn[1]
    assert tree(tmp_path / FOLDER) == tree(drawn[0] / FOLDER)


def test_a_folder_that_is_there_stays_as_it_is(drawn, fonts):
    before = tree(drawn[0])
    with pytest.raises(DataError, match=rf"{FOLDER} exists already: use it, or remove it first"):
        render_brush(drawn[0], fonts)
    assert tree(drawn[0]) == before


def test_nothing_is_left_of_drawing_that_was_interrupted(fonts, tmp_path):
    def interrupt(name, kept, listed):
        assert list(tmp_path.rglob("*.png")), "it had begun"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_brush(tmp_path, fonts, report=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_where_the_disk_takes_no_more(fonts, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(DiskError, match=rf"cannot write {tmp_path}/{FOLDER} \(File too large\): free some space"):
            render_brush(tmp_path, fonts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(fonts, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"cannot write .*file/kkanji2 \(Not a directory\)"):
        render_brush(tmp_path / "file", fonts)


def test_another_process_may_have_been_faster(tmp_path):
    def both():
        with new_folder(tmp_path / "a") as a:
            (a / "mine").touch()
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "theirs").touch()

    with pytest.raises(DiskError, match=r"cannot write .*/a \(Directory not empty\)"):
        both()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "theirs"]


def test_what_a_killed_process_of_the_same_number_left_is_not_in_the_way(tmp_path):
    """And goes after an hour, when it can be no other's that is still at it."""
    left = tmp_path / f".a.{os.getpid()}.0123abcd.tmp"
    left.mkdir()
    (left / "old").touch()
    for age in (3500, 3700):
        os.utime(left, (time.time() - age,) * 2)
        with new_folder(tmp_path / "a") as a:
            (a / "new").touch()
        assert os.listdir(tmp_path / "a") == ["new"]
        assert left.exists() == (age < 3600)
        shutil.rmtree(tmp_path / "a")


def test_a_closed_pipe_is_no_fault_of_the_folder(tmp_path):
    """What is said while it is filled, nobody reads: the command ends by that."""
    with pytest.raises(BrokenPipeError), new_folder(tmp_path / "a"):
        raise BrokenPipeError
    assert os.listdir(tmp_path) == []


# --- fonts -------------------------------------------------------------------------------------------------------


def test_fonts_that_are_not_installed(fonts, tmp_path):
    folder = copied(fonts, tmp_path / "some")
    (folder / "aoyagi-soseki.ttf").unlink()
    with pytest.raises(UnavailableError) as e:
        find_fonts(folder)
    assert str(e.value) == (
        f"brush fonts not found (aoyagi-soseki.ttf) under {folder}: install them with "
        "`apt-get install fonts-aoyagi-soseki` (Debian, Ubuntu), or name a folder that has them with --fonts"
    )
    with pytest.raises(UnavailableError, match=r"fonts-aoyagi-kouzan-t fonts-aoyagi-soseki fonts-kouzan-mouhitsu"):
        find_fonts(tmp_path / "nowhere")


def test_fonts_of_the_home_directory_are_preferred(fonts, tmp_path, monkeypatch):
    system, home = copied(fonts, tmp_path / "system"), tmp_path / "home"
    home.mkdir()
    (home / CURSIVE).write_bytes((system / CURSIVE).read_bytes())
    monkeypatch.setattr(kanji, "_FONT_FOLDERS", (str(system), str(home)))
    assert [p.name for p in find_fonts()] == list(BRUSH_FONTS)
    assert {p.name for p in find_fonts() if p.parent == home} == {CURSIVE}


def without_cmap(font):
    del font["cmap"]


def of_symbols(font):
    for table in font["cmap"].tables:
        table.platformID, table.platEncID = 3, 0


def without_kanji(font):
    for table in font["cmap"].tables:
        table.cmap = {code: glyph for code, glyph in table.cmap.items() if code < 0x3400}


@pytest.mark.parametrize(
    "damage",
    [without_cmap, of_symbols, without_kanji, 0, 10, 0.2, 0.6, "text"],
    ids=lambda damage: getattr(damage, "__name__", str(damage)),
)
def test_a_font_that_cannot_be_used(fonts, tmp_path, damage):
    folder = copied(fonts, tmp_path / "fonts")
    path = folder / CURSIVE
    if damage == "text":
        path.write_text("no font\n" * 500, encoding="utf-8")
    elif callable(damage):
        with TTFont(io.BytesIO(path.read_bytes())) as font:
            damage(font)
            font.save(path)
    else:
        raw = path.read_bytes()
        path.write_bytes(raw[: damage if isinstance(damage, int) else int(damage * len(raw))])
    with pytest.raises(DataError, match=rf"{CURSIVE} cannot be read as a font \(.+\): install it again") as e:
        render_brush(tmp_path / "out", folder)
    assert "\n" not in str(e.value)
    assert tree(tmp_path / "out") == {}


# --- reading -----------------------------------------------------------------------------------------------------


def test_what_was_drawn_is_read(drawn):
    images, labels, characters = read_folder(drawn[0])
    assert images.shape == (drawn[1]["drawn"], 1, 64, 64)
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert "".join(characters) == "".join(sorted(KANJI))
    paths = sorted((drawn[0] / FOLDER).rglob("*.png"))
    for image, label, path in zip(images, labels, paths, strict=True):
        np.testing.assert_array_equal(image[0].numpy(), pixels(path))
        assert f"U+{ord(characters[label]):04X}" == path.parent.name


def test_the_order_is_that_of_code_points(tmp_path):
    names = ["U+34E4/b", "U+4E00/0", "U+4E00/a", "U+9F8D/9", "U+20B9F/3", "U+10FFFF/c"]
    for i, name in reversed(list(enumerate(names))):
        write(tmp_path, f"{name}.png", noise(i))
    (tmp_path / FOLDER / ".DS_Store").touch()
    (tmp_path / FOLDER / "U+4E00" / "notes.txt").touch()
    for other in ("U+110000", "U+FFFFFF", "4E01", "u+4e01", "U+4e01"):
        (tmp_path / FOLDER / other).mkdir()
    for where in (tmp_path, str(tmp_path)):
        images, labels, characters = read_folder(where)
        assert torch.equal(images, torch.from_numpy(np.stack([noise(i) for i in range(6)]))[:, None])
        assert labels.tolist() == [0, 1, 1, 2, 3, 4]
        assert characters == ["\u34e4", "一", "龍", "\U00020b9f", "\U0010ffff"]


def test_what_other_systems_leave_is_passed_over(tmp_path):
    write(tmp_path, "U+4E00/a.png", noise(0))
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / FOLDER / "U+4E00" / name).write_bytes(b"\0\5\26\7")
        (tmp_path / FOLDER / name).touch()
    images, labels, characters = read_folder(tmp_path)
    assert (len(images), labels.tolist(), characters) == (1, [0], ["一"])


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (os.mkfifo, "is a pipe or a device, not an image"),
        (os.mkdir, "is a folder, not an image"),
        (lambda path: os.symlink("nowhere", path), "is a broken link"),
    ],
    ids=["pipe", "folder", "link"],
)
def test_an_image_that_is_no_file(tmp_path, make, problem):
    write(tmp_path, "U+4E00/a.png", noise(0))
    make(tmp_path / FOLDER / "U+4E00" / "b.png")
    with pytest.raises(DataError, match=rf"U\+4E00/b\.png {problem}: remove or rename it"):
        read_folder(tmp_path)


def test_a_limit_reads_no_further(tmp_path):
    for i, name in enumerate(["U+4E00/0", "U+4E00/1", "U+4E8C/2"]):
        last = write(tmp_path, f"{name}.png", noise(i))
    whole = load_dataset("brush-kanji", tmp_path)
    last.write_bytes(b"damaged")
    some = load_dataset("brush-kanji", tmp_path, limit=2)
    assert torch.equal(some.images, whole.images[:2])
    assert some.labels.tolist() == [0, 0]
    assert some.classes == whole.classes == ("一", "二")
    with pytest.raises(DataError, match=r"U\+4E8C/2\.png is not a PNG"):
        load_dataset("brush-kanji", tmp_path, limit=3)


@pytest.mark.parametrize("name", ["brush-kanji", "kuzushiji"])
def test_one_loader_reads_both(drawn, name, tmp_path, monkeypatch):
    found = load_dataset(name, drawn[0])
    assert (found.name, found.split, len(found)) == (name, "train", drawn[1]["drawn"])
    assert found.classes == tuple(sorted(KANJI))
    monkeypatch.setenv("DDIM_CORE_CACHE", str(tmp_path))
    (tmp_path / name).symlink_to(drawn[0])
    assert torch.equal(load_dataset(name).images, found.images), "found where `ddim data` puts it"


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(width, height):
    """A PNG of which only the first part is there."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", b"x")
    )


def encoded(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


WHOLE = encoded(noise(1))
BROKEN = [
    (encoded(noise(1, (63, 64))), "63x64 of mode L, not 64x64 grey"),
    (encoded(np.zeros((64, 64, 3), np.uint8)), "64x64 of mode RGB, not 64x64 grey"),
    (encoded(np.zeros((64, 64), np.uint16)), "64x64 of mode I;16, not 64x64 grey"),
    (encoded(np.zeros((64, 64), bool)), "64x64 of mode 1, not 64x64 grey"),
    (WHOLE[: len(WHOLE) // 2], r"not a readable PNG \(.+\)"),
    (WHOLE[:40], "not a PNG"),
    (WHOLE[:20], r"not a readable PNG \(.+\)"),
    (header(64, 64), r"not a readable PNG \(.+\)"),
    (header(100_000, 100_000), r"not a readable PNG \(.*decompression bomb"),
    (b"", "not a PNG"),
    (b"<html>not found</html>", "not a PNG"),
    (b"GIF89a" + bytes(100), "not a PNG"),
]


@pytest.mark.parametrize(("content", "problem"), BROKEN, ids=[p for _, p in BROKEN])
def test_an_image_that_is_none(tmp_path, content, problem):
    write(tmp_path, "U+4E00/a.png", noise(0))
    bad = tmp_path / FOLDER / "U+4E00" / "b.png"
    bad.write_bytes(content)
    with pytest.raises(DataError, match=f"is {problem}.*: get the data again") as e:
        read_folder(tmp_path)
    assert str(e.value).startswith(f"{bad} is ")
    assert "\n" not in str(e.value)


def test_of_a_large_image_nothing_else_is_said(tmp_path, monkeypatch):
    """Pillow warns of images above half of what it refuses; pytest would make an error of that."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 65 * 64 - 1)
    with pytest.raises(DataError, match="65x64 of mode L, not 64x64 grey"):
        read_png(encoded(noise(1, (65, 64))), "x")


def test_damage_anywhere_in_an_image_is_an_error_of_ours_or_none():
    np.testing.assert_array_equal(read_png(WHOLE, "x"), noise(1))
    refused = 0
    for i in range(0, len(WHOLE), 7):
        changed = bytearray(WHOLE)
        changed[i] ^= 255
        for content in (WHOLE[:i], bytes(changed)):
            try:
                assert read_png(content, "x").shape == (64, 64)
            except DataError:
                refused += 1
    assert refused > len(WHOLE) / 7


def test_a_folder_that_is_not_there_or_not_whole(tmp_path):
    with pytest.raises(DataError, match=rf"nowhere/{FOLDER} is not there: make it with `ddim data brush-kanji` or"):
        read_folder(tmp_path / "nowhere")
    (tmp_path / FOLDER).mkdir()
    with pytest.raises(DataError, match=rf"{FOLDER} holds no images"):
        read_folder(tmp_path)
    write(tmp_path, "U+4E00/a.png", noise(0))
    (tmp_path / FOLDER / "U+4E8C").mkdir()
    with pytest.raises(DataError, match=rf"U\+4E8C holds no images, so {tmp_path}/{FOLDER} is incomplete"):
        read_folder(tmp_path)
    (tmp_path / FOLDER / "U+4E8C").rmdir()
    (tmp_path / FOLDER / "U+4E8C").touch()
    with pytest.raises(DataError, match=r"U\+4E8C holds no images"):
        read_folder(tmp_path)


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_CORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    unet = UNetConfig(64, ch=4, ch_mult=(1, 1), num_res_blocks=1, norm_groups=2, patch=4)
    monkeypatch.setitem(RECIPES, "tiny-kanji", TrainConfig(unet, dataset="brush-kanji", batch_size=8, warmup=2))
    return tmp_path / "cache"


TRAIN = ["train", "tiny-kanji", "--epochs", "1", "--amp", "fp32", "--quiet"]


def ddim(*argv):
    return cli.main([str(a) for a in argv])


def test_draw_then_train(cache, fonts, drawn, capsys):
    assert ddim("data", "brush-kanji", "--fonts", fonts) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:5] == [f"{name}: {kept} of {listed} kanji" for name, kept, listed in drawn[2]]
    assert out[5] == f"left out: {drawn[1]['empty']} empty glyphs, 1 duplicates"
    known = [
        f"brush-kanji train: {drawn[1]['drawn']} images of (1, 64, 64), {len(KANJI)} classes",
        f"in {cache}/brush-kanji/{FOLDER}",
        "Brush fonts by Kouzan and Soseki Aoyagi; public domain",
    ]
    assert out[6:] == known
    assert ddim("data", "brush-kanji") == 0, "there already: no fonts needed"
    assert capsys.readouterr().out.splitlines() == known
    assert ddim(*TRAIN, "--out", "run", "--limit", 16) == 0
    assert {"last.safetensors", "samples_epoch_001.png"} <= set(os.listdir("run"))


@pytest.mark.parametrize(
    ("code", "message", "argv"),
    [
        (2, "--archive is for kuzushiji only, not for 'brush-kanji'", ["data", "brush-kanji", "--archive", "a.tar"]),
        (2, "--count is for kuzushiji only, not for 'mnist'", ["data", "mnist", "--count", "3"]),
        (2, "--fonts is for brush-kanji only, not for 'kuzushiji'", ["data", "kuzushiji", "--fonts", "x"]),
        (3, "cache/brush-kanji/kkanji2 is not there: make it with `ddim data brush-kanji`", [*TRAIN, "--out", "run"]),
        (3, "nowhere/kkanji2 is not there", [*TRAIN, "--out", "run", "--data", "nowhere"]),
        (3, "cache/kuzushiji/kkanji2 is not there", [*TRAIN, "--out", "run", "--dataset", "kuzushiji"]),
        (7, "brush fonts not found", ["data", "brush-kanji", "--fonts", "nowhere"]),
    ],
    ids=str,
)
def test_a_fault_is_one_line_and_a_code(cache, tmp_path, capsys, code, message, argv):
    assert ddim(*argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ddim: ")
    assert err.count("\n") == 1
    assert message in err
    assert tree(tmp_path) == {}
