"""The project's address. It is set in _config.yml, and stamped wherever else it must be written out.

    python book/_ext/address.py          stamps the address of _config.yml
    python book/_ext/address.py URL      sets it first

tests/test_address.py fails when two places disagree.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
URL = r"https://github\.com/[\w.-]+/[\w.-]+"  # Colab, Binder and the links to files know GitHub
SET = re.compile(rf"^(  url: ){URL}$", re.M)
# a page says where it takes the project from in one of these ways, and in no other
STAMPED = re.compile(rf"(git\+|git clone |repository-code: |tests/test_equations\.py`\]\(){URL}", re.M)

# the same in every notebook; ddim_core is looked for, not imported, lest a fault inside it be taken for its absence
FIRST_CELL = """\
from importlib.util import find_spec

if not find_spec("ddim_core"):  # in Colab
    !pip install -qqq git+{url}
    if not find_spec("ddim_core"):

        class Missing(ImportError):
            def _render_traceback_(self):
                return [str(self)]

        raise Missing(
            "pip cannot get ddim_core: upload its wheel here and "
            "%pip install that, or work in a clone."
        )"""


def address(root: Path = ROOT) -> str:
    """The address in _config.yml."""
    return SET.search((root / "_config.yml").read_text(encoding="utf-8"))[0].split()[1]


def stamped(root: Path = ROOT) -> list[Path]:
    """The files that carry the address, besides _config.yml."""
    plain = [root / name for name in ("README.md", "CONTRIBUTING.md", "CITATION.cff", "book/equations.md")]
    return [*plain, *sorted((root / "book").glob("[!.]*.ipynb"))]


def stamp(url: str, root: Path = ROOT) -> None:
    """Writes the address into _config.yml and wherever else it stands. Raises ValueError where it is none."""
    url = url.removesuffix("/").removesuffix(".git")
    if not re.fullmatch(URL, url):
        raise ValueError(f"{url!r} is no address such as https://github.com/OWNER/NAME")
    config = root / "_config.yml"
    config.write_text(SET.sub(rf"\g<1>{url}", config.read_text(encoding="utf-8")), encoding="utf-8")
    for path in stamped(root):
        text = STAMPED.sub(rf"\g<1>{url}", path.read_text(encoding="utf-8"))
        if path.suffix == ".ipynb":
            book = json.loads(text)
            book["cells"][0]["source"] = FIRST_CELL.format(url=url).splitlines(keepends=True)
            text = json.dumps(book, indent=1, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        stamp(sys.argv[1] if len(sys.argv) > 1 else address())
    except ValueError as error:
        sys.exit(f"address.py: {error}")
    print(f"{address()} in {len(stamped()) + 1} files")
