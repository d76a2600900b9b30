"""Tables as GitHub-flavoured Markdown."""

from __future__ import annotations

from typing import ClassVar

from tabulate import tabulate

from urbancross_bench.interfaces import Cell, Estimate, Renderer, Table

_ESCAPES = str.maketrans({c: f"\\{c}" for c in "\\|`*["} | {"<": "&lt;", ">": "&gt;"})


class Markdown(Renderer):
    """Title, table and notes."""

    suffix: ClassVar[str] = ".md"

    def render(self, table: Table) -> str:
        """Numbers with two decimals, intervals in brackets, a dash for what is missing."""
        rows = [[_text(cell) for cell in row] for row in table.rows]
        body = tabulate(rows, headers=[_escape(c) for c in table.columns], tablefmt="pipe", disable_numparse=True)
        notes = "".join(f"- {_escape(note)}\n" for note in table.notes)
        return f"# {_escape(table.title)}\n\n{body}\n" + (f"\n{notes}" if notes else "")


def _text(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, Estimate):
        if cell.low is None or cell.high is None:
            return _number(cell.value)
        return f"{_number(cell.value)} [{_number(cell.low)}, {_number(cell.high)}]"
    return _number(cell) if isinstance(cell, float) else _escape(str(cell))


def _number(value: float) -> str:
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text


def _escape(text: str) -> str:
    """No cell can end the table or start markup."""
    return " ".join(text.translate(_ESCAPES).split())
