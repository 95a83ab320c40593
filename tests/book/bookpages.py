"""What the browser tests and screenshots.py share: the book's pages, a server for them, and a Chromium with no way out."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import yaml
from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "book" / "_ext"))
from serving import chromium_path, served  # noqa: F401 (`served` for those who import this module)

ROOT = Path(__file__).resolve().parents[2]

HTML = Path(os.environ.get("DDIM_BOOK_HTML", ROOT / "_build" / "html"))
# the first two let it run as root in a container; the rest keep it from calling home
CHROMIUM_ARGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # the way out is cut here: no name is found
]
ANNOUNCING = "--force-renderer-accessibility"  # keep, for each page, the tree that screen readers read: slower
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


def pages() -> list[str]:
    """Every page of the table of contents, as `book/name`, in reading order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    found = [toc["root"]]

    def walk(node: object) -> None:
        if isinstance(node, dict):
            if "file" in node:
                found.append(str(node["file"]))
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(toc)
    return [re.sub(r"\.(md|ipynb)$", "", page) for page in found]


def require_built_book() -> Path:
    if not (HTML / f"{pages()[0]}.html").is_file():
        raise FileNotFoundError(f"no built book at {HTML}: run `make book` first")
    return HTML


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=CHROMIUM_ARGS)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page that cannot reach the network, and a record of all that went on in it."""

    def __init__(self, context: BrowserContext, base: str) -> None:
        self.base = base
        self.name = ""
        self.outside: list[str] = []
        self.failed: list[str] = []
        self.errors: list[str] = []
        self.loaded: list[str] = []
        context.set_default_timeout(120_000)  # a busy machine is slow, not wrong
        self.page: Page = context.new_page()
        # asked by a timer: a page on which nothing moves may draw no frame, and by frames Playwright asks unless told otherwise
        self.page.wait_for_function = partial(self.page.wait_for_function, polling=50)  # type: ignore[method-assign]
        self.page.on("request", self._ask)
        self.page.on("requestfailed", lambda request: self._fail(request, str(request.failure)))
        self.page.on("response", lambda response: self._answer(response.url, response.status))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)

    def _ours(self, url: str) -> bool:
        return url.startswith((self.base + "/", "data:", "blob:", "about:", "chrome:"))

    def _ask(self, request: Request) -> None:
        if not self._ours(request.url):
            self.outside.append(request.url)

    def _fail(self, request: Request, why: str) -> None:
        if self._ours(request.url):
            self.failed.append(f"{request.url}: {why}")

    def _answer(self, url: str, status: int) -> None:
        self.loaded.append(url)
        if status >= 400:
            self.failed.append(f"{url}: {status}")

    def open(self, name: str) -> Page:
        """Open a page of the book, and wait until its equations and widgets are drawn."""
        self.name = name
        self.page.goto(f"{self.base}/{name}.html", wait_until="load")
        settle(self.page)
        return self.page


@contextmanager
def watched(browser: Browser, base: str, **context_options: object) -> Iterator[Watched]:
    context = browser.new_context(**{"viewport": DESKTOP, **context_options})  # type: ignore[arg-type]
    try:
        yield Watched(context, base)
    finally:
        context.close()


SETTLED = """() => {
  const math = [...document.querySelectorAll('.bd-article .math')].every(m => m.querySelector('mjx-container'));
  const views = document.querySelectorAll('script[type="application/vnd.jupyter.widget-view+json"]').length;
  const drawn = document.querySelectorAll('.ddim-slider img').length;
  return math && drawn >= views && [...document.images].every(i => i.complete || i.loading === 'lazy');
}"""


def settle(page: Page, timeout: float = 60_000) -> None:
    """Wait for equations, widgets and images; on giving up, go on: the checks that follow say what is missing."""
    try:
        page.wait_for_function(SETTLED, timeout=timeout)
    except Exception as error:
        if type(error).__name__ != "TimeoutError":
            raise
    page.wait_for_timeout(200)


def announced_sliders(page: Page) -> list[tuple[str, str]]:
    """The sliders of a page as a screen reader is told of them, in order: what each is called, and where it stands.

    Chromium's own page on accessibility shows the tree that it gives to screen readers; the one of its debugging protocol
    leaves aria-valuetext out. The browser must have been started with `ANNOUNCING`.
    """
    inspector = page.context.new_page()
    try:
        inspector.goto("chrome://accessibility")
        inspector.locator("#apiType").select_option("blink")
        inspector.get_by_label(f"Show accessibility tree for {page.title()}", exact=True).click()
        tree = inspector.locator("pre", has_text="rootWebArea").first.inner_text()
    finally:
        inspector.close()
    sliders = [line for line in tree.splitlines() if re.match(r"\+*id#=\d+ slider ", line)]
    return [
        tuple((re.search(rf" {key}='(.*?)' \w+=", line) or [None, ""])[1] for key in ("name", "ariaValueText"))
        for line in sliders
    ]
