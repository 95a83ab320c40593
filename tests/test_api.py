"""The pages on the package: every public name is documented and shown, and the links between book and package hold."""

import ast
import inspect
import json
import re
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import pytest
from docutils.nodes import make_id

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "_ext"))
import api
import flow

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
PAGES = sorted((BOOK / "api").glob("*.md"))
NAMES = [(module, name) for module in api.modules() for name in api.own(module)]
CALLABLE = [(m, n) for m, n in NAMES if not api.is_constant(getattr(import_module(m), n))]

# how a docstring gives a shape: in brackets or parentheses, or in words
SHAPE = r"`\[[^\]]*\]`|`\([CHW, ]+\)`|\bshapes?\b|\b[Ss]calar\b"

# modules that state mathematics, where a formula without its source would be a claim of ours
MATHEMATICAL = ("schedule", "sample", "oracle", "unet", "weighting", "measures", "train")


def thing(module: str, name: str) -> object:
    return getattr(import_module(module), name)


def entries(module: str, name: str) -> dict[str, object]:
    """A name and, for a class, the members that its entry shows."""
    found = {name: thing(module, name)}
    if inspect.isclass(found[name]):
        for member in api.members(found[name]):
            raw = vars(found[name])[member]
            found[f"{name}.{member}"] = raw.fget if isinstance(raw, property) else getattr(found[name], member)
    return found


