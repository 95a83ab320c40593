"""What slides, hand-outs and the printed book are made with: plain Markdown, numbers, one rule for slides, names in cells."""

import io
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from pypdf import PdfWriter

from ddim_core.widgets import slider, two_sliders

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "_ext"))
import beside
import chapters
import handouts
import paper
import plainly
import slides

KNOWN = chapters.Numbers(
    {"eq-a": "(3.1)", "fig-a": "Fig. 3.1", "tab-a": "Table 3.1", "ex-a": "Exercise 3.1", "part-a": "The title"},
    {"noising": "Noising"},
)


def written(text, values=None, **options):
    return plainly.plain(text, values or {}, known=KNOWN, **options)


# --- plain Markdown ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("myst", "markdown"),
    [
        ("{eq}`eq-a` and {numref}`fig-a`", "(3.1) and Fig. 3.1"),
        ("{ref}`part-a`, {ref}`there <part-a>`", "The title, there"),
        ("{term}`noise`, {term}`noises <noise>`", "noise, noises"),
        ("[](noising.ipynb), [there](noising.ipynb#x), [a](https://a.b/c)", "Noising, there, [a](https://a.b/c)"),
        ("{cite}`ho2020ddpm`; {cite:t}`song2021ddim`", "[Ho et al., 2020]; Song et al. [2021]"),
        ("[red]{.noise}", "red"),
        ("(part-b)=\n## Here", "## Here"),
        ("$$\nx\n$$ (eq-a)", "$$\nx \\tag{3.1}\n$$"),
        ("```{math}\n:label: eq-a\nx\n```", "$$\nx \\tag{3.1}\n$$"),
        ("$$\nx\n$$", "$$\nx\n$$"),
        ("```{admonition} Mind\n:class: warning\n\nThe {eq}`eq-a`.\n```", "> **Mind.** The (3.1)."),
        ("```{table} What it is\n:name: tab-a\n\n| a |\n|---|\n```", "| a |\n|---|\n\n*Table 3.1.* What it is"),
        ("```python\n{eq}`eq-a` [](noising.ipynb)\n```", "```python\n{eq}`eq-a` [](noising.ipynb)\n```"),
    ],
)
def test_myst_becomes_plain(myst, markdown):
    assert written(myst) == markdown


def test_values_and_colours():
    assert written("So {glue:text}`n`.", {"n": "7"}) == "So 7."
    assert written("[red]{.noise}", html=True) == '<span class="noise">red</span>'


@pytest.mark.parametrize(
    ("myst", "named"),
    [
        ("{eq}`eq-b`", "eq-b"),
        ("{glue:text}`n`", "'n'"),
        ("{odd}`x`", "odd"),
        ("```{odd}\nx\n```", "odd"),
        ("[](b.md)", "'b'"),
    ],
)
def test_what_is_not_known_is_named(myst, named):
    with pytest.raises(ValueError, match=named):
        written(myst)


def test_a_function_of_the_package_is_quoted():
    shown = written("```{literalinclude} ../ddim_core/widgets.py\n:pyobject: ImageSlider.__repr__\n```")
    assert shown.startswith("```python\ndef __repr__(self)")
    assert shown.endswith('images>"\n```')


class Anything(dict):
    def __contains__(self, key):
        return True

    def __missing__(self, key):
        return "1.0"


@pytest.mark.parametrize("entry", chapters.notebooks(), ids=lambda entry: entry.name)
def test_no_chapter_keeps_myst(entry):
    """Each chapter can be written out, whatever its cells compute."""
    texts = [
        plainly.plain(cell.source, Anything()) for cell in chapters.cells(entry.path) if cell.cell_type == "markdown"
    ]
    raw = re.compile(r"\{[\w:]+\}`|^[`:]{3,}\{|\]\([\w/.-]+\.(?:ipynb|md)|\]\{\.|^\([\w-]+\)=|\$\$ *\(", re.M)
    assert not [match[0] for text in texts for match in raw.finditer(text)]


# --- the book's numbers --------------------------------------------------------------------------------------------------


def test_numbers_run_on_and_some_parts_have_none(tmp_path):
    toc = tmp_path / "_toc.yml"
    toc.write_text(
        "root: book/intro\nparts:\n- caption: A\n  numbered: false\n  chapters: [{file: book/notation}]\n"
        "- caption: B\n  chapters: [{file: book/noising}]\n- caption: C\n  chapters: [{file: book/plane}]\n",
        encoding="utf-8",
    )
    found = [(entry.name, entry.part, entry.number) for entry in chapters.contents(toc)]
    assert found == [("intro", "", None), ("notation", "A", None), ("noising", "B", 1), ("plane", "C", 2)]


