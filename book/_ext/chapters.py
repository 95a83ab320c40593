"""What the book's pages are called and numbered, and what they hold: for slides, hand-outs and print."""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import nbformat
import yaml
from equations import FENCE, displayed
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from outputs import ROOT

BOOK = ROOT / "book"
BUILD = ROOT / "_build"


@dataclass(frozen=True)
class Entry:
    """A page of the table of contents: its name, the caption of its part, its number or None."""

    name: str
    part: str
    number: int | None

    @property
    def path(self) -> Path:
        found = [p for end in (".ipynb", ".md") if (p := BOOK / f"{self.name}{end}").is_file()]
        if not found:
            raise FileNotFoundError(f"_toc.yml names book/{self.name}, which is not there")
        return found[0]


def contents(toc: Path = ROOT / "_toc.yml") -> list[Entry]:
    """The pages in reading order; numbers run on from part to part, and parts that say `numbered: false` have none."""
    table = yaml.safe_load(toc.read_text(encoding="utf-8"))
    entries, number = [Entry(table["root"].removeprefix("book/"), "", None)], 0
    for part in table["parts"]:
        for chapter in part["chapters"]:
            counts = bool(part.get("numbered", True))
            number += counts
            entries.append(Entry(chapter["file"].removeprefix("book/"), part["caption"], number if counts else None))
    return entries


def notebooks(names: list[str] | None = None) -> list[Entry]:
    """The pages that are notebooks, or those of them that are named. Raises ValueError for a name that is none."""
    every = {entry.name: entry for entry in contents() if entry.path.suffix == ".ipynb"}
    for name in names or ():
        if name not in every:
            raise ValueError(f"no chapter {name!r}; there are {', '.join(every)}")
    return [every[name] for name in names or every]


@dataclass
class Numbers:
    """label -> what a reference to it reads: "(1.2)", "Fig. 1.2", "Exercise 1.2", the title of a section."""

    references: dict[str, str] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)  # of the pages


@cache
def numbers() -> Numbers:
    """As Sphinx counts: by chapter, each kind on its own, and equations only if they have a label."""
    found = Numbers()
    for entry in contents():
        prefix, counts = "" if entry.number is None else f"{entry.number}.", dict.fromkeys(("Fig.", "Table", "eq"), 0)
        counts["Exercise"] = 0

        def count(kind: str, label: str, prefix: str = prefix, counts: dict[str, int] = counts) -> None:
            counts[kind] += 1
            at = f"{prefix}{counts[kind]}"
            found.references[label] = f"({at})" if kind == "eq" else f"{kind} {at}"

        for cell in cells(entry.path):
            figure = cell.metadata.get("mystnb", {}).get("figure")
            if cell.cell_type == "code" and figure:
                count("Fig.", figure.get("name", ""))
            if cell.cell_type != "markdown":
                continue
            text = cell.source
            if entry.name not in found.titles and (title := re.search(r"^# +(.+)", text, re.M)):
                found.titles[entry.name] = title[1].strip()
            for target, title in re.findall(r"^\(([\w-]+)\)=\n+#+ +(.+)", text, re.M):
                found.references[target] = title.strip()
            for equation in displayed(entry.name, text):
                if equation.label:
                    count("eq", equation.label)
            for block in FENCE.finditer(text):
                kind = {"{exercise}": "Exercise", "{table}": "Table"}.get(block["head"].split(" ")[0].strip())
                label = re.search(r"^:(?:label|name):[ \t]*(\S+)", block["body"], re.M)
                if kind:
                    count(kind, label[1] if label else "")
    return found


def cells(path: Path) -> list[NotebookNode]:
    """The cells of a notebook; a page of Markdown is one cell."""
    if path.suffix == ".md":
        return [nbformat.v4.new_markdown_cell(path.read_text(encoding="utf-8"))]
    return nbformat.read(path, 4).cells


def glued(notebook: NotebookNode) -> dict[str, str]:
    """name -> the text that its cell computed for {glue:text}."""
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if name:
                found[name] = output["data"]["application/papermill.record/text/plain"].strip("'\"")
    return found


def without_glue(source: str) -> str:
    """Code without the lines that only hand numbers to the book's prose, and without loops that do nothing else."""
    if not re.search(r"\bglue\b", source):
        return source
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a line that only IPython reads
        return source
    gone: set[int] = set()

    def clear(body: list[ast.stmt]) -> bool:
        """Mark what goes; whether all does."""
        went = [goes(node) for node in body]
        return all(went)

    def goes(node: ast.stmt) -> bool:
        call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "")
        names = [name.name for name in node.names] if isinstance(node, ast.ImportFrom) else []
        compound = isinstance(node, (ast.For, ast.If, ast.With)) and not getattr(node, "orelse", [])
        out = call == "glue" or names == ["glue"] or (compound and clear(node.body))
        if out:
            gone.update(range(node.lineno, node.end_lineno + 1))
        return out

    clear(body)
    return "\n".join(line for k, line in enumerate(source.splitlines(), 1) if k not in gone).strip("\n")


def main_of(script: str, make, argv: list[str] | None = None) -> None:
    """Run a script on the chapters that are named, or on all; a wrong name is one line."""
    try:
        make(notebooks(argv if argv is not None else sys.argv[1:]))
    except (ValueError, FileNotFoundError, CellExecutionError) as error:
        sys.exit(f"{script}: {error}")
