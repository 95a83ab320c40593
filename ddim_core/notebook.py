"""What notebooks need and packages do not: a number that a cell computes, placed inside a sentence of the book."""

from IPython.display import display

__all__ = ["glue"]


def glue(name: str, value: object) -> None:
    """Keep the text of `value` under `name`, so that the book can write it into prose as {glue:text}`name`.

    Stores what myst-nb's own function of this name stores, without needing myst-nb where a notebook runs.
    """
    prefix = "application/papermill.record/"
    display(
        {f"{prefix}text/plain": repr(str(value))},
        raw=True,
        metadata={"scrapbook": {"name": name, "mime_prefix": prefix}},
    )
