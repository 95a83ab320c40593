"""What helps a page to be found and chosen: a description and a card for those who link to it, a map of the site for search
engines, and at the head of each chapter how long it takes."""

from __future__ import annotations

import re
import tomllib
from html import escape
from pathlib import Path
from typing import Any

from address import address
from docutils import nodes
from matplotlib import font_manager
from myst_nb.sphinx_ import NbMetadataCollector
from PIL import Image, ImageDraw, ImageFont
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config

ROOT = Path(__file__).resolve().parents[2]
SEARCH = Path(__file__).with_name("search.toml")
CARD = "_static/card.png"
CARD_SIZE = (1200, 630)  # what the sites that show such cards ask for
LONGEST = 200  # characters of a description; most sites show fewer
WORDS_PER_MINUTE = 200

OURS = "ddim-times"  # the class of the line that this file adds

# what a reader does not read as prose, or reads only on demand
NOT_PROSE = (nodes.literal_block, nodes.math, nodes.math_block, nodes.comment, nodes.raw)
FOLDED = {"solution_node", "solution_title", "CellOutputNode"}


def site(url: str) -> str:
    """Where GitHub publishes a project's pages."""
    owner, name = url.removeprefix("https://github.com/").split("/")
    return f"https://{owner.lower()}.github.io/" + ("" if name.lower() == f"{owner.lower()}.github.io" else f"{name}/")


def set_up(app: Sphinx, config: Config) -> None:
    if not config.html_baseurl:
        config.html_baseurl = site(address())


# --- descriptions ---------------------------------------------------------------------------------------------------------


def plain(node: nodes.Node) -> str:
    """The words of a paragraph, mathematics as a reader would say it in a line of text."""
    out = []
    for leaf in node.findall(lambda n: isinstance(n, nodes.Text | nodes.math)):
        if isinstance(leaf, nodes.math):
            out.append(spoken(leaf.astext()))
        elif not isinstance(leaf.parent, nodes.math):
            out.append(leaf.astext())
    return " ".join("".join(out).split())


def spoken(tex: str) -> str:
    """A short formula without its markup: $\\hat\\sigma_t$ is sigma-hat_t."""
    tex = re.sub(r"\\(?:hat|widehat)\s*\{?\s*(\\?[A-Za-z]+)\s*\}?", r"\1-hat", tex)
    tex = re.sub(r"\\(?:mathrm|mathbf|text|boldsymbol)\s*\{([^}]*)\}", r"\1", tex)
    tex = re.sub(r"\\le(?:q)?\b", "≤", tex)
    return re.sub(r"[\\{}]|\s+", lambda m: " " if m[0].isspace() else "", tex)


def description(doctree: nodes.document) -> str:
    """The first paragraph of a page, in whole sentences as far as they fit."""
    for paragraph in doctree.findall(nodes.paragraph):
        if (
            OURS not in paragraph["classes"]
            and isinstance(paragraph.parent, nodes.section)
            and len(text := plain(paragraph)) > 30
        ):
            break
    else:
        return ""
    if len(text) <= LONGEST:
        return text
    whole = text[: LONGEST + 1]
    if (end := max(whole.rfind(". "), whole.rfind("? "))) > LONGEST // 3:
        return text[: end + 1]
    return text[: whole.rfind(" ")].rstrip(",;:") + " …"


