"""The printed book, made of one built chapter: page numbers that are right, and a file that is refused where something is cut off."""

from __future__ import annotations

import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bookpages import ROOT
from pypdf import PdfReader

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import paper


def made(pages: Path, out: Path) -> Path:
    """In a thread of its own: the browser of the other tests, which is still there, allows no second one in this."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(paper.make, paper.chosen(["noising"]), pages, out).result()


def test_a_chapter_on_paper(book: Path) -> None:
    out = book.parent / "pdf-test"
    try:
        reader = PdfReader(made(book, out))
        sheets = [sheet.extract_text() for sheet in reader.pages]
    finally:
        shutil.rmtree(out, ignore_errors=True)
    where = paper.destinations(reader)
    sections = [name for name in where if name.startswith("noising--")]
    assert len(sections) > 8
    flat = " ".join(sheets[1].split())
    for title in ("Pixels between −1 and 1", "Drag the time", "In short"):
        number = int(re.search(re.escape(title) + r"\D*?(\d+)", flat)[1])
        assert title in " ".join(sheets[number - 1].split())
    assert "here are 6 of its 23 images, by time t" in " ".join(" ".join(sheets).split())
    assert reader.outline


def test_what_is_wider_than_the_page_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "html" / "book" / "noising.html"
    page.parent.mkdir(parents=True)
    page.write_text(
        '<article class="bd-article"><section id="a"><h1>A</h1><p style="width: 900px">wide</p></section></article>',
        encoding="utf-8",
    )
    with pytest.raises(paper.Faulty, match=r"wider than the page: page--noising: <p style"):
        made(tmp_path / "html", tmp_path / "pdf")
    assert not (tmp_path / "pdf" / "ddim-book.pdf").exists()
    assert (tmp_path / "pdf" / "faulty.pdf").exists()
