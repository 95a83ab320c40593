"""The chapters' exercises as notebooks to hand out: one folder without solutions, one with.

    python book/_ext/handouts.py [chapter ...]      into _build/exercises/{without,with}

A solution uses what its chapter has defined. Each notebook opens with the cells that define it, found by following names, so
that it runs on its own.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import re
import shutil
import symtable
from dataclasses import dataclass, field

import beside
from address import address
from chapters import BUILD, Entry, glued, main_of, numbers, without_glue
from equations import FENCE
from nbformat import NotebookNode, validate, writes
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from outputs import executed
from plainly import plain

OUT = BUILD / "exercises"


@dataclass
class Exercise:
    """One exercise: its number in the book, its text, its solution and the cells that compute it."""

    label: str
    text: str
    solution: str = ""
    code: list[NotebookNode] = field(default_factory=list)


def exercises(notebook: NotebookNode) -> list[Exercise]:
    """The exercises of a chapter in order, as MyST. Raises ValueError for a solution to none, or an exercise without one."""
    found: dict[str, Exercise] = {}
    last = None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            if last:
                last.code.append(cell)
            continue
        last = None
        for block in FENCE.finditer(cell.source):
            kind, _, argument = block["head"].strip()[1:].partition("}")
            options = re.match(r"(?:[ \t]*:[\w-]+:[^\n]*\n)*", block["body"])[0]
            text = block["body"][len(options) :].strip()
            if kind == "exercise":
                label = re.search(r":label:[ \t]*(\S+)", options)[1]
                found[label] = Exercise(label, text)
            elif kind == "solution":
                label = argument.strip()
                if label not in found:
                    raise ValueError(f"a solution to {label!r}, and no such exercise before it")
                last = found[label]
                last.solution = text
        if re.search(r"^## ", FENCE.sub("", cell.source).partition("## Exercises")[2], re.M):
            last = None  # the next section has begun
    for one in found.values():
        if not one.solution:
            raise ValueError(f"the exercise {one.label!r} has no solution")
    return list(found.values())


@dataclass
class Names:
    """What a cell does with names of the notebook: which it needs from before, binds anew, or changes in place."""

    needs: set[str] = field(default_factory=set)
    binds: set[str] = field(default_factory=set)
    changes: set[str] = field(default_factory=set)


def names(source: str) -> Names:
    """Read a cell, statement by statement. One that only IPython can read does nothing with names."""
    found = Names()
    with contextlib.suppress(SyntaxError):
        _follow(ast.parse(source).body, found)
    found.needs -= set(dir(builtins))
    return found


def _follow(body: list[ast.stmt], found: Names) -> None:
    for node in body:
        match node:
            case ast.For(target=target, iter=expression):
                _read(expression, found)
                found.binds |= _stored(target)
                _follow([*node.body, *node.orelse], found)
            case ast.With():
                for item in node.items:
                    _read(item.context_expr, found)
                    found.binds |= _stored(item.optional_vars) if item.optional_vars else set()
                _follow(node.body, found)
            case ast.If() | ast.While():
                _read(node.test, found)
                _follow([*node.body, *node.orelse], found)
            case ast.Try():
                _follow(node.body, found)
                for handler in node.handlers:
                    if handler.type:
                        _read(handler.type, found)
                    found.binds |= {handler.name} - {None}
                    _follow(handler.body, found)
                _follow([*node.orelse, *node.finalbody], found)
            case _:
                _read(node, found)


def _read(node: ast.AST, found: Names) -> None:
    """A statement or expression without statements of the notebook inside: a function's own names are its own."""
    table = symtable.symtable(ast.unparse(node), "cell", "exec")
    found.needs |= _free(table) - found.binds
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        found.needs |= {node.target.id} - found.binds
    for inner in ast.walk(node):
        base = None
        if isinstance(inner, (ast.Subscript, ast.Attribute)) and isinstance(inner.ctx, ast.Store):
            base = inner.value
        elif isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
            # optimiser.step(), losses.append(), tensor.zero_(): whatever is called as a statement is called for what it changes
            called_for_itself = isinstance(node, ast.Expr) and node.value is inner
            if called_for_itself or inner.func.attr.endswith("_"):
                base = inner.func.value
        while isinstance(base, (ast.Subscript, ast.Attribute)):
            base = base.value
        if isinstance(base, ast.Name):
            found.changes.add(base.id)
    found.binds |= {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}


