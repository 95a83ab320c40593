"""What comes with the package, in its folder `assets`: weights, images, results. A manifest states their sha256."""

import hashlib
import json
import os
import re
from importlib import resources
from pathlib import Path

from .errors import CheckpointError, UsageError
from .files import load_tensors, sha256_file, write_atomically
from .lock import in_turn

__all__ = ["assets", "check_name", "checked", "manifest", "ship"]


def assets() -> Path:
    """The folder of all that comes with the package."""
    return Path(str(resources.files("ddim_core"))) / "assets"


def manifest() -> dict[str, dict]:
    """What the folder holds: name -> {"file", "sha256"} for weights, file name -> {"sha256"} for data.

    Raises:
        CheckpointError: the manifest is missing, or is not one.
    """
    path = assets() / "manifest.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(entry, dict) and "sha256" in entry for entry in entries.values()):
            raise ValueError("an entry without a sha256")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} is missing or not a manifest ({reason}): install the package again") from error
    return entries


def checked(path: Path, sha256: str) -> Path:
    """A file of the package. Raises CheckpointError: it is missing, or not the one that the manifest states."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file: install the package again")
    if sha256_file(path) != sha256:
        raise CheckpointError(f"{path} is damaged (sha256 differs from the manifest): install the package again")
    return path


def check_name(name: str) -> None:
    """Raise UsageError for what cannot be the name of weights that come with the package."""
    if not re.fullmatch(r"\w[\w-]*", name):
        raise UsageError(f"weights cannot come with the package as {name!r}: choose a name of letters, digits, - and _")


def ship(file: str | Path, name: str) -> Path:
    """Copy a file of weights into the package under a name, and enter its sha256 in the manifest; returns the copy.

    For maintainers, in a checkout. Raises UsageError as `check_name`, CheckpointError for a damaged file, DiskError.
    """
    check_name(name)
    file = Path(os.path.expanduser(file))
    load_tensors(file)
    content = file.read_bytes()
    target = assets() / f"{name}.safetensors"
    write_atomically(target, content)
    path = assets() / "manifest.json"
    with in_turn(path):
        entries = manifest() | {name: {"file": target.name, "sha256": hashlib.sha256(content).hexdigest()}}
        write_atomically(path, (json.dumps(entries, indent=1, sort_keys=True) + "\n").encode())
    return target
