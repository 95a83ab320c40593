"""A folder of anybody's images: what is read and how, what is passed over, and one line for every fault."""

import io
import json
import os
import re
import socket
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddim_core import UNetConfig, cli, data, run
from ddim_core.data import fingerprint, folder, is_folder, load_dataset
from ddim_core.data.folder import find_images, open_image, shown
from ddim_core.errors import DataError, UsageError
from ddim_core.recipes import RECIPES, TrainConfig, fit_images
from ddim_core.run import CHECKPOINT
from ddim_core.train import Trainer
from ddim_core.weights import describe, load_weights

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def plain(color=RED, size=(8, 8), mode="RGB") -> Image.Image:
    return Image.new(mode, size, color)


def save(path: Path, image: Image.Image | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or plain()).save(path, **options)
    return path


def read(place, resolution=4, **options) -> np.ndarray:
    """The only image of a folder, [R, R, C]."""
    images = load_dataset(Path(place), resolution=resolution, **options).images
    assert len(images) == 1
    return images[0].permute(1, 2, 0).numpy()


def colors(images) -> list[tuple[int, ...]]:
    """The pixel in the middle of each."""
    return [tuple(x[:, x.shape[1] // 2, x.shape[2] // 2].tolist()) for x in images]


@pytest.fixture
def pets(tmp_path) -> Path:
    """Two classes, and what may lie about: order by path, not by time."""
    root = tmp_path / "pets"
    save(root / "dog" / "old" / "1.webp", plain(BLUE), lossless=True)
    save(root / "dog" / "b.PNG", plain(GREEN))
    save(root / "cat" / "z.jpeg", plain(WHITE))
    save(root / "cat" / "a.jpg", plain((0, 0, 0)))
    for name in ("Thumbs.db", ".DS_Store", "dog/desktop.ini", "cat/._a.jpg"):
        (root / name).write_bytes(b"\0\5\26\7")
    for name in ("notes.txt", "cat/film.mp4"):
        (root / name).touch()
    save(root / ".git" / "x.png")
    (root / "birds").mkdir()
    return root


# --- which images, in which order ------------------------------------------------------------------------------


def test_subfolders_are_classes(pets):
    own = load_dataset(str(pets), resolution=4)
    assert own.images.shape == (4, 3, 4, 4)
    assert own.images.dtype == torch.uint8
    assert (own.labels.dtype, own.labels.tolist()) == (torch.int64, [0, 0, 1, 1])
    assert own.classes == ("cat", "dog")
    assert colors(own.images) == [(0, 0, 0), WHITE, GREEN, BLUE], "cat/a, cat/z, dog/b, dog/old/1"
    assert (own.name, own.split) == (str(pets), "train")
    assert own.notes == ("passed over: 5 hidden files, 2 other files (.mp4, .txt), 1 folder without images",)


def test_a_flat_folder(tmp_path):
    for name, color in (("b", RED), ("a", BLUE), ("B", GREEN)):
        save(tmp_path / f"{name}.png", plain(color))
    own = load_dataset(tmp_path, resolution=4)
    assert colors(own.images) == [GREEN, BLUE, RED], "B, a, b: as their signs are numbered"
    assert (own.labels.tolist(), own.classes, own.notes) == ([0, 0, 0], (".",), ())


def test_images_beside_subfolders_are_a_class(tmp_path):
    save(tmp_path / "m.png", plain(RED))
    save(tmp_path / "a" / "z.png", plain(BLUE))
    save(tmp_path / "x" / "a.png", plain(GREEN))
    own = load_dataset(tmp_path, resolution=4)
    assert colors(own.images) == [BLUE, RED, GREEN]
    assert [own.classes[i] for i in own.labels] == ["a", ".", "x"]


def test_the_order_is_the_same_on_every_system(tmp_path):
    """A folder sorts before what only begins like it, and an accent may be written in one sign or two."""
    for i, parts in enumerate(["a/z.png", "a-b/a.png", "\u00e9a.png", "e\u0301b.png", "\u00e9c.png"]):
        save(tmp_path / parts, plain((i, i, i)))
    own = load_dataset(tmp_path, resolution=2)
    assert [c[0] for c in colors(own.images)] == [0, 1, 2, 3, 4]
    assert fingerprint(own.images) == fingerprint(load_dataset(tmp_path, resolution=2).images)


def test_a_limit_takes_the_first_and_reads_no_further(pets):
    (pets / "dog" / "b.PNG").write_bytes(b"broken")
    some = load_dataset(pets, resolution=4, limit=2)
    assert colors(some.images) == [(0, 0, 0), WHITE]
    assert some.classes == ("cat", "dog")
    with pytest.raises(DataError, match=r"b\.PNG is not a PNG"):
        load_dataset(pets, resolution=4, limit=3)


def test_links_are_followed_once(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    save(root / "a" / "1.png", plain(RED))
    save(elsewhere / "2.png", plain(BLUE))
    (elsewhere / "again").symlink_to(elsewhere)
    (elsewhere / "home").symlink_to(root)
    (root / "b").symlink_to(elsewhere)
    (root / "c").symlink_to(elsewhere)
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "up").symlink_to("..")
    (root / "a" / "far-up").symlink_to(tmp_path)
    (root / "a" / "3.png").symlink_to(elsewhere / "2.png")
    (root / "0").symlink_to(root / "a")
    own = load_dataset(root, resolution=4)
    assert colors(own.images) == [RED, BLUE, BLUE], "a/1, a/3, and b/2 once"
    assert own.classes == ("a", "b")
    assert own.notes == ("passed over: 7 links to folders already read",)


def test_a_linked_folder_is_a_folder(pets, tmp_path):
    (tmp_path / "link").symlink_to(pets)
    assert len(load_dataset(tmp_path / "link", resolution=4)) == 4


# --- how each is read --------------------------------------------------------------------------------------------


def test_the_middle_is_cut_out_and_nothing_distorted(tmp_path):
    wide = plain(WHITE, (30, 10))
    wide.paste(RED, (10, 0, 20, 10))
    assert (read(save(tmp_path / "wide" / "a.png", wide).parent, 10) == RED).all()
    tall = wide.transpose(Image.Transpose.ROTATE_90)
    assert (read(save(tmp_path / "tall" / "a.png", tall).parent, 40)[12:-12] == RED).all(), "and enlarged"


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (4, 4), (3, 7), (997, 13)], ids=str)
@pytest.mark.parametrize("resolution", [1, 4, 33])
def test_any_size_becomes_any_other(tmp_path, size, resolution):
    pixels = read(save(tmp_path / "a.png", plain(GREEN, size)).parent, resolution)
    assert pixels.shape == (resolution, resolution, 3)
    assert (pixels == GREEN).all()


def test_an_image_of_the_resolution_is_not_touched(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    np.testing.assert_array_equal(read(save(tmp_path / "a.png", Image.fromarray(pixels)).parent, 9), pixels)


def test_a_large_jpeg_is_made_small_as_pillow_does(tmp_path):
    ramp = np.linspace(0, 255, 512).astype(np.uint8)
    image = Image.fromarray(
        np.stack([np.tile(ramp, (512, 1)), np.tile(ramp[:, None], (1, 512)), 0 * ramp + ramp[:, None]], 2)
    )
    path = save(tmp_path / "a.jpg", image, quality=95)
    with Image.open(path) as whole:
        expected = np.asarray(whole.resize((16, 16), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(read(tmp_path, 16) - expected).max() <= 4


def test_what_is_enlarged_is_said(tmp_path):
    for i, size in enumerate([(7, 30), (8, 8), (2, 2)]):
        save(tmp_path / f"{i}.png", plain(size=size))
    assert load_dataset(tmp_path, resolution=8).notes == ("enlarged: 2 of 3 images, smaller than 8x8",)
    assert load_dataset(tmp_path, resolution=2).notes == ()


def test_grey_and_colour(tmp_path):
    save(tmp_path / "a.png", plain(100, mode="L"))
    assert (read(tmp_path) == (100, 100, 100)).all(), "colour unless grey is asked for"
    assert (read(tmp_path, grey=True) == (100,)).all()
    save(tmp_path / "a.png", plain((255, 0, 0)))
    assert (read(tmp_path, grey=True) == (76,)).all(), "ITU-R 601: 0.299 red"


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_camera_s_orientation(tmp_path, turn):
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :8], upright[:8, 8:], upright[8:, :8] = RED, GREEN, BLUE
    back = {5: 5, 6: 8, 7: 7, 8: 6}.get(turn, turn)  # two quarter turns undo each other, all else itself
    stored = Image.fromarray(upright)
    if back in folder._TURNS:
        stored = stored.transpose(folder._TURNS[back])
    exif = Image.Exif()
    exif[0x0112] = turn
    for name in ("a.png", "a.jpg", "a.webp"):
        place = save(tmp_path / name / "x" / name, stored, exif=exif, quality=100).parent
        assert np.abs(read(place, 16).astype(int) - upright)[2:6, 2:6].max() < 9
        assert np.abs(read(place, 16).astype(int) - upright)[2:6, 10:14].max() < 9
        assert np.abs(read(place, 16).astype(int) - upright)[10:14, 2:6].max() < 9


def test_a_damaged_orientation_is_none(tmp_path):
    save(tmp_path / "a.jpg", plain(GREEN), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + 30 * b"\xff")
    assert np.abs(read(tmp_path) - np.array(GREEN)).max() < 3


def test_the_transparent_is_white(tmp_path):
    half = Image.new("RGBA", (8, 8), (0, 0, 255, 0))
    half.paste((255, 0, 0, 255), (0, 0, 8, 4))
    for name, options in (("a.png", {}), ("a.webp", {"lossless": True, "exact": True})):
        pixels = read(save(tmp_path / name / name, half, **options).parent, 8)
        assert (pixels[:4] == RED).all()
        assert (pixels[4:] == WHITE).all()
    quarter = plain((0, 0, 0, 51), mode="RGBA")
    assert (read(save(tmp_path / "quarter" / "a.png", quarter).parent) == 204).all()
    grey = plain((0, 51), mode="LA")
    assert (read(save(tmp_path / "grey" / "a.png", grey).parent, grey=True) == 204).all()


def test_palettes(tmp_path):
    image = plain(0, mode="P")
    image.putpalette([*RED, *BLUE])
    image.paste(1, (0, 0, 8, 4))
    pixels = read(save(tmp_path / "opaque" / "a.png", image).parent, 8)
    assert (pixels[:4] == BLUE).all()
    assert (pixels[4:] == RED).all()
    pixels = read(save(tmp_path / "one" / "a.png", image, transparency=0).parent, 8)
    assert (pixels[:4] == BLUE).all()
    assert (pixels[4:] == WHITE).all()
    pixels = read(save(tmp_path / "each" / "a.png", image, transparency=bytes([255, 51])).parent, 8)
    assert (pixels[:4] == (204, 204, 255)).all()
    assert (pixels[4:] == RED).all()


@pytest.mark.parametrize(("mode", "value"), [("1", 0), ("L", 7), ("RGB", (1, 2, 3))], ids=str)
def test_one_transparent_colour(tmp_path, mode, value):
    save(tmp_path / "a.png", plain(value, mode=mode), transparency=value)
    assert (read(tmp_path) == 255).all()


def test_sixteen_bits_are_scaled(tmp_path):
    values = np.array([[0, 128, 129, 257], [32767, 32768, 65407, 65535]], np.uint16).repeat(2, 0)
    save(tmp_path / "a.png", Image.fromarray(values))
    assert read(tmp_path, grey=True)[::2, :, 0].tolist() == [[0, 0, 1, 1], [127, 128, 255, 255]]
    save(tmp_path / "a.png", Image.fromarray(values), transparency=32768)
    assert read(tmp_path, grey=True)[::2, :, 0].tolist() == [[0, 0, 1, 1], [127, 255, 255, 255]]


def test_cmyk(tmp_path):
    save(tmp_path / "a.jpg", plain((0, 255, 255, 0), mode="CMYK"), quality=100)
    assert np.abs(read(tmp_path).astype(int) - RED).max() < 6


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_of_what_moves_the_first_frame(tmp_path, name):
    save(tmp_path / name, plain(RED), save_all=True, append_images=[plain(BLUE), plain(GREEN)], lossless=True)
    assert (read(tmp_path) == RED).all()


def test_a_wrong_ending_does_no_harm(tmp_path):
    content = io.BytesIO()
    plain(GREEN).save(content, "png")
    (tmp_path / "a.jpg").write_bytes(content.getvalue())
    assert (read(tmp_path) == GREEN).all()


# --- faults ------------------------------------------------------------------------------------------------------


def png(width=8, height=8, pixels=None) -> bytes:
    """A PNG by hand, which may claim another size than it has."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compress((b"\0" + 8 * b"\x99") * 8 if pixels is None else pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def content(kind: str, size=(64, 64)) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(os.path.relpath(path))


FAULTS = {
    "empty file": (lambda p: p.touch(), "is not a PNG, JPEG or WebP image: remove it"),
    "text": (lambda p: p.write_text("not an image", encoding="utf-8"), "is not a PNG, JPEG or WebP image: remove it"),
    "gif": (lambda p: p.write_bytes(content("gif")), "is not a PNG, JPEG or WebP image: remove it"),
    "folder": (lambda p: p.mkdir(), "is a folder, not an image: remove or rename it"),
    "pipe": (os.mkfifo, "is a pipe or a device, not an image: remove or rename it"),
    "socket": (a_socket, "is a pipe or a device, not an image: remove or rename it"),
    "device": (lambda p: p.symlink_to("/dev/zero"), "is a pipe or a device, not an image: remove or rename it"),
    "dangling link": (lambda p: p.symlink_to("nowhere"), "is a broken link: remove or rename it"),
    "link to itself": (lambda p: p.symlink_to(p), "cannot be read (Too many levels of symbolic links): remove or"),
    "no IDAT": (lambda p: p.write_bytes(png()[:45]), "cannot be read as an image ("),
    "cut png": (lambda p: p.write_bytes(content("png")[:5000]), "cannot be read as an image ("),
    "cut jpeg": (lambda p: p.write_bytes(content("jpeg")[:2000]), "cannot be read as an image (image file is trunc"),
    "cut webp": (lambda p: p.write_bytes(content("webp")[:1000]), ": remove it"),
    "bomb": (lambda p: p.write_bytes(png(60_000, 60_000)), "cannot be read as an image (Image size (3600000000 pixels) exc"),
    "no pixels": (lambda p: p.write_bytes(png(0, 8)), ": remove it"),
}  # fmt: skip


@pytest.mark.parametrize("command", ["data", "train"])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_image_that_is_none_is_one_line_that_names_it(tiny, tmp_path, capsys, fault, command):
    root = tmp_path / "own"
    save(root / "a" / "1.png")
    make, message = FAULTS[fault]
    make(root / "a" / "2.png")
    argv = ["data", "own"] if command == "data" else [*TRAIN, "--dataset", "own", "--out", "run"]
    assert ddim(*argv) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ddim: own/a/2.png ")
    assert err.count("\n") == 1, err
    assert message in err
    assert not Path("run").exists()


def test_between_large_and_a_bomb_nothing_is_said(tmp_path, monkeypatch):
    """Pillow warns of images above half of what it refuses; a camera may take such."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    save(tmp_path / "a.png", plain(GREEN))  # 64 pixels
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert (read(tmp_path) == GREEN).all()
    assert said == []
    save(tmp_path / "a.png", plain(GREEN, (11, 11)))
    with pytest.raises(DataError, match="decompression bomb"):
        read(tmp_path)


def test_damage_anywhere_is_an_error_of_ours_or_none(tmp_path):
    path, refused, n = tmp_path / "a.png", 0, 0
    for kind in ("png", "jpeg", "webp"):
        whole = content(kind, (12, 12))
        for i in range(0, len(whole), max(1, len(whole) // 60)):
            changed = bytearray(whole)
            changed[i] ^= 255
            for damaged in (whole[:i], bytes(changed)):
                path.write_bytes(damaged)
                n += 1
                try:
                    assert read(tmp_path).shape == (4, 4, 3)
                except DataError as error:
                    refused += str(error).startswith(f"{path} ") and "\n" not in str(error)
    assert refused > n / 4


def test_a_file_without_access(tmp_path, monkeypatch):
    def closed(*args):
        raise PermissionError(13, "Permission denied")

    path = save(tmp_path / "a.png")
    monkeypatch.setattr("builtins.open", closed)
    with pytest.raises(DataError, match=r"a\.png cannot be read \(Permission denied\): remove or rename it"):
        open_image(path)
    monkeypatch.undo()
    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\): change its permissions or move it"):
        find_images(tmp_path)
    monkeypatch.undo()
    path.unlink()
    with pytest.raises(DataError, match="is no longer there"):
        open_image(path)


def test_a_folder_without_images(tmp_path):
    with pytest.raises(DataError, match=rf"^{tmp_path} holds no images: put PNG, JPEG or WebP files there$"):
        load_dataset(tmp_path, resolution=4)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.gif").touch()
    (tmp_path / ".hidden.png").touch()
    with pytest.raises(
        DataError, match=r"holds no images \(passed over: 1 hidden file, 1 other file \(\.gif\), 1 folder"
    ):
        load_dataset(tmp_path, resolution=4)


def test_more_than_the_machine_holds(tmp_path, monkeypatch):
    for i in range(3):
        save(tmp_path / f"{i}.png")
    monkeypatch.setattr(folder, "_memory", lambda: 2 * 3 * 3 * 16)
    load_dataset(tmp_path, resolution=4)
    for options in ({"resolution": 5}, {"resolution": 10**30}):
        with pytest.raises(
            DataError, match=r"3 images of \d+x\d+ take .* GiB.*: take fewer with --limit, or a smaller"
        ) as e:
            load_dataset(tmp_path, **options)
        assert str(tmp_path) in str(e.value)
    load_dataset(tmp_path, resolution=5, limit=1)
    load_dataset(tmp_path, resolution=5, grey=True)
    monkeypatch.setattr(folder, "_memory", lambda: None)
    load_dataset(tmp_path, resolution=9)


def test_this_machine_s_memory(monkeypatch):
    assert folder._memory() is None or 2**28 < folder._memory() < 2**50
    monkeypatch.delattr(os, "sysconf")
    assert folder._memory() is None


def test_names_that_cannot_be_printed(tiny, tmp_path, capsys):
    root = tmp_path / "own"
    place = root / os.fsdecode(b"caf\xe9\nbar")
    save(place / "1.png")
    assert ddim("data", "own") == 0
    assert "1 classes: caf\\udce9\\nbar 1\n" in capsys.readouterr().out
    assert ddim(*TRAIN, "--dataset", str(place.relative_to(tmp_path)), "--out", "run") == 0
    (place / "2.png").touch()
    capsys.readouterr()
    assert ddim("data", "own") == 3
    assert capsys.readouterr().err.startswith("ddim: own/caf\\udce9\\nbar/2.png is not a PNG")
    assert shown("ok ö 龍") == "ok ö 龍"


# --- names and options -------------------------------------------------------------------------------------------


def test_a_known_name_wins_over_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in data.DATASETS:
        save(tmp_path / name / "a.png")
        assert not is_folder(name)
        for path in (f"./{name}", f"{name}/", str(tmp_path / name), Path(name)):
            assert is_folder(path)
    assert load_dataset("mnist-10k", limit=1).images.shape == (1, 1, 28, 28)
    assert load_dataset("./mnist-10k", resolution=4).images.shape == (1, 3, 4, 4)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert is_folder("~/mnist")
    assert len(load_dataset("~/mnist", resolution=4)) == 1


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (
            UsageError,
            "unknown data set 'cats': choose one of mnist, .*, kuzushiji, or name a folder of",
            {"name": "cats"},
        ),
        (DataError, r"\./cats is not there: name a folder of images", {"name": "./cats"}),
        (DataError, "cats is not there: name a folder of images", {"name": Path("cats")}),
        (DataError, r"a\.png is not a folder: name the folder that holds", {"name": "a.png"}),
        (UsageError, "'own' has no split 'test'", {"name": "own", "split": "test"}),
        (UsageError, "limit must be at least 1, got 0", {"name": "own", "limit": 0, "resolution": 4}),
        (UsageError, "the images of own need a resolution", {"name": "own"}),
        (UsageError, "resolution must be an integer of at least 1, got 0", {"name": "own", "resolution": 0}),
        (UsageError, "resolution must be an integer of at least 1, got 2.5", {"name": "own", "resolution": 2.5}),
        (UsageError, "--data is for a data set known by name, not for the folder own", {"name": "own", "root": "x"}),
        (UsageError, "--resolution and --grey are for a folder of images, not", {"name": "mnist-10k", "grey": True}),
        (UsageError, "--resolution and --grey are for a folder", {"name": "mnist-10k", "resolution": 28}),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for(tmp_path, monkeypatch, error, message, options):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "own" / "a.png")
    save(tmp_path / "a.png")
    with pytest.raises(error, match=message):
        load_dataset(**options)


# --- the network of the images ---------------------------------------------------------------------------------


def test_a_recipe_is_fitted_to_images():
    kanji = RECIPES["kanji"]
    fitted = fit_images(kanji, 3, 32)
    unet = fitted.unet
    assert (unet.resolution, unet.in_channels, unet.out_channels) == (32, 3, 3)
    assert kanji.unet.attn_resolutions == (16,)
    assert unet.attn_resolutions == (8,), "the third level, as in the recipe"
    assert fit_images(fitted, 1, 64) == kanji
    assert fit_images(RECIPES["mnist"], 1, 28) == RECIPES["mnist"]
    assert fit_images(RECIPES["mnist"], 3, 33).unet.attn_resolutions == (16,)


@pytest.mark.parametrize(
    ("name", "resolution", "remedy"),
    [
        ("kanji", 15, "a larger --resolution, or a recipe with fewer levels (mnist, mnist-large)"),
        ("kanji", 4, "a larger --resolution, or a recipe with fewer levels (mnist, mnist-large)"),
        ("kanji", 3, "a larger --resolution"),
        ("mnist", 3, "a larger --resolution"),
    ],
)
def test_images_too_small_for_a_recipe_s_levels(name, resolution, remedy):
    """Only recipes that would do are named: each of them then fits."""
    levels = {"kanji": 5, "mnist": 3}[name]
    message = f"{levels} levels are too many for resolution {resolution}: choose {remedy}"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        fit_images(RECIPES[name], 3, resolution)
    for other in re.findall(r"mnist-large|mnist|kanji", remedy):
        assert fit_images(RECIPES[other], 3, resolution).unet.resolution == resolution


def test_a_run_of_one_s_own_images_is_unnamed(tmp_path):
    config = TrainConfig(UNetConfig(8, ch=4, ch_mult=(1,), num_res_blocks=1, norm_groups=2), batch_size=2)
    trainer = Trainer(config, torch.zeros(2, 1, 8, 8, dtype=torch.uint8), device="cpu", amp="fp32")
    run.save(trainer, tmp_path / CHECKPOINT)
    assert ddim("export", tmp_path / CHECKPOINT, "--out", tmp_path / "w.safetensors") == 0
    provenance = describe(str(tmp_path / "w.safetensors"))["provenance"]
    assert provenance["training"]["dataset"] == "unnamed"
    assert "mnist" not in json.dumps(provenance)
    assert {name: config.dataset for name, config in RECIPES.items()} == {
        "mnist": "mnist",
        "mnist-large": "mnist",
        "kanji": "brush-kanji",
    }


# --- the command -------------------------------------------------------------------------------------------------

TRAIN = ["train", "tiny", "--resolution", "8", "--epochs", "1", "--amp", "fp32", "--quiet"]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unet = UNetConfig(28, ch=4, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(14,), norm_groups=2)
    monkeypatch.setitem(RECIPES, "tiny", TrainConfig(unet, dataset="mnist", batch_size=8, warmup=2))


def ddim(*argv):
    """The exit code, also where argparse ends the program."""
    try:
        return cli.main([str(a) for a in argv])
    except SystemExit as end:
        return end.code


def test_a_folder_spelt_in_another_way_is_the_same_run(tiny, pets):
    """Its images decide, and the run keeps the name that it began with."""
    argv = ["train", "tiny", "--resolution", "12", "--amp", "fp32", "--quiet", "--out", "run", "--dataset"]
    assert ddim(*argv, "pets", "--epochs", "1") == 0
    assert ddim(*argv, str(Path("pets").absolute()), "--epochs", "2", "--resume") == 0
    config = json.loads(Path("run/config.json").read_text(encoding="utf-8"))["config"]
    assert (config["dataset"], config["epochs"]) == ("pets", 2)


def test_train_go_on_export_and_sample(tiny, pets, tmp_path, capsys):
    argv = ["train", "tiny", "--dataset", "pets", "--resolution", "12", "--amp", "fp32", "--quiet", "--out", "run"]
    assert ddim(*argv, "--epochs", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "pets: passed over: 5 hidden files, 2 other files (.mp4, .txt), 1 folder without images",
        "pets: enlarged: 4 of 4 images, smaller than 12x12",
    ]
    assert lines[2].startswith("epoch 1: loss ")
    assert ddim(*argv, "--epochs", "3", "--resume") == 0
    argv[3] = "pets/"  # as a shell completes it
    assert ddim(*argv, "--epochs", "4", "--resume") == 0
    assert ddim("export", f"run/{CHECKPOINT}", "--out", "w.safetensors") == 0
    assert "4 steps on 4 images" in capsys.readouterr().out
    assert ddim("sample", "--weights", "w.safetensors", "--n", "2", "--steps", "2", "--out", "x.png") == 0
    with Image.open("x.png") as drawn:
        assert (drawn.mode, drawn.size) == ("RGB", (2 * (2 * 14 + 2), 2 * 16))
    model, _ = load_weights("w.safetensors")
    unet = model.config
    assert (unet.resolution, unet.in_channels, unet.out_channels, unet.attn_resolutions) == (12, 3, 3, (6,))

    provenance = describe("w.safetensors")["provenance"]
    own = load_dataset("pets", resolution=12)
    assert provenance["training"]["dataset"] == "pets"
    assert provenance["images"] == 4
    assert provenance["data_sha256"] == fingerprint(own.images)
    assert [start["from_step"] for start in provenance["starts"]] == [0, 2, 3]
    for start in provenance["starts"]:
        assert start["data"] == {
            "dataset": "pets",
            "images": 4,
            "sha256": fingerprint(own.images),
            "resolution": 12,
            "colour": True,
            "classes": 2,
        }
    assert "mnist" not in json.dumps(provenance)

    save(pets / "dog" / "new.png")
    assert ddim(*argv, "--epochs", "5", "--resume") == 4
    assert "is of a run on other images: use its data or another --out" in capsys.readouterr().err


def test_grey_and_the_recipe_s_resolution(tiny, pets, capsys):
    assert ddim("train", "tiny", "--dataset", pets, "--grey", "--epochs", "1", "--limit", "3", "--quiet") == 0
    config = json.loads(Path("runs/tiny/config.json").read_text(encoding="utf-8"))
    assert config["images"] == 3
    assert config["config"]["dataset"] == str(pets)
    unet = config["config"]["unet"]
    assert (unet["resolution"], unet["in_channels"], unet["out_channels"]) == (28, 1, 1)
    start = json.loads(Path("runs/tiny/starts.jsonl").read_text(encoding="utf-8"))["data"]
    assert (start["colour"], start["classes"]) == (False, 2)


def test_the_network_takes_what_a_known_data_set_has(tiny, monkeypatch):
    """The recipe `tiny` is for 28x28."""
    from ddim_core.data import kanji

    path = Path("own/kkanji2/U+4E00/0123456789abcdef.png")
    save(path, plain(7, (kanji.SIZE, kanji.SIZE), "L"))
    assert ddim("train", "tiny", "--dataset", "kuzushiji", "--data", "own", "--epochs", "1", "--quiet") == 0
    unet = json.loads(Path("runs/tiny/config.json").read_text(encoding="utf-8"))["config"]["unet"]
    assert (unet["resolution"], unet["attn_resolutions"]) == (64, [32])


def test_data_says_what_a_folder_holds(pets, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(pets / "dog" / "c.png", plain(9, (20, 3), "L"))
    assert ddim("data", "pets") == 0
    assert capsys.readouterr().out.splitlines() == [
        "pets: 5 images of 20x3 to 8x8, 4 colour, 1 grey",
        "2 classes: cat 2, dog 3",
        "passed over: 5 hidden files, 2 other files (.mp4, .txt), 1 folder without images",
    ]
    assert ddim("data", "pets/cat") == 0
    assert capsys.readouterr().out.splitlines() == [
        "pets/cat: 2 images of 8x8, 2 colour, 0 grey",
        "no subfolders with images, so one class",
        "passed over: 1 hidden file, 1 other file (.mp4)",
    ]
    for i in range(25):
        save(tmp_path / "many" / f"{i:02}" / "a.png")
    assert ddim("data", "many") == 0
    assert "25 classes: 00 1, 01 1, " in (out := capsys.readouterr().out)
    assert out.endswith("19 1, ...\n")


@pytest.mark.parametrize(
    ("code", "message", "argv"),
    [
        (
            2,
            "unknown data set 'cats': choose one of mnist, mnist-10k, brush-kanji, kuzushiji, or name",
            ["data", "cats"],
        ),
        (2, "unknown data set 'cats': choose one of", [*TRAIN, "--dataset", "cats"]),
        (3, "./cats is not there: name a folder of images", ["data", "./cats"]),
        (3, "cats/x is not there: name a folder of images", [*TRAIN, "--dataset", "cats/x"]),
        (3, "a.png is not a folder: name the folder that holds the images", [*TRAIN, "--dataset", "a.png"]),
        (3, "empty holds no images", ["data", "empty"]),
        (3, "empty holds no images", [*TRAIN, "--dataset", "empty"]),
        (
            3,
            "take fewer with --limit, or a smaller --resolution",
            [*TRAIN, "--dataset", "own", "--resolution", "9999999"],
        ),
        (
            2,
            "--resolution must be at least 2 for the recipe tiny, got 0",
            [*TRAIN, "--dataset", "own", "--resolution", "0"],
        ),
        (
            2,
            "--resolution must be at least 2 for the recipe tiny, got 1",
            [*TRAIN, "--dataset", "own", "--resolution", "1"],
        ),
        (
            2,
            "--resolution must be at least 16 for the recipe kanji, got 8",
            ["train", "kanji", "--dataset", "own", "--resolution", "8"],
        ),
        (2, "limit must be at least 1, got 0", [*TRAIN, "--dataset", "own", "--limit", "0"]),
        (2, "--data is for a data set known by name", [*TRAIN, "--dataset", "own", "--data", "own"]),
        (2, "--data is for a data set known by name", ["data", "own", "--data", "own"]),
        (2, "--fonts is for brush-kanji only, not for 'own'", ["data", "own", "--fonts", "own"]),
        (
            2,
            "--resolution and --grey are for a folder of images, not for 'mnist-10k'",
            [*TRAIN, "--dataset", "mnist-10k"],
        ),
        (2, "--resolution and --grey are for a folder", ["train", "tiny", "--dataset", "mnist-10k", "--grey"]),
        (2, "the classifier is for digits: choose --dataset mnist or", ["train", "classifier", "--dataset", "own"]),
        (2, "the classifier is for digits: choose --dataset mnist or", ["train", "classifier", "--grey"]),
        (2, "unknown data set 'cats'", ["train", "classifier", "--dataset", "cats"]),
        (2, "argument --resolution: invalid int value: 'big'", [*TRAIN, "--dataset", "own", "--resolution", "big"]),
    ],
    ids=str,
)
def test_a_fault_is_one_line_and_a_code(tiny, tmp_path, capsys, code, message, argv):
    save(tmp_path / "own" / "a.png")
    save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert ddim(*argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ddim: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before
