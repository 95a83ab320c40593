"""What a page can show: short cells, lines that fit the column, chapters that can be read in one sitting."""

import json
import re
from pathlib import Path

import pytest

BOOK = Path(__file__).parents[1] / "book"
CHAPTERS = sorted(BOOK.glob("*.ipynb"))
HIDDEN = {"hide-input", "remove-input", "hide-cell", "remove-cell"}


def cells(path, kind):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == kind:
            yield set(cell["metadata"].get("tags", [])), "".join(cell["source"]).rstrip()


def visible_code(path):
    return [source for tags, source in cells(path, "code") if not tags & HIDDEN]


def words(text):
    """Words of prose: no directive's options, no mathematics, no addresses."""
    text = re.sub(r"\$\$.*?\$\$|```\{math\}.*?```", " ", text, flags=re.DOTALL)
    text = re.sub(r"\$[^$]*\$", " x ", text)
    text = re.sub(r"^(:\w[\w-]*:.*|`{3,}.*|:{3,}.*|\(.*\)=)$", " ", text, flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "] ", text)
    return len(re.findall(r"[\w'’-]*[A-Za-z][\w'’-]*", text))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_visible_cell_has_at_most_25_lines(path):
    long = {source.splitlines()[0]: n for source in visible_code(path) if (n := len(source.splitlines())) > 25}
    assert not long


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_visible_line_fits_the_column(path):
    assert not [line for source in visible_code(path) for line in source.splitlines() if len(line) > 76]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_has_at_most_2500_words(path):
    assert sum(words(source) for _, source in cells(path, "markdown")) <= 2500


def test_every_term_of_the_glossary_is_linked_and_every_link_has_its_term():
    glossary = (BOOK / "glossary.md").read_text(encoding="utf-8").partition("```{glossary}")[2].partition("\n```")[0]
    terms = set(re.findall(r"^(?!:)(\S.*)$", glossary, flags=re.MULTILINE))
    prose = " ".join(source for path in CHAPTERS for _, source in cells(path, "markdown"))
    linked = {re.sub(r"^.*<(.+)>$", r"\1", text, flags=re.DOTALL) for text in re.findall(r"\{term\}`([^`]+)`", prose)}
    assert {" ".join(text.split()) for text in linked} == terms
    assert len(terms) > 30
