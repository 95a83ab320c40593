"""The whole book as one PDF, printed by a headless Chromium from the built pages: what is read there is what is printed.

    python book/_ext/paper.py [page ...]      into _build/pdf/ddim-book.pdf

On paper nothing can be clicked or moved. So the contents and the links to chapters get page numbers, the addresses behind
links stand in a list at the chapter's end, and a slider becomes a strip of its images, each under its label. The file is checked before it
is kept: nothing wider than its page, no formula left as source, every font inside, no page empty, less than 20 MB.
"""

from __future__ import annotations

import html
import io
import json
import logging
import re
import shutil
import sys
import time
from pathlib import Path

import beside
import pikepdf
import yaml
from bs4 import BeautifulSoup, Tag
from chapters import BUILD, ROOT, Entry, contents
from playwright.sync_api import Page, sync_playwright
from pypdf import PdfReader
from serving import chromium_path, served

logging.getLogger("pypdf").setLevel(logging.ERROR)  # it counts objects otherwise than Chromium does
HTML = BUILD / "html"
OUT = BUILD / "pdf"
STYLE = Path(__file__).parent / "paper.css"
VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
STRIP = 6  # images of a slider
TABLE = 4  # rows, and columns, of two sliders
LIMIT = 20e6  # bytes
WIDTH = 688  # CSS pixels between the margins of A4, as in ddim.css


class Faulty(Exception):
    """The PDF is not fit to be handed out."""


# --- from pages to one page ---------------------------------------------------------------------------------------------


def spread(count: int, most: int, start: int) -> list[int]:
    """At most `most` of `count` places: the first, the last, the one shown first, and others evenly between."""
    if count <= most:
        return list(range(count))
    places = [round(k * (count - 1) / (most - 1)) for k in range(most)]
    if start not in places:
        inner = min(range(1, most - 1), key=lambda k: abs(places[k] - start))
        places[inner] = start
    return sorted(set(places))


def strip(state: dict) -> str:
    """A slider's images as a strip of figures, or those of two sliders as a table."""
    frames, alts, names, labels = state["frames"], state["alts"], state["names"], state["labels"]

    def image(place: int) -> str:
        return f'<img alt="{html.escape(alts[place], quote=True)}" src="data:image/webp;base64,{frames[place]}">'

    name = [html.escape(name) for name in names]
    if len(labels) == 1:
        shown = spread(len(frames), STRIP, state["index"])
        cells = "".join(f"<div><b>{html.escape(labels[0][k])}</b>{image(k)}</div>" for k in shown)
        some = f"{len(shown)} of its {len(frames)} images" if len(shown) < len(frames) else "its images"
        return f'<figure class="strip">{cells}<figcaption>A slider on the page; here are {some}, by {name[0]}.</figcaption></figure>'
    rows = spread(len(labels[0]), TABLE, state["index"])
    columns = spread(len(labels[1]), TABLE, state["second_index"])
    head = "".join(f"<th>{html.escape(labels[1][j])}</th>" for j in columns)
    body = "".join(
        f"<tr><th>{html.escape(labels[0][i])}</th>"
        + "".join(f"<td>{image(i * len(labels[1]) + j)}</td>" for j in columns)
        + "</tr>"
        for i in rows
    )
    return (
        f'<figure class="strip two"><table><tr><th>{name[0]} \\ {name[1]}</th>{head}</tr>{body}</table>'
        f"<figcaption>Two sliders on the page; here is {name[0]} by row and {name[1]} by column.</figcaption></figure>"
    )


def page_id(name: str) -> str:
    return f"page--{name}"