def headings(page: str) -> set[str]:
    """The headings of a page as they stand in its address."""
    path = BOOK / f"{page}.ipynb"
    if path.exists():
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    else:
        text = (BOOK / f"{page}.md").read_text(encoding="utf-8")
    text = re.sub(r"^(`{3,}|:{3,}).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    return {make_id(re.sub(r"[$`*]", "", title)) for title in re.findall(r"^#{2,} +(.+?) *$", text, re.MULTILINE)}


def test_every_module_stands_on_one_page():
    shown = [m for page in PAGES for m in re.findall(r"^\.\. api:: (\S+)$", page.read_text(encoding="utf-8"), re.M)]
    assert sorted(shown) == sorted(api.modules())


def test_every_page_is_in_the_table_of_contents():
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert [page.stem for page in PAGES if f"file: book/api/{page.stem}\n" not in toc] == []
    assert len(PAGES) == 8


def test_what_the_package_offers_at_its_top_has_an_entry():
    top = import_module("ddim_core")
    made = {name: f"{(x := getattr(top, name)).__module__}.{x.__qualname__}" for name in top.__all__}
    assert {name for name, full in made.items() if full not in api.documented()} == set()
    assert len(made) > 15


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda x: x.removeprefix("ddim_core."))
def test_a_public_name_says_what_it_is(module, name):
    if (module, name) in CALLABLE:
        doc = thing(module, name).__doc__
        assert doc, "a docstring"
        assert not doc.startswith(f"{name}("), "and not the one that dataclass writes"
        assert doc.strip().split("\n\n")[0].rstrip().endswith((".", ":", ")")), "a first sentence"
    else:
        assert api.remark(module, name), "a comment above it, or on its line"


@pytest.mark.parametrize(("module", "name"), CALLABLE, ids=lambda x: x.removeprefix("ddim_core."))
def test_tensors_have_shapes(module, name):
    """What takes or returns a tensor says how its dimensions are called, there or in the words above it."""
    for label, entry in entries(module, name).items():
        doc = inspect.getdoc(entry) or ""
        if inspect.isclass(entry):
            annotations = getattr(entry, "__annotations__", {})
        else:
            annotations = inspect.get_annotations(entry)
        # a function that is passed, and tensors by name, have shapes of their own
        plain = {
            k: re.sub(r"Callable\[\[.*?\], \S+\]|dict\[str, \S*Tensor\]", "", str(v)) for k, v in annotations.items()
        }
        tensors = [k for k, v in plain.items() if re.search(r"\bTensor\b", v)]
        inherited = re.search(r"\b[Aa]rg(ument)?s( and errors)? as in `", doc)
        around = (inspect.getdoc(thing(module, name)) or "") if "." in label else ""
        if tensors and not inherited:
            assert re.search(SHAPE, doc + around), f"{label}: the shapes of {tensors}"


def raised(entry: object) -> set[str]:
    """The errors that a function raises itself, or a class when it is made, and does not catch."""
    if inspect.isclass(entry):
        found = set()
        for method in ("__init__", "__post_init__"):
            if method in vars(entry) and vars(entry)[method].__code__.co_filename != "<string>":  # dataclass wrote that
                found |= raised(vars(entry)[method])
        return found
    tree = ast.parse(textwrap.dedent(inspect.getsource(entry)))
    caught = {id(n) for t in ast.walk(tree) if isinstance(t, ast.Try) for child in t.body for n in ast.walk(child)}
    return {
        node.exc.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
        if id(node) not in caught
    }


@pytest.mark.parametrize(("module", "name"), CALLABLE, ids=lambda x: x.removeprefix("ddim_core."))
def test_errors_are_named(module, name):
    for label, entry in entries(module, name).items():
        own = inspect.getdoc(entry) or ""
        around = inspect.getdoc(thing(module, name)) or ""
        errors = {e for e in raised(entry) if e.endswith("Error")}
        missing = {e for e in errors if e not in own and e not in around}
        inherited = re.search(r"([Rr]aises|[Ee]rrors|Otherwise)( as)?( in)? `|[Ee]rrors as (in )?`|Otherwise as `", own)
        assert inherited or not missing, label


@pytest.mark.parametrize("module", [f"ddim_core.{m}" for m in MATHEMATICAL])
def test_mathematics_has_a_source(module):
    """A paper, or an equation of one or of the book: in the module's own words, or those of every name."""
    known = r"eq\. \d|equations? \d|appendix|algorithm \d|arXiv|section \d|\b(19|20)\d\d\b"
    text = inspect.getdoc(import_module(module)) + "".join(
        inspect.getdoc(x) or "" for _, entry in api.own(module).items() for x in [entry] if not api.is_constant(entry)
    )
    assert re.search(known, text)


def test_what_computes_an_equation_of_the_book_says_which():
    """From the page of equations: a name in its column of code leads to the equation."""
    labels = api.equation_labels()
    assert len(labels) > 15
    assert set(labels) <= api.documented()
    page = (BOOK / "equations.md").read_text(encoding="utf-8")
    assert {label for found in labels.values() for label in found} <= set(re.findall(r"\{eq\}`([^`]+)`", page))


# --- the table of sections ------------------------------------------------------------------------------------------------


def test_every_section_of_the_table_is_in_the_book():
    missing = []
    for name, places in api.sections().items():
        for place in places:
            page, _, anchor = place.partition("#")
            exists = (BOOK / f"{page}.ipynb").exists() or (BOOK / f"{page}.md").exists()
            if not exists or (anchor and anchor not in headings(page)):
                missing.append(f"{name}: {place}")
    assert missing == []


def test_a_section_that_is_not_there_is_seen():
    assert "any-time-in-one-line" in headings("noising")
    assert "any-time-in-two-lines" not in headings("noising")


def test_every_name_of_the_table_has_an_entry():
    assert set(api.sections()) - api.documented() == set()


def test_every_name_that_a_chapter_uses_leads_to_a_section():
    used: dict[str, str] = {}
    for path in sorted(BOOK.glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = re.sub(r"^( *)[!%].*", r"\1pass", "".join(cell["source"]), flags=re.MULTILINE)
            if cell["cell_type"] != "code" or "ddim_core" not in source:
                continue
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ddim_core"):
                    for alias in node.names:
                        x = getattr(import_module(node.module), alias.name)
                        full = f"{node.module}.{alias.name}"
                        if full not in api.documented() and hasattr(x, "__qualname__"):
                            full = f"{x.__module__}.{x.__qualname__}"
                        if full in api.documented():
                            used[full] = path.name
    assert len(used) > 30
    assert {name: page for name, page in used.items() if name not in api.sections()} == {}


# --- docstrings -----------------------------------------------------------------------------------------------------------


def test_a_docstring_as_sphinx_reads_it():
    def example(xt, eps, t):
        pass

    doc = """From `xt` to x_, see `generate`: 2 * 3 | 4 (arXiv 2010.02502).

        x_s = a * b

    Args:
        xt: `[B, ...]`, the state. eps: of the
            same shape.
        t: when: now.

    Returns:
        What `ddim_step`s make.

    Raises:
        ValueError: no t. DataError: no data.
    """
    assert api.typeset(inspect.cleandoc(doc).splitlines(), "ddim_core.sample", example) == [
        "From ``xt`` to x\\_, see :py:obj:`generate <ddim_core.sample.generate>`: 2 \\* 3 \\| 4 "
        "(`arXiv:2010.02502 <https://arxiv.org/abs/2010.02502>`__).",
        "",
        ".. code-block:: text",
        "",
        "       x_s = a * b",
        "   ",
        "",
        "",
        ":Parameters:",
        "    - **xt**: ``[B, ...]``, the state.",
        "    - **eps**: of the same shape.",
        "    - **t**: when: now.",
        "",
        ":Returns: What :py:obj:`ddim_step <ddim_core.sample.ddim_step>`\\ s make.",
        ":Raises:",
        "    - :py:exc:`ValueError`: no t.",
        "    - :py:obj:`DataError <ddim_core.errors.DataError>`: no data.",
        "",
    ]


# --- the picture of the architecture --------------------------------------------------------------------------------------


def test_every_name_in_the_picture_leads_to_its_entry():
    assert {box.name for box in flow.BOXES} - api.documented() == set()
    for href in re.findall(r'href="([^"]+)"', flow.picture()):
        page, _, anchor = href.partition("#")
        text = (BOOK / page.replace(".html", ".md")).read_text(encoding="utf-8")
        assert f".. api:: {anchor.rpartition('.')[0]}\n" in text


def test_the_picture_stays_inside_its_frame():
    for box in flow.BOXES:
        assert box.x >= 0
        assert box.x + box.width <= flow.WIDTH
        assert box.y + flow.TALL <= flow.HEIGHT
        assert len(box.says) * 7.2 < box.width, "13 px letters"
