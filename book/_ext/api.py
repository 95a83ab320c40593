"""The pages on the package: docstrings typeset, types linked, each name linked to the section that explains it, and back.

    .. api:: ddim_core.schedule      a module: its docstring, then every name of its `__all__` that is its own

book/api/sections.toml says which section explains which name. A docstring of this project is plain text with `code`,
indented formulas, and the sections that `SECTION` names; `typeset` turns it into what Sphinx reads.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
import textwrap
import tomllib
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from address import address
from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "book" / "api" / "sections.toml"
EQUATIONS = ROOT / "book" / "equations.md"
sys.path.insert(0, str(ROOT))  # this checkout's package, whichever is installed

FEW = 5  # equations of a name that are listed beside it; the rest is on their own page

SECTION = {
    "Args": "Parameters",
    "Attributes": "Attributes",
    "Returns": "Returns",
    "Yields": "Yields",
    "Raises": "Raises",
}

# Pages of others' documentation, written out: an inventory would have to be downloaded at each build. A name here is as
# Python spells it in a signature; `make links` sees whether the pages are still there.
TORCH = "https://docs.pytorch.org/docs/stable/"
PYTHON = "https://docs.python.org/3/library/"
ELSEWHERE = {
    "torch.Tensor": f"{TORCH}tensors.html",
    "torch.Generator": f"{TORCH}generated/torch.Generator.html",
    "torch._C.Generator": f"{TORCH}generated/torch.Generator.html",
    "torch.device": f"{TORCH}tensor_attributes.html",
    "torch.dtype": f"{TORCH}tensor_attributes.html",
    "torch.nn.Module": f"{TORCH}generated/torch.nn.Module.html",
    "torch.nn.modules.module.Module": f"{TORCH}generated/torch.nn.Module.html",
    "numpy.ndarray": "https://numpy.org/doc/stable/reference/generated/numpy.ndarray.html",
    "PIL.Image.Image": "https://pillow.readthedocs.io/en/stable/reference/Image.html",
    "matplotlib.figure.Figure": "https://matplotlib.org/stable/api/_as_gen/matplotlib.figure.Figure.html",
    "matplotlib.axes._axes.Axes": "https://matplotlib.org/stable/api/_as_gen/matplotlib.axes.Axes.html",
    "anywidget.widget.AnyWidget": "https://anywidget.dev/",
    "contextlib.AbstractContextManager": f"{PYTHON}contextlib.html#contextlib.AbstractContextManager",
    "pathlib.Path": f"{PYTHON}pathlib.html#pathlib.Path",
}
for _name in ("Callable", "Iterator", "Sequence", "Iterable", "Mapping"):
    ELSEWHERE[f"collections.abc.{_name}"] = f"{PYTHON}collections.abc.html#collections.abc.{_name}"
ELSEWHERE["t.Any"] = f"{PYTHON}typing.html#typing.Any"  # as anywidget writes it
for _name in ("Any", "BinaryIO", "TextIO", "NamedTuple"):
    ELSEWHERE[f"typing.{_name}"] = f"{PYTHON}typing.html#typing.{_name}"
for _name in ("int", "float", "bool", "str", "bytes", "list", "tuple", "dict", "set", "slice"):
    ELSEWHERE[_name] = f"{PYTHON}stdtypes.html#{_name}" if _name != "slice" else f"{PYTHON}functions.html#slice"
ELSEWHERE["object"] = f"{PYTHON}functions.html#object"
ELSEWHERE["None"] = f"{PYTHON}constants.html#None"
for _name in ("Exception", "ValueError", "TypeError", "RuntimeError", "KeyError", "OSError", "SystemExit"):
    ELSEWHERE[_name] = f"{PYTHON}exceptions.html#{_name}"


def modules() -> list[str]:
    """The modules of the package that offer something."""
    package = ROOT / "ddim_core"
    names = (
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(package.rglob("*.py"))
        if path.name != "__main__.py"
    )
    return [name for name in names if name != "ddim_core" and hasattr(import_module(name), "__all__")]


def own(module: str) -> dict[str, Any]:
    """The public names of a module that are made in it, in the order in which they stand there."""
    loaded = import_module(module)
    order = _lines(module)
    found = {name: getattr(loaded, name) for name in loaded.__all__ if name in order}
    return dict(sorted(found.items(), key=lambda item: order[item[0]]))


@functools.cache
def _lines(module: str) -> dict[str, int]:
    """What a module defines at its top, and in which line."""
    found = {}
    for node in ast.parse(inspect.getsource(import_module(module))).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node.lineno
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in ast.walk(node):
                if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store):
                    found[target.id] = node.lineno
    return found


def remark(module: str, name: str) -> str:
    """The comment of a constant: above it, or at the end of its line. "" if there is none."""
    source = inspect.getsource(import_module(module)).splitlines()
    at = _lines(module)[name] - 1
    above = []
    while at - len(above) > 0 and source[at - len(above) - 1].startswith("# "):
        above.insert(0, source[at - len(above) - 1].removeprefix("# "))
    if above:
        return " ".join(above)
    return match[1] if (match := re.search(r"  # (?!noqa|type:)(.+)$", source[at])) else ""


def is_constant(thing: object) -> bool:
    return not inspect.isclass(thing) and not inspect.isroutine(thing)


def members(thing: type) -> list[str]:
    """The public methods and properties of a class that have a docstring: those that its entry shows."""
    return [n for n, member in vars(thing).items() if not n.startswith("_") and _docstring_of_member(member)]


def _docstring_of_member(member: object) -> str | None:
    if isinstance(member, staticmethod | classmethod):
        member = member.__func__
    return member.__doc__ if inspect.isfunction(member) or isinstance(member, property) else None


@functools.cache
def documented() -> frozenset[str]:
    """Every name that has an entry on a page of the package."""
    found = set()
    for module in modules():
        for name, thing in own(module).items():
            found.add(f"{module}.{name}")
            if inspect.isclass(thing):
                found |= {f"{module}.{name}.{member}" for member in members(thing)}
    return frozenset(found)


def sections() -> dict[str, list[str]]:
    """name -> the sections that explain it, each "page" or "page#heading"."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {name: [where] if isinstance(where, str) else where for name, where in table.items()}


