"""Tables as GitHub-flavoured Markdown."""

from __future__ import annotations

import re
from typing import ClassVar

from urbancross_bench.interfaces import Renderer, Table
from urbancross_bench.interfaces.renderer import printable
from urbancross_renderers.content import in_words

_ESCAPES = str.maketrans({c: f"\\{c}" for c in "\\|`*[~"} | {"$": "&#36;", "<": "&lt;", ">": "&gt;", "&": "&amp;"})
_EDGE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # within a word it is no markup
_PADDING = 2  # of a column's name


class Markdown(Renderer):
    """Title, table and notes."""

    suffix: ClassVar[str] = ".md"

    def render(self, table: Table) -> str:
        """Numbers with two decimals, intervals in brackets, a dash for what is missing."""
        names = [_escape(name) for name in table.columns]
        rows = [[in_words(cell, _escape) for cell in row] for row in table.rows]
        notes = "".join(f"- {_at_start(_escape(note))}\n" for note in table.notes)
        return f"# {_heading(table.title)}\n\n{_pipes(names, rows)}" + (f"\n{notes}" if notes else "")


def _pipes(names: list[str], rows: list[list[str]]) -> str:
    """The table, padded by the number of characters: how wide they are drawn depends on what is installed."""
    widths = [
        max(len(name) + _PADDING, *(len(row[i]) for row in rows), 0) if rows else len(name) + _PADDING
        for i, name in enumerate(names)
    ]
    lines = [names, *rows]
    padded = ["| " + " | ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)) + " |" for line in lines]
    rule = "|" + "|".join(":" + "-" * (width + 1) for width in widths) + "|"
    return "".join(f"{line}\n" for line in (padded[0], rule, *padded[1:]))


def _escape(text: str) -> str:
    """No cell can end the table or start markup."""
    return _EDGE.sub(r"\\_", printable(text).translate(_ESCAPES))


def _heading(title: str) -> str:
    """Hashes at its end would be left out."""
    return re.sub(r"(#+)$", r"\\\1", _escape(title))


def _at_start(text: str) -> str:
    """Nor can a note start a heading, a list, a rule or a block of code."""
    return re.sub(r"^(\d*)([-+#=.)])", r"\1\\\2", text)
