"""For readers who asked their system for little motion: nothing in the pages moves by itself, nothing glides, and what the
network computes is shown all the same, twice a second."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from bookpages import watched
from playwright.sync_api import Browser, Page
from test_pages import assert_quiet
from test_plane_live import wait_until_drawn

pytestmark = pytest.mark.alone
# pages with live parts: all three experiments, an embed of one, the plane, the coin
LIVE = ["book/try_it", "book/encoding", "book/plane", "book/denoising"]

STILL = "() => [...document.querySelectorAll('canvas')].map(canvas => canvas.toDataURL())"
MOVING = """() => document.getAnimations().map(a => a.effect.target.outerHTML.slice(0, 80))"""
GLIDING = """() => [...document.querySelectorAll(':not(pre *, mjx-container *, svg *)')].flatMap(element => [null, '::before', '::after'].flatMap(pseudo => {
  const { transitionDuration: glides, animationName: moves } = getComputedStyle(element, pseudo);
  return /[1-9]/.test(glides) || moves !== 'none' ? [`${element.tagName}.${element.className} ${pseudo} ${glides} ${moves}`] : [];
}))"""
# when a canvas of a part is drawn anew it is also named anew
NOTE = """part => { window.drawn = [];
  const which = [...document.querySelectorAll('canvas')];
  new MutationObserver(all => all.forEach(({ target }) =>
    drawn.push([which.indexOf(target), performance.now(), target.getAttribute('aria-label')])))
    .observe(document.querySelector(`.ddim-live[data-part=${part}]`), { subtree: true, attributeFilter: ['aria-label'] }); }"""


def bars(page: Page) -> list[str]:
    """How long each progress bar of a page takes to glide: it lies in a tree of the browser's own."""
    tools = page.context.new_cdp_session(page)
    tools.send("DOM.enable")
    tools.send("CSS.enable")
    nodes = tools.send("DOM.getFlattenedDocument", {"depth": -1, "pierce": True})["nodes"]
    inner = [node["nodeId"] for node in nodes if "-webkit-progress-value" in node.get("attributes", [])]
    styles = [tools.send("CSS.getComputedStyleForNode", {"nodeId": node})["computedStyle"] for node in inner]
    tools.detach()
    return [one["value"] for style in styles for one in style if one["name"] == "transition-duration"]


@pytest.mark.parametrize("name", LIVE)
def test_nothing_moves_by_itself_and_nothing_glides(name: str, browser: Browser, site: str) -> None:
    with watched(browser, site, reduced_motion="reduce") as tab:
        page = tab.open(name)
        canvas = page.locator("canvas").first
        canvas.scroll_into_view_if_needed()
        if page.locator(".ddim-plane").count():
            wait_until_drawn(page)
        before = page.evaluate(STILL)
        assert before
        page.wait_for_timeout(1000)
        assert page.evaluate(STILL) == before
        assert not page.evaluate(MOVING)
        assert not page.evaluate(GLIDING)
        assert set(bars(page)) <= {"0s"}
        page.emulate_media(reduced_motion="no-preference")
        assert page.evaluate(GLIDING), "or this test sees nothing"
        assert set(bars(page)) == ({"0.15s"} if page.locator(".ddim-live").count() else set())
        assert_quiet(tab)


@pytest.mark.parametrize(
    ("name", "part", "on_the_way"),
    [
        ("book/try_it", "sample", r"xₜ, the state: t = \d+"),
        ("book/interpolation", "between", "λ from 0 to 1: on the way"),
    ],
    ids=["one digit in forty steps", "a row of nine"],
)
def test_what_is_computed_is_renewed_twice_a_second(
    name: str, part: str, on_the_way: str, browser: Browser, site: str
) -> None:
    with watched(browser, site, reduced_motion="reduce") as tab:
        page = tab.open(name)
        box = page.locator(f".ddim-live[data-part={part}]")
        if part == "sample":  # quick calls, many in half a second
            box.get_by_label("digits").select_option("1")
            box.get_by_label("steps S, exactly").first.fill("40")
        page.evaluate(NOTE, part)
        box.locator(".ddim-go").click()
        told = f".ddim-live[data-part={part}] .ddim-told"
        page.wait_for_function("told => document.querySelector(told).textContent.startsWith('Done')", arg=told)
        assert not page.evaluate(MOVING)
        times: dict[int, list[float]] = {}
        for canvas, moment, label in page.evaluate("drawn"):
            if re.fullmatch(on_the_way, label):
                times.setdefault(canvas, []).append(moment)
        assert times
        for moments in times.values():
            assert len(moments) >= 2, "pictures are renewed"
            assert min(b - a for a, b in pairwise(moments)) > 400, "and not more often, give or take a frame"
        assert_quiet(tab)
