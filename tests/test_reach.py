"""Descriptions, times and search terms that the book's tools make."""

import json
import re
import sys
from pathlib import Path

import pytest
from docutils import nodes
from docutils.nodes import make_id
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "_ext"))
import reach

BOOK = Path(__file__).resolve().parents[1] / "book"


def page(*parts):
    document = nodes.document(None, None)
    section = nodes.section("", nodes.title("", "A title"), *parts)
    document += section
    return document


@pytest.mark.parametrize(
    ("url", "site"),
    [
        ("https://github.com/someone/a-book", "https://someone.github.io/a-book/"),
        ("https://github.com/Some-One/other.book", "https://some-one.github.io/other.book/"),
        ("https://github.com/Some-One/some-one.github.io", "https://some-one.github.io/"),
    ],
)
def test_where_the_pages_are(url, site):
    assert reach.site(url) == site


@pytest.mark.parametrize(
    ("tex", "words"),
    [(r"\hat\sigma_t", "sigma-hat_t"), (r"\hat{x}_0", "x-hat_0"), (r"\eta = 0", "eta = 0"), (r"1 \le t", "1 ≤ t")],
)
def test_mathematics_in_a_line_of_text(tex, words):
    assert reach.spoken(tex) == words


def test_a_description_is_the_first_paragraph():
    first = nodes.paragraph(
        "", "", nodes.Text("The noise of standard deviation "), nodes.math("", r"\hat\sigma"), nodes.Text(".")
    )
    ours = nodes.paragraph("", "To read: a line that is long enough for a paragraph.", classes=[reach.OURS])
    assert reach.description(page(ours, first)) == "The noise of standard deviation sigma-hat."
    assert reach.description(page(nodes.paragraph("", "Too short."))) == ""


def test_a_long_description_ends_with_a_sentence_or_a_word():
    sentences = " ".join(f"Sentence number {k} of several." for k in range(20))
    assert reach.description(page(nodes.paragraph("", sentences))).endswith("of several.")
    words = reach.description(page(nodes.paragraph("", "word " * 100)))
    assert words.endswith("word …")
    assert max(len(words), len(reach.description(page(nodes.paragraph("", sentences))))) <= reach.LONGEST + 2


def test_words_are_those_that_are_read():
    body = [
        nodes.paragraph("", "", nodes.Text("Four words of prose "), nodes.math("", "x + y")),
        nodes.literal_block("", "code that is not prose"),
    ]
    assert reach.words(page(*body)) == 2 + 4


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3, "a few seconds"),
        (12, "10 seconds"),
        (54, "50 seconds"),
        (58, "1 minute"),
        (80, "1 minute"),
        (100, "2 minutes"),
    ],
)
def test_times_are_no_more_exact_than_they_are(seconds, words):
    assert reach.span(seconds) == words


def test_every_search_term_leads_to_a_section():
    missing = []
    for term, where in reach.search_terms().items():
        name, _, anchor = where.partition("#")
        cells = json.loads((BOOK / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        titles = {make_id(re.sub(r"[$`*]", "", title)) for title in re.findall(r"^#{2,} +(.+)$", text, re.MULTILINE)}
        if anchor not in titles:
            missing.append(f"{term}: {where}")
    assert missing == []
    assert {"eta", "sigma-hat"} <= set(reach.search_terms())


def test_the_card_can_be_drawn_from_the_book_s_samples(tmp_path):
    class App:
        outdir = tmp_path
        builder = type("Builder", (), {"name": "html"})
        config = type("Config", (), {"html_title": "Denoising Diffusion Implicit Models, by running them"})

    (tmp_path / "_static").mkdir()
    reach.draw_card(App, None)
    with Image.open(tmp_path / reach.CARD) as card:
        assert card.size == reach.CARD_SIZE
        assert len(card.getcolors(1 << 20)) > 50, "digits and letters, in greys"
    assert (tmp_path / reach.CARD).stat().st_size < 300_000
