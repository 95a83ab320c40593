"""Files from elsewhere, verified: over http by pooch, from the Hugging Face hub by its own client.

Both keep what they have fetched and check its hash every time, show progress on a terminal only, and fail in one line.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from logging import Logger
from pathlib import Path

from ..errors import DDIMError, DiskError, UnavailableError
from ..files import sha256_file, sweep

__all__ = ["fetch_hub", "fetch_url", "hub_url"]

RETRIES = 2
TIMEOUT = 30  # seconds without an answer
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # errors of a disk that may name no file


def fetch_url(url: str, path: Path, digest: str, remedy: str) -> Path:
    """The file at a URL, downloaded to `path` unless it is there already.

    Args:
        digest: "md5:..." or "sha256:..." of the file. It takes its place once it is complete and verified.
        remedy: what to do if a download is not possible.

    Raises:
        UnavailableError: it cannot be downloaded, or something else arrives. DiskError: it cannot be written.
    """
    import pooch  # with requests, a fifth of a second of imports, needed here only
    import requests
    from tqdm import tqdm

    algorithm = digest.split(":")[0]
    sweep(path.parent, "tmp????????")  # pooch's names for what it has not finished

    def download(url: str, file: str, cache: pooch.Pooch) -> None:
        """Into a temporary file of pooch's, which it moves into place, or removes if this raises."""
        with requests.get(url, stream=True, timeout=TIMEOUT) as response, open(file, "wb") as f:
            response.raise_for_status()
            size = int(response.headers.get("Content-Length", 0)) or None
            # shown on a terminal only
            with tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
                for chunk in response.iter_content(1 << 20):
                    if f.tell() == 0 and chunk.lstrip().startswith(b"<"):
                        raise _unavailable(url, "a web page arrived instead of the file", remedy)
                    bar.update(f.write(chunk))
        if f"{algorithm}:{pooch.file_hash(file, algorithm)}" != digest:  # here, since trying again would be no use
            raise _unavailable(url, f"another file arrived: its {algorithm} differs", remedy)

    cache = pooch.create(path.parent, "", registry={path.name: digest}, urls={path.name: url}, retry_if_failed=RETRIES)
    with _one_line(url, remedy, f"{path}", "DDIM_CORE_CACHE", pooch.get_logger()):
        return Path(cache.fetch(path.name, downloader=download))


def fetch_hub(repository: str, revision: str | None, files: tuple[str, ...], remedy: str) -> tuple[Path, str]:
    """The first of these files that a repository of the hub has, config.json beside it, from the hub's own cache if
    it is there; and what it was compared with, in words.

    The hub states the sha256 of every large file, and its library names the cached copy after it. If the cache has no
    symbolic links, and so no such name, the hub is asked; if it does not answer, the copy is taken as it is. With a
    commit as the revision the file is always the same; None asks for "main", and takes what is cached of it if the hub
    does not answer.

    Args:
        remedy: as in `fetch_url`.

    Raises:
        UnavailableError: as `fetch_url`. DiskError: the cache cannot be written.
    """
    import huggingface_hub as hub  # half a second of imports, needed here only
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    def get(file: str, at: str | None) -> Path:
        return Path(hub.hf_hub_download(repository, file, revision=at, endpoint=_endpoint(), etag_timeout=TIMEOUT))

    def first_there(commit: str) -> Path:
        for file in files:
            try:
                return get(file, commit)
            except EntryNotFoundError as error:  # also where the hub does not answer
                if isinstance(error, LocalEntryNotFoundError) or file == files[-1]:
                    raise

    def stated(path: Path, commit: str) -> str | None:
        if re.fullmatch(r"[0-9a-f]{64}", path.resolve().name):
            return path.resolve().name
        try:
            address = hub.hf_hub_url(repository, path.name, revision=commit, endpoint=_endpoint())
            return hub.get_hf_file_metadata(address, timeout=TIMEOUT).etag
        except Exception:  # of whatever kind: a copy is here
            return None

    url = hub_url(repository, revision)
    with _one_line(url, remedy, "the hub's cache", "HF_HOME", logging.get_logger()):
        commit = get("config.json", revision).parent.name
        for _ in range(2):  # a damaged copy is fetched again
            path = first_there(commit)
            found, right = sha256_file(path), stated(path, commit)
            if right in (found, None):
                return path, f"sha256:{found}, {'as the hub states it' if right else 'not compared: the hub is silent'}"
            path.resolve().unlink()
            path.unlink(missing_ok=True)
        raise _unavailable(url, "another file arrived: its sha256 differs from the stated one", remedy)


def hub_url(repository: str, revision: str | None) -> str:
    """The page of a repository on the hub, or on the mirror that HF_ENDPOINT names."""
    return f"{_endpoint()}/{repository}" + (f"/tree/{revision}" if revision else "")


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


@contextlib.contextmanager
def _one_line(url: str, remedy: str, place: str, setting: str, logger: Logger) -> Iterator[None]:
    """Inside, whatever a client raises, its own kind of error or Python's, becomes one of ours; its log is silent."""
    level = logger.level
    logger.setLevel("ERROR")  # they report every retry
    try:
        yield
    except DDIMError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and (
            error.filename or error.errno in _DISK or isinstance(error, PermissionError)
        ):
            reason = f"cannot write {error.filename or place} ({' '.join(str(error.strerror or error).split())})"
            raise DiskError(f"{reason}: free some space or set {setting}") from error
        # without what urllib3 and the hub's client say about their retries
        cause = getattr(next(iter(error.args), None), "reason", None) or error
        if type(error).__name__ == "LocalEntryNotFoundError":
            cause = error.__cause__ or error
        raise _unavailable(url, cause, remedy) from error
    finally:
        logger.setLevel(level)


def _unavailable(url: str, cause: object, remedy: str) -> UnavailableError:
    reason = " ".join(str(cause).split()) or type(cause).__name__
    if re.search(r"\bSOCKS\b", reason):  # not SOCKSHTTPSConnection, of a client that has what it needs
        remedy = f"install what the proxy needs (pip install pysocks socksio), or {remedy}"
    return UnavailableError(f"weights cannot be downloaded from {url} ({reason}): {remedy}")
