"""The network for the reader's browser: what pages with live experiments load, packed when the book is built.

A page that was opened from a file may load scripts, and nothing else: no data, no modules, no workers. So each part
(ONNX Runtime with the sampler and the worker; its WebAssembly; the network) is gzipped, written as text into scripts of a
megabyte, and unpacked in the browser (book/_static/live/live.js). What a page loads before the reader's first click is
some 15 kB.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import assets
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

log = logging.getLogger(__name__)

ROOT = assets.ROOT
SOURCES = ROOT / "book" / "_static" / "live"
WEIGHTS = "mnist"
RUNTIME = ROOT / "node_modules" / "onnxruntime-web"
VERSION = "1.30.0"  # what `as_script` rewrites; package.json pins it
META = 11  # places where that version asks for its own address
PIECE = 2**20  # characters of base64 in one script, a multiple of 4
MARK = 'class="ddim-live"'
SCRIPTS = [
    f"live/{name}.js" for name in ("core", "parts/parts", "live", "page", "sampling", "between", "drawing", "pad")
]
WITHOUT = "self.ddimParts = null; // built without onnxruntime-web or the package onnx\n"


def as_script(module: str) -> str:
    """ONNX Runtime's module as a plain script that puts its exports into `self.ort`.

    Raises ValueError: it is not the module that this was written for.
    """
    exports = re.findall(r"export\{([^{}]*)\};", module)
    if len(exports) != 1 or module.count("import.meta.url") != META or f'="{VERSION}"' not in module:
        raise ValueError(f"onnxruntime-web is not version {VERSION}: look at what book/_ext/live.py rewrites in it")
    names = [pair.split(" as ") for pair in exports[0].split(",")]
    given = ",".join(f"{theirs}:{ours}" for ours, theirs in names if theirs != "default")
    # its address only serves to find files, which it is given, and helpers for more threads, which it does not start
    module = module.replace("import.meta.url", '"https://nowhere.invalid/ort.mjs"')
    module = module.replace(f"export{{{exports[0]}}};", f"self.ort={{{given}}};")
    return re.sub(r"^//# sourceMappingURL=.*$", "", module, flags=re.M)


def digest() -> str:
    """A hash of all that the packed parts depend on."""
    package = ROOT / "ddim_core"
    files = [Path(__file__), ROOT / "package-lock.json", *(SOURCES / name for name in ("core.js", "worker.js"))]
    files += [
        *sorted(package.glob("*.py")),
        *sorted((package / "weights").glob("*.py")),
        package / "assets" / "manifest.json",
    ]
    files += [package / "assets" / f"{WEIGHTS}.safetensors"]
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()[:16]


def pack(folder: Path) -> None:
    """Write the parts and the list of them, `parts.js`, into an empty folder.

    Raises RuntimeError: the network cannot be exported. ValueError: as `as_script`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network, dist = folder / f"{WEIGHTS}.onnx", RUNTIME / "dist"
    command = [sys.executable, "-m", "ddim_core", "export", WEIGHTS, "--onnx", "--out", str(network)]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths}, encoding="utf-8"
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["the network could not be exported"])[-1])
    scripts = [as_script((dist / "ort.wasm.bundle.min.mjs").read_text(encoding="utf-8"))]
    scripts += [(SOURCES / name).read_text(encoding="utf-8") for name in ("core.js", "worker.js")]
    parts = {
        "runtime": "\n".join(scripts).encode(),
        "wasm": (dist / "ort-wasm-simd-threaded.wasm").read_bytes(),
        "model": network.read_bytes(),
    }
    network.unlink()
    files = []
    for part, content in parts.items():
        text = base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
        for k in range(0, len(text), PIECE):
            name, script = f"{part}-{k // PIECE}.js", f'self.ddimPart("{text[k : k + PIECE]}");\n'
            (folder / name).write_text(script, encoding="ascii")
            files.append({"part": part, "name": name, "bytes": len(script)})
    described = json.loads(
        subprocess.run(
            [*command[:3], "info", WEIGHTS],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": paths},
            encoding="utf-8",
        ).stdout
    )
    unet = described["unet"]
    listed = {
        "version": digest(),
        "weights": described["sha256"],
        "schedule": {**described["schedule"], "shape": [unet["in_channels"], unet["resolution"], unet["resolution"]]},
        "bytes": sum(file["bytes"] for file in files),
        "files": files,
    }
    (folder / "LICENSE-onnxruntime.txt").write_text(LICENSE, encoding="utf-8")
    (folder / "parts.js").write_text(f"self.ddimParts = {json.dumps(listed)};\n", encoding="utf-8")


def packed(cache: Path, say: Callable[[str], None]) -> Path | None:
    """The folder of the packed parts, made if it is not there; None, having said why, if it cannot be made."""
    folder = cache / digest()
    if (folder / "parts.js").is_file():
        return folder
    shutil.rmtree(cache, ignore_errors=True)  # others are of other versions, or were not finished
    if not (RUNTIME / "dist").is_dir():
        say("No onnxruntime-web: the live experiments stay empty.")
        return None
    try:
        pack(folder)
    except RuntimeError as error:
        say(f"The live experiments stay empty: {error}")
        return None
    return folder


def on_config(app: Sphinx, config: Config) -> None:
    static = Path(app.outdir) / "_static" / "live" / "parts"
    os.environ["DDIM_BOOK"] = "1"  # to the notebooks: no widgets that need a kernel
    folder = packed(Path(app.outdir).parent / ".live", log.info)
    shutil.rmtree(static, ignore_errors=True)
    static.mkdir(parents=True)
    if folder is None:
        (static / "parts.js").write_text(WITHOUT, encoding="utf-8")
    else:
        shutil.copytree(folder, static, dirs_exist_ok=True)


def add_scripts(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """To the pages that have a live experiment, and to no others."""
    if MARK in context.get("body", ""):
        app.add_css_file("live/live.css")
        for script in SCRIPTS:
            app.add_js_file(script, loading_method="defer")


def setup(app: Sphinx) -> None:
    """Called by the book's extension, ddim_book."""
    app.connect("config-inited", on_config)
    app.connect("html-page-context", add_scripts)


LICENSE = """\
ONNX Runtime Web, https://github.com/microsoft/onnxruntime

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