def chapter(entry: Entry, source: str, printed: set[str]) -> tuple[str, list[tuple[str, str]]]:
    """A built page as a part of the printed book: its HTML, and its sections as (id, title).

    Args:
        source: the built page. printed: the names of all pages of the book, links to which stay in it.
    """
    soup = BeautifulSoup(source, "html.parser")
    body = soup.select_one("article.bd-article")
    if body is None:
        raise Faulty(f"{entry.name}.html holds no article: build the book again")
    held = soup.find("script", type=STATE)
    models = json.loads(held.string)["state"] if held else {}
    for view in body.find_all("script", type=VIEW):
        model = models.get(json.loads(view.string)["model_id"])
        if model is None or "frames" not in model["state"]:
            raise Faulty(f"{entry.name}: a widget that is no slider of ddim_core.widgets cannot be printed")
        view.replace_with(BeautifulSoup(strip(model["state"]), "html.parser"))
    for waste in body.select("a.headerlink, script, button, #searchbox, .beside"):
        waste.decompose()
    for details in body.select("details.hide"):
        if details.find_parent(class_="tag_hide-input"):
            details.decompose()  # it only draws
        else:
            details.summary.decompose()
            details.unwrap()
    for folded in body.select(".dropdown"):
        folded["class"] = [name for name in folded["class"] if name != "dropdown"]

    mark = f"{entry.name}--"
    for tag in body.find_all(id=True):
        tag["id"] = mark + tag["id"]
    addresses: list[str] = []
    for link in body.find_all("a", href=True):
        _relink(link, entry.name, printed, addresses)
    for image in body.find_all("img", src=True):
        if not image["src"].startswith(("data:", "http")):
            image["src"] = f"../html/book/{image['src']}"
    sections = []
    for heading in body.find_all("h2"):
        at = heading.find_parent("section")
        if at is not None and at.get("id"):
            sections.append((at["id"], heading.get_text().strip()))
    notes = ""
    if addresses:
        items = "".join(f"<li>{html.escape(address)}</li>" for address in addresses)
        notes = f'<div class="addresses"><p>Addresses</p><ol>{items}</ol></div>'
    return f'<div class="chapter" id="{page_id(entry.name)}">{body}{notes}</div>', sections


def _relink(link: Tag, page: str, printed: set[str], addresses: list[str]) -> None:
    """A link into the book leads to its place on paper, one out of it gets a number in the chapter's list of addresses."""
    target = link["href"]
    if target.startswith("#"):
        link["href"] = f"#{page}--{target[1:]}"
        return
    inside = re.fullmatch(r"(?:\.\./book/)?([\w-]+)\.html(?:#(.+))?", target)
    if inside and inside[1] in printed:
        link["href"] = f"#{inside[1]}--{inside[2]}" if inside[2] else f"#{page_id(inside[1])}"
        if not inside[2]:
            link["data-page"] = page_id(inside[1])
    elif re.match(r"https?:", target):
        shown = link.get_text().strip()
        if shown and shown not in target:
            if target not in addresses:
                addresses.append(target)
            note = BeautifulSoup(f'<sup class="address">{addresses.index(target) + 1}</sup>', "html.parser")
            link.insert_after(note)
    else:
        link.unwrap()  # a file beside the pages, or a page that is not printed


def printed_page(entries: list[Entry], pages: Path = HTML) -> str:
    """The whole book as one HTML page, to be served from the folder above `pages`.

    Raises FileNotFoundError where pages are missing.
    """
    missing = [entry.name for entry in entries if not (pages / "book" / f"{entry.name}.html").is_file()]
    if missing:
        raise FileNotFoundError(f"no built page of {', '.join(missing)} in {pages}: run `make book` first")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    names = {entry.name for entry in entries}
    bodies, lines, running, part = [], [], [], None
    for entry in entries:
        source = (pages / "book" / f"{entry.name}.html").read_text(encoding="utf-8")
        body, sections = chapter(entry, source, names)
        title = re.sub(r"^[\d.]+\s*", "", BeautifulSoup(body, "html.parser").h1.get_text()).strip()
        number = f"{entry.number}. " if entry.number else ""
        if entry.part != part and entry.part:
            lines.append(f'<p class="part">{html.escape(entry.part)}</p>')
        part = entry.part
        lines.append(_line(page_id(entry.name), f"{number}{title}", "chapter-line"))
        lines += [_line(at, text, "section-line") for at, text in sections]
        running.append(
            f"#{page_id(entry.name)} {{ page: p-{entry.name}; }} @page p-{entry.name} "
            f"{{ @top-right {{ content: {json.dumps(number + title, ensure_ascii=False)}; }} }}"
        )
        bodies.append(body)
    first = (pages / "book" / f"{entries[0].name}.html").read_text(encoding="utf-8")
    sheets = [
        f'<link rel="stylesheet" href="../html/book/{sheet["href"]}">'
        for sheet in BeautifulSoup(first, "html.parser").find_all("link", rel="stylesheet")
    ]
    mathjax = BeautifulSoup(first, "html.parser").find("script", src=re.compile("mathjax/"))
    logo = (ROOT / config["logo"]).read_text(encoding="utf-8")
    title = html.escape(config["title"])
    return f"""<!DOCTYPE html>
<html lang="en" data-theme="light" data-mode="light"><head><meta charset="utf-8"><title>{title}</title>
{"".join(sheets)}<link rel="stylesheet" href="paper.css">
<style>{" ".join(running)}</style>
<script src="../html/_static/early.js"></script>
<script>window.MathJax = {{options: {{processHtmlClass: "tex2jax_process|mathjax_process|math|output_area", enableMenu: false,
enableAssistiveMml: false}}, chtml: {{displayAlign: "center"}}}}</script>
<script defer src="../html/book/{mathjax["src"] if mathjax else ""}"></script>
</head><body><div class="bd-content"><div class="bd-article-container">
<div id="cover">{logo}<h1>{title}</h1><p>{html.escape(config["author"])}</p>
<p class="small">{html.escape(str(config["copyright"]))}<br>Text and figures: CC BY 4.0. Code: MIT.<br>
The pages, with sliders that move and code that runs: {html.escape(config["repository"]["url"])}</p></div>
<div id="contents"><h1>Contents</h1>{"".join(lines)}</div>
{"".join(bodies)}
</div></div></body></html>
"""


