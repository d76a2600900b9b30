"""Tables as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import ClassVar

from urbancross_bench.interfaces import Cell, Estimate, Renderer, Table


class Csv(Renderer):
    """One line per row; an estimate takes three columns: value, low and high end of its interval."""

    suffix: ClassVar[str] = ".csv"

    def render(self, table: Table) -> str:
        """Numbers with four decimals, nothing for what is missing."""
        wide = [any(isinstance(row[i], Estimate) for row in table.rows) for i in range(len(table.columns))]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_spread(table.columns, wide, lambda c: [str(c), f"{c} low", f"{c} high"]))
        for row in table.rows:
            writer.writerow(_spread(row, wide, _three))
        return out.getvalue()


def _three(cell: Cell) -> list[str]:
    if isinstance(cell, Estimate):
        return [_text(cell.value), _text(cell.low), _text(cell.high)]
    return [_text(cell), "", ""]


def _spread(cells: Sequence[Cell], wide: Sequence[bool], three: Callable[[Cell], list[str]]) -> list[str]:
    return [
        text
        for cell, is_wide in zip(cells, wide, strict=True)
        for text in (three(cell) if is_wide else [_text(cell)])
    ]


def _text(cell: Cell) -> str:
    if cell is None or isinstance(cell, Estimate):
        return ""
    if isinstance(cell, float):
        return f"{cell:.4f}"
    text = str(cell)
    # A spreadsheet would run a cell that starts like a formula.
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
