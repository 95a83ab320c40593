"""Sliders in a notebook with a kernel of Colab's versions: moved from Python and by hand, they show another image. And the
panel of *Try it*, which samples, stops, and does what its controls say.

The notebook program is the one that ipywidgets 7 was made for and brings along; Colab's own cannot be had outside Colab.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from ast import literal_eval
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book"))
import bookpages
from bookpages import ROOT

COLAB = Path(os.environ.get("DDIM_COLAB", ROOT / ".venv-colab"))
PATIENCE = 180  # seconds: a busy machine is slow, not wrong

READY = "window.Jupyter?.notebook?.kernel?.is_connected() && Jupyter.notebook.kernel.widget_manager"
# On opening a notebook ipywidgets asks the kernel which widgets there are, and when it has heard, draws each anew. Where cells run
# meanwhile, that comes after them and hides what they have drawn. To ask once more is to wait until the first answer is there.
SETTLE = "Jupyter.notebook.kernel.widget_manager._loadFromKernel()"
EXECUTE = """([code, value]) => new Promise(resolve => Jupyter.notebook.kernel.execute(
  code, {shell: {reply: message => resolve(message.content)}}, {silent: false, user_expressions: {value}}))"""


# chapter, the cell that ends with the slider, what is written before it
SLIDERS = [
    ("noising", "noising-slider", "time t"),
    ("denoising", "denoising-coin-slider", "steps S"),
    ("fewer_still", "fewer-slider", "calls S"),
]
PANEL = "try_it"


def chapter(name: str, slider: str) -> str:
    """A chapter down to one of its sliders, which a name is given to. (`_` may be a variable of the chapter's own.)"""
    book = json.loads((ROOT / "book" / f"{name}.ipynb").read_text(encoding="utf-8"))
    last = next(k for k, cell in enumerate(book["cells"]) if cell["id"] == slider)
    named = {
        "cell_type": "code",
        "execution_count": None,
        "id": "name",
        "metadata": {},
        "outputs": [],
        "source": "box = Out[max(Out)]",
    }
    return json.dumps({**book, "cells": [*book["cells"][: last + 1], named]})


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Iterator[str]:
    """The address of the notebook program of the other environment, with the chapters. Without it the tests fail."""
    folder, own = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")
    for name, slider, _ in SLIDERS:
        (folder / f"{name}.ipynb").write_text(chapter(name, slider), encoding="utf-8")
    shutil.copy(ROOT / "book" / f"{PANEL}.ipynb", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {f"JUPYTER_{kind}_DIR": str(own / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MPLBACKEND")}
    options = [
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--port-retries=0",
        "--NotebookApp.token=",
    ]
    with open(own / "log", "w", encoding="utf-8") as log:
        command = [COLAB / "bin" / "python", "-m", "notebook", *options]
        server = subprocess.Popen(command, cwd=folder, env={**env, **places}, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/api/status", server, own / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with bookpages.chromium() as browser:
        yield browser


@pytest.fixture
def notebook(base: str, browser: Browser, name: str) -> Iterator[Page]:
    """A chapter in the browser, its cells all run, and its kernel gone with it."""
    with bookpages.watched(browser, base) as watched:
        page = watched.page
        page.goto(f"{base}/notebooks/{name}.ipynb")
        page.wait_for_function(READY, timeout=PATIENCE * 1000)
        page.evaluate(SETTLE)
        page.evaluate("Jupyter.notebook.execute_all_cells()")
        yield page
        page.evaluate("new Promise(gone => Jupyter.notebook.session.delete(gone, gone))")


def wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(PATIENCE * 2):
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5).close()
            return
        except OSError:
            try:
                server.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
            break
    raise RuntimeError(f"the notebook program did not start:\n{log.read_text(encoding='utf-8')}")


def python(page: Page, code: str, value: str = "None") -> str:
    """Runs code in the notebook's kernel, and gives a value back as Python writes it."""
    reply = page.evaluate(EXECUTE, [code, f"str({value})"])
    assert reply["status"] == "ok", reply
    assert reply["user_expressions"]["value"]["status"] == "ok", reply
    return literal_eval(reply["user_expressions"]["value"]["data"]["text/plain"])


def assert_shows(page: Page, slider: Locator, index: int) -> str:
    """The image and the label beside the slider are those of a position; a fingerprint of the image."""
    image = slider.locator("img")
    expect(image).to_have_attribute("alt", python(page, "", f"box.alts[{index}]"), timeout=30_000)
    expect(slider.locator("output")).to_have_text(python(page, "", f"box.labels[0][{index}]"))
    expect(image).to_have_js_property("complete", True)
    assert image.evaluate("img => img.naturalWidth") > 100
    mark = sha256(image.get_attribute("src").removeprefix("data:image/webp;base64,").encode()).hexdigest()
    assert mark == python(page, "import hashlib", f"hashlib.sha256(box.frames[{index}].encode()).hexdigest()")
    return mark


@pytest.mark.parametrize(("name", "label"), [(name, label) for name, _, label in SLIDERS])
def test_a_slider_moves_with_colabs_versions(notebook: Page, label: str) -> None:
    listed = (ROOT / "tests" / "envs" / "colab.txt").read_text(encoding="utf-8").lower().split()
    for module in ("ipywidgets", "IPython", "ipykernel", "anywidget", "traitlets"):
        assert f"{module.lower()}=={python(notebook, f'import {module}', f'{module}.__version__')}" in listed

    # the kernel answers in turn, so all cells are done by now
    assert notebook.locator(".output_error").count() == 0
    assert python(notebook, "", "box.names[0]") == label
    slider = notebook.locator(".ddim-slider").last  # the chapter may have others above
    expect(slider.get_by_label(label)).to_be_visible(timeout=PATIENCE * 1000)
    above = notebook.locator(".ddim-slider img").evaluate_all("all => all.slice(0, -1).map(img => img.alt)")

    start, count = int(python(notebook, "", "box.index")), int(python(notebook, "", "len(box.frames)"))
    seen = [assert_shows(notebook, slider, start)]
    for index in (start - 1, count - 1):
        python(notebook, f"box.index = {index}")
        seen.append(assert_shows(notebook, slider, index))
    assert len(set(seen)) == 3, "three positions, three images"

    slider.get_by_label(label).press("Home")
    assert_shows(notebook, slider, 0)
    assert python(notebook, "", "box.index") == "0", "Python hears of it"
    assert above == notebook.locator(".ddim-slider img").evaluate_all("all => all.slice(0, -1).map(img => img.alt)")


def assert_shown(page: Page, image: int) -> str:
    """What the browser shows of one of the panel's images is what Python has put there; its fingerprint."""
    seen = page.locator("img.widget-image").nth(image)
    mark = python(
        page, "import hashlib", f"hashlib.sha256(shown.children[2].children[{image}].children[0].value).hexdigest()"
    )
    fetched = "async img => [...new Uint8Array(await (await fetch(img.src)).arrayBuffer())]"
    for _ in range(50):
        if sha256(bytes(seen.evaluate(fetched))).hexdigest() == mark:
            break
        page.wait_for_timeout(100)
    else:
        pytest.fail("the browser shows another image than Python has")
    assert seen.evaluate("img => img.naturalWidth") > 80
    return mark


@pytest.mark.parametrize("name", [PANEL])
def test_the_panel_samples_and_stops(notebook: Page) -> None:
    page, patience = notebook, PATIENCE * 1000
    sample, stop = (page.get_by_role("button", name=name, exact=True) for name in ("Sample", "Stop"))
    expect(sample).to_be_visible(timeout=patience)
    assert page.locator(".output_error").count() == 0
    expect(stop).to_be_disabled()
    expect(page.locator("img.widget-image").first).to_be_hidden()
    said = page.locator(".widget-hbox .widget-label", has_text="t = ")

    # the first experiment of the page: its settings, its numbers
    python(page, "controls = shown.children[0].children; controls[0].value = 3; controls[5].value = 2")
    sample.click()
    expect(said).to_have_text(re.compile(r"^t = 0, call 3 of 3, [\d.]+ s$"), timeout=patience)
    expect(sample).to_be_enabled()
    first = [assert_shown(page, image) for image in (0, 1)]
    assert first[0] == first[1], "at the end the state is the guess"
    drawn = "*_, (end, wanted) = sheets(0, 2, 3, 'uniform', 0, False)"
    assert python(page, f"{drawn}; import hashlib", "hashlib.sha256(png(wanted[0])).hexdigest()") == first[0]

    # each control changes the result
    marks = {first[0]}
    for change in (
        "controls[0].value = 2",
        "controls[1].value = 'quadratic'",
        "controls[2].value = 1.0",
        "controls[3].value = True",
        "controls[4].value = 5",
        "controls[5].value = 1",
    ):
        python(page, f"{change}; shown.children[1].children[2].value = ''")
        expect(said).to_have_count(0)
        sample.click()
        expect(said).to_have_text(re.compile("^t = 0, "), timeout=patience)
        expect(sample).to_be_enabled()
        marks.add(assert_shown(page, 0))
    assert len(marks) == 7

    # two pictures renewed on the way, and stopped
    python(page, "controls[0].value = 1000; controls[1].value = 'uniform'")
    sample.click()
    expect(said).to_have_text(re.compile(r"call [3-9] of 1000"), timeout=patience)
    stop.click()
    expect(said).to_have_text(re.compile(r"^t = [1-9]\d+, call \d+ of 1000, [\d.]+ s, stopped$"), timeout=patience)
    assert assert_shown(page, 0) != assert_shown(page, 1)
    expect(sample).to_be_enabled()
    expect(stop).to_be_disabled()
