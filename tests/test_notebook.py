"""Glue: what a cell keeps is what the book's tools find."""

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from ddim_core.notebook import glue


@pytest.mark.parametrize("value", [3.5, "12,345", "a 'quoted' text"])
def test_it_stores_what_myst_nb_stores(value):
    from myst_nb import glue as theirs  # the book's own tool

    InteractiveShell.instance()
    with capture_output(display=True) as ours:
        glue("name", value)
    with capture_output(display=True) as expected:
        theirs("name", str(value), display=False)
    (a,), (b,) = ours.outputs, expected.outputs
    assert a.metadata == b.metadata
    assert a.data == {k: v for k, v in b.data.items() if k in a.data}
    assert a.data == {"application/papermill.record/text/plain": repr(str(value))}
    nbformat.v4.new_output("display_data", data=dict(a.data), metadata=dict(a.metadata))