@functools.cache
def equation_labels() -> dict[str, list[str]]:
    """name -> the equations of the book that it computes, as book/equations.md lists them."""
    found: dict[str, list[str]] = {}
    label = ""
    for line in EQUATIONS.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and (cells := line.split("|")[1:-1]) and len(cells) == 3:
            label = match[1] if (match := re.search(r"\{eq\}`([^`]+)`", cells[0])) else label
            for name in re.findall(r"`([^`]+)`", cells[1]):
                if (full := _target(name, "ddim_core")) and label not in found.setdefault(full, []):
                    found[full].append(label)
    return found


# --- docstrings -----------------------------------------------------------------------------------------------------------


def _target(text: str, module: str) -> str | None:
    """The entry that `text`, in a docstring of a module, means; None if it is no more than code."""
    text = text.removesuffix("()")
    if not re.fullmatch(r"[A-Za-z_][\w.]*", text):
        return None
    for full in (f"{module}.{text}", f"ddim_core.{text}", f"ddim_core.errors.{text}", text):
        if full in documented():
            return full
    head, _, rest = text.partition(".")  # a name that the module imports
    thing = getattr(import_module(module), head, None)
    full = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}" + (f".{rest}" if rest else "")
    return full if full in documented() else None


def inline(text: str, module: str) -> str:
    """A piece of a docstring's prose as reStructuredText: code as code, names linked, nothing else taken for markup."""
    parts = re.split(r"`([^`]+)`", text)
    out = []
    for k, part in enumerate(parts):
        if k % 2:
            full = _target(part, module)
            room = next(
                (m for m in (f"{module}.{part}", f"ddim_core.{part}", f"ddim_core.data.{part}") if m in modules()), ""
            )
            if full:
                out.append(f":py:obj:`{part} <{full}>`")
            elif room and re.search(r"\b[Ss]ee $", parts[k - 1]):
                out.append(f":py:mod:`{part} <{room}>`")
            else:
                out.append(f"``{part}``")
        else:
            part = re.sub(r"([\\*|<>])", r"\\\1", part)
            part = re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", part)
            part = re.sub(r"(?i)\barxiv[: ](\d{4}\.\d{4,5})", r"`arXiv:\1 <https://arxiv.org/abs/\1>`__", part)
            out.append(part)
    # markup must end where a word ends
    return "".join(
        part + ("\\ " if k % 2 and k + 1 < len(out) and re.match(r"\w", out[k + 1]) else "")
        for k, part in enumerate(out)
    )


