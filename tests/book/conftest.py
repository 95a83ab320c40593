"""One browser (and one that announces) and one server for all the tests of the built book. Without either the tests fail: nothing is skipped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

sys.path.insert(0, str(Path(__file__).parent))
import bookpages
from bookpages import DESKTOP, PHONE, Watched, watched


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers (--dist loadgroup) one of them asks all that is asked of a page, so that it is opened once; and the
    tests of a live part, which follow each other in one page, stay together."""
    for item in items:
        given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        pages = [f"{fixture} {given[fixture]}" for fixture in ("desktop", "phone") if fixture in given]
        if pages or item.path.stem not in ("test_pages", "test_found"):
            item.add_marker(pytest.mark.xdist_group(*pages or [item.path.stem]))


@pytest.fixture(scope="session")
def book() -> Path:
    return bookpages.require_built_book()


@pytest.fixture(scope="session")
def site(book: Path) -> Iterator[str]:
    with bookpages.served(book) as base:
        yield base


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with bookpages.chromium() as running:
        yield running


@pytest.fixture(scope="session")
def announcing(browser: Browser) -> Iterator[Browser]:
    """A second browser, that keeps the tree that screen readers read."""
    running = browser.browser_type.launch(
        executable_path=bookpages.chromium_path(), args=[*bookpages.CHROMIUM_ARGS, bookpages.ANNOUNCING]
    )
    yield running
    running.close()


# A page is opened once for all that is asked of it, in whichever file: pytest groups the tests by the pages of these fixtures.
@pytest.fixture(scope="session", params=bookpages.pages())
def desktop(request: pytest.FixtureRequest, browser: Browser, site: str) -> Iterator[Watched]:
    with watched(browser, site, viewport=DESKTOP) as tab:
        tab.open(request.param)
        yield tab


@pytest.fixture(scope="session", params=bookpages.pages())
def phone(request: pytest.FixtureRequest, browser: Browser, book: Path) -> Iterator[Watched]:
    """From a file: a reader who was given the folder and double-clicks needs no server."""
    with watched(browser, book.as_uri(), viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2) as tab:
        tab.open(request.param)
        yield tab


@pytest.fixture
def dark(desktop: Watched) -> Iterator[Watched]:
    """The same page, when it has become night; at once, where the theme's colours glide."""
    page = desktop.page
    page.add_style_tag(content="*, ::before, ::after { transition: none !important }")
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
        if scheme == "dark":
            yield desktop
