"""The book's displayed equations, and the page that lists them with their code and their tests.

    python book/_ext/equations.py     writes book/equations.md anew

tests/test_equations.py fails when an equation has no label or no test, and when the page is not what this script writes.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from address import address

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
TESTS = ROOT / "tests" / "test_equations.py"
PAGE = BOOK / "equations.md"

# a fenced block: its mark, its directive if any, and what is inside
FENCE = re.compile(r"^(?P<mark>`{3,}|~{3,}|:{3,})(?P<head>[^\n]*)\n(?P<body>.*?)^(?P=mark)[ \t]*$", re.M | re.S)
DOLLARS = re.compile(r"\$\$(.+?)\$\$(?:[ \t]*\(([^)\s]+)\))?", re.S)
AMSMATH = re.compile(r"^[ \t]*\\begin\{(equation|align|gather|multline|alignat|eqnarray)\*?\}", re.M)


@dataclass(frozen=True)
class Equation:
    """A displayed equation: the page it stands on, its label ("" if it has none) and its TeX."""

    page: str
    label: str
    tex: str


def displayed(page: str, text: str) -> list[Equation]:
    """The displayed equations of a piece of markdown, in order, those in directives included, code left out."""
    found = []

    def visit(text: str) -> str:
        def block(match: re.Match) -> str:
            head, body = match["head"].strip(), match["body"]
            if head.startswith("{math}"):
                label = re.search(r"^:label:[ \t]*(\S+)", body, re.M)
                return f"$$\n{body}\n$$" + (f" ({label[1]})" if label else "")
            return visit(body) if head.startswith("{") and not head.startswith(("{code", "{literalinclude")) else ""

        return FENCE.sub(block, text)

    text = re.sub(r"`[^`\n]*`", "", visit(text))
    for match in DOLLARS.finditer(text):
        found.append(Equation(page, match[2] or "", match[1].strip()))
    for match in AMSMATH.finditer(DOLLARS.sub("", text)):
        found.append(Equation(page, "", match[0].strip()))
    return found


def pages() -> list[Path]:
    """The book's pages: in the order of the table of contents, then those that are not in it yet."""
    listed = re.findall(r"(?:root|file):[ \t]*(\S+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
    every = {
        p.relative_to(ROOT).with_suffix("").as_posix(): p
        for p in sorted([*BOOK.glob("[!.]*.ipynb"), *BOOK.glob("[!.]*.md")])
    }
    order = [name for name in listed if name in every]
    return [every[name] for name in [*order, *(name for name in every if name not in order)]]


def equations() -> list[Equation]:
    """All displayed equations of the book, in reading order."""
    found = []
    for path in pages():
        if path == PAGE:
            continue
        if path.suffix == ".md":
            found += displayed(path.name, path.read_text(encoding="utf-8"))
        else:
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
                if cell["cell_type"] == "markdown":
                    found += displayed(path.name, "".join(cell["source"]))
    return found


def title(page: str) -> str:
    """The first heading of a page."""
    path = BOOK / page
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    return re.search(r"^# +(.+)", text, re.M)[1]


def register() -> dict[str, list]:
    """label -> the tests that hold it, as tests/test_equations.py declares them."""
    sys.path.insert(0, str(TESTS.parent))
    spec = importlib.util.spec_from_file_location("test_equations", TESTS)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("test_equations", module)
    spec.loader.exec_module(module)
    return module.HELD


def table(held: dict[str, list], found: list[Equation]) -> str:
    """The page: for each chapter a table of its equations, what holds them, and the code that is them."""
    lines = [
        "# Equations, code, tests",
        "",
        "A test checks each displayed equation of this book: it puts in numbers and compares both sides, and wherever it can it",
        "computes one of them without the code of `ddim_core`. The tests are the functions of",
        f"[`tests/test_equations.py`]({address()}/blob/main/tests/test_equations.py); one of them fails when",
        "an equation has no test. *Code* names the part of `ddim_core` that computes the equation, if there is one.",
        "",
        "<!-- Written by book/_ext/equations.py: change that, or the tests, and run it again. -->",
    ]
    page = None
    for equation in found:
        if equation.page != page:
            page = equation.page
            lines += ["", f"## {title(page)}", "", "| equation | code | test |", "|---|---|---|"]
        for k, test in enumerate(held.get(equation.label, ())):  # without one, a test fails and says so
            code = "<br>".join(f"`{name.removeprefix('ddim_core.')}`" for name in test.code) or "in the chapter"
            link = f"{{eq}}`{equation.label}`" if k == 0 else ""
            lines.append(f"| {link} | {code} | `{test.name}`<br>{test.says} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(table(register(), equations()), encoding="utf-8")
    print(PAGE)
