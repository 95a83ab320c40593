"""The built book in a real browser with the network cut: what a reader with no kernel and no connection gets.

Every page of the table of contents is opened; nothing here looks inside the package.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import bookpages
import pytest
import yaml
from bookpages import DESKTOP, PHONE, Watched, watched
from playwright.sync_api import Browser, Locator, Page

PAGES = bookpages.pages()
# pages that teach with a slider, and how many they have at least: a slider that silently is not drawn must not pass
SLIDERS = {
    "book/noising": 1,
    "book/denoising": 1,
    "book/fast_sampling": 2,
    "book/ddpm": 2,
    "book/encoding": 1,
    "book/interpolation": 1,
    "book/imputation": 1,
    "book/kanji": 1,
    "book/mnist": 1,
    "book/plane": 3,
    "book/mathematics": 1,
}
MAX_TRANSFER = 3_000_000  # bytes of a page with all it loads, text gzipped as web servers send it
SMALLEST_TARGET = 24  # CSS pixels: WCAG 2.2, 2.5.8
# errors that come with the theme or the widget manager and change nothing for the reader; any other fails
KNOWN_ERRORS: tuple[str, ...] = ()

SLIDER = ".jupyter-widgets [role=slider], .bd-article input[type=range]"


# A page is opened once for all that is asked of it: pytest groups the tests by the pages of these fixtures.
@pytest.fixture(scope="module", params=PAGES)
def desktop(request: pytest.FixtureRequest, browser: Browser, site: str) -> Iterator[Watched]:
    with watched(browser, site, viewport=DESKTOP) as tab:
        tab.open(request.param)
        yield tab


@pytest.fixture(scope="module", params=PAGES)
def phone(request: pytest.FixtureRequest, browser: Browser, site: str) -> Iterator[Watched]:
    with watched(browser, site, viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2) as tab:
        tab.open(request.param)
        yield tab


def has_math(html: Path) -> bool:
    return re.search(r'class="math[ "]', html.read_text(encoding="utf-8")) is not None


def unrendered_math(page: Page) -> list[str]:
    """The equations that stand as TeX source, or that MathJax marked as wrong."""
    return page.evaluate(
        """() => [
          ...[...document.querySelectorAll('.bd-article .math')].filter(m => !m.querySelector('mjx-container mjx-math')),
          ...document.querySelectorAll('mjx-merror'),
        ].map(m => m.outerHTML.slice(0, 300))"""
    )


def assert_quiet(tab: Watched) -> None:
    assert not tab.outside, f"asked of the network: {tab.outside}"
    assert not tab.failed, f"failed requests: {tab.failed}"
    unknown = [error for error in tab.errors if not any(known in error for known in KNOWN_ERRORS)]
    assert not unknown, f"errors in the page: {unknown}"


def too_wide(page: Page) -> list[str]:
    """What sticks out of the page to the right, unless it lies in something that scrolls by itself."""
    return page.evaluate(
        """() => {
          const width = document.documentElement.clientWidth;
          if (document.documentElement.scrollWidth <= width && document.body.scrollWidth <= width) return [];
          const contained = e => { for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
            if (getComputedStyle(p).overflowX !== 'visible') return true; return false; };
          const out = [...document.body.querySelectorAll('*')]
            .filter(e => e.getBoundingClientRect().right > width + 1 && !contained(e))
            .map(e => e.outerHTML.slice(0, 120));
          return out.length ? out : [`the page is ${document.documentElement.scrollWidth} wide`];
        }"""
    )


def picture_beside(slider: Locator) -> Callable[[], str]:
    """A function that tells what is to be seen in the pictures that share the nearest common box with `slider`."""
    box = slider.evaluate_handle(
        """s => { for (let p = s.parentElement; p && !p.matches('.cell_output, article'); p = p.parentElement)
                   if (p.querySelector('img, canvas, svg.picture')) return p;
                 return s.closest('.cell_output') ?? s.parentElement; }"""
    )

    def look() -> str:
        return box.evaluate(
            """b => [...b.querySelectorAll('img, canvas, svg.picture')]
                   .filter(e => e.checkVisibility({visibilityProperty: true}) && e.getBoundingClientRect().width > 8)
                   .map(e => e.tagName === 'IMG' ? e.currentSrc : e.tagName === 'CANVAS' ? e.toDataURL() : e.outerHTML)
                   .join('|')"""
        )

    return look


def wait_for_change(page: Page, look: Callable[[], str], before: str) -> bool:
    for _ in range(40):
        if look() != before:
            return True
        page.wait_for_timeout(50)
    return False


def track_of(slider: Locator) -> dict[str, float]:
    """The box along which the slider's handle runs."""
    if slider.evaluate("s => s.tagName") == "INPUT":
        box = slider.bounding_box()
    else:
        box = slider.locator("xpath=ancestor::*[contains(@class, 'noUi-target')]").bounding_box()
    assert box
    return box


