"""The built book in a real browser with the network cut: what a reader with no kernel and no connection gets.

Every page of the table of contents is opened; nothing here looks inside the package.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import bookpages
import pytest
import yaml
from bookpages import Watched, announced_sliders, watched
from playwright.sync_api import Browser, Locator, Page

PAGES = bookpages.pages()
# pages that teach with sliders, and how many they have at least: one that silently is not drawn must not pass
SLIDERS = {
    "book/noising": 1,
    "book/denoising": 2,
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

# what axe finds in the theme's own parts, by rule and place; anything else that it finds fails
THEME_ALONE = {
    (
        "label-content-name-mismatch",
        "button.search-button__button",
    ): "it is called Search, and shows its shortcut as well",
    ("region", "img.logo__image"): "the logo stands beside the landmarks",
}

SLIDER = ".bd-article .ddim-slider input[type=range]"  # over stored images; live ones have tests of their own


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


def models_of(html: Path) -> list[dict]:
    """The state of each slider widget of a built page, in the order in which they stand there."""
    text = html.read_text(encoding="utf-8")
    states = {}
    for found in re.findall(
        r'<script type="application/vnd.jupyter.widget-state\+json">(.*?)</script>', text, re.DOTALL
    ):
        states |= json.loads(found)["state"]
    views = re.findall(r'<script type="application/vnd.jupyter.widget-view\+json">(.*?)</script>', text, re.DOTALL)
    return [states[json.loads(view)["model_id"]]["state"] for view in views]


def image_beside(slider: Locator) -> Callable[[], str]:
    """A function that tells what is to be seen in the image that shares a widget with `slider`."""
    image = slider.locator("xpath=ancestor::*[contains(@class, 'ddim-slider')]").locator("img")
    assert image.is_visible()
    return lambda: image.evaluate("p => p.currentSrc")


def wait_for_change(page: Page, look: Callable[[], str], before: str) -> bool:
    for _ in range(40):
        if look() != before:
            return True
        page.wait_for_timeout(50)
    return False


def press(slider: Locator, key: str) -> None:
    slider.focus()
    slider.press(key)


def at_end(slider: Locator) -> bool:
    return bool(slider.evaluate("s => +s.value >= +s.max"))


def drag(page: Page, slider: Locator, share: float) -> None:
    """Drag the slider's handle to `share` of its track with the mouse."""
    slider.scroll_into_view_if_needed()
    track = slider.bounding_box()
    assert track
    at = slider.evaluate("s => s.value / s.max")
    middle = track["y"] + track["height"] / 2
    page.mouse.move(track["x"] + 8 + (track["width"] - 16) * at, middle)
    page.mouse.down()
    page.mouse.move(track["x"] + track["width"] * share, middle, steps=8)
    page.mouse.up()


def tap(page: Page, slider: Locator, share: float) -> None:
    """Touch the slider at `share` of its track."""
    slider.scroll_into_view_if_needed()
    track = slider.bounding_box()
    assert track
    page.touchscreen.tap(track["x"] + track["width"] * share, track["y"] + track["height"] / 2)


def move_every_slider(page: Page, point: Callable[[Page, Locator, float], None] = drag) -> int:
    """Move each slider of the page with the keyboard and by pointing, and see that the image beside it changes."""
    sliders = [slider for slider in page.locator(SLIDER).all() if slider.is_visible()]
    for number, slider in enumerate(sliders, 1):
        look = image_beside(slider)
        first = look()
        back = at_end(slider)
        press(slider, "ArrowLeft" if back else "ArrowRight")
        assert wait_for_change(page, look, first), f"slider {number}: an arrow key leaves the image as it was"
        now = look()
        press(slider, "ArrowRight" if back else "ArrowLeft")
        assert wait_for_change(page, look, now), f"slider {number}: the arrow key back leaves the image as it was"
        before = look()
        point(page, slider, 0.02 if at_end(slider) else 0.98)
        assert wait_for_change(page, look, before), f"slider {number}: {point.__name__} leaves the image as it was"
        broken = page.evaluate(
            "[...document.images].filter(i => i.checkVisibility() && !i.naturalWidth).map(i => i.alt)"
        )
        assert not broken, f"slider {number}: images that do not load: {broken}"
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
    assert page.locator(".ddim-slider img").count() == views, "sliders not drawn"
    assert not page.locator("text=/Error (displaying|creating) widget|Failed to load model/").count()
    assert_quiet(desktop)


