"""Images of kanji, 64x64, white on black, in the folder layout of the Kuzushiji-Kanji archive.

    FOLDER/kkanji2/U+9F8D/3f0c9a51e07b2d84.png        one folder per character, sixteen hexadecimal digits per image

`render_brush` draws such a folder from brush fonts that are in the public domain; the archive of Kuzushiji-Kanji holds
one, see `kuzushiji`. `read_folder` reads both.
"""

import hashlib
import io
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError
from torch import Tensor

from ..cache import cannot_write
from ..errors import DataError, UnavailableError
from ..files import temporary_name
from .folder import is_hidden, open_image

__all__ = [
    "BRUSH_FONTS",
    "CODE",
    "FOLDER",
    "SIZE",
    "find_fonts",
    "new_folder",
    "read_folder",
    "read_png",
    "render_brush",
]

SIZE = 64  # pixels of a side
FOLDER = "kkanji2"  # that holds a folder for each character
CODE = r"U\+(?:[0-9A-F]{4,5}|10[0-9A-F]{4})"  # a code point, as folders are named
BRUSH_FONTS = {  # file -> package of Debian and Ubuntu; Kouzan and Soseki Aoyagi, public domain
    "kouzan-mouhitsu.ttf": "fonts-kouzan-mouhitsu",
    "kouzan-mouhitsu-gyosho.ttf": "fonts-kouzan-mouhitsu",
    "KouzanBrushFontSousyo.ttf": "fonts-kouzan-mouhitsu",
    "AoyagiKouzanT.ttf": "fonts-aoyagi-kouzan-t",
    "aoyagi-soseki.ttf": "fonts-aoyagi-soseki",
}
_FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
_KANJI = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))  # Unicode's ideographs
_FITS = 58  # pixels of the 64 that a character may fill
_DRAWN = 192  # pixels a glyph is drawn at before it is scaled down


def find_fonts(folder: str | Path | None = None) -> list[Path]:
    """The brush fonts, in the order of `BRUSH_FONTS`.

    Args:
        folder: where to look, subfolders included; by default, where Debian and Ubuntu put fonts, and in the home
            directory, whose fonts take precedence.

    Raises:
        UnavailableError: one or more are missing; the message says how to install them.
    """
    places = [Path(os.path.expanduser(p)) for p in (_FONT_FOLDERS if folder is None else (folder,))]
    there = {path.name: path for place in places for path in sorted(place.rglob("*.ttf"))}
    missing = [name for name in BRUSH_FONTS if name not in there]
    if missing:
        packages = sorted({BRUSH_FONTS[name] for name in missing})
        raise UnavailableError(
            f"brush fonts not found ({', '.join(missing)}) under {', '.join(map(str, places))}: install them with "
            f"`apt-get install {' '.join(packages)}` (Debian, Ubuntu), or name a folder that has them with --fonts"
        )
    return [there[name] for name in BRUSH_FONTS]


def render_brush(
    folder: str | Path, fonts: str | Path | None = None, *, report: Callable[[str, int, int], None] | None = None
) -> dict[str, int]:
    """Draw every kanji of the brush fonts once, and write them as `FOLDER/kkanji2/U+XXXX/<16 hex>.png`.

    Each is cropped, fitted into 58 x 58 pixels and centred. Glyphs that a font lists but leaves empty are left out,
    and so is an image that is there already, as when two code points share one glyph (old and new forms of a character,
    in the cursive font). The same fonts and the same Pillow give the same files.

    Args:
        folder: where `kkanji2` is made; it appears once all images are written.
        fonts: see `find_fonts`.
        report: called after each font with its file's name, the images kept and the kanji it lists.

    Returns:
        {"drawn", "listed", "empty", "duplicates", "characters"}: how many.

    Raises:
        UnavailableError: no fonts. DataError: a font cannot be read, or `FOLDER/kkanji2` exists. DiskError.
    """
    paths = find_fonts(fonts)
    count = dict.fromkeys(("drawn", "listed", "empty", "duplicates"), 0)
    seen: set[str] = set()
    characters: set[int] = set()
    with new_folder(Path(os.path.expanduser(folder)) / FOLDER) as target:
        for path in paths:
            kept = listed = 0
            for code, image in _glyphs(path):
                listed += 1
                if image is None:
                    count["empty"] += 1
                    continue
                name = hashlib.sha256(image.tobytes()).hexdigest()[:16]
                if name in seen:
                    count["duplicates"] += 1
                    continue
                seen.add(name)
                characters.add(code)
                kept += 1
                place = target / f"U+{code:04X}"
                place.mkdir(exist_ok=True)
                image.save(place / f"{name}.png")
            count["listed"] += listed
            count["drawn"] += kept
            if report:
                report(path.name, kept, listed)
    return count | {"characters": len(characters)}


