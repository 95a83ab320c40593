"""Files from elsewhere, verified: over http by pooch, from the Hugging Face hub by its own client.

Both keep what they fetched and compare its hash every time, show progress on a terminal only, and end in one line.
"""

import os
import re
from pathlib import Path

from ..errors import DiskError, UnavailableError
from ..files import sha256_file, sweep

__all__ = ["cached_on_hub", "fetch_hub", "fetch_url", "hub_url"]

RETRIES = 2
TIMEOUT = 30  # seconds without an answer


def fetch_url(url: str, path: Path, digest: str, remedy: str) -> Path:
    """The file of an address at `path`, where it is downloaded to unless it is there.

    Args:
        digest: "md5:..." or "sha256:..." of the file. It takes its place when it is whole and verified.
        remedy: what to do where a download is not possible.

    Raises:
        UnavailableError: it has to be downloaded and cannot be, or something else comes. DiskError: it cannot be
            written.
    """
    import pooch  # with requests, a fifth of a second of imports, needed here only
    import requests
    from tqdm import tqdm

    algorithm = digest.split(":")[0]
    sweep(path.parent, "tmp????????")  # as pooch names what it has not finished

    def download(url: str, file: str, cache: pooch.Pooch) -> None:
        """To a temporary file of pooch's, which it moves to its place, or removes if this raises."""
        with requests.get(url, stream=True, timeout=TIMEOUT) as response, open(file, "wb") as f:
            response.raise_for_status()
            size = int(response.headers.get("Content-Length", 0)) or None
            # shown on a terminal only
            with tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
                for chunk in response.iter_content(1 << 20):
                    if f.tell() == 0 and chunk.lstrip().startswith(b"<"):
                        raise _unavailable(url, "a web page came instead of the file", remedy)
                    bar.update(f.write(chunk))
        if f"{algorithm}:{pooch.file_hash(file, algorithm)}" != digest:  # here: to try again would be no use
            raise _unavailable(url, f"another file came: its {algorithm} differs", remedy)

    cache = pooch.create(path.parent, "", registry={path.name: digest}, urls={path.name: url}, retry_if_failed=RETRIES)
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        return Path(cache.fetch(path.name, downloader=download))
    except (requests.RequestException, ValueError) as error:
        cause = getattr(next(iter(error.args), None), "reason", error)  # without urllib3's account of its retries
        raise _unavailable(url, cause, remedy) from error
    except OSError as error:
        reason = " ".join(str(error.strerror or error).split())
        raise DiskError(f"cannot write {path} ({reason}): free some space or set DDIM_CORE_CACHE") from error
    finally:
        logger.setLevel(level)


def fetch_hub(repository: str, revision: str | None, files: tuple[str, ...], remedy: str) -> Path:
    """The first of these files that a repository of the hub has, config.json beside it, from the hub's own cache if
    it is there.

    The hub states the sha256 of every large file, and its library names the cached copy after it. With a commit for
    the revision the file is always the same; for None "main" is asked for, and what is cached of it is taken where the
    hub does not answer.

    Raises:
        UnavailableError: it has to be downloaded and cannot be, or another file comes than the hub states. DiskError:
            the cache cannot be written.
    """
    import huggingface_hub as hub  # half a second of imports, needed here only
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    def get(file: str, at: str | None) -> Path:
        return Path(hub.hf_hub_download(repository, file, revision=at, endpoint=_endpoint(), etag_timeout=TIMEOUT))

    def as_stated(path: Path) -> bool:
        """Compare with the sha256 that the hub states: the copy's name, or, where links are not possible, asked for."""
        digest = path.resolve().name
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            address = hub.hf_hub_url(repository, path.name, revision=commit, endpoint=_endpoint())
            digest = hub.get_hf_file_metadata(address, timeout=TIMEOUT).etag
        return sha256_file(path) == digest

    url = hub_url(repository, revision)
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it tells of every retry
    try:
        commit = get("config.json", revision).parent.name
        for file in files:
            try:
                get(file, commit)
                break
            except EntryNotFoundError as error:
                # the hub does not answer, or has none of them
                if isinstance(error, LocalEntryNotFoundError) or file == files[-1]:
                    raise
        for _ in range(2):  # a damaged copy is fetched anew
            path = get(file, commit)
            if as_stated(path):
                return path
            path.resolve().unlink()
            path.unlink(missing_ok=True)
        raise _unavailable(url, "another file came: its sha256 differs from the stated one", remedy)
    except (OSError, HTTPError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, HfHubHTTPError):
            cause = f"cannot write {error.filename} ({error.strerror})"
            raise DiskError(f"{cause}: free some space or set HF_HOME") from error
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        raise _unavailable(url, cause, remedy) from error
    finally:
        logging.set_verbosity(level)


def cached_on_hub(repository: str, revision: str | None, files: tuple[str, ...]) -> Path | None:
    """The first of these files in the hub's cache, if one is there."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repository, file, revision=revision) for file in files)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def hub_url(repository: str, revision: str | None) -> str:
    """The page of a repository on the hub, or on its mirror that HF_ENDPOINT names."""
    return f"{_endpoint()}/{repository}" + (f"/tree/{revision}" if revision else "")


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _unavailable(url: str, reason: object, remedy: str) -> UnavailableError:
    return UnavailableError(f"weights cannot be downloaded from {url} ({' '.join(str(reason).split())}): {remedy}")