def drag(page: Page, slider: Locator, share: float) -> None:
    """Drag the slider's handle to `share` of its track with the mouse."""
    slider.scroll_into_view_if_needed()
    track = track_of(slider)
    if slider.evaluate("s => s.tagName") == "INPUT":
        low, high, value = (float(slider.evaluate(f"s => s.{key}")) for key in ("min", "max", "value"))
        start = track["x"] + 8 + (track["width"] - 16) * (value - low) / (high - low)
    else:
        handle = slider.bounding_box()
        assert handle
        start = handle["x"] + handle["width"] / 2
    middle = track["y"] + track["height"] / 2
    page.mouse.move(start, middle)
    page.mouse.down()
    page.mouse.move(track["x"] + track["width"] * share, middle, steps=8)
    page.mouse.up()


def press(slider: Locator, key: str) -> None:
    slider.focus()
    slider.press(key)


def at_end(slider: Locator) -> bool:
    return bool(
        slider.evaluate(
            """s => s.tagName === 'INPUT' ? +s.value >= +s.max
                  : +s.getAttribute('aria-valuenow') >= +s.getAttribute('aria-valuemax')"""
        )
    )


def move_every_slider(page: Page) -> int:
    """Move each slider of the page with the keyboard and with the mouse, and see that the picture beside it changes."""
    sliders = [slider for slider in page.locator(SLIDER).all() if slider.is_visible()]
    for number, slider in enumerate(sliders, 1):
        look = picture_beside(slider)
        first = look()
        assert first, f"slider {number} stands beside no picture"
        back = at_end(slider)
        press(slider, "ArrowLeft" if back else "ArrowRight")
        assert wait_for_change(page, look, first), f"slider {number}: an arrow key leaves the picture as it was"
        now = look()
        press(slider, "ArrowRight" if back else "ArrowLeft")
        assert wait_for_change(page, look, now), f"slider {number}: the arrow key back leaves the picture as it was"
        before = look()
        drag(page, slider, 0.02 if at_end(slider) else 0.98)
        assert wait_for_change(page, look, before), f"slider {number}: dragging it leaves the picture as it was"
        broken = page.evaluate(
            "[...document.images].filter(i => i.checkVisibility() && !i.naturalWidth).map(i => i.alt)"
        )
        assert not broken, f"slider {number}: pictures that do not load: {broken}"
    return len(sliders)


def test_page_is_whole_without_network(book: Path, desktop: Watched) -> None:
    page = desktop.page
    if has_math(book / f"{desktop.name}.html"):
        assert page.locator("mjx-container").count(), "equations are not rendered"
        fonts = (
            "[...document.fonts].filter(f => f.family.startsWith('MJX') && f.status !== 'unloaded').map(f => f.status)"
        )
        page.wait_for_function(f"{fonts}.every(status => status === 'loaded')")
        assert page.evaluate(fonts), "equations have no letters"
    assert not unrendered_math(page)
    views = page.locator('script[type="application/vnd.jupyter.widget-view+json"]').count()
    assert page.locator(".widget-subarea > .jupyter-widgets, .widget-subarea > *").count() >= views, "widgets not drawn"
    assert not page.locator("text=/Error (displaying|creating) widget|Failed to load model/").count()
    assert_quiet(desktop)


def test_every_picture_says_what_it_shows(desktop: Watched) -> None:
    page = desktop.page
    silent = page.evaluate(
        "[...document.images].filter(i => !(i.getAttribute('alt') || '').trim()).map(i => i.outerHTML.slice(0, 120))"
    )
    assert not silent
    # an alternative text made of the picture's path is what Sphinx writes when the author wrote none
    paths = page.evaluate(
        "[...document.images].map(i => i.alt).filter(a => /^[\\w./-]+\\.(png|svg|jpe?g|webp)$/.test(a))"
    )
    assert not paths


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_of_a_chapter_is_drawn(name: str, book: Path) -> None:
    """A build whose kernels do not draw ends without a warning, and leaves each page without its figures."""
    notebook = bookpages.ROOT / f"{name}.ipynb"
    if not notebook.exists():
        return  # pages in Markdown have no cells
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    named = {c["metadata"]["mystnb"]["figure"]["name"] for c in cells if "figure" in c["metadata"].get("mystnb", {})}
    html = (book / f"{name}.html").read_text(encoding="utf-8")
    drawn = set(re.findall(r'<figure\b[^>]*\bid="([^"]+)"[^>]*>\s*(?:<a\b[^>]*>\s*)?<img\b', html))
    assert not named - drawn


