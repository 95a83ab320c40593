"""A chapter as slides, in a browser with the network cut: the slider moves, equations are drawn, notes are there, nothing is cut
off. And the numbers in decks and hand-outs are those of the pages."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bookpages import ROOT, Watched, served, watched
from playwright.sync_api import Browser

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import chapters
import outputs
import slides

SIZE = {"width": 1120, "height": 720}


@pytest.fixture(scope="module")
def deck(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The first chapter, made of what the built book has computed."""
    folder = tmp_path_factory.mktemp("slides")
    slides.lay_out(folder)
    entry = chapters.notebooks(["noising"])[0]
    (folder / "noising.html").write_text(
        slides.page_of(slides.deck(outputs.executed(entry.path), entry)), encoding="utf-8"
    )
    with served(folder) as base, watched(browser, base, viewport=SIZE) as tab:
        tab.page.goto(f"{base}/noising.html")
        tab.page.wait_for_selector("html[data-ready]", state="attached")
        tab.page.wait_for_selector(".ddim-slider img", state="attached")
        yield tab


def test_every_slide_can_be_seen_whole(deck: Watched) -> None:
    page = deck.page
    total = page.evaluate("Reveal.getTotalSlides()")
    seen = 1
    while True:
        cut = page.evaluate(
            """() => { const slide = Reveal.getCurrentSlide(); const box = slide.getBoundingClientRect();
              return [...slide.querySelectorAll('*')].filter(e => e.checkVisibility() && !e.closest('aside, mjx-assistive-mml')).filter(e => {
                const r = e.getBoundingClientRect();
                return r.width && (r.bottom > innerHeight + 1 || r.right > innerWidth + 1 || r.left < -1);
              }).map(e => e.outerHTML.slice(0, 120)); }"""
        )
        assert not cut
        words = page.evaluate("Reveal.getCurrentSlide().innerText.trim().length")
        assert words or page.evaluate("Reveal.getCurrentSlide().querySelectorAll('img').length")
        if page.evaluate("Reveal.isLastSlide()"):
            break
        seen += 1
        page.keyboard.press("Space")
    assert seen == total > 15


def test_nothing_is_left_as_source(deck: Watched) -> None:
    text = deck.page.evaluate(
        """() => { const copy = document.querySelector('.slides').cloneNode(true);
          copy.querySelectorAll('pre, code, script, mjx-container').forEach(e => e.remove()); return copy.textContent; }"""
    )
    assert not re.findall(r"\{[\w:]+\}`|\$|\\[a-z]+|\*\*|^:\w+:|\]\(", text)
    assert deck.page.evaluate("document.querySelectorAll('.slides mjx-container').length") > 30
    assert not deck.page.evaluate("document.querySelectorAll('mjx-merror').length")


def test_slides_carry_notes(deck: Watched) -> None:
    notes = deck.page.evaluate("[...document.querySelectorAll('aside.notes')].map(e => e.textContent.trim())")
    assert len(notes) > 8
    assert all(notes)


def test_the_slider_moves(deck: Watched) -> None:
    page = deck.page
    place = page.evaluate(
        """() => { const s = document.querySelector('.ddim-slider').closest('section'); const {h, v} = Reveal.getIndices(s);
          Reveal.slide(h, v); return [h, v]; }"""
    )
    track = page.locator(".ddim-slider input").first
    before = page.locator(".ddim-slider img").first.get_attribute("src")
    track.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".ddim-slider img").first.get_attribute("src") != before
    assert page.evaluate("[Reveal.getIndices().h, Reveal.getIndices().v]") == place, "the arrow is the slider's"
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("[Reveal.getIndices().h, Reveal.getIndices().v]") != place, "and now the deck's"


def test_no_error_and_no_request_outside(deck: Watched) -> None:
    deck.page.wait_for_timeout(300)
    assert not deck.errors
    assert not deck.failed
    assert not deck.outside


def test_numbers_are_those_of_the_pages(book: Path) -> None:
    known = chapters.numbers().references
    compared = 0
    for path in sorted((book / "book").glob("*.html")):
        links = (
            r'href="[^"#]*#(?:equation-)?((?:eq|fig|tab)-[\w-]+)"[^>]*>(?:<span class="std std-numref">)?\s*([^<]+)<'
        )
        for label, shown in re.findall(links, path.read_text(encoding="utf-8")):
            if re.match(r"\(\d|Fig\. |Table ", shown):
                assert known[label] == shown.strip()
                compared += 1
    assert compared > 100
