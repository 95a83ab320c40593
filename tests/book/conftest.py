"""One browser (and one that announces) and one server for all the tests of the built book. Without either the tests fail: nothing is skipped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

sys.path.insert(0, str(Path(__file__).parent))
import bookpages


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
