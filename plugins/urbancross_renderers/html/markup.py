"""From values to markup: every text is made printable and escaped on its way into a page, in one place."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from urbancross_bench.interfaces.renderer import printable
from urbancross_renderers.content import in_words

_LONGEST = 48  # characters of a file's name


def shown(value: Any) -> Any:
    """What stands in a page for a value: numbers with two decimals, intervals in brackets, a dash for none.

    Markup stays as it is; every other text is printable, and still to be escaped.
    """
    return value if isinstance(value, Markup) else in_words(value, printable)


def element(name: str, *children: Any, **attributes: Any) -> Markup:
    """An element of HTML or SVG. Underscores in names of attributes become hyphens, one at the end goes."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(shown(value))}"' for key, value in attributes.items()
    )
    inside = "".join(escape(shown(child)) for child in children)
    return Markup(f"<{name}{said}>{inside}</{name}>")


def page(template: str, **context: Any) -> str:
    """A template filled in."""
    return _environment().get_template(template).render(context)


def static(name: str) -> str:
    """The text of a file that pages use as it is."""
    return files(__package__).joinpath("static", name).read_text(encoding="utf-8")


def file_name(*names: str) -> str:
    """A file's name, without its ending, that is safe everywhere and differs where the names do."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", " ".join(names)).strip("-").lower()[:_LONGEST]
    return f"{readable}-{hashlib.blake2b(repr(names).encode(), digest_size=4).hexdigest()}"


def _indented(line: str) -> Markup:
    """A line of code with the spaces it begins with, which `printable` would take away."""
    code = line.lstrip(" ")
    return Markup(" " * (len(line) - len(code))) + escape(printable(code))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["indented"] = _indented
    return environment