@pytest.mark.parametrize("name", PAGES)
def test_every_frame_of_a_slider_says_what_it_shows(name: str, book: Path) -> None:
    """Frames that do not show yet are not in the page, but in the widgets' state."""
    html = (book / f"{name}.html").read_text(encoding="utf-8")
    for state in re.findall(
        r'<script type="application/vnd.jupyter.widget-state\+json">(.*?)</script>', html, re.DOTALL
    ):
        for model in json.loads(state)["state"].values():
            for tag in re.findall(r"<img\b[^>]*>", str(model["state"].get("value", ""))):
                assert re.search(r'\balt="[^"]+"', tag), tag[:120]


def test_sliders_move_the_picture(desktop: Watched) -> None:
    page = desktop.page
    moved = move_every_slider(page)
    assert moved >= SLIDERS.get(desktop.name, 0), (
        f"{desktop.name} should have {SLIDERS[desktop.name]} sliders or more, and shows {moved}"
    )
    assert_quiet(desktop)


def test_play_buttons_play(desktop: Watched) -> None:
    page = desktop.page
    for play in page.locator(".widget-play").all():
        button = play.locator("button").first
        look = picture_beside(button)
        before = look()
        button.click()
        assert wait_for_change(page, look, before), "Play does not move the picture"


def test_page_can_be_read_on_a_phone(phone: Watched) -> None:
    page = phone.page
    assert not too_wide(page)
    small = page.evaluate(
        f"""() => [...document.querySelectorAll('.jupyter-widgets [role=slider], .widget-play button')]
              .map(e => e.getBoundingClientRect())
              .filter(r => r.width && Math.min(r.width, r.height) < {SMALLEST_TARGET})
              .map(r => `${{r.width}} x ${{r.height}}`)"""
    )
    assert not small, f"too small for a finger: {small}"
    assert move_every_slider(page) >= SLIDERS.get(phone.name, 0)
    assert not too_wide(page)


def test_page_fits_a_laptop(desktop: Watched) -> None:
    assert not too_wide(desktop.page)


def test_page_is_light(book: Path, desktop: Watched) -> None:
    sizes: dict[str, int] = {}
    for url in set(desktop.loaded):
        if url.startswith(desktop.base):
            path = book / urlsplit(url).path.lstrip("/")
            if not path.is_file():
                continue  # a failed request, which another test reports
            data = path.read_bytes()
            packed = path.suffix in {".png", ".webp", ".jpg", ".woff2", ".woff", ".gif"}
            sizes[path.relative_to(book).as_posix()] = len(data) if packed else len(gzip.compress(data, 6))
    heaviest = sorted(sizes.items(), key=lambda item: -item[1])[:6]
    assert sum(sizes.values()) < MAX_TRANSFER, f"{sum(sizes.values()):,} bytes; the heaviest: {heaviest}"


@pytest.mark.parametrize("name", PAGES)
def test_dark_mode_leaves_pictures_as_they_are(name: str, browser: Browser, site: str) -> None:
    with watched(browser, site, color_scheme="dark") as tab:
        page = tab.open(name)
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        filtered = page.evaluate(
            """[...document.querySelectorAll('.bd-article img, .bd-article canvas')]
                 .filter(e => getComputedStyle(e).filter !== 'none').map(e => e.outerHTML.slice(0, 120))"""
        )
        assert not filtered


@pytest.mark.parametrize("name", PAGES)
def test_page_works_from_a_file(name: str, book: Path, browser: Browser) -> None:
    """A reader who was given the folder and double-clicks: equations and sliders all the same."""
    with watched(browser, book.as_uri()) as tab:
        page = tab.open(name)
        assert not unrendered_math(page)
        assert move_every_slider(page) >= SLIDERS.get(name, 0)
        assert not tab.outside


def test_launch_buttons_lead_to_this_page(book: Path, desktop: Watched) -> None:
    if not (book / "_sources" / f"{desktop.name}.ipynb").is_file():
        return  # only notebooks can be launched
    config = yaml.safe_load((bookpages.ROOT / "_config.yml").read_text())["repository"]
    owner_and_name = urlsplit(config["url"]).path.strip("/")
    page = desktop.page
    colab = page.locator('a[href*="colab.research.google.com"]').first.get_attribute("href")
    assert (
        colab
        == f"https://colab.research.google.com/github/{owner_and_name}/blob/{config['branch']}/{desktop.name}.ipynb"
    )
    assert page.locator(f'a[href*="/v2/gh/{owner_and_name}/{config["branch"]}"]').count()


def test_front_page_leads_to_the_book(site: str, browser: Browser) -> None:
    with watched(browser, site) as tab:
        tab.page.goto(f"{site}/index.html")
        tab.page.wait_for_url(f"**/{PAGES[0]}.html")


def test_search_finds_a_word(site: str, browser: Browser) -> None:
    with watched(browser, site) as tab:
        tab.page.goto(f"{site}/search.html?q=noise")
        tab.page.wait_for_selector("#search-results li", timeout=15_000)
        assert_quiet(tab)
