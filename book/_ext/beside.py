"""Links from the book's pages to what was built beside them: a chapter's slides, the whole book as a PDF, exercises to hand out.

Each page carries an empty place for them. It is filled in when the pages are built, and again when slides or the PDF are, so
that the order does not matter; where nothing was built the place stays empty. What is linked is copied in among the pages, for
they are what is published.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

PDF = "ddim-book.pdf"
OF_THE_BOOK = (  # name among the pages, where it was built, what it is
    (PDF, f"pdf/{PDF}", "The whole book as a PDF"),
    ("exercises.zip", "exercises/without.zip", "Exercises as notebooks"),
    ("exercises-with-solutions.zip", "exercises/with.zip", "the same with solutions"),
)
PLACE = re.compile(r"<!-- beside:(?P<page>[\w/-]+) -->.*?<!-- /beside -->", re.S)


def place(page: str) -> str:
    """The empty place of a page."""
    return f"<!-- beside:{page} --><!-- /beside -->"


def filled(page: str, links: dict[str, str]) -> str:
    """The place with links, file -> what it is called; files are named from the pages' root."""
    up = "../" * page.count("/")
    shown = " · ".join(f'<a href="{up}{file}">{text}</a>' for file, text in links.items())
    inside = f'<p class="beside d-print-none">{shown}</p>' if links else ""
    return f"<!-- beside:{page} -->{inside}<!-- /beside -->"


def with_place(page: str, body: str) -> str:
    """A page's body with the place under its first heading."""
    return re.sub(r"</h1>", lambda m: m[0] + place(page), body, count=1)


def link(pages: Path, front: str = "book/intro") -> int:
    """Fill the places of the built pages, and copy what they link to. Returns how many pages link to something."""
    if not pages.is_dir():
        return 0
    built = pages.parent
    decks = {path.stem for path in (built / "slides").glob("*.html")}
    if decks:
        shutil.copytree(built / "slides", pages / "slides", dirs_exist_ok=True)
    on_front = {}
    for file, origin, text in OF_THE_BOOK:
        if (built / origin).is_file():
            shutil.copyfile(built / origin, pages / file)
            on_front[file] = text
    linked = 0
    for path in sorted(pages.rglob("*.html")):
        if path.is_relative_to(pages / "slides"):
            continue
        text = path.read_text(encoding="utf-8")
        found = PLACE.search(text)
        if not found:
            continue
        page = found["page"]
        name = page.rpartition("/")[2]
        links = {f"slides/{name}.html": "Slides of this chapter"} if name in decks else {}
        links |= on_front if page == front else {}
        linked += bool(links)
        new = filled(page, links)
        if new != found[0]:
            path.write_text(text.replace(found[0], new), encoding="utf-8")
    return linked