def test_every_image_says_what_it_shows(desktop: Watched) -> None:
    page = desktop.page
    silent = page.evaluate(
        "[...document.images].filter(i => !(i.getAttribute('alt') || '').trim()).map(i => i.outerHTML.slice(0, 120))"
    )
    assert not silent
    # an alternative text made of the image's path is what Sphinx writes when the author wrote none
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


@pytest.mark.parametrize("name", SLIDERS)
def test_every_frame_of_a_slider_is_there_once_and_says_what_it_shows(name: str, book: Path) -> None:
    """Frames that do not show yet are not in the page, but in the widgets' state."""
    models = models_of(book / f"{name}.html")
    html = (book / f"{name}.html").read_text(encoding="utf-8")
    assert sum(len(model["names"]) for model in models) >= SLIDERS[name]
    for model in models:
        assert len(model["frames"]) == len(model["alts"]) == math.prod(len(labels) for labels in model["labels"])
        assert all(text.strip() for text in [*model["alts"], *model["names"], *itertools.chain(*model["labels"])])
    every = [frame for model in models for frame in model["frames"]]
    assert all(html.count(frame) == every.count(frame) for frame in every)


def test_every_position_shows_its_own_image(book: Path, desktop: Watched) -> None:
    """By keyboard, through each slider, and through the whole table where there are two: the image, what it is said to show,
    and what the slider reads."""
    page = desktop.page
    models = models_of(book / f"{desktop.name}.html")
    boxes = page.locator(".ddim-slider").all()
    assert len(boxes) == len(models)
    for box, model in zip(boxes, models, strict=True):
        sliders = box.locator("input").all()
        assert box.locator("label").all_inner_texts() == model["names"]
        positions = [range(len(labels)) for labels in model["labels"]]
        for place, at in enumerate(itertools.product(*positions)):
            for slider, i in zip(sliders, at, strict=True):
                if i == 0:
                    slider.press("Home")
                while int(slider.input_value()) < i:
                    slider.press("ArrowRight")
            labels = [labels[i] for labels, i in zip(model["labels"], at, strict=True)]
            shown = box.evaluate(
                """b => [b.querySelector('img').src, b.querySelector('img').alt,
                         ...[...b.querySelectorAll('input')].map(s => s.ariaValueText)]"""
            )
            assert shown[0].endswith("," + model["frames"][place])
            assert shown[1:] == [model["alts"][place], *labels]
            assert box.locator("output").all_inner_texts() == labels


@pytest.mark.parametrize("name", SLIDERS)
def test_sliders_announce_what_they_are_and_where_they_stand(
    name: str, book: Path, site: str, announcing: Browser
) -> None:
    sliders = [
        (called, labels, model[key])
        for model in models_of(book / f"{name}.html")
        for called, labels, key in zip(model["names"], model["labels"], ("index", "second_index"), strict=False)
    ]
    with watched(announcing, site) as tab:
        page = tab.open(name)
        # the sliders alone: of a whole page the tree takes seconds, and what is live has sliders of its own, and tests of its own
        page.evaluate(
            """() => document.querySelectorAll('body *').forEach(e => {
                 if (e.isConnected && !e.closest('.ddim-slider') && !e.querySelector('.ddim-slider')) e.remove();
               })"""
        )
        assert announced_sliders(page) == [(called, labels[start]) for called, labels, start in sliders]
        for key, place in (("Home", 0), ("End", -1)):
            for slider in page.locator(SLIDER).all():
                slider.press(key)
            assert announced_sliders(page) == [(called, labels[place]) for called, labels, _ in sliders]


def test_sliders_move_the_image(desktop: Watched) -> None:
    page = desktop.page
    moved = move_every_slider(page)
    assert moved >= SLIDERS.get(desktop.name, 0), (
        f"{desktop.name} should have {SLIDERS[desktop.name]} sliders or more, and shows {moved}"
    )
    assert_quiet(desktop)


