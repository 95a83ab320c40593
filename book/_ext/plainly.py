"""The chapters' MyST as plain Markdown: numbers in place of references, values in place of names, no directive left.

For slides and hand-outs, whose readers know Markdown and mathematics and nothing else.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from functools import cache

from chapters import BOOK, Numbers, numbers
from equations import DOLLARS, FENCE
from pybtex.database import parse_file

ROLE = re.compile(r"\{([\w:]+)\}`([^`]+)`")
OPTION = re.compile(r"\A(?:[ \t]*:[\w-]+:[^\n]*\n)+")
LINK = re.compile(r"\[([^\]]*)\]\((?!\w+:|/)([\w./-]+?)(?:\.(?:ipynb|md))?(?:#[\w-]*)?\)")
SPAN = re.compile(r"\[([^\]]+)\]\{\.([\w-]+)\}")


@cache
def sources() -> dict[str, tuple[str, str]]:
    """key -> authors, shortened, and year, of references.bib."""
    found = {}
    for key, entry in parse_file(str(BOOK / "references.bib")).entries.items():
        names = [" ".join([*p.prelast_names, *p.last_names]) for p in entry.persons.get("author", [])]
        some = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
        found[key] = (some or entry.fields["title"], entry.fields.get("year", ""))
    return found


def plain(
    text: str,
    values: Mapping[str, str],
    *,
    html: bool = False,
    directive: Callable[[str, str, str], str | None] = lambda name, argument, body: None,
    known: Numbers | None = None,
) -> str:
    """A piece of a chapter as plain Markdown.

    Args:
        text: MyST. values: what {glue:text} stands for, by name. html: keep coloured words, as <span class=...>.
        directive: asked first what a directive becomes (name, argument, body without options); None for the usual.
        known: the book's numbers; by default as counted.

    Raises:
        ValueError: a role, directive, name or label that is not known: better here than raw on a slide.
    """
    known = known or numbers()

    def look(where: Mapping, key: str, what: str):
        if key not in where:
            raise ValueError(
                f"{what} {key!r} is not known: the chapter uses what book/_ext/plainly.py cannot write out"
            )
        return where[key]

    def role(match: re.Match) -> str:
        name, content = match[1], " ".join(match[2].split())
        shown = re.fullmatch(r"(.*?)\s*<(.+)>", content)
        words, target = (shown[1], shown[2]) if shown else (content, content)
        if name == "glue:text":
            return look(values, content, "the value")
        if name in ("eq", "numref", "ref"):
            reference = look(known.references, target, "the label")
            return words if shown and "%s" not in words and "{number}" not in words else reference
        if name == "term":
            return words
        if name in ("cite", "cite:p", "cite:t"):
            works = [look(sources(), key.strip(), "the source") for key in content.split(",")]
            if name == "cite:t":
                return ", ".join(f"{who} [{year}]" for who, year in works)
            return "[" + "; ".join(f"{who}, {year}" for who, year in works) + "]"
        if name == "doc":
            return look(known.titles, target.split("/")[-1], "the page")
        raise ValueError(f"the role {name!r} is not known to book/_ext/plainly.py")

    def block(match: re.Match) -> str:
        head, body = match["head"].strip(), match["body"]
        if not head.startswith("{"):
            return match[0]  # code
        name, _, argument = head[1:].partition("}")
        argument, options = argument.strip(), OPTION.match(body)
        body = body[options.end() :] if options else body
        label = re.search(r"^:(?:label|name):[ \t]*(\S+)", options[0], re.M) if options else None
        own = directive(name, argument, body.strip())
        if own is not None:
            return own
        if name == "math":
            return f"$$\n{body.strip()}\n$$" + (f" ({label[1]})" if label else "")
        if name == "table":
            number = f"*{look(known.references, label[1], 'the label')}.* " if label else ""
            return f"{visit(body).strip()}\n\n{number}{argument}"
        if name in ("exercise", "solution"):
            return visit(body)
        if name in ("admonition", "note", "tip", "warning", "important"):
            title = argument if name == "admonition" else name.capitalize()
            lines = f"**{title}.** {visit(body).strip()}".splitlines()
            return "\n".join(f"> {line}".rstrip() for line in lines)
        if name == "literalinclude":
            source = (BOOK / argument).resolve().read_text(encoding="utf-8")
            wanted = re.search(r":pyobject:[ \t]*([\w.]+)", options[0] if options else "")
            return f"```python\n{_object(source, wanted[1]) if wanted else source.strip()}\n```"
        raise ValueError(f"the directive {name!r} is not known to book/_ext/plainly.py")

    def visit(text: str) -> str:
        return FENCE.sub(block, text)

    def equation(match: re.Match) -> str:
        number = look(known.references, match[2], "the label") if match[2] else ""
        tag = rf" \tag{{{number.strip('()')}}}" if number else ""
        return f"$$\n{match[1].strip()}{tag}\n$$"

    text = visit(text)
    pieces = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
    for k in range(0, len(pieces), 2):
        piece = re.sub(r"^\([\w-]+\)=\n+", "", pieces[k], flags=re.M)
        piece = DOLLARS.sub(equation, ROLE.sub(role, piece))
        piece = LINK.sub(lambda m: m[1] or look(known.titles, m[2].split("/")[-1], "the page"), piece)
        pieces[k] = SPAN.sub(r'<span class="\2">\1</span>' if html else r"\1", piece)
    return "".join(pieces)


def _object(source: str, name: str) -> str:
    """The lines of a function, class or method in a module."""
    nodes = ast.parse(source).body
    for part in name.split("."):
        node = next(n for n in nodes if getattr(n, "name", None) == part)
        nodes = getattr(node, "body", [])
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    lines = source.splitlines()[first - 1 : node.end_lineno]
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[indent:] for line in lines)
