"""Files of tensors that are either complete or absent.

One file holds named tensors and a JSON description (safetensors, no pickled code). It is written beside its final
place, flushed to disk and renamed, so a crash at any moment leaves the old file or the new one. The description
carries a sha256 over all tensors and itself, checked on every load.
"""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .cache import cannot_write
from .errors import CheckpointError

__all__ = [
    "check_writable",
    "load_tensors",
    "read_tensors",
    "save_tensors",
    "sha256_file",
    "sweep",
    "sweep_unfinished",
    "temporary_name",
    "write_atomically",
]

_KEY = "ddim_core"
_HEX = "[0-9a-f]"  # a digit of a token


def write_atomically(path: str | Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file so that `path` holds either its old content or all of the new one.

    Args:
        content: all of it, or its parts in order, one at a time in memory. An error raised while a part is made is
            passed on, and `path` stays as it was.

    Raises:
        DiskError: the folder cannot be written, or the disk is full. `path` then stays as it was.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as f:
            for part in [content] if isinstance(content, bytes) else content:
                f.write(part)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from error
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    # the rename itself reaches the disk with its folder; some file systems do not allow that
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def check_writable(path: str | Path) -> None:
    """Try whether a file can be written to `path`, for use before long work; nothing is left of it, folders neither.

    Raises:
        DiskError: as `write_atomically`.
    """
    path, made = Path(path), []
    try:
        made = [f for f in path.parents if not f.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        tried = temporary_name(path)
        tried.touch()
        tried.unlink()
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            for empty in made:
                empty.rmdir()


def temporary_name(path: Path) -> Path:
    """Where a file or folder is written before it takes the name `path`: hidden beside it, `.NAME.PROCESS.TOKEN.tmp`.

    Each call gives another name: threads share the number of their process, and so may containers that share a folder.
    What killed processes have left there is removed.
    """
    sweep_unfinished(path.parent, glob.escape(path.name))
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def sweep_unfinished(folder: Path, *names: str) -> None:
    """Remove what killed processes have left in a folder of files that they were writing there.

    Args:
        names: of the files, or patterns of such names.
    """
    for name in names:
        sweep(folder, f".{name}.*.{_HEX * 8}.tmp")


def sweep(folder: Path, pattern: str) -> None:
    """Remove what killed processes have left in a folder under names that match the pattern."""
    for left in folder.glob(pattern):
        if _abandoned(left):
            with contextlib.suppress(OSError):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _abandoned(left: Path) -> bool:
    """Whether nobody writes here any more: unchanged for a minute, with no process of this number, or for an hour.

    (The folder may be shared with other machines, whose processes have numbers of their own.)
    """
    try:
        age = time.time() - left.stat().st_mtime
    except OSError:
        return False
    number = re.search(rf"\.([1-9][0-9]{{0,9}})\.{_HEX}{{8}}\.tmp$", left.name)
    if os.name == "posix" and number:
        try:
            os.kill(int(number[1]), 0)  # only asks; on Windows it would end the process
        except ProcessLookupError:
            return age > 60
        except (OSError, OverflowError):  # another user's, or none that a process can have
            pass
    return age > 3600


def save_tensors(path: str | Path, tensors: dict[str, Tensor], description: dict) -> None:
    """Save tensors (any shapes and dtypes) and a description (JSON values) as one file, atomically.

    Raises:
        DiskError: as `write_atomically`.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    description = json.loads(json.dumps(description))  # as it will be read back: lists for tuples, strings for keys
    description["content_sha256"] = _digest(tensors, description)
    # one key: several would be written in an order that changes from run to run
    write_atomically(path, save(tensors, metadata={_KEY: json.dumps(description, sort_keys=True)}))


def load_tensors(path: str | Path, kind: str | None = None) -> tuple[dict[str, Tensor], dict]:
    """Load what `save_tensors` wrote: (tensors, description).

    Args:
        kind: if given, the description's "kind" must be this.

    Raises:
        CheckpointError: no such file, one that `save_tensors` did not write, one of another kind, or a damaged one.
    """
    with _opened(path) as f:
        description = _description(f, path, kind)
        tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a dict)
    if _digest(tensors, description) != description.get("content_sha256"):
        raise CheckpointError(f"{path} is damaged (its content does not match its sha256): use another copy")
    return tensors, description


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict | None]:
    """The tensors of any safetensors file, and the description if `save_tensors` wrote it.

    Raises:
        CheckpointError: no such file, or a damaged one.
    """
    with _opened(path) as f:
        if _KEY not in (f.metadata() or {}):
            return {name: f.get_tensor(name) for name in f.keys()}, None  # noqa: SIM118 (not a dict)
    return load_tensors(path)


def sha256_file(path: str | Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextlib.contextmanager
def _opened(path: str | Path):
    if not os.path.isfile(path):  # also False for a name that no file can have
        raise CheckpointError(f"{path}: no such file")
    try:
        with safe_open(str(path), framework="pt") as f:
            yield f
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file ({error}): use another copy") from error


def _description(f, path: str | Path, kind: str | None) -> dict:
    try:
        description = json.loads((f.metadata() or {})[_KEY])
    except (KeyError, json.JSONDecodeError, RecursionError):  # the last if it is nested too deeply
        description = None
    if not isinstance(description, dict):
        raise CheckpointError(f"{path} was not written by ddim_core: it lacks the description")
    if kind is not None and description.get("kind") != kind:
        remedy = ": turn it into weights with `ddim export`" if description.get("kind") == "training" else ""
        raise CheckpointError(f"{path} holds {description.get('kind')!r}, not {kind!r}{remedy}")
    return description


def _digest(tensors: dict[str, Tensor], description: dict) -> str:
    rest = {key: value for key, value in description.items() if key != "content_sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(save({"": tensor})[8:])
    return digest.hexdigest()