def test_page_can_be_read_from_a_file_on_a_phone(phone: Watched) -> None:
    page = phone.page
    assert not unrendered_math(page)
    assert not too_wide(page)
    small = page.evaluate(
        f"""() => [...document.querySelectorAll('{SLIDER}')].map(e => e.getBoundingClientRect())
              .filter(r => r.width < 100 || r.height < {SMALLEST_TARGET}).map(r => `${{r.width}} x ${{r.height}}`)"""
    )
    assert not small, f"too small for a finger: {small}"
    assert move_every_slider(page, tap) >= SLIDERS.get(phone.name, 0)
    assert not too_wide(page)
    assert_quiet(phone)


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


def test_dark_mode_leaves_images_as_they_are(dark: Watched) -> None:
    filtered = dark.page.evaluate(
        """[...document.querySelectorAll('.bd-article img, .bd-article canvas')]
             .filter(e => getComputedStyle(e).filter !== 'none').map(e => e.outerHTML.slice(0, 120))"""
    )
    assert not filtered


def barriers(page: Page, within: str = "html") -> list[list[str]]:
    """What axe finds wrong on a page or in a part of it: the rule, the element and what to do."""
    page.evaluate((bookpages.ROOT / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))
    found, passed = page.evaluate(
        """([known, within]) => axe.run(within, {elementRef: true}).then(result => [
          result.violations.flatMap(rule => rule.nodes
            .filter(node => !known.some(([id, selector]) => id === rule.id && node.element.matches(selector)))
            .map(node => [rule.id, node.html.slice(0, 200), node.failureSummary])),
          result.passes.map(rule => rule.id),
        ])""",
        [[list(place) for place in THEME_ALONE], within],
    )
    assert "color-contrast" in passed, "axe has looked at nothing"
    return found


def test_axe_finds_no_barrier(desktop: Watched) -> None:
    assert not barriers(desktop.page)


def test_axe_finds_no_barrier_in_the_dark(dark: Watched) -> None:
    assert not barriers(dark.page)


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("address", ["search.html?q=noise", "genindex.html"])
def test_axe_finds_no_barrier_around_the_book(address: str, mode: str, browser: Browser, site: str) -> None:
    with watched(browser, site, color_scheme=mode) as tab:
        tab.page.goto(f"{site}/{address}")
        if "?" in address:
            tab.page.wait_for_selector("#search-results li")
        assert not barriers(tab.page)


@pytest.mark.parametrize("place", THEME_ALONE, ids=" ".join)
def test_the_theme_still_has_its_faults(
    place: tuple[str, str], browser: Browser, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that the theme has mended must not stay excused."""
    monkeypatch.delitem(THEME_ALONE, place)
    with watched(browser, site) as tab:
        assert {rule for rule, *_ in barriers(tab.open(PAGES[0]))} == {place[0]}


def test_icons_are_drawn_where_a_file_has_no_origin(book: Path, browser: Browser) -> None:
    """As in Firefox, and by the standard: there the address of a file has the origin "null", in Chromium "file://"."""
    null = """() => { const { get } = Object.getOwnPropertyDescriptor(URL.prototype, 'origin');
      Object.defineProperty(URL.prototype, 'origin', { get() { return this.protocol === 'file:' ? 'null' : get.call(this); } }); }"""
    with watched(browser, book.as_uri()) as tab:
        tab.page.add_init_script(f"({null})()")
        page = tab.open("book/plane")  # a page with widgets, whose manager brings the icons' fonts
        assert page.evaluate("new URL(document.location).origin") == "null"
        page.wait_for_function("document.fonts.status === 'loaded'")
        fonts = page.evaluate("[...document.fonts].map(font => [font.family, font.status])")
        assert ["Font Awesome 5 Free", "loaded"] in [[family.strip('"'), status] for family, status in fonts]
        assert not [font for font in fonts if font[1] == "error"]
        assert not tab.failed


def test_launch_buttons_lead_to_this_page(book: Path, desktop: Watched) -> None:
    if not (book / "_sources" / f"{desktop.name}.ipynb").is_file():
        return  # only notebooks can be launched
    config = yaml.safe_load((bookpages.ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
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
