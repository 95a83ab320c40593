"""Data sets fetched, made or checked, and described: what `ddim data` does."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from .. import data
from ..cache import cache
from ..errors import DataError, UsageError
from ..files import sha256_file
from . import kanji, kuzushiji
from .folder import class_of, find_images, shown, survey

__all__ = ["prepare"]

_CLASSES_NAMED = 20  # of a folder's; beyond that, only how many there are


def prepare(
    name: str,
    folder: str | Path | None = None,
    *,
    fonts: str | Path | None = None,
    archive: str | Path | None = None,
    count: int | None = None,
    say: Callable[[str], object] = print,
) -> None:
    """Fetch, make or check a data set, and describe it; for a folder of images, what it contains.

    Args:
        name: of a data set, or a folder, see `load_dataset`.
        folder: where the data set is, or where it goes; by default, a cache in the home directory.
        fonts: where brush-kanji finds its fonts. archive: kkanji.tar, if it is already on this machine.
        count: images in an archive other than the real Kuzushiji-Kanji.
        say: called with each line.

    Raises:
        UsageError: an option for another data set. Otherwise as `load_dataset`, `kanji.render_brush` and
            `kuzushiji.unpack`.
    """
    for option, value, of in (
        ("fonts", fonts, "brush-kanji"),
        ("archive", archive, "kuzushiji"),
        ("count", count, "kuzushiji"),
    ):
        if value is not None and name != of:
            raise UsageError(f"--{option} is for {of} only, not for {name!r}")
    if data.is_folder(name):
        if folder is not None:
            raise UsageError(f"--data is for a data set known by name, not for the folder {shown(name)}: leave it out")
        return _describe(name, say)
    count = kuzushiji.COUNT if count is None else count
    if name in ("brush-kanji", "kuzushiji"):
        folder = cache() / name if folder is None else Path(folder).expanduser()
        there = (folder / kanji.FOLDER).exists()
        if name == "brush-kanji" and not there:
            _draw(folder, fonts, say)
        if name == "kuzushiji" and (archive is not None or not there):
            _unpack(folder, archive, count, say)
    notes = []
    for split in ("train", "test") if name == "mnist" else ("train",):
        found = data.load_dataset(name, folder, split=split)
        notes += found.notes
        if name == "kuzushiji":
            kuzushiji.check_count(folder / kanji.FOLDER, len(found), len(found.classes), count)
        say(f"{name} {split}: {len(found)} images of {tuple(found.images.shape[1:])}, {len(found.classes)} classes")
    if name in ("brush-kanji", "kuzushiji"):
        say(f"in {folder / kanji.FOLDER}")
    for note in notes or [data.ATTRIBUTION[name]]:
        say(note)


def _describe(name: str, say: Callable[[str], object]) -> None:
    found = find_images(name)
    sizes, grey = survey(found)
    n = len(sizes)
    low, high = ("{}x{}".format(*f(sizes, key=lambda size: size[0] * size[1])) for f in (min, max))
    size = low if low == high else f"{low} to {high}"
    say(f"{shown(name)}: {n} images of {size}, {n - grey} colour, {grey} grey")
    counts = Counter(map(class_of, found.images))
    if found.classes == (".",):
        say("no subfolders with images, so one class")
    else:
        some = ", ".join(f"{shown(c)} {counts[c]}" for c in found.classes[:_CLASSES_NAMED])
        say(f"{len(found.classes)} classes: {some}{', ...' if len(found.classes) > _CLASSES_NAMED else ''}")
    if note := found.note():
        say(note)


def _draw(folder: Path, fonts: str | Path | None, say: Callable[[str], object]) -> None:
    report = lambda font, kept, listed: say(f"{font}: {kept} of {listed} kanji")  # noqa: E731
    n = kanji.render_brush(folder, fonts, report=report)
    say(f"left out: {n['empty']} empty glyphs, {n['duplicates']} duplicates")


def _unpack(folder: Path, given: str | Path | None, count: int, say: Callable[[str], object]) -> None:
    from tqdm import tqdm

    archive = folder / "kkanji.tar" if given is None else Path(given).expanduser()
    if given is None and not archive.exists():
        with tqdm(unit="B", unit_scale=True, disable=None, desc="kkanji.tar") as bar:  # on a terminal only

            def report(done: int, total: int | None) -> None:
                bar.total = total
                bar.update(done - bar.n)

            kuzushiji.fetch(archive, report=report)
    if not archive.is_file():
        raise DataError(f"{archive}: no such file: name kkanji.tar with --archive")
    digest, reported = sha256_file(archive), kuzushiji.REPORTED_SHA256
    say(f"{archive}: sha256 {digest}")
    same = "the sha256 that" if digest == reported else f"not the sha256 {reported} that"
    say(f"{same} a user of the archive reported; its makers publish none, so this proves nothing")
    try:
        kuzushiji.unpack(archive, folder, count=count)
    except DataError as error:
        if given is None:  # it would be taken again the next time
            raise DataError(f"{error} (remove {archive} for another download)") from error
        raise
    if given is None:
        archive.unlink()  # all of it is now in the folder
