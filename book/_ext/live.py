"""The network for the reader's browser: what pages with live experiments load, packed when the book is built.

A page that was opened from a file may load scripts, and nothing else: no data, no modules, no workers. So each part
(LiteRT with the sampler and the worker; its WebAssembly; the network) is gzipped, written as text into scripts of a
megabyte, and unpacked in the browser (book/_static/live/live.js). What a page loads before the reader's first click is
some 60 kB (gzipped, 20).

LiteRT comes in two builds. The quick one needs relaxed SIMD, which multiplies and adds in one instruction; browsers without
it take the other.
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
from importlib import metadata
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
RUNTIME = ROOT / "node_modules" / "@litertjs" / "core"
LOADER = RUNTIME.parent / "wasm-utils" / "dist" / "index.js"
BUILDS = {"relaxed": "litert_wasm_internal", "compat": "litert_wasm_compat_internal"}
# what is other in the runtime's module here: no file can be fetched, and a GPU, which rounds in its own way, is not asked for
REWRITTEN = {
    'import { createWasmLib } from "@litertjs/wasm-utils";': "",
    "return createWasmLib(LiteRt, jsFilePath);": "return createWasmLib(LiteRt, null);",
    "await Environment.create()": "await Environment.create({ webGpuDevice: null })",
}
PIECE = 2**20  # characters of base64 in one script, a multiple of 4
NOTICE = Path(__file__).with_name("live_notice.txt")
MARK = 'class="ddim-live"'
SCRIPTS = [
    f"live/{name}.js" for name in ("core", "parts/parts", "live", "page", "sampling", "between", "drawing", "pad")
]
WITHOUT = "self.ddimParts = null; // built without LiteRT.js or the package ai-edge-litert\n"


def as_script(module: str, loader: str) -> str:
    """LiteRT's module, and the one that it imports, as a plain script that puts its exports into `self.litert`.

    Raises ValueError: they are not the modules that this was written for.
    """
    for theirs, ours in REWRITTEN.items():
        if module.count(theirs) != 1:
            raise ValueError(
                f"@litertjs/core is another version: look for {theirs!r}, which book/_ext/live.py rewrites in it"
            )
        module = module.replace(theirs, ours)
    both = re.sub(r"^//# sourceMappingURL=.*$", "", f"{loader}\n{module}", flags=re.M)
    exports = re.findall(r"^export \{([^{}]*)\};$", both, flags=re.M)
    if len(exports) != 2 or re.search(r"^import\b", both, flags=re.M) or " as " in "".join(exports):
        raise ValueError("@litertjs/core is another version: book/_ext/live.py does not know its imports and exports")
    both = re.sub(r"^export \{([^{}]*)\};$", "", both, flags=re.M)
    return f"(() => {{\n{both}\nself.litert = {{{exports[1]}}};\n}})();\n"


def digest() -> str:
    """A hash of all that the packed parts depend on."""
    package = ROOT / "ddim_core"
    files = [Path(__file__), NOTICE, ROOT / "package-lock.json", ROOT / "requirements.txt"]
    files += [SOURCES / name for name in ("core.js", "worker.js")]
    files += [
        *sorted(package.glob("*.py")),
        *sorted((package / "weights").glob("*.py")),
        package / "assets" / "manifest.json",
    ]
    files += [package / "assets" / f"{WEIGHTS}.safetensors"]
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()[:16]


def license_text() -> str:
    """Of LiteRT, whose package for browsers comes without it: that of its package for Python. Raises RuntimeError."""
    try:
        paths = [path for path in metadata.files("ai-edge-litert") or () if path.name == "LICENSE"]
        return paths[0].read_text(encoding="utf-8")
    except (metadata.PackageNotFoundError, IndexError, OSError) as error:
        raise RuntimeError("the package ai-edge-litert is missing, or its license") from error


def pack(folder: Path) -> None:
    """Write the parts and the list of them, `parts.js`, into an empty folder.

    Raises RuntimeError: the network cannot be exported. ValueError: as `as_script`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network = folder / f"{WEIGHTS}.tflite"
    command = [sys.executable, "-m", "ddim_core", "export", WEIGHTS, "--litert", "--out", str(network)]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths}, encoding="utf-8"
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["the network could not be exported"])[-1])
    ours = [(SOURCES / name).read_text(encoding="utf-8") for name in ("core.js", "worker.js")]
    module = as_script(*(path.read_text(encoding="utf-8") for path in (RUNTIME / "dist" / "index.js", LOADER)))
    parts = {("model", None): network.read_bytes()}
    network.unlink()
    for build, name in BUILDS.items():
        factory = (RUNTIME / "wasm" / f"{name}.js").read_text(encoding="utf-8")
        parts["runtime", build] = "\n".join([factory, module, *ours]).encode()
        parts["wasm", build] = (RUNTIME / "wasm" / f"{name}.wasm").read_bytes()
    files = []
    for (part, build), content in parts.items():
        text = base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
        for k in range(0, len(text), PIECE):
            name = "-".join(filter(None, (part, build, f"{k // PIECE}.js")))
            script = f'self.ddimPart("{text[k : k + PIECE]}");\n'
            (folder / name).write_text(script, encoding="ascii")
            files.append({"part": part, "build": build, "name": name, "bytes": len(script)})
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
        "files": files,
    }
    (folder / "LICENSES.txt").write_text(NOTICE.read_text(encoding="utf-8") + license_text(), encoding="utf-8")
    (folder / "parts.js").write_text(f"self.ddimParts = {json.dumps(listed)};\n", encoding="utf-8")


def packed(cache: Path, say: Callable[[str], None]) -> Path | None:
    """The folder of the packed parts, made if it is not there; None, having said why, if it cannot be made."""
    folder = cache / digest()
    if (folder / "parts.js").is_file():
        return folder
    shutil.rmtree(cache, ignore_errors=True)  # others are of other versions, or were not finished
    if not (RUNTIME / "dist").is_dir():
        say("No LiteRT.js: the live experiments stay empty.")
        return None
    try:
        pack(folder)
    except (RuntimeError, OSError) as error:
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