def _line(target: str, text: str, kind: str) -> str:
    """A line of the contents; its number is filled in when the pages are known."""
    return (
        f'<p class="{kind}"><a href="#{html.escape(target, quote=True)}"><span>{html.escape(text)}</span>'
        f'<i></i><b data-page="{html.escape(target, quote=True)}" data-bare="">000</b></a></p>'
    )


# --- from one page to paper ---------------------------------------------------------------------------------------------


FILL = """numbers => {
  for (const e of document.querySelectorAll('[data-page]')) {
    const number = numbers[e.dataset.page];
    if (number === undefined) continue;
    if ('bare' in e.dataset) { e.textContent = number; continue; }
    let after = e.nextElementSibling;
    if (!after || !after.classList.contains('on-page'))
      e.after(after = Object.assign(document.createElement('span'), {className: 'on-page'}));
    after.textContent = ` (page ${number})`;
  }
}"""
SHRINK = """width => {
  for (const box of document.querySelectorAll('mjx-container[display=true]')) {
    const room = box.parentElement.clientWidth, inner = box.querySelector('mjx-math, mjx-mtable');
    const wide = Math.max(box.scrollWidth, inner ? inner.getBoundingClientRect().width : 0);
    if (wide > room + 1) box.style.fontSize = `${Math.floor(100 * room / wide)}%`;
  }
}"""
CUT = """() => [...document.querySelectorAll('body *')].filter(e => {
  if (!e.clientWidth || e.closest('mjx-assistive-mml, mjx-container')) return false;
  const style = getComputedStyle(e);
  const hides = style.overflowX !== 'visible' && style.display !== 'inline' && !e.closest('span.math');
  return (hides && e.scrollWidth > e.clientWidth + 1)
    || e.getBoundingClientRect().right > document.documentElement.clientWidth + 1;
}).concat([...document.querySelectorAll('mjx-container')].filter(
  e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
)).map(e => (e.closest('.chapter')?.id ?? '') + ': ' + e.outerHTML.slice(0, 140))"""
TALL = """most => [...document.querySelectorAll('img, svg, mjx-container')].filter(e => e.getBoundingClientRect().height > most)
  .map(e => (e.closest('.chapter')?.id ?? '') + ': ' + e.outerHTML.slice(0, 100))"""


def destinations(reader: PdfReader) -> dict[str, int]:
    """id -> the number of the page where it stands."""
    return {
        name.removeprefix("/"): reader.get_destination_page_number(where) + 1
        for name, where in reader.named_destinations.items()
    }


def print_book(page: Page) -> bytes:
    """Print again until the numbers printed are those of the pages they name."""
    before: dict[str, int] = {}
    for _ in range(5):
        # tagged for screen readers, which also gives it an outline of headings
        pdf = page.pdf(prefer_css_page_size=True, print_background=True, tagged=True, outline=True)
        found = destinations(PdfReader(io.BytesIO(pdf)))
        if found == before:
            return pdf
        page.evaluate(FILL, found)
        before = found
    raise Faulty("the page numbers do not settle")


def faults(pdf: bytes, limit: float = LIMIT) -> list[str]:
    """What is wrong with a PDF: fonts that it only names, pages with nothing on them, weight."""
    reader, found = PdfReader(io.BytesIO(pdf)), []
    if len(pdf) >= limit:
        found.append(f"{len(pdf) / 1e6:.1f} MB, and the limit is {limit / 1e6:.0f}")
    outside = set()
    for k, sheet in enumerate(reader.pages, 1):
        resources = sheet.get("/Resources", {})
        for font in (resources.get("/Font") or {}).values():
            outside |= _not_embedded(font.get_object())
        text = sheet.extract_text()
        if not text.strip() and not resources.get("/XObject"):
            found.append(f"page {k} is empty")
    found += [f"the font {name} is not embedded" for name in sorted(outside)]
    return found