def _items(lines: list[str], known: set[str], raises: bool) -> list[tuple[str, str]]:
    """The entries of a section, (names, text). An entry may hold several: "a: the first. b: the second."."""
    text = textwrap.dedent("\n".join(lines))
    entries = [" ".join(e.split()) for e in re.split(r"\n(?=\S)", text) if e.strip()]
    name = r"[A-Z]\w*Error" if raises else r"\w+(?:, \w+)*"
    found: list[tuple[str, str]] = []
    for entry in entries:
        starts = []
        for match in re.finditer(rf"(?:^|(?<=[.;,)\]] ))({name})(?:: |\.$|$)", entry):
            names = match[1].split(", ")
            if match.start() == 0 or raises or set(names) <= known:
                starts.append(match)
        if not starts or starts[0].start() > 0:
            found.append(("", entry))
            continue
        ends = [match.start() for match in starts[1:]] + [len(entry)]
        found += [(m[1], entry[m.end() : end].strip().removesuffix(";")) for m, end in zip(starts, ends, strict=True)]
    return found


def _known(thing: object) -> set[str]:
    """What the sections of a docstring may name: parameters, fields."""
    found = set(getattr(thing, "__annotations__", ()))
    with suppress(TypeError, ValueError):  # a property has no signature
        found |= set(inspect.signature(thing).parameters)  # type: ignore[arg-type]
    return found


def typeset(doc: list[str], module: str, thing: object = None) -> list[str]:
    """A docstring as reStructuredText, line by line."""
    out: list[str] = []
    fields: list[str] = []
    lines, k = [line.rstrip() for line in doc], 0

    def indented(k: int) -> int:
        while k < len(lines) and (not lines[k] or lines[k].startswith(" ")):
            k += 1
        return k

    while k < len(lines):
        line = lines[k]
        if (match := re.fullmatch(r"(\w+):", line)) and match[1] in SECTION:
            end = indented(k + 1)
            body = lines[k + 1 : end]
            title = SECTION[match[1]]
            if title in ("Returns", "Yields"):
                text = " ".join(" ".join(body).split())
                fields += [f":{title}: {inline(text, module)}"]
            else:
                fields += [f":{title}:"]
                for names, text in _items(body, _known(thing), title == "Raises"):
                    if title == "Raises" and names:
                        head = inline(f"`{names}`", module) if _target(names, module) else f":py:exc:`{names}`"
                    else:
                        head = ", ".join(
                            f"**{name.replace('_', chr(92) + '_')}**" for name in names.split(", ") if name
                        )
                    dash = ": " if head and text else ""
                    fields += [f"    - {head}{dash}{inline(text, module)}"]
                fields += [""]
            k = end
        elif line.startswith("    ") and (not out or not out[-1]):  # a formula, a layout of files
            end = indented(k)
            out += [".. code-block:: text", "", *(f"   {shown}" for shown in lines[k:end]), ""]
            k = end
        elif not line:
            out += [""]
            k += 1
        else:
            # a paragraph as a whole, since code in it may go over the end of a line
            end = k + 1
            while (
                end < len(lines) and lines[end] and not re.match(r"\d+\. |(?:" + "|".join(SECTION) + "):$", lines[end])
            ):
                end += 1
            hang = re.match(r"(\d+\. )?", line)[0]
            out += [hang + inline(" ".join(part.strip() for part in lines[k:end]).removeprefix(hang), module)]
            k = end
    return [*out, "", *fields] if fields else out