def add_tags(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """The tags that sites read which show a card for a link."""
    if doctree is None:
        return
    front = context.get("meta") or {}
    about = str(front.get("description") or "") or description(doctree)
    title = re.sub(r"<[^>]+>", "", context.get("title", "")) or app.config.project
    url = app.config.html_baseurl + app.builder.get_target_uri(page)
    tags = {
        "og:type": "article",
        "og:title": plain(app.env.titles[page]) or title,
        "og:site_name": app.config.html_title or app.config.project,
        "og:url": url,
        "og:description": about,
        "og:image": app.config.html_baseurl + CARD,
        "og:image:width": str(CARD_SIZE[0]),
        "og:image:height": str(CARD_SIZE[1]),
        "og:image:alt": "Handwritten digits drawn by the book's network, and the book's title",
    }
    lines = [f'<meta property="{name}" content="{escape(text)}" />' for name, text in tags.items() if text]
    lines += ['<meta name="twitter:card" content="summary_large_image" />']
    lines += [f'<meta name="description" content="{escape(about)}" />'] if about else []
    context["metatags"] = context.get("metatags", "") + "\n" + "\n".join(lines) + "\n"


def draw_card(app: Sphinx, exception: Exception | None) -> None:
    """The book's digits beside its title, as one image for all pages."""
    if exception is not None or app.builder.name != "html":
        return
    card = Image.new("RGB", CARD_SIZE, "#0b0f14")
    with Image.open(ROOT / "book" / "images" / "samples.png") as sheet:
        digits = sheet.convert("RGB")
    half = digits.width // 2  # two long rows become four short ones
    folded = Image.new("RGB", (half, 2 * digits.height))
    folded.paste(digits, (0, 0))
    folded.paste(digits.crop((half, 0, digits.width, digits.height)), (0, digits.height))
    scale = min((CARD_SIZE[0] - 120) / folded.width, 380 / folded.height)
    folded = folded.resize((round(folded.width * scale), round(folded.height * scale)), Image.Resampling.LANCZOS)
    card.paste(folded, (60, CARD_SIZE[1] - 50 - folded.height))
    pen = ImageDraw.Draw(card)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans:bold"), 54)
    title, _, rest = app.config.html_title.partition(", ")
    pen.text((60, 52), title, font=font, fill="#ffffff")
    small = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 40)
    pen.text((60, 130), rest, font=small, fill="#7fb3e0")
    card.save(Path(app.outdir) / CARD, optimize=True)


def write_map(app: Sphinx, exception: Exception | None) -> None:
    """sitemap.xml: the address of every page."""
    if exception is not None or app.builder.name != "html":
        return
    pages = "".join(
        f"  <url><loc>{escape(app.config.html_baseurl + app.builder.get_target_uri(page))}</loc></url>\n"
        for page in sorted(app.env.found_docs)
    )
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
    (Path(app.outdir) / "sitemap.xml").write_text(f"{head}{pages}</urlset>\n", encoding="utf-8")


# --- search ---------------------------------------------------------------------------------------------------------------


def search_terms() -> dict[str, str]:
    """What a reader types -> the section meant."""
    return tomllib.loads(SEARCH.read_text(encoding="utf-8"))


def add_terms(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """The terms of search.toml as entries of the index: the search puts a page with such an entry before those that use the word."""
    for term, where in search_terms().items():
        page, _, anchor = where.partition("#")
        if docname == f"book/{page}":
            doctree += addnodes.index(entries=[("single", term, anchor, "main", None)])


# --- how long a chapter takes ---------------------------------------------------------------------------------------------


def words(doctree: nodes.document) -> int:
    """Words of prose; code, formulas, outputs and folded solutions are not counted."""

    def count(node: nodes.Node) -> int:
        if (
            isinstance(node, NOT_PROSE)
            or type(node).__name__ in FOLDED
            or "cell_output" in getattr(node, "attributes", {}).get("classes", ())
        ):
            return 0
        if isinstance(node, nodes.Text):
            return len(re.findall(r"[A-Za-z][\w'’-]*", node.astext()))
        return sum(map(count, node.children))

    return count(doctree)


def span(seconds: float) -> str:
    """A time in words, no more exact than it is."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 55:
        return f"{10 * round(seconds / 10)} seconds"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} minute{'s' * (minutes > 1)}"


def add_times(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """One small line under the title of a chapter: to read, to run."""
    title = next(doctree.findall(nodes.title), None)
    if not str(app.env.doc2path(docname)).endswith(".ipynb") or title is None:
        return
    ran = NbMetadataCollector.get_exec_data(app.env, docname)
    text = f"To read: {span(60 * max(1, words(doctree) / WORDS_PER_MINUTE))}."
    if ran and ran.get("runtime"):
        text += f" To run on a CPU: {span(ran['runtime'])}."
    title.parent.insert(title.parent.index(title) + 1, nodes.paragraph("", text, classes=[OURS]))


def setup(app: Sphinx) -> None:
    app.connect("config-inited", set_up)
    app.connect("html-page-context", add_tags)
    app.connect("doctree-resolved", add_times)
    app.connect("doctree-resolved", add_terms)
    app.connect("build-finished", draw_card)
    app.connect("build-finished", write_map)