def _not_embedded(font: dict) -> set[str]:
    if font["/Subtype"] == "/Type3":
        return set()  # its letters are drawings in the file
    if "/DescendantFonts" in font:
        return set().union(*(_not_embedded(d.get_object()) for d in font["/DescendantFonts"]))
    holds = font.get("/FontDescriptor", {})
    return set() if {"/FontFile", "/FontFile2", "/FontFile3"} & set(holds) else {str(font.get("/BaseFont"))}


def described(pdf: bytes) -> bytes:
    """The PDF with title and author, its objects packed."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    out = io.BytesIO()
    with pikepdf.open(io.BytesIO(pdf)) as book:
        for key, value in (("Title", config["title"]), ("Author", config["author"]), ("Subject", "An executable book")):
            book.docinfo[f"/{key}"] = value
        # half of the file is what a screen reader is told, in thousands of small objects
        book.save(out, object_stream_mode=pikepdf.ObjectStreamMode.generate)
    return out.getvalue()


def make(entries: list[Entry], pages: Path = HTML, out: Path = OUT, say=print) -> Path:
    """Print the pages. Raises Faulty with all that is wrong, and then keeps the file under another name to be looked at."""
    began = time.perf_counter()
    source = printed_page(entries, pages)
    out.mkdir(parents=True, exist_ok=True)
    (out / "book.html").write_text(source, encoding="utf-8")
    shutil.copyfile(STYLE, out / "paper.css")
    failed: list[str] = []
    with served(pages.parent) as base, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox", "--disable-gpu"])
        try:
            page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
            page.set_default_timeout(600_000)
            page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
            page.emulate_media(media="print")
            page.goto(f"{base}/{out.relative_to(pages.parent)}/book.html", wait_until="load")
            if page.query_selector(".math"):
                page.wait_for_function("window.MathJax?.startup?.promise", timeout=60_000)
                page.evaluate("MathJax.startup.promise.then(() => document.fonts.ready).then(() => null)")
            page.evaluate(SHRINK, WIDTH)
            say(f"{len(entries)} pages set in {time.perf_counter() - began:.0f} s")
            wrong = [f"missing: {url}" for url in failed]
            wrong += [f"wider than the page: {e}" for e in page.evaluate(CUT)]
            wrong += [f"taller than a page: {e}" for e in page.evaluate(TALL, 970)]
            wrong += [
                f"not typeset: {e}"
                for e in page.evaluate(
                    "[...document.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container')).map(e => e.outerHTML.slice(0, 100))"
                )
            ]
            wrong += [
                f"typeset as an error: {e}"
                for e in page.evaluate(
                    "[...document.querySelectorAll('mjx-merror')].map(e => e.closest('.math').textContent)"
                )
            ]
            pdf = described(print_book(page))
        finally:
            browser.close()
    (out / "book.html").unlink()
    (out / "paper.css").unlink()
    wrong += faults(pdf)
    target = out / (beside.PDF if not wrong else "faulty.pdf")
    target.write_bytes(pdf)
    if wrong:
        raise Faulty("\n  ".join([f"{target} is not fit to be handed out:", *wrong]))
    (out / "faulty.pdf").unlink(missing_ok=True)
    sheets = len(PdfReader(io.BytesIO(pdf)).pages)
    say(f"{target}  {sheets} pages, {len(pdf) / 1e6:.1f} MB, in {time.perf_counter() - began:.0f} s")
    return target


def chosen(names: list[str]) -> list[Entry]:
    """The pages of the book, or those that are named. Raises ValueError for a name that is none."""
    every = contents()
    for name in names:
        if name not in {entry.name for entry in every}:
            raise ValueError(f"no page {name!r}; there are {', '.join(entry.name for entry in every)}")
    return [entry for entry in every if not names or entry.name in names]


if __name__ == "__main__":
    try:
        make(chosen(sys.argv[1:]))
    except (ValueError, FileNotFoundError, Faulty) as error:
        sys.exit(f"paper.py: {error}")
    if not sys.argv[1:]:  # a part of the book is nothing to link to
        beside.link(HTML)