def test_a_name_that_is_no_chapter_is_one_line():
    with pytest.raises(ValueError, match=r"no chapter 'nosing'; there are intro, noising"):
        chapters.notebooks(["nosing"])


# --- slides --------------------------------------------------------------------------------------------------------------


def test_sentences():
    text = 'Ask (see p. 3. There). Is it $a. b$? **Bold. All.** Yes, e.g. `x. y`; "so." Ho et al. [2020] say'
    assert slides.sentences(text) == [
        "Ask (see p. 3. There).",
        "Is it $a. b$?",
        "**Bold. All.**",
        'Yes, e.g. `x. y`; "so."',
        "Ho et al. [2020] say",
    ]


LONG = "This sentence is long enough to stand for the paragraph it opens."


@pytest.mark.parametrize(
    ("paragraph", "leads", "shown"),
    [
        (f"{LONG} And more.", False, LONG),
        (f"{LONG} And more.", True, LONG),
        (
            f"{LONG} Something else. This is the sentence that the equation below completes,",
            True,
            f"{LONG} This is the sentence that the equation below completes,",
        ),
        (f"{LONG} Left out. Needed before it. Together,", True, f"{LONG} Needed before it. Together,"),
        ("Why? Because. And more.", False, "Why? Because."),
        ("Short one. " + LONG + " And.", False, "Short one. " + LONG),
    ],
)
def test_what_of_a_paragraph_is_shown(paragraph, leads, shown):
    assert slides.spoken(paragraph, leads) == shown


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


def code(source, *outputs, tags=(), **metadata):
    return new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags), **metadata})


def chapter(*cells):
    first = [
        new_markdown_cell("# Noising\n\n**What is it?** This.\n\n## One\n\n" + LONG + " The rest is for the speaker.")
    ]
    return new_notebook(cells=[*first, *cells])


ENTRY = next(entry for entry in chapters.contents() if entry.name == "noising")


def kinds(deck):
    return [(cell.metadata.slideshow.slide_type, cell.source) for cell in deck.cells]


def test_the_rule():
    image = new_output("display_data", {"image/png": PNG, "text/plain": "<Figure>"})
    figure = {"mystnb": {"image": {"alt": 'a "dot"'}, "figure": {"caption": "A dot.", "name": "fig-noising-snr"}}}
    deck = slides.deck(
        chapter(
            code("import x", tags=["remove-cell"]),
            code("y = 1\nglue('y', y)", new_output("stream", name="stdout", text="one\n")),
            code("draw()", image, tags=["hide-input"], **figure),
            new_markdown_cell("## Exercises\n\n```{exercise}\n:label: ex-a\nSecret?\n```"),
            code("answer = 42", tags=["hide-cell"]),
            new_markdown_cell("## In short\n\n- a point\n\nBack to [](notation.md)."),
        ),
        ENTRY,
    )
    found = kinds(deck)
    assert found[0] == ("slide", "# Noising")
    assert found[1] == ("-", "**What is it?** This.")
    assert ("slide", "## One") in found
    assert ("-", LONG) in found
    assert ("notes", LONG + " The rest is for the speaker.") in found
    assert ("-", "y = 1") in found
    shown = next(source for _, source in found if "<img" in source)
    assert 'alt="a &quot;dot&quot;"' in shown
    assert "Fig. 1.3.</b> A dot." in shown
    assert found[-3:] == [("slide", "## In short"), ("-", "- a point"), ("notes", "Back to Notation.")]
    everything = " ".join(source for _, source in found)
    assert not re.search("import x|draw|Secret|answer|glue|Exercises", everything)


def test_a_hand_is_stronger_than_the_rule():
    deck = slides.deck(
        chapter(
            new_markdown_cell(LONG + " All of it.", metadata={"tags": ["fragment"]}),
            new_markdown_cell("## Not this", metadata={"tags": ["skip"]}),
            new_markdown_cell("Say this.", metadata={"tags": ["notes"]}),
            code("z = 1", tags=["subslide", "hide-cell"]),
        ),
        ENTRY,
    )
    assert kinds(deck)[-3:] == [("fragment", LONG + " All of it."), ("notes", "Say this."), ("subslide", "z = 1")]


def test_a_full_slide_goes_on_under_its_heading():
    deck = slides.deck(chapter(new_markdown_cell("\n\n".join([LONG] * 12))), ENTRY)
    assert kinds(deck).count(("subslide", "## One")) >= 1


