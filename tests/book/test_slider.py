"""The slider of ddim_core in a browser, without a book around it: what it draws, what it says, and how it and a model move
each other. The model here stands for the one that ipywidgets keeps beside a kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bookpages import ROOT, announced_sliders
from PIL import Image
from playwright.sync_api import Browser, Page

from ddim_core.widgets import slider

PACKAGE = ROOT / "ddim_core"
MODEL = """state => ({
  state, saved: [], listeners: {},
  get(key) { return this.state[key]; },
  set(key, value) {
    if (this.state[key] === value) return;
    this.state[key] = value;
    (this.listeners[`change:${key}`] ?? []).forEach(listen => listen());
  },
  save_changes() { this.saved.push({index: this.state.index, second_index: this.state.second_index}); },
  on(event, listen) { (this.listeners[event] ??= []).push(listen); },
})"""
DRAW = f"""async ([code, style, state]) => {{
  const module = await import(URL.createObjectURL(new Blob([code], {{type: 'text/javascript'}})));
  document.head.append(Object.assign(document.createElement('style'), {{textContent: style}}));
  document.title = 'A slider';
  window.model = ({MODEL})(state);
  for (let view = 0; view < 2; view++) {{
    const el = document.createElement('div');
    document.body.append(el);
    module.default.render({{model: window.model, el}});
  }}
}}"""


@pytest.fixture
def page(announcing: Browser) -> Iterator[Page]:
    context = announcing.new_context(viewport={"width": 700, "height": 700})
    yield context.new_page()
    context.close()


def draw(page: Page, names: list[str], labels: list[list[str]], **state: object) -> None:
    """Two views of one model whose image at place k is k + 1 pixels wide."""
    count = len(labels[0]) * (len(labels[1]) if len(labels) > 1 else 1)
    frames = slider([Image.new("L", (k + 1, 3)) for k in range(count)], [""] * count, [""] * count, name="").frames
    fixed = {"names": names, "labels": labels, "frames": frames, "alts": [f"image {k}" for k in range(count)]}
    code, style = ((PACKAGE / name).read_text(encoding="utf-8") for name in ("widgets.js", "widgets.css"))
    state = {"index": 0, "second_index": 0, "width": None, **fixed, **state}
    page.evaluate(DRAW, [code, style, state])


def assert_shows(page: Page, place: int, values: list[str], names: list[str]) -> None:
    """Both views show the image of `place`, with sliders at `values` as a screen reader has it and as the eye has it."""
    page.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth)")
    assert (
        page.evaluate("[...document.images].map(i => [i.naturalWidth, i.alt])") == [[place + 1, f"image {place}"]] * 2
    )
    assert page.locator("output").all_inner_texts() == values * 2
    assert announced_sliders(page) == list(zip(names, values, strict=True)) * 2


def test_one_slider(page: Page) -> None:
    draw(page, ["time t"], [["0", "300", "1000"]], index=1)
    assert_shows(page, 1, ["300"], ["time t"])
    first = page.get_by_label("time t").first
    first.press("ArrowRight")
    assert_shows(page, 2, ["1000"], ["time t"])
    first.press("Home")
    assert_shows(page, 0, ["0"], ["time t"])
    assert page.evaluate("model.saved") == [{"index": 2, "second_index": 0}, {"index": 0, "second_index": 0}]


def test_two_sliders(page: Page) -> None:
    names = ["steps S", "noise η"]
    draw(page, names, [["10", "20"], ["0", "0.5", "1"]], index=1, second_index=1)
    assert_shows(page, 4, ["20", "0.5"], names)
    page.get_by_label("noise η").first.press("End")
    assert_shows(page, 5, ["20", "1"], names)
    page.get_by_label("steps S").last.press("ArrowLeft")  # in the other view
    assert_shows(page, 2, ["10", "1"], names)
    assert page.evaluate("model.saved") == [{"index": 1, "second_index": 2}, {"index": 0, "second_index": 2}]


def test_python_moves_it(page: Page) -> None:
    names = ["steps S", "noise η"]
    draw(page, names, [["10", "20"], ["0", "0.5", "1"]])
    page.evaluate("model.set('index', 1)")
    assert_shows(page, 3, ["20", "0"], names)
    page.evaluate("model.set('second_index', 2)")
    assert_shows(page, 5, ["20", "1"], names)
    assert page.evaluate("model.saved") == [], "it does not answer a message with a message"


def test_names_and_labels_are_text(page: Page) -> None:
    label = 'x < 1 & "quotes" <b>é</b>'
    draw(page, ["<i>S</i>"], [[label, "b"]])
    assert_shows(page, 0, [label], ["<i>S</i>"])


def test_the_track_keeps_its_length(page: Page) -> None:
    draw(page, ["rank"], [["1", "11 to 20 of all"]])
    track = page.get_by_label("rank").first
    before = track.bounding_box()
    track.press("End")
    assert track.bounding_box() == before


def test_a_width_enlarges_and_never_overflows(page: Page) -> None:
    draw(page, ["rank"], [["1", "2"]], width=300)
    assert page.locator("img").first.bounding_box()["width"] == 300
    assert page.evaluate("getComputedStyle(document.images[0]).imageRendering") == "pixelated"
    page.set_viewport_size({"width": 200, "height": 700})
    assert page.locator("img").first.bounding_box()["width"] <= 200


def test_focus_is_seen_and_a_finger_fits(page: Page) -> None:
    draw(page, ["rank"], [["1", "2"]])
    page.keyboard.press("Tab")
    track = page.get_by_label("rank").first
    assert track.evaluate("t => t === document.activeElement")
    assert track.evaluate("t => getComputedStyle(t).outlineStyle + getComputedStyle(t).outlineWidth") == "solid3px"
    assert track.bounding_box()["height"] >= 44
    assert track.get_attribute("data-lm-suppress-shortcuts"), "JupyterLab keeps the arrow keys"