def process(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Autodoc's docstring, typeset; and where the book explains the name."""
    if not name.startswith("ddim_core"):
        return
    module = next(m for m in sorted(modules(), key=len, reverse=True) if name.startswith(m + "."))
    lines[:] = [*typeset(list(lines), module, thing), *in_the_book(name), ""]


def in_the_book(name: str) -> list[str]:
    """The line that leads from a name to the book; no line if the book does not speak of it."""
    places = [f":booksection:`{where}`" for where in sections().get(name, [])]
    labels = [f":bookequation:`{label}`" for label in equation_labels().get(name, [])]
    if labels:
        more = f" and {len(labels) - FEW} more on the page :booksection:`equations`" if len(labels) > FEW else ""
        places += [f"equation{'s' * (len(labels) > 1)} {', '.join(labels[:FEW])}{more}"]
    return ["", f":In the book: {', '.join(places)}"] if places else []


# --- pages ----------------------------------------------------------------------------------------------------------------


class Api(SphinxDirective):
    """All of a module."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = self.arguments[0]
        loaded: ModuleType = import_module(module)
        self.env.note_dependency(inspect.getsourcefile(loaded))
        self.env.note_dependency(str(TABLE))
        self.env.note_dependency(str(EQUATIONS))
        lines = [f".. py:module:: {module}", "", *typeset(inspect.getdoc(loaded).splitlines(), module), ""]
        for name, thing in own(module).items():
            if is_constant(thing):
                value = repr(thing)
                shown = [f"   :value: {value}"] if len(value) <= 60 and "object at" not in value else []
                text = inline(remark(module, name), module)
                lines += [f".. py:data:: {name}", f"   :module: {module}", *shown, "", f"   {text}", ""]
                lines += [f"   {line}" for line in in_the_book(f"{module}.{name}")]
            elif inspect.isclass(thing):
                shown = members(thing)
                lines += [f".. autoclass:: {module}.{name}"]
                lines += [f"   :members: {', '.join(shown)}"] if shown else []
            else:
                lines += [f".. autofunction:: {module}.{name}"]
            lines += [""]
        box = nodes.container()
        self.state.nested_parse(StringList(lines, source=f"docstrings of {module}"), self.content_offset, box)
        return box.children


class Where(SphinxRole):
    """:booksection:`page#heading` and :bookequation:`label`, resolved when all pages are known."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        reference = addnodes.pending_xref(
            "", reftype=self.name, refdomain="", reftarget=self.text, refdoc=self.env.docname, refexplicit=False
        )
        reference += nodes.inline(self.text, self.text)
        return [reference], []


def heading(env: BuildEnvironment, where: str) -> nodes.Element | None:
    """The words of a heading, "page" or "page#heading", from the table of contents; None if there is no such heading."""
    page, _, anchor = where.partition("#")
    for reference in env.tocs[f"book/{page}"].findall(nodes.reference):
        if reference["anchorname"] == (f"#{anchor}" if anchor else ""):
            return reference
    return None