def test_long_code_is_folded():
    made = slides.deck(chapter(code("\n".join(f"x{k} = {k}" for k in range(30))), code("short = 1")), ENTRY)
    assert [cell.metadata.deck.code for cell in made.cells if cell.cell_type == "code"] == ["folded", "open"]
    page = slides.page_of(made)
    assert page.count("<details") == page.count("Code, 30 lines") == 1


def test_a_deck_loads_nothing_from_elsewhere():
    page = slides.page_of(slides.deck(chapter(code("1", new_output("execute_result", {"text/plain": "1"}))), ENTRY))
    loaded = re.findall(r"<(?:script|link|img)[^>]*?(?:src|href)=\"([^\"]+)\"", page)
    assert "vendor/reveal/reveal.js" in loaded
    assert not [url for url in loaded if re.match(r"https?:|//", url)]
    assert page.count('<aside class="notes">') == 2


# --- hand-outs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "needs", "binds", "changes"),
    [
        ("a = b + len(c)", {"b", "c"}, {"a"}, set()),
        ("a = 1\nb = a", set(), {"a", "b"}, set()),
        ("a += 1", {"a"}, {"a"}, set()),
        ("for k in ks:\n    s = k * m", {"ks", "m"}, {"k", "s"}, set()),
        ("x = [y * z for y in ys]", {"ys", "z"}, {"x"}, set()),
        ("def f(x):\n    y = x * w\n    return y", {"w"}, {"f"}, set()),
        ("import a.b\nfrom c import d as e", set(), {"a", "e"}, set()),
        ("a[0] = b", {"a", "b"}, set(), {"a"}),
        ("losses.append(x)", {"losses", "x"}, set(), {"losses"}),
        ("with open(p) as f:\n    t = f.read()", {"p"}, {"f", "t"}, set()),
        ("!pip install x", set(), set(), set()),
    ],
)
def test_names(source, needs, binds, changes):
    found = handouts.names(source)
    assert (found.needs, found.binds, found.changes) == (needs, binds, changes)


def test_only_what_is_needed():
    before = ["a = 1", "b = a", "c = 5", "b = a + 1", "b.append(3)", "t = 9"]
    assert handouts.needed(before, {"b"}) == [0, 3, 4]
    assert handouts.needed(before, {"nothing"}) == []


EXERCISE = "## Exercises\n\n```{exercise}\n:label: ex-noising-jump\n\nJump from `start`.\n```\n\n```{solution} ex-noising-jump\n:class: dropdown\n\nSo.\n```"


def test_a_handout():
    book = new_notebook(
        cells=[
            new_code_cell("# installs"),
            new_code_cell("start = 1"),
            new_code_cell("unused = 2"),
            new_code_cell("k = 3\nglue('k', k)"),
            new_markdown_cell(EXERCISE),
            new_code_cell("assert k == 3", metadata={"tags": ["hide-cell"]}),
            new_markdown_cell("## In short"),
        ]
    )
    without, solved = (handouts.handout(book, ENTRY, solutions=with_) for with_ in (False, True))
    assert [cell.source for cell in without.cells if cell.cell_type == "code"] == [
        "# installs",
        "start = 1",
        "k = 3",
        "# your answer",
    ]
    assert [cell.source for cell in solved.cells][-3:] == [
        "## Exercise 1.1\n\nJump from `start`.",
        "### Solution\n\nSo.",
        "assert k == 3",
    ]
    assert "So." not in nbformat.writes(without)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (EXERCISE.partition("```{solution}")[0], "has no solution"),
        (EXERCISE.replace("{exercise}", "{note}"), "no such exercise"),
    ],
)
def test_an_exercise_and_its_solution_belong_together(text, says):
    with pytest.raises(ValueError, match=says):
        handouts.exercises(new_notebook(cells=[new_markdown_cell(text)]))


