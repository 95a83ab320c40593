"""Public weights in format B from the Hugging Face hub, kept in the cache that diffusers uses too.

The hub states the sha256 of every large file, and its library names the cached copy after it; that name is compared
with the content at every load. With a commit in the name, "google/ddpm-cifar10-32@COMMIT", the file is always the same.
"""

import os
import re
from pathlib import Path

from ..errors import DiskError, UnavailableError
from ..files import sha256_file
from .formats import DESCRIPTION, FORMAT_B_FILES, HUB, TIMEOUT, by_other_means

__all__ = ["describe_hub", "fetch_hub", "is_hub"]

_ORIGIN = (
    "DDPM (Ho, Jain, Abbeel 2020) on CIFAR-10 in the layout of diffusers; whether averaged, its settings do not say"
)


def is_hub(name: str) -> bool:
    """Whether this names the weights on the hub: HUB, or HUB@REVISION; a folder of that name comes first."""
    return name.partition("@")[0] == HUB and not Path(name).exists()


def describe_hub(name: str) -> dict:
    """Configuration and origin of the weights, and sha256 of the file if it is in the cache; downloads nothing."""
    from huggingface_hub import try_to_load_from_cache

    revision = name.partition("@")[2] or None
    found = (try_to_load_from_cache(HUB, file, revision=revision) for file in FORMAT_B_FILES)
    path = next((path for path in found if isinstance(path, str)), None)
    provenance = {"url": _url(name), "file": path, "of": _ORIGIN}
    return {**DESCRIPTION, "provenance": provenance, "sha256": path and sha256_file(path)}


def fetch_hub(name: str) -> Path:
    """The file of tensors, config.json beside it, from the cache if it is there; its sha256 is compared every time.

    Args:
        name: HUB or HUB@REVISION, a branch, a tag or a commit of 40 digits. Without one, "main" is asked for, and
            what is cached of it is taken where the hub does not answer.

    Raises:
        UnavailableError: it has to be downloaded and cannot be, or another file comes than the hub states. DiskError:
            the cache cannot be written.
    """
    import huggingface_hub as hub  # half a second of imports, needed here only
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    def get(file: str, revision: str | None) -> Path:
        return Path(hub.hf_hub_download(HUB, file, revision=revision, endpoint=_endpoint(), etag_timeout=TIMEOUT))

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it tells of every retry
    quiet = not are_progress_bars_disabled() and not os.isatty(2)
    if quiet:
        disable_progress_bars()
    try:
        commit = get("config.json", name.partition("@")[2] or None).parent.name
        try:
            file = FORMAT_B_FILES[0]
            path = get(file, commit)
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):  # the hub does not answer
                raise
            file = FORMAT_B_FILES[1]
            path = get(file, commit)
        if not _as_stated(path, commit):
            path = get(file, commit)
            if not _as_stated(path, commit):
                raise UnavailableError(_unavailable(name, "another file came: its sha256 differs from the stated one"))
        return path
    except (OSError, HTTPError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, HfHubHTTPError):
            raise DiskError(
                f"cannot write {error.filename} ({error.strerror}): free some space or set HF_HOME"
            ) from error
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        raise UnavailableError(_unavailable(name, " ".join(str(cause).split()))) from error
    finally:
        logging.set_verbosity(level)
        if quiet:
            enable_progress_bars()


def _endpoint() -> str:
    """The hub, or its mirror that HF_ENDPOINT names."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _as_stated(path: Path, commit: str) -> bool:
    """Compare a cached file with the sha256 that the hub states: its name in the cache, or, where links are not
    possible, asked for again. A damaged one is removed."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    digest = path.resolve().name
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        address = hf_hub_url(HUB, path.name, revision=commit, endpoint=_endpoint())
        digest = get_hf_file_metadata(address, timeout=TIMEOUT).etag
    if sha256_file(path) == digest:
        return True
    path.resolve().unlink()
    path.unlink(missing_ok=True)
    return False


def _url(name: str) -> str:
    revision = name.partition("@")[2]
    return f"{_endpoint()}/{HUB}" + (f"/tree/{revision}" if revision else "")


def _unavailable(name: str, reason: str) -> str:
    return f"weights cannot be downloaded from {_url(name)} ({reason}): {by_other_means()}"
