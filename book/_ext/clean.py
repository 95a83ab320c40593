"""Notebooks as they are committed: without outputs, execution counts and what editors leave in them.

    python book/_ext/clean.py FILE ...      cleans them; exits 1 if one was not clean

Cell ids, tags and the metadata that the book reads stay as they are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

KEPT = {"tags", "mystnb"}  # of a cell's metadata
KERNEL = {"kernelspec", "language_info"}


def cleaned(text: str) -> str:
    """A notebook's text, clean. Raises ValueError if it is no notebook."""
    book = json.loads(text)
    if not isinstance(book, dict) or not isinstance(book.get("cells"), list):
        raise ValueError("it is no notebook")
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
        cell["metadata"] = {key: value for key, value in cell["metadata"].items() if key in KEPT}
    book["metadata"] = {key: value for key, value in book["metadata"].items() if key in KERNEL}
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


def main(paths: list[str]) -> int:
    code = 0
    for name in paths:
        path = Path(name)
        try:
            before = path.read_text(encoding="utf-8")
            after = cleaned(before)
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"{name}: not cleaned ({error}): restore it with git checkout", file=sys.stderr)
            code = 1
            continue
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"{name}: cleaned; add it again")
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