@pytest.mark.parametrize("entry", chapters.notebooks(), ids=lambda entry: entry.name)
def test_the_code_of_a_solution_finds_its_names(entry):
    """Each name that a hand-out's cell needs is bound by a cell before it."""
    book = nbformat.read(entry.path, 4)
    if not handouts.exercises(book):
        assert "{exercise}" not in entry.path.read_text(encoding="utf-8")
        return
    for cell in book.cells:  # the values of the sentences do not matter here
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\{glue:text\}`[^`]+`", "1", cell.source)
    bound = {"__name__"}
    for cell in handouts.handout(book, entry, solutions=True).cells:
        if cell.cell_type == "code":
            found = handouts.names(cell.source)
            assert found.needs <= bound, cell.source
            bound |= found.binds


# --- print ---------------------------------------------------------------------------------------------------------------


def test_spread():
    assert paper.spread(5, 6, 2) == [0, 1, 2, 3, 4]
    shown = paper.spread(23, 6, 7)
    assert len(shown) == 6
    assert {0, 7, 22} <= set(shown)


def test_a_slider_becomes_a_strip():
    frames = [Image.new("L", (k + 1, 2)) for k in range(6)]
    one = slider(frames, ["0", "<1>", "2", "3", "4", "5"], [f"image {k}" for k in range(6)], name="time t")
    shown = paper.strip(one.get_state())
    assert [f"<b>{label}</b>" in shown for label in ("0", "&lt;1&gt;", "5")] == [True] * 3
    assert shown.count("<img") == 6
    two = two_sliders([frames[:3], frames[3:]], (["a", "b"], ["x", "y", "z"]), [["i"] * 3] * 2, names=("S", "η"))
    table = paper.strip(two.get_state())
    assert table.count("<img") == 6
    assert all(f"<th>{label}</th>" in table for label in "abxyz")
    assert two.frames[4] in table


PAGE = """<html><body><article class="bd-article"><section id="top"><h1>1. Top<a class="headerlink" href="#top">#</a></h1>
<p><a href="#sub">here</a> <a href="plane.html#x">there</a> <a href="plane.html">that</a> <a href="https://a.b/c">out</a>
<a href="https://a.b/c">again</a> <a href="https://a.b/c">https://a.b/c</a> <a href="speed.html">gone</a></p>
<section id="sub"><h2>Sub</h2><img src="../_images/x.png"></section>
<div class="cell tag_hide-input"><details class="hide"><summary>s</summary>drawing</details></div>
<div class="cell tag_hide-cell"><details class="hide"><summary>s</summary>solving</details></div></section></article></body></html>"""


def test_a_page_on_paper():
    shown, sections = paper.chapter(ENTRY, PAGE, {"noising", "plane"})
    assert sections == [("noising--sub", "Sub")]
    assert 'href="#noising--sub"' in shown
    assert 'href="#plane--x"' in shown
    assert 'data-page="page--plane" href="#page--plane"' in shown
    assert shown.count("<li>https://a.b/c</li>") == 1
    assert shown.count('<sup class="address">1</sup>') == 2
    assert "speed.html" not in shown
    assert 'src="../html/book/../_images/x.png"' in shown
    assert "drawing" not in shown
    assert "solving" in shown
    assert "headerlink" not in shown


def pdf(*sheets):
    writer = PdfWriter()
    for _ in sheets:
        writer.add_blank_page(595, 842)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_an_empty_page_and_too_much_weight_are_faults():
    assert paper.faults(pdf(1, 2)) == ["page 1 is empty", "page 2 is empty"]
    assert any("limit" in fault for fault in paper.faults(pdf(1), limit=100))


def test_a_font_that_is_only_named_is_a_fault():
    named = {"/Subtype": "/TrueType", "/BaseFont": "/Arial", "/FontDescriptor": {}}
    assert paper._not_embedded(named) == {"/Arial"}
    assert not paper._not_embedded({**named, "/FontDescriptor": {"/FontFile2": 0}})


def test_pages_that_are_not_built_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no built page of noising"):
        paper.printed_page([ENTRY], tmp_path)


# --- links to them -------------------------------------------------------------------------------------------------------


def test_links_come_and_go_with_what_they_lead_to(tmp_path):
    pages = tmp_path / "html"
    for name in ("intro", "noising"):
        path = pages / "book" / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(beside.with_place(f"book/{name}", "<h1>Title</h1><p>text</p>"), encoding="utf-8")
    before = (pages / "book" / "noising.html").read_text(encoding="utf-8")
    assert beside.link(pages) == 0
    assert (pages / "book" / "noising.html").read_text(encoding="utf-8") == before

    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "noising.html").write_text("deck", encoding="utf-8")
    (tmp_path / "pdf").mkdir()
    (tmp_path / "pdf" / beside.PDF).write_bytes(b"pdf")
    assert beside.link(pages) == beside.link(pages) == 2
    noising, intro = ((pages / "book" / f"{name}.html").read_text(encoding="utf-8") for name in ("noising", "intro"))
    assert noising.count('href="../slides/noising.html"') == 1
    assert beside.PDF not in noising
    assert intro.count(f'href="../{beside.PDF}"') == 1
    assert "slides" not in intro
    assert (pages / "slides" / "noising.html").read_text(encoding="utf-8") == "deck"

    (tmp_path / "slides" / "noising.html").unlink()
    beside.link(pages)
    assert (pages / "book" / "noising.html").read_text(encoding="utf-8") == before
