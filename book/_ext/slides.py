"""The chapters as slides: one reveal.js deck for each, by nbconvert, with sliders that move, notes to speak from, and no network.

    python book/_ext/slides.py [chapter ...]      into _build/slides

One rule makes slides of a chapter, so that nobody has to tag its cells:

- a heading opens a slide; where it is full, the next one goes on under the same heading;
- of a paragraph the first sentence stands on the slide (two if it is short, or asks), and the last if an equation or code completes
  it; all of it is in the notes;
- equations, lists, tables and boxes stand as they are;
- short code stands open, long code is folded; what hides in the book because it only draws stays away, as do `glue` lines;
- a figure, and a slider, has a slide to itself, under no more than the lines that lead to it;
- exercises, solutions and cells that the book removes are left out; so is what follows the list of "In short".

A cell tagged `slide`, `subslide`, `fragment`, `notes` or `skip` is shown whole as what it says.
"""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import assets
import beside
import yaml
from chapters import BUILD, ROOT, Entry, glued, main_of, numbers, without_glue
from nbconvert import SlidesExporter
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from outputs import executed
from plainly import plain

HERE = Path(__file__).parent
TEMPLATE = HERE / "deck"
OUT = BUILD / "slides"
HAND = ("slide", "subslide", "fragment", "notes", "skip")
WIDGET = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
RICH = {"image/png", "image/jpeg", "image/svg+xml", "text/markdown", "text/html", WIDGET}
FULL = 13.0  # lines of text on a slide
LEAD = 4.3  # lines that may stand above a figure
OPEN = 12  # lines of code that need no fold
LINE = 68  # characters of a line of text
SHORT = 45  # characters of a sentence that does not stand for its paragraph


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph. Full stops in mathematics, code, brackets and abbreviations end none; what is bold or
    italic stays in one piece."""
    kept: list[str] = []

    def hide(match: re.Match) -> str:
        kept.append(match[0])
        ends = match[0].rstrip("*")[-1] in ".!?" and match[0].endswith("*")
        return f"\0{len(kept) - 1}\0" + "\2" * ends

    text = " ".join(paragraph.split())
    for pattern in (
        r"\$[^$]+\$|`[^`]+`",
        r"\([^()]*\)|\[[^\]]*\]\([^)]*\)|<[^>]+>|\b(?:e\.g|i\.e|cf|al|resp|eq|eqs|Fig|vs|St)\.",
        r"\*\*[^*]+\*\*",
        r"\*[^*\s][^*]*\*",
    ):
        text = re.sub(pattern, hide, text)

    def show(text: str) -> str:
        while "\0" in text:
            text = re.sub(r"\0(\d+)\0", lambda m: kept[int(m[1])], text)
        return text.replace("\2", "")

    return [show(part) for part in re.split(r"(?<=[.!?\2])\s+|(?<=[.!?][\"”’])\s+", text) if part]


def blocks(text: str) -> list[tuple[str, str]]:
    """Markdown in pieces, each with its kind: heading, equation, code, table, list, quote or text."""
    pieces = re.split(r"(^```.*?^```[ \t]*$|\$\$.*?\$\$)", text, flags=re.M | re.S)
    found = []
    for k, piece in enumerate(pieces):
        if k % 2:
            found.append(("code" if piece.startswith("```") else "equation", piece))
            continue
        for part in re.split(r"\n[ \t]*\n", piece):
            part = part.strip("\n")
            if not part.strip():
                continue
            heading = re.match(r"(#+ .*)(?:\n|$)", part)
            if heading:
                found.append(("heading", heading[1]))
                part = part[heading.end() :].strip("\n")
            if not part.strip():
                continue
            kind = "text"
            if re.match(r"\s*\|", part):
                kind = "table"
            elif re.match(r"\s*(?:[-*+]|\d+\.) ", part):
                kind = "list"
            elif part.startswith(">"):
                kind = "quote"
            elif found and found[-1][0] == "list" and part.startswith("  "):
                kind, part = "list", found.pop()[1] + "\n\n" + part  # a list whose items are paragraphs
            found.append((kind, part))
    return found


def spoken(paragraph: str, leads: bool) -> str:
    """What of a paragraph stands on the slide. leads: an equation, list, table or piece of code follows that may complete it."""
    said = sentences(paragraph)
    first = 1 + (said[0].rstrip("*")[-1] == "?" or len(said[0]) < SHORT)
    last = len(said)
    if leads and said[-1][-1] not in ".!?)*":
        last -= 1 + (len(said[-1]) < SHORT)
    return " ".join([*said[:first], *said[max(first, last) :]])


def height(kind: str, text: str) -> float:
    """How many lines of text a piece is as tall as, about."""
    shown = re.sub(r"\\[a-zA-Z]+|[{}$\\]|<[^>]+>|\*\*", "", text)
    if kind == "equation":
        return 1.6 + 1.3 * text.count("\\\\") + 0.8 * bool(re.search(r"frac|sum|prod|int", text))
    if kind == "table":
        return 1.25 * text.count("\n") + 1
    if kind == "code":
        return 0.8 * (text.count("\n") + 1) + 0.8
    return sum(-(-max(len(line), 1) // LINE) for line in shown.replace("\n  ", " ").split("\n")) + 0.6


class Deck:
    """Cells with slide types, collected one after the other."""

    def __init__(self) -> None:
        self.cells: list[NotebookNode] = []
        self.heading = ""
        self.notes: list[str] = []
        self.filled = 0.0

    def add(self, cell: NotebookNode, kind: str) -> None:
        cell.metadata["slideshow"] = {"slide_type": kind}
        cell["id"] = f"piece-{len(self.cells)}"
        self.cells.append(cell)

    def close(self) -> None:
        """The notes belong to the slide that ends."""
        if self.notes:
            self.add(new_markdown_cell("\n\n".join(self.notes)), "notes")
        self.notes = []

    def open(self, heading: str, kind: str) -> None:
        self.close()
        self.heading = heading
        self.add(new_markdown_cell(heading), kind)
        self.filled = 0.0

    def put(self, cell: NotebookNode, lines: float) -> None:
        """On the slide that is open, or on one more under the same heading where that is full."""
        title = self.heading.startswith("# ") and cell.cell_type == "code"  # on which no output belongs
        if title or (self.filled and self.filled + lines > FULL):
            self.open(re.sub(r"^# ", "## ", self.heading), "subslide")
        self.add(cell, "-")
        self.filled += lines

    def alone(self, cell: NotebookNode) -> None:
        """On a slide of its own, or under a few lines that lead to it; what follows goes on under the heading."""
        if self.filled > LEAD or self.heading.startswith("# "):
            self.close()
            self.add(cell, "subslide")
        else:
            self.add(cell, "-")
        self.filled = FULL

    def text(self, markdown: str, leads: bool) -> None:
        pieces = blocks(markdown)
        for k, (kind, piece) in enumerate(pieces):
            if kind == "heading":
                self.open(piece, "subslide" if piece.startswith("###") else "slide")
                continue
            if kind == "text" and self.heading == "## In short":
                self.notes.append(piece)
            elif kind == "text":
                completes = leads if k + 1 == len(pieces) else pieces[k + 1][0] not in ("text", "heading")
                shown = spoken(piece, completes)
                self.put(new_markdown_cell(shown), height(kind, shown))
                self.notes.append(piece)
            else:
                self.put(new_markdown_cell(piece), height(kind, piece))

    def code(self, cell: NotebookNode, number: str) -> None:
        """A code cell: what it shows of itself, what it printed, then its figures and sliders."""
        hidden = set(cell.metadata.get("tags", [])) & {"hide-input", "remove-input"}
        source = "" if hidden else without_glue(cell.source)
        printed = "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")
        printed += "".join(
            o.data["text/plain"] for o in cell.outputs if "text/plain" in o.get("data", {}) and not RICH & set(o.data)
        )
        shown = new_code_cell(source)
        if printed.strip():
            shown.outputs = [NotebookNode(output_type="stream", name="stdout", text=printed.rstrip() + "\n")]
        if source or printed.strip():
            fold = source.count("\n") >= OPEN
            shown.metadata["deck"] = {"code": "none" if not source else "folded" if fold else "open"}
            lines = (1.2 if fold else 0.78 * (source.count("\n") + 1)) * bool(source)
            self.put(shown, lines + 0.78 * len(printed.splitlines()) + 1)
        words = cell.metadata.get("mystnb", {})
        for output in cell.outputs:
            data = output.get("data", {})
            if "text/markdown" in data:
                self.text(data["text/markdown"], False)
            if WIDGET in data:
                view = new_code_cell("", outputs=[output])
                view.metadata["deck"] = {"code": "none"}
                self.alone(view)
            elif "text/html" in data:
                self.alone(new_markdown_cell(" ".join(data["text/html"].split())))
            for kind in ("image/png", "image/jpeg", "image/svg+xml"):
                if kind in data and WIDGET not in data:
                    self.alone(new_markdown_cell(figure(kind, data[kind], words, number)))
                    break


def figure(kind: str, data: str, words: Mapping, number: str) -> str:
    """An image with its alt text and its caption, as HTML that Markdown leaves alone (one line)."""
    source = f"data:{kind};base64,{''.join(data.split())}"
    if kind == "image/svg+xml":
        source = "data:image/svg+xml," + data.replace("%", "%25").replace("#", "%23").replace('"', "'")
    alt = html.escape(" ".join(words.get("image", {}).get("alt", "").split()), quote=True)
    caption = " ".join(words.get("figure", {}).get("caption", "").split())
    below = f"<figcaption><b>{number}.</b> {caption}</figcaption>" if caption else ""
    return f'<figure><img alt="{alt}" src="{source}">{below}</figure>'


def deck(notebook: NotebookNode, entry: Entry, values: Mapping[str, str] | None = None) -> NotebookNode:
    """A chapter with outputs as a notebook of slides.

    Raises ValueError where the chapter says what `plain` cannot write out.
    """
    values = glued(notebook) if values is None else values
    book = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    made, left_out = Deck(), False
    for k, cell in enumerate(notebook.cells):
        tags = set(cell.metadata.get("tags", []))
        hand = next((kind for kind in HAND if kind in tags), None)
        if hand == "skip" or (tags & {"remove-cell", "hide-cell"} and not hand):
            continue
        if cell.cell_type == "markdown":
            text = plain(cell.source, values, html=True, directive=_no_exercise)
            # from "Exercises" to the next heading of its rank nothing is shown
            parts = re.split(r"^(?=# |## )", text, flags=re.M)
            shown = []
            for part in parts:
                if part.startswith(("# ", "## ")):
                    left_out = part.startswith("## Exercises")
                if not left_out:
                    shown.append(part)
            text = "".join(shown).strip()
            if not text:
                continue
            if hand:
                made.close()
                made.add(new_markdown_cell(text), hand)
                continue
            follows = next((c for c in notebook.cells[k + 1 :] if not set(c.metadata.get("tags", [])) & {"skip"}), None)
            leads = follows is not None and follows.cell_type == "code"
            made.text(text, leads)
            if text.startswith("# "):
                number = f"Chapter {entry.number} of " if entry.number else ""
                made.add(new_markdown_cell(f'<p class="of-book">{number}<i>{book["title"]}</i></p>'), "-")
        elif cell.cell_type == "code" and not left_out:
            if hand:
                made.close()
                made.add(cell, hand)
                continue
            name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name", "")
            made.code(cell, numbers().references.get(name, "Figure"))
    made.close()
    shown = new_notebook(cells=made.cells, metadata={"title": numbers().titles[entry.name]})
    shown.metadata["language_info"] = {"name": "python"}
    if STATE in notebook.metadata.get("widgets", {}):
        shown.metadata["widgets"] = {STATE: _needed(notebook.metadata.widgets[STATE], made.cells)}
    return shown


def _no_exercise(name: str, argument: str, body: str) -> str | None:
    return "" if name in ("exercise", "solution") else None


def _needed(state: NotebookNode, cells: list[NotebookNode]) -> dict:
    """The widgets' state without the models that no slide shows."""
    models, wanted = state["state"], set()
    queue = [o.data[WIDGET]["model_id"] for c in cells for o in c.get("outputs", ()) if WIDGET in o.get("data", {})]
    while queue:
        model = queue.pop()
        if model in models and model not in wanted:
            wanted.add(model)
            queue += re.findall(r"IPY_MODEL_(\w+)", str(models[model]["state"]))
    return {**state, "state": {key: value for key, value in models.items() if key in wanted}}


