"""Results that take minutes: computed by a committed script, stored with their provenance, read by the notebooks.

A result is one compressed file of arrays in the package, so that a notebook finds it wherever the package is installed.
Its provenance says which command made it, from which weights and when.
"""

import io
import json
import time
from pathlib import Path

import numpy as np

from .errors import DataError, UsageError
from .files import write_atomically
from .shipped import assets, manifest

__all__ = ["load_result", "results", "save_result"]

_FOLDER = assets() / "results"


def results() -> list[str]:
    """Names of the results that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("[!.]*.npz"))


def save_result(name: str, arrays: dict[str, np.ndarray], *, command: str, weights: str | None, **provenance) -> Path:
    """Store arrays (numbers and strings, no objects) under a name; returns the file.

    Args:
        command: the one that makes this file, as typed at the repository's root.
        weights: name of the shipped weights it comes from, whose sha256 goes into the provenance; None for none.
        provenance: anything else worth knowing, as JSON values: seeds, counts, machine.

    Raises:
        UsageError: weights that do not come with the package. DiskError: the file cannot be written.
    """
    record = {"command": command, "date": time.strftime("%Y-%m-%d", time.gmtime()), **provenance}
    if weights is not None:
        if weights not in (known := manifest()):
            raise UsageError(f"no weights {weights!r} come with the package: choose one of {', '.join(known)}")
        record |= {"weights": weights, "weights_sha256": known[weights]["sha256"]}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays, provenance=np.array(json.dumps(record)))
    path = _FOLDER / f"{name}.npz"
    write_atomically(path, buffer.getvalue())
    return path


def load_result(name: str) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays of a result and its provenance.

    Raises:
        DataError: no such result, or a damaged file.
    """
    path = _FOLDER / f"{name}.npz"
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        if "provenance" not in arrays:
            raise ValueError("it does not say where it comes from")
        if not isinstance(provenance := json.loads(arrays.pop("provenance").item()), dict):
            raise ValueError("its provenance is no record")
    except FileNotFoundError:
        raise DataError(f"no result {name!r}: there are {', '.join(results()) or 'none'}") from None
    except Exception as error:  # numpy and zipfile raise many kinds of error for a damaged file
        raise DataError(f"{path} is damaged ({error}): install the package again") from error
    return arrays, provenance
