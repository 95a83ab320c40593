"""The book's own Sphinx extension: pages that need no network, a cache that knows the package, and the book's look."""

from __future__ import annotations

import io
import os
import re
import shutil
from pathlib import Path
from typing import Any

import api
import assets
import beside
import flow
import live
import outputs
import reach
from PIL import Image
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

log = logging.getLogger(__name__)

ROOT = assets.ROOT
STATIC = ROOT / "book" / "_static"
KEPT_CACHES = 3  # versions of ddim_core whose executed chapters stay on disk


def set_up_execution(app: Sphinx, config: Config) -> None:
    """Keep the outputs of this version of the package, and of a few before it."""
    caches = Path(app.outdir).parent / ".jupyter_cache"
    current = caches / outputs.digest_of_package()
    current.mkdir(parents=True, exist_ok=True)
    os.utime(current)
    for stale in sorted(caches.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)[KEPT_CACHES:]:
        shutil.rmtree(stale, ignore_errors=True)
    config.nb_execution_cache_path = str(current)

    # Chapters run this checkout's package even where nobody installed it (a bare `jupyter-book build .`).
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([others] if others else [])])


def set_up_pages(app: Sphinx, config: Config) -> None:
    """The book's styles and early script on every page; local JavaScript in place of the CDNs', where it can be had."""
    config.html_static_path.append(str(STATIC))
    app.add_css_file("ddim.css")
    app.add_js_file("early.js", priority=1)
    if not assets.fetch(install_npm=False, say=log.info):
        log.info(
            "No npm, or no network: the pages will load MathJax and the sliders from CDNs, and need the network to be read."
        )
        return
    assets.copy_to(Path(app.outdir) / "_static" / "vendor")
    config.mathjax_path = "vendor/mathjax/tex-chtml-full.js"
    # In this order: the widget manager is an AMD module and needs require.js, and must find the paths set when it runs.
    # Deferred, which keeps the order: the text is there to read before 3.6 MB of widget code are.
    scripts = ["vendor/require.js", "widgets-paths.js", "vendor/html-manager/embed-amd.js"]
    config.nb_ipywidgets_js = {script: {"defer": "defer"} for script in scripts}


def drop_thebe(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Jupyter Book adds sphinx-thebe's scripts twice, an error on each page, though no page of this book offers thebe."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "THEBE_JS_URL" not in str(script.attributes.get("body", ""))
        and "sphinx-thebe" not in str(script.filename or "")
    ]


def add_live_plane(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """The drawing in which readers put down points of their own, on the pages that have a place for it."""
    if re.search(r"class=['\"]ddim-plane", context.get("body", "")):
        app.add_css_file("plane_live.css")
        for script in ("plane_method.js", "plane_live.js"):
            app.add_js_file(script, loading_method="defer")


def mend_roles(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Take back what the writers tell screen readers that is not so."""
    if "body" in context:
        for wrong, right in (
            # myst-nb: a name in place of the words that stand there, "Show code cell source"
            ('<summary aria-label="Toggle hidden content">', "<summary>"),
            # docutils: a list of what is no list item, by a role that ARIA has given up
            ('<div role="list" class="citation-list">', '<div class="citation-list">'),
            (' role="doc-biblioentry"', ""),
        ):
            context["body"] = context["body"].replace(wrong, right)
        # Sphinx: the parameters of a long signature, which are descriptions of nothing
        context["body"] = re.sub(
            r"<dl>\n((?:<dd>.*?</dd>\n)+)</dl>",
            lambda found: re.sub(r"<dd>(.*?)</dd>\n", r'<span class="sig-line">\1</span>', found[1], flags=re.DOTALL),
            context["body"],
            flags=re.DOTALL,
        )


def leave_place(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Under the title of each page, room for links to what is built beside it."""
    if doctree is not None and "body" in context:
        context["body"] = beside.with_place(pagename, context["body"])


def link_what_is_beside(app: Sphinx, exception: Exception | None) -> None:
    if exception is None:
        beside.link(Path(app.outdir))


def empty_fontawesome_script(app: Sphinx, exception: Exception | None) -> None:
    """Replace the theme's 1.5 MB of icons as JavaScript by nothing: its stylesheet draws the same icons from a font."""
    script = Path(app.outdir) / "_static" / "scripts" / "fontawesome.js"
    if exception is None and script.is_file():
        script.write_text("// icons come from the stylesheet\n", encoding="utf-8")


def shrink_images(app: Sphinx, exception: Exception | None) -> None:
    """Store every plot again without what it does not use, pixel for pixel the same: pages of digits lose half their weight.

    matplotlib writes red, green, blue and opacity even where all is grey and opaque.
    """
    if exception is not None:
        return
    for path in (Path(app.outdir) / "_images").glob("[!.]*.png"):
        with Image.open(path) as image:
            if image.mode not in ("RGBA", "RGB"):
                continue
            slim = image.convert("RGB") if image.convert("RGBA").getextrema()[3] == (255, 255) else image.copy()
        if slim.mode == "RGB":
            red, green, blue = slim.split()
            if red.tobytes() == green.tobytes() == blue.tobytes():
                slim = red
        packed = io.BytesIO()
        slim.save(packed, "PNG", optimize=True)
        if packed.tell() < path.stat().st_size:
            path.write_bytes(packed.getvalue())


def on_config(app: Sphinx, config: Config) -> None:
    set_up_execution(app, config)
    set_up_pages(app, config)


def setup(app: Sphinx) -> dict[str, Any]:
    api.setup(app)
    reach.setup(app)
    flow.setup(app)
    outputs.setup(app)
    app.connect("config-inited", on_config)
    live.setup(app)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("html-page-context", add_live_plane)
    app.connect("html-page-context", mend_roles)
    app.connect("html-page-context", leave_place)
    app.connect("build-finished", shrink_images)
    app.connect("build-finished", link_what_is_beside)
    app.connect("build-finished", empty_fontawesome_script, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
