"""The archive of Kuzushiji-Kanji: characters cut from old Japanese books, fetched or given, checked, unpacked.

Its licence, CC BY-SA 4.0, requires the words in `data.ATTRIBUTION`.
"""

import os
import re
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.utils import formatdate, mktime_tz, parsedate_tz
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from ..cache import cannot_write
from ..errors import DataError, UnavailableError
from .folder import is_hidden
from .kanji import CODE, FOLDER, new_folder, read_png

__all__ = ["CHARACTERS", "COUNT", "REPORTED_SHA256", "URL", "check_count", "fetch", "unpack"]

URL = "http://codh.rois.ac.jp/kmnist/dataset/kkanji/kkanji.tar"  # the host has no https
COUNT, CHARACTERS = 140_424, 3_832  # images in the archive, and characters that they show
REPORTED_SHA256 = "6c65024b7b79de6661a049c89decfddae8bb908f71fcd7fdf1bd9a7f220a1cda"  # by a user, not by its makers
RETRIES = 4
TIMEOUT = 30  # seconds without an answer
_IMAGE = re.compile(rf"{FOLDER}/{CODE}/[0-9a-f]{{16}}\.png")
_BESIDE = re.compile(rf"{FOLDER}/(?:{CODE}/)?[^/]+")  # where file managers leave files of their own, which do no harm
_DIRECTORY = re.compile(rf"{FOLDER}(?:/{CODE})?")
_LARGEST = 1 << 16  # bytes; an uncompressed 64x64 image has 4,096
_BLOCK = 1 << 20


def fetch(path: str | Path, url: str = URL, *, report: Callable[[int, int | None], None] | None = None) -> None:
    """Download the archive, 310 MB, to `path`, which appears once it is complete.

    A broken download is resumed where it broke off, also by a later call: what has arrived is kept in `path` + ".part".
    (Hence not pooch, which fetches the weights: it starts from the beginning each time.) If the file at `url` has
    changed since, it is fetched from the beginning.

    Args:
        report: called with the bytes so far and the bytes in all, None if the host does not say.

    Raises:
        UnavailableError: it cannot be downloaded, or something else arrives. DiskError: it cannot be written.
    """
    path = Path(os.path.expanduser(path))
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(RETRIES + 1):
            try:
                _go_on(part, url, report)
                break
            except _Broken as error:
                if error.final or attempt == RETRIES:
                    raise UnavailableError(_unavailable(url, str(error))) from error
                time.sleep(attempt)
        if not tarfile.is_tarfile(part):
            part.unlink()
            raise UnavailableError(_unavailable(url, "something other than a tar archive arrived"))
        os.replace(part, path)
    except OSError as error:
        raise cannot_write(path, error) from error


class _Broken(Exception):
    """A download that ended early; `final` if trying again would be no use."""

    def __init__(self, reason: object, final: bool = False):
        super().__init__(" ".join(str(reason).split()) or type(reason).__name__)
        self.final = final


def _go_on(part: Path, url: str, report: Callable[[int, int | None], None] | None) -> None:
    """Fetch what is missing from `part`. Its modification time is the host's, to tell whether they belong together."""
    headers = {}
    if part.exists():
        headers["Range"] = f"bytes={part.stat().st_size}-"
        headers["If-Range"] = formatdate(part.stat().st_mtime, usegmt=True)
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing is missing, or the file has become smaller
            part.unlink()
        raise _Broken(error, final=400 <= error.code < 500 and error.code not in (408, 416, 429)) from error
    except (OSError, HTTPException) as error:
        raise _Broken(getattr(error, "reason", error)) from error
    changed = parsedate_tz(answer.headers.get("Last-Modified", ""))
    with answer, open(part, "ab" if answer.status == 206 else "wb") as f:
        done = f.tell()
        size = answer.headers.get("Content-Length")
        total = done + int(size) if size else None
        try:
            while block := _read(answer):
                f.write(block)
                done += len(block)
                if report:
                    report(done, total)
        finally:
            f.flush()
            if changed:
                os.utime(part, (mktime_tz(changed),) * 2)
    if total is not None and done < total:
        raise _Broken(f"the connection ended after {done} of {total} bytes")


def _read(answer: HTTPResponse) -> bytes:
    try:
        return answer.read(_BLOCK)
    except (OSError, HTTPException) as error:
        raise _Broken(error) from error


def _unavailable(url: str, reason: str) -> str:
    return (
        f"Kuzushiji-Kanji cannot be downloaded from {url} ({reason}): try again later, or get kkanji.tar by other means "
        "and name it with --archive FILE; brush-kanji needs no download"
    )


def unpack(archive: str | Path, folder: str | Path, *, count: int = COUNT) -> None:
    """Unpack the archive into `FOLDER/kkanji2`, which appears once all of it is there.

    Every member must be a folder or an image in the layout of `kanji`, every image 64x64 grey; names, kinds and the
    count are checked before anything is written. Hidden files beside the images (.DS_Store) are not unpacked.

    Args:
        archive: an uncompressed tar file.
        count: the number of images it must hold; the real archive must have 3,832 characters, too.

    Raises:
        DataError: no such file, not a tar archive, a member that does not belong in it, another count, or an image
            that is not what it should be; or `FOLDER/kkanji2` exists. DiskError: it cannot be written.
    """
    archive = Path(os.path.expanduser(archive))
    try:
        with tarfile.open(archive, "r:") as tar:
            images = _images(tar, archive)
            check_count(archive, len(images), len({p.name.split("/")[1] for p in images}), count)
            with new_folder(Path(os.path.expanduser(folder)) / FOLDER) as target:
                for member in images:
                    content = _content(tar, member, archive)
                    read_png(content, f"{archive}: {member.name}")
                    path = target / member.name.removeprefix(f"{FOLDER}/")
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(content)
    except tarfile.TarError as error:
        raise DataError(f"{archive} is not a complete tar archive ({error}): get it again") from error
    except OSError as error:
        raise DataError(f"{archive} cannot be read ({error.strerror or error}): name another file") from error


def check_count(place: str | Path, images: int, characters: int, count: int = COUNT) -> None:
    """Raise DataError if the numbers are not the real archive's or, with another `count`, not that count."""
    if images != count or (count == COUNT and characters != CHARACTERS):
        raise DataError(
            f"{place} holds {images} images of {characters} characters instead of {count}"
            f"{f' of {CHARACTERS}' if count == COUNT else ''}: get it again, or take it as it is with --count {images}"
        )


def _images(tar: tarfile.TarFile, archive: Path) -> list[tarfile.TarInfo]:
    """The members that are images; all others must be the folders that hold them."""
    images, names = [], set()
    for member in tar:
        if member.isreg() and _IMAGE.fullmatch(member.name):
            problem = "is too large for an image" if member.size > _LARGEST else None
            images.append(member)
        elif (member.isdir() and _DIRECTORY.fullmatch(member.name)) or (
            member.isreg() and _BESIDE.fullmatch(member.name) and is_hidden(member.name.rpartition("/")[2])
        ):
            continue
        elif member.isreg() or member.isdir():
            problem = f"is not of the form {FOLDER}/U+XXXX/<16 hex>.png"
        else:
            problem = "is a link or a device"
        if member.name in names:
            problem = "appears twice"
        names.add(member.name)
        if problem:
            raise DataError(f"{archive}: {member.name!r} {problem}; nothing was unpacked: get the archive again")
    return images


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path) -> bytes:
    try:
        return tar.extractfile(member).read()
    except OSError as error:
        raise DataError(f"{archive} cannot be read ({error.strerror or error}): get it again") from error
