"""The pages on paper: whole, and black on white, also when the screen is dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pytest
from bookpages import DESKTOP, Watched
from pypdf import PdfReader

A4 = {"width": 688, "height": 1000}  # CSS pixels: 210 mm without the margins of ddim.css


@pytest.fixture
def printed(dark: Watched) -> Iterator[Watched]:
    yield dark
    dark.page.emulate_media(media="screen")
    dark.page.set_viewport_size(DESKTOP)


def test_nothing_is_cut_off_and_all_of_it_is_dark_on_white(printed: Watched):
    page = printed.page
    pdf = PdfReader(io.BytesIO(page.pdf(prefer_css_page_size=True)))
    page.emulate_media(media="print")
    page.set_viewport_size(A4)
    cut = page.evaluate(
        """() => [...document.querySelectorAll('.bd-article *')].filter(e => {
          if (!e.clientWidth || e.closest('mjx-assistive-mml')) return false;
          const style = getComputedStyle(e);
          const hides = style.overflowX !== 'visible' && style.display !== 'inline' && !e.closest('span.math');
          return (hides && e.scrollWidth > e.clientWidth + 1)
            || e.getBoundingClientRect().right > document.documentElement.clientWidth + 1;
        }).map(e => e.outerHTML.slice(0, 160))"""
    )
    assert not cut

    pale = page.evaluate(
        """() => {
          const light = colour => { const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
            return a * (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255 + 1 - a; };
          const found = [];
          const walker = document.createTreeWalker(document.querySelector('.bd-article'), NodeFilter.SHOW_TEXT);
          while (walker.nextNode()) {
            const e = walker.currentNode.parentElement;
            if (!walker.currentNode.textContent.trim() || !e.checkVisibility() || !e.getClientRects().length) continue;
            if (light(getComputedStyle(e).color) > 0.5) found.push('pale: ' + e.outerHTML.slice(0, 120));
            for (let p = e; p; p = p.parentElement)
              if (light(getComputedStyle(p).backgroundColor) < 0.85) { found.push('on dark: ' + p.outerHTML.slice(0, 120)); break; }
          }
          return [...new Set(found)];
        }"""
    )
    assert not pale

    # in the file itself: the end of every visible line of code, the captions, the links, the solutions
    text = re.sub(r"\s", "", "".join(sheet.extract_text() for sheet in pdf.pages))
    wanted = page.evaluate(
        """() => [...document.querySelectorAll('.bd-article :is(.cell_input, .output, .solution) pre, .bd-article figcaption .caption-number')]
          .filter(e => e.checkVisibility() && e.getClientRects().length)
          .flatMap(e => e.textContent.split('\\n')).map(line => line.trim()).filter(line => line)"""
    )
    missing = [line for line in wanted if re.sub(r"\s", "", line)[-12:] not in text]
    assert not missing

    outside = set(page.eval_on_selector_all(".bd-article a[href^=http]", "links => links.map(a => a.href)"))
    kept = {
        annotation.get_object().get("/A", {}).get("/URI")
        for sheet in pdf.pages
        for annotation in sheet.get("/Annots") or []
    }
    assert outside <= kept


def test_solutions_are_open(printed: Watched):
    page = printed.page
    page.emulate_media(media="print")
    folded = page.eval_on_selector_all(
        ".bd-article .solution > :not(.admonition-title), .bd-article div.cell.tag_hide-cell .cell_input",
        "found => found.filter(e => !e.checkVisibility({visibilityProperty: true, opacityProperty: true}) || e.getBoundingClientRect().height < 5)"
        ".map(e => e.outerHTML.slice(0, 120))",
    )
    assert not folded
