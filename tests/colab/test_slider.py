"""A slider in a notebook with a kernel of Colab's versions: moved from Python and by hand, it shows another picture.

The notebook program is the one that ipywidgets 7 was made for and brings along; Colab's own cannot be had outside Colab.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from ast import literal_eval
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book"))
import bookpages
from bookpages import ROOT

COLAB = Path(os.environ.get("DDIM_COLAB", ROOT / ".venv-colab"))
PATIENCE = 180  # seconds: a busy machine is slow, not wrong

EXECUTE = """([code, value]) => new Promise(resolve => Jupyter.notebook.kernel.execute(
  code, {shell: {reply: message => resolve(message.content)}}, {silent: false, user_expressions: {value}}))"""


def chapter() -> str:
    """The chapter on noising down to its slider, which a name is given to."""
    book = json.loads((ROOT / "book" / "noising.ipynb").read_text(encoding="utf-8"))
    last = next(k for k, cell in enumerate(book["cells"]) if cell["id"] == "noising-slider")
    name = {
        "cell_type": "code",
        "execution_count": None,
        "id": "name",
        "metadata": {},
        "outputs": [],
        "source": "box = _",
    }
    return json.dumps({**book, "cells": [*book["cells"][: last + 1], name]})


@pytest.fixture(scope="module")
def notebook(tmp_path_factory) -> Iterator[Page]:
    """The chapter in a browser, run by the notebook program of the other environment. Without either the tests fail."""
    folder, own = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")
    (folder / "noising.ipynb").write_text(chapter(), encoding="utf-8")
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
    base = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{base}/api/status", server, own / "log")
        with bookpages.chromium() as browser, bookpages.watched(browser, base) as watched:
            page = watched.page
            page.goto(f"{base}/notebooks/noising.ipynb")
            page.wait_for_function("window.Jupyter?.notebook?.kernel?.is_connected()", timeout=PATIENCE * 1000)
            page.evaluate("Jupyter.notebook.execute_all_cells()")
            yield page
    finally:
        server.terminate()
        server.wait(30)


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


def assert_shows(page: Page, index: int) -> str:
    """The picture and the label beside the slider are those of a position; a fingerprint of the picture."""
    picture = page.locator(".ddim-slider img")
    expect(picture).to_have_attribute("alt", python(page, "", f"box.alts[{index}]"), timeout=30_000)
    expect(page.locator(".ddim-slider output")).to_have_text(python(page, "", f"box.labels[0][{index}]"))
    page.wait_for_function("document.querySelector('.ddim-slider img').naturalWidth > 100")
    mark = sha256(picture.get_attribute("src").removeprefix("data:image/webp;base64,").encode()).hexdigest()
    assert mark == python(page, "import hashlib", f"hashlib.sha256(box.frames[{index}].encode()).hexdigest()")
    return mark


def test_a_slider_moves_with_colabs_versions(notebook: Page) -> None:
    listed = (ROOT / "tests" / "envs" / "colab.txt").read_text(encoding="utf-8").lower().split()
    for module in ("ipywidgets", "IPython", "ipykernel", "anywidget", "traitlets"):
        assert f"{module.lower()}=={python(notebook, f'import {module}', f'{module}.__version__')}" in listed

    expect(notebook.locator(".ddim-slider img")).to_have_count(1, timeout=PATIENCE * 1000)
    assert notebook.locator(".output_error").count() == 0
    start = int(python(notebook, "", "box.index"))
    seen = [assert_shows(notebook, start)]
    for index in (3, 20):
        python(notebook, f"box.index = {index}")
        seen.append(assert_shows(notebook, index))
    assert len(set(seen)) == 3, "three positions, three pictures"

    notebook.get_by_label("time t").press("Home")
    assert_shows(notebook, 0)
    assert python(notebook, "", "box.index") == "0", "Python hears of it"