def resolve(app: Sphinx, env: BuildEnvironment, node: nodes.Element, content: nodes.Element) -> nodes.Node | None:
    """The reference that a name stands for: of the book, or a page elsewhere."""
    target, kind = node["reftarget"], node.get("reftype")
    if kind == "booksection":
        page, _, anchor = target.partition("#")
        if f"book/{page}" not in env.found_docs:
            return content  # a book of a few pages, built to look at them
        if (words := heading(env, target)) is None:
            log.warning("%s names a section that there is not: %s", TABLE.name, target, location=node)
            return content
        title = env.titles[f"book/{page}"].deepcopy().children
        shown = nodes.inline("", "", *title, *([nodes.Text(": "), *words.deepcopy().children] if anchor else []))
        uri = app.builder.get_relative_uri(node["refdoc"], f"book/{page}") + (f"#{anchor}" if anchor else "")
        return nodes.reference("", "", shown, internal=True, refuri=uri)
    if kind == "bookequation":
        domain = env.get_domain("math")
        found = domain.resolve_xref(env, node["refdoc"], app.builder, "eq", target, node, content)
        return found if found is not None else content
    if node.get("refdomain") == "py" and target in ELSEWHERE:
        return nodes.reference("", "", content, internal=False, refuri=ELSEWHERE[target])
    return None


def link_back(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """At the end of a section, before those inside it, a quiet line: what of the package it explains."""
    entries = app.env.get_domain("py").objects
    back: dict[str, list[str]] = {}
    for name, places in sections().items():
        for where in places:
            page, _, anchor = where.partition("#")
            if docname == f"book/{page}" and name in entries:
                back.setdefault(anchor, []).append(name)
    for anchor, names in back.items():
        section = next(
            (s for s in doctree.findall(nodes.section) if (anchor in s["ids"] if anchor else s.parent is doctree)), None
        )
        if section is None:
            continue  # the page of the package has said so
        line = nodes.paragraph("", "", nodes.Text("In the package: "), classes=["ddim-package"])
        for k, name in enumerate(names):
            entry = entries[name]
            uri = app.builder.get_relative_uri(docname, entry.docname) + f"#{entry.node_id}"
            text = re.sub(r"^ddim_core\.(.+\.)?(?=[A-Z]\w*\.|\w+$)", "", name)
            line += [nodes.Text(", ")] if k else []
            line += nodes.reference("", "", nodes.literal(text, text), internal=True, refuri=uri)
        inner = next((k for k, child in enumerate(section) if isinstance(child, nodes.section)), len(section))
        section.insert(inner, line)


def source_of(domain: str, info: dict[str, str]) -> str | None:
    """Where the source of an entry can be read."""
    if domain != "py" or not info["module"]:
        return None
    thing: Any = import_module(info["module"])
    for part in filter(None, info["fullname"].split(".")):
        thing = getattr(thing, part)
    thing = thing.fget if isinstance(thing, property) else thing
    path = Path(inspect.getsourcefile(import_module(info["module"]))).relative_to(ROOT).as_posix()
    try:
        lines, start = inspect.getsourcelines(inspect.unwrap(thing))
        return f"{address()}/blob/main/{path}#L{start}-L{start + len(lines) - 1}"
    except TypeError:  # a constant
        return f"{address()}/blob/main/{path}#L{_lines(info['module']).get(info['fullname'], 1)}"


def set_up(app: Sphinx, config: Config) -> None:
    config.autodoc_typehints_format = "short"
    config.autodoc_preserve_defaults = True
    config.autodoc_member_order = "bysource"
    config.add_module_names = False
    config.python_use_unqualified_type_names = True
    config.python_maximum_signature_line_length = 68
    config.toc_object_entries = True
    config.toc_object_entries_show_parents = "hide"
    config.linkcode_resolve = source_of


def setup(app: Sphinx) -> None:
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.linkcode")
    app.add_directive("api", Api)
    app.add_role("booksection", Where())
    app.add_role("bookequation", Where())
    app.connect("config-inited", set_up)
    app.connect("autodoc-process-docstring", process)
    app.connect("missing-reference", resolve)
    app.connect("doctree-resolved", link_back)