def _free(table: symtable.SymbolTable, top: bool = True) -> set[str]:
    used = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
    return used.union(*(_free(child, False) for child in table.get_children()))


def _stored(target: ast.expr) -> set[str]:
    return {n.id for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def needed(before: list[str], wanted: set[str]) -> list[int]:
    """Which of the cells before are needed to define the wanted names, in order."""
    kept, wanted = [], set(wanted)
    for k in range(len(before) - 1, -1, -1):
        here = names(before[k])
        if (here.binds | here.changes) & wanted:
            kept.append(k)
            wanted = (wanted - here.binds) | here.needs
    return kept[::-1]


def handout(notebook: NotebookNode, entry: Entry, *, solutions: bool) -> NotebookNode | None:
    """The notebook of a chapter's exercises; None if it has none."""
    found = exercises(notebook)
    if not found:
        return None
    values, known = glued(notebook), numbers()
    own = {cell.id for one in found for cell in one.code}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    first, chapter = code[0], [cell for cell in code[1:] if cell.id not in own]
    wanted = {word for one in found for span in re.findall(r"`([^`]+)`", one.text) for word in re.findall(r"\w+", span)}
    for one in found:
        made_here: set[str] = set()
        for cell in one.code:
            here = names(cell.source)
            wanted |= here.needs - made_here
            made_here |= here.binds
    setup = [chapter[k] for k in needed([cell.source for cell in chapter], wanted)]

    chapter_says = f"chapter {entry.number}" if entry.number else "a chapter"
    made = [
        new_code_cell(first.source),
        new_markdown_cell(
            f"# {known.titles[entry.name]}: exercises{' with solutions' if solutions else ''}\n\n"
            f"From {chapter_says} of *Denoising Diffusion Implicit Models, by running them* ({address()}). Equations, figures and "
            "exercises are numbered as there. Text: CC BY 4.0. Code: MIT."
        ),
    ]
    if setup:
        made.append(
            new_markdown_cell("## From the chapter\n\nRun these cells first: they define what the exercises use.")
        )
        made += [new_code_cell(source) for cell in setup if (source := without_glue(cell.source))]
    for one in found:
        made.append(new_markdown_cell(f"## {known.references[one.label]}\n\n{plain(one.text, values)}"))
        if not solutions:
            made.append(new_code_cell("# your answer"))
            continue
        made.append(new_markdown_cell(f"### Solution\n\n{plain(one.solution, values)}"))
        for cell in one.code:
            source = without_glue(cell.source)
            shown = [o for o in cell.outputs if "scrapbook" not in o.get("metadata", {})]
            if source:
                made.append(new_code_cell(source, outputs=shown))
    for k, cell in enumerate(made):
        cell["id"] = f"cell-{k}"
    made_book = new_notebook(
        cells=made,
        metadata={
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
    )
    validate(made_book)
    return made_book


def make(entries: list[Entry]) -> None:
    entries = [entry for entry in entries if "{exercise}" in entry.path.read_text(encoding="utf-8")]
    run = {entry: executed(entry.path) for entry in entries}
    for solutions, folder in ((False, OUT / "without"), (True, OUT / "with")):
        folder.mkdir(parents=True, exist_ok=True)
        for entry, notebook in run.items():
            made = handout(notebook, entry, solutions=solutions)
            (folder / f"{entry.name}.ipynb").write_text(writes(made) + "\n", encoding="utf-8")
        print(f"{folder}  and  {shutil.make_archive(str(folder), 'zip', folder)}")
    beside.link(BUILD / "html")
    print(f"{sum(len(exercises(notebook)) for notebook in run.values())} exercises of {len(run)} chapters")


if __name__ == "__main__":
    main_of("handouts.py", make)