def page_of(shown: NotebookNode) -> str:
    """The deck as a page, by nbconvert and the template beside this file."""
    exporter = SlidesExporter(
        template_name=TEMPLATE.name,
        extra_template_basedirs=[str(TEMPLATE.parent)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    return exporter.from_notebook_node(shown)[0]


def lay_out(folder: Path) -> None:
    """What all decks share: reveal.js, MathJax, the widget manager, our style."""
    if not assets.fetch(install_npm=True, say=lambda line: print(line, flush=True)):
        raise FileNotFoundError("no npm, or no network: reveal.js cannot be fetched, and slides need it")
    vendor = folder / "vendor"
    assets.copy_to(vendor)
    reveal = ROOT / "node_modules" / "reveal.js" / "dist"
    for name in ("reset.css", "reveal.css", "reveal.js", "plugin/notes.js"):
        (vendor / "reveal" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(reveal / name, vendor / "reveal" / name)
    shutil.copyfile(reveal.parent / "LICENSE", vendor / "reveal" / "LICENSE")
    for path in (TEMPLATE / "deck.css", TEMPLATE / "deck.js", ROOT / "book" / "_static" / "widgets-paths.js"):
        shutil.copyfile(path, folder / path.name)
    shutil.copyfile(ROOT / "book" / "_static" / "early.js", folder / "early.js")


def make(entries: list[Entry]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    lay_out(OUT)
    for entry in entries:
        page = page_of(deck(executed(entry.path), entry))
        (OUT / f"{entry.name}.html").write_text(page, encoding="utf-8")
        print(f"_build/slides/{entry.name}.html  {len(page) / 1e6:.1f} MB", flush=True)
    beside.link(BUILD / "html")


if __name__ == "__main__":
    main_of("slides.py", make)
