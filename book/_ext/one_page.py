"""One chapter, run if need be and built as its page, with the book's numbers and links; the others are read, but neither run nor built.

python book/_ext/one_page.py noising      into _build/page/book/noising.html
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from chapters import BUILD, ROOT, contents
from jupyter_book.sphinx import build_sphinx
from nbclient.exceptions import CellExecutionError
from outputs import executed

OUT = BUILD / "page"


def build(name: str, out: Path = OUT) -> Path:
    """Build the page of a chapter. Raises ValueError for a name that is no page, RuntimeError where Sphinx fails."""
    pages = {entry.name: entry for entry in contents()}
    if name not in pages:
        raise ValueError(f"no page {name!r}; there are {', '.join(pages)}")
    path = pages[name].path
    if path.suffix == ".ipynb":
        executed(path)  # into the cache of the whole book, where the build below finds it
    others = [f"book/{n}.ipynb" for n in pages if n != name]
    failed = build_sphinx(
        str(ROOT),
        str(out),
        noconfig=True,
        path_config=str(ROOT / "_config.yml"),
        confoverrides={
            "latex_individualpages": False,  # what the command line would say
            "nb_execution_excludepatterns": others,
            # the others have no outputs, so no numbers to put into their text: nobody sees them
            "suppress_warnings": ["mystnb.glue", "myst-nb.glue"],
        },
        doctreedir=str(BUILD / ".doctrees-page"),
        filenames=[str(path)],
        quiet=True,
    )
    page = out / "book" / f"{name}.html"
    if failed or not page.is_file():
        raise RuntimeError(f"Sphinx could not build {name}: what it said stands above")
    return page


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("one_page.py: which chapter? make page NAME=noising, say")
    began = time.perf_counter()
    try:
        made = build(sys.argv[1])
    except (ValueError, FileNotFoundError, RuntimeError, CellExecutionError) as error:
        sys.exit(f"one_page.py: {error}")
    print(f"{made}  in {time.perf_counter() - began:.0f} s")
