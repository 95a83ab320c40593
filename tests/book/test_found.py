"""How the built book is found: by its own search, in the browser with the network cut; by search engines; by those who are sent
a link; and how long it says that a chapter takes."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import bookpages
import pytest
from bookpages import watched
from PIL import Image
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


def tags(html: str) -> dict[str, str]:
    return {
        name: unescape(text) for name, text in re.findall(r'<meta (?:property|name)="([^"]+)" content="([^"]*)"', html)
    }


@pytest.mark.parametrize("name", bookpages.pages())
def test_a_link_to_a_page_shows_what_it_is_about(name: str, book: Path) -> None:
    found = tags((book / f"{name}.html").read_text(encoding="utf-8"))
    assert found["og:url"].endswith(f"/{name}.html")
    assert found["og:title"]
    assert found["og:image"] == found["og:url"].removesuffix(f"{name}.html") + "_static/card.png"
    about = found["og:description"]
    assert 30 < len(about) <= 203
    assert about == found["description"]
    assert not re.search(r"[\\${}]", about), "mathematics in words"


def test_the_card_has_the_size_that_sites_ask_for(book: Path) -> None:
    with Image.open(book / "_static" / "card.png") as card:
        assert card.size == (1200, 630)


def test_the_map_of_the_site_has_every_page(book: Path) -> None:
    found = re.findall(r"<loc>https://\S+?/(book/\S+)\.html</loc>", (book / "sitemap.xml").read_text(encoding="utf-8"))
    assert sorted(found) == sorted(bookpages.pages())


@pytest.mark.parametrize("name", [n for n in bookpages.pages() if (bookpages.ROOT / f"{n}.ipynb").exists()])
def test_a_chapter_says_how_long_it_takes(name: str, book: Path) -> None:
    html = (book / f"{name}.html").read_text(encoding="utf-8")
    line = re.search(r'<p class="ddim-times">([^<]+)</p>', html)
    assert line
    assert re.fullmatch(r"To read: \d+ minutes?\. To run on a CPU: (a few|\d+) (seconds|minutes?)\.", line[1])
