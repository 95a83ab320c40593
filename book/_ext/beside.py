"""Links from the book's pages to what was built beside them: a chapter's slides, the whole book as a PDF.

Each page carries an empty place for them. It is filled in when the pages are built, and again when slides or the PDF are, so
that the order does not matter; where nothing was built the place stays empty. What is linked is copied in among the pages, for
they are what is published.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

PDF = "ddim-book.pdf"
PLACE = re.compile(r"<!-- beside:(?P<page>[\w/-]+) -->.*?<!-- /beside -->", re.S)


def place(page: str) -> str:
    """The empty place of a page."""
    return f"<!-- beside:{page} --><!-- /beside -->"


def filled(page: str, slides: bool, pdf: bool) -> str:
    """The place with the links that there is something behind."""
    links = []
    name = page.rpartition("/")[2]
    up = "../" * page.count("/")
    if slides:
        links.append(f'<a href="{up}slides/{name}.html">Slides of this chapter</a>')
    if pdf:
        links.append(f'<a href="{up}{PDF}">The whole book as a PDF</a>')
    inside = f'<p class="beside">{" · ".join(links)}</p>' if links else ""
    return f"<!-- beside:{page} -->{inside}<!-- /beside -->"


def with_place(page: str, body: str) -> str:
    """A page's body with the place under its first heading."""
    return re.sub(r"</h1>", lambda m: m[0] + place(page), body, count=1)


def link(pages: Path, front: str = "book/intro") -> int:
    """Fill the places of the built pages, and copy what they link to. Returns how many pages link to something."""
    if not pages.is_dir():
        return 0
    slides, pdf = pages.parent / "slides", pages.parent / "pdf" / PDF
    if slides.is_dir():
        shutil.copytree(slides, pages / "slides", dirs_exist_ok=True)
    if pdf.is_file():
        shutil.copyfile(pdf, pages / PDF)
    linked = 0
    for path in sorted(pages.rglob("*.html")):
        if path.is_relative_to(pages / "slides"):
            continue
        text = path.read_text(encoding="utf-8")
        found = PLACE.search(text)
        if not found:
            continue
        page = found["page"]
        deck = (slides / f"{page.rpartition('/')[2]}.html").is_file()
        new = filled(page, deck, page == front and pdf.is_file())
        linked += "<a " in new
        if new != found[0]:
            path.write_text(PLACE.sub(lambda _, new=new: new, text), encoding="utf-8")
    return linked
