"""Glue: what a cell keeps is what the book's tools look for."""

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from ddim_core.notebook import glue


@pytest.mark.parametrize(
    ("value", "text"), [(3.5, "'3.5'"), ("12,345", "'12,345'"), ("a 'quoted' text", "\"a 'quoted' text\"")]
)
def test_it_stores_what_myst_nb_looks_for(value, text):
    """A display that no front end shows, with its name beside it. That the book finds it, its build shows."""
    InteractiveShell.instance()
    with capture_output(display=True) as kept:
        glue("name", value)
    (output,) = kept.outputs
    assert output.data == {"application/papermill.record/text/plain": text}
    assert output.metadata == {"scrapbook": {"name": "name", "mime_prefix": "application/papermill.record/"}}