def _glyphs(path: Path) -> Iterator[tuple[int, Image.Image | None]]:
    """(code point, image or None if its glyph is empty) for every kanji that the font lists, in order."""
    from fontTools.ttLib import TTFont

    try:
        with open(path, "rb") as file, TTFont(file, lazy=True) as font:
            codes = sorted(c for c in font.getBestCmap() or () if any(a <= c <= b for a, b in _KANJI))
        if not codes:
            raise ValueError("it lists no kanji")
        face = ImageFont.truetype(str(path), _DRAWN, layout_engine=ImageFont.Layout.BASIC)
        for code in codes:
            yield code, _image(chr(code), face)
    except Exception as error:  # fontTools and FreeType raise many kinds of error for a damaged or foreign file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read as a font ({reason}): install it again") from error


def _image(character: str, face: ImageFont.FreeTypeFont) -> Image.Image | None:
    canvas = Image.new("L", (2 * _DRAWN, 2 * _DRAWN))
    ImageDraw.Draw(canvas).text((_DRAWN // 2, _DRAWN // 2), character, fill=255, font=face)
    box = canvas.getbbox()
    if box is None:
        return None
    glyph = canvas.crop(box)
    scale = _FITS / max(glyph.size)
    size = tuple(max(1, round(side * scale)) for side in glyph.size)
    image = Image.new("L", (SIZE, SIZE))
    image.paste(glyph.resize(size, Image.Resampling.LANCZOS), tuple((SIZE - side) // 2 for side in size))
    return image


def read_folder(folder: str | Path, limit: int | None = None) -> tuple[Tensor, Tensor, list[str]]:
    """Read a folder of kanji: (uint8 `[N, 1, 64, 64]`, labels int64 `[N]`, the labels' characters).

    The order is that of code points, then of file names.

    Args:
        folder: one that holds `kkanji2`.
        limit: read the first `limit` images only; characters are listed all the same.

    Raises:
        DataError: no such folder, a character without images, or an image that is not a 64x64 grey PNG.
    """
    root = Path(os.path.expanduser(folder)) / FOLDER
    if not root.is_dir():
        raise DataError(
            f"{root} is not there: make it with `ddim data brush-kanji` or `ddim data kuzushiji`, "
            "or name the folder that holds it with --data"
        )
    classes = sorted(
        (name for name in os.listdir(root) if re.fullmatch(CODE, name)), key=lambda name: int(name[2:], 16)
    )
    files = []
    for label, name in enumerate(classes):
        place = root / name
        names = (
            sorted(p for p in os.listdir(place) if p.endswith(".png") and not is_hidden(p)) if place.is_dir() else []
        )
        if not names:
            raise DataError(f"{place} holds no images, so {root} is incomplete: remove it and get the data again")
        files += [(label, f"{place}/{p}") for p in names]
    if not files:
        raise DataError(f"{root} holds no images (U+XXXX/*.png): remove it and get the data again")
    files = files[:limit]
    images = np.empty((len(files), 1, SIZE, SIZE), np.uint8)
    for image, (_, path) in zip(images, files, strict=True):
        with open_image(path) as f:
            image[0] = read_png(f.read(), path)
    labels = torch.tensor([label for label, _ in files])
    return torch.from_numpy(images), labels, [chr(int(name[2:], 16)) for name in classes]


def read_png(content: bytes, name: str) -> np.ndarray:
    """The pixels of an image, uint8 `[64, 64]`. Raises DataError, which names it: not a 64x64 grey PNG, or damaged."""
    try:
        # Pillow warns about large images, which are refused below
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.mode == "L" and image.size == (SIZE, SIZE):
                return np.asarray(image)
            problem = f"{image.size[0]}x{image.size[1]} of mode {image.mode}, not {SIZE}x{SIZE} grey (L)"
    except UnidentifiedImageError:
        problem = "not a PNG"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        problem = f"not a readable PNG ({error})"
    raise DataError(f"{name} is {problem}: get the data again")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes its place only if all went well; anything half-written is removed.

    Raises:
        DataError: `path` exists already. DiskError: it cannot be written.
    """
    if path.exists():
        raise DataError(f"{path} exists already: use it, or remove it first")
    temporary = temporary_name(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, path)
    except BrokenPipeError:  # of what is said meanwhile
        raise
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
