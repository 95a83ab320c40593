"""The search of the built book, in the browser, with the network cut: it finds what a reader of this book types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bookpages import watched
from playwright.sync_api import Browser

# what is typed -> a page that must be among the first so many
FOUND = {
    "eta": ("book/ddpm", 3),
    "sigma-hat": ("book/ddpm", 3),
    "slerp": ("book/interpolation", 5),
    "ddim_step": ("book/api/method", 3),
    "alpha-bar": ("book/noising", 3),
}


@pytest.mark.parametrize("words", FOUND)
def test_search_finds(words: str, browser: Browser, site: str) -> None:
    page_wanted, first = FOUND[words]
    with watched(browser, site) as tab:
        tab.page.goto(f"{site}/search.html?q={words}")
        results = tab.page.locator("#search-results ul.search li a")
        tab.page.wait_for_function("document.querySelectorAll('#search-results ul.search li a').length > 0")
        tab.page.wait_for_function("document.querySelector('.search-summary').textContent.includes('found')")
        found = [link.split("?")[0].split("#")[0] for link in results.evaluate_all("a => a.map(x => x.href)")]
        assert not tab.outside
    pages = list(dict.fromkeys(link.removeprefix(f"{site}/").removesuffix(".html") for link in found))
    assert page_wanted in pages[:first], pages


@pytest.mark.parametrize("term", ["eta", "sigma", "hat"])
def test_the_words_are_in_the_index(term: str, book: Path) -> None:
    text = (book / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text[text.index("{") : text.rindex("}") + 1])
    documents = index["terms"].get(term, [])
    names = [index["docnames"][k] for k in (documents if isinstance(documents, list) else [documents])]
    assert "book/ddpm" in names
