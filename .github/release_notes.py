"""The release notes of a version: its section of CHANGELOG.md, on standard output.

    python .github/release_notes.py v1.2.3

Fails if the tag is not the package's version, or the changelog says nothing of it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def version() -> str:
    """The package's version, read without importing it."""
    return re.search(r'^__version__ = "(.+)"$', (ROOT / "ddim_core" / "__init__.py").read_text(encoding="utf-8"), re.M)[
        1
    ]


def notes(tag: str) -> str:
    """The section of the changelog. Raises ValueError."""
    if tag.removeprefix("v") != version():
        raise ValueError(f"the tag is {tag}, and ddim_core.__version__ is {version()}: set one as the other")
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(version())}\b[^\n]*\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    if section is None or not section[1].strip():
        raise ValueError(f"CHANGELOG.md says nothing of {version()}")
    return section[1].strip() + "\n"


if __name__ == "__main__":
    try:
        print(notes(sys.argv[1]), end="")
    except (ValueError, IndexError) as error:
        sys.exit(f"release_notes.py: {error}")
