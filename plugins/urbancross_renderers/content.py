"""What formats have in common: those for people how they say a cell; those for programs that an estimate takes
three columns, and that a column has one type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from urbancross_bench.interfaces import Cell, Estimate, Table
from urbancross_bench.interfaces.renderer import interval_ends, printable

Value = str | int | float | None
DECIMALS = 4


def in_words(value: Any, text: Callable[[str], str] = str) -> str:
    """A cell for people: numbers with two decimals, an interval in brackets, a dash for what is missing; anything
    else as `text` writes it.
    """
    if value is None:
        return "–"
    if isinstance(value, Estimate):
        if value.low is None or value.high is None:
            return decimals(value.value)
        return f"{decimals(value.value)} [{decimals(value.low)}, {decimals(value.high)}]"
    return decimals(value) if isinstance(value, float) else text(str(value))


def decimals(value: float) -> str:
    """Two decimals, and no −0; a dash for what is no number."""
    return f"{value:z.2f}" if math.isfinite(value) else "–"


def flat(table: Table) -> tuple[list[str], list[list[Value]]]:
    """Column names, and rows of plain values: an estimate becomes its value and the ends of its interval."""
    wide = [any(isinstance(row[i], Estimate) for row in table.rows) for i in range(len(table.columns))]
    columns = [printable(column) for column in table.columns]
    names = [
        name
        for column, is_wide in zip(columns, wide, strict=True)
        for name in ([column, *interval_ends(column, columns)] if is_wide else [column])
    ]
    rows = [
        [
            value
            for cell, is_wide in zip(row, wide, strict=True)
            for value in (_three(cell) if is_wide else [_value(cell)])
        ]
        for row in table.rows
    ]
    return names, rows


def typed(table: Table) -> dict[str, list[Value]]:
    """Column name → its values, all of one type or None. Numbers of four decimals; text where a column mixes."""
    names, rows = flat(table)
    return {name: _of_one_type([row[i] for row in rows]) for i, name in enumerate(names)}


def _three(cell: Cell) -> list[Value]:
    if isinstance(cell, Estimate):
        return [_value(None if one is None else float(one)) for one in (cell.value, cell.low, cell.high)]
    return [_value(cell), None, None]


def _value(cell: Cell) -> Value:
    if isinstance(cell, Estimate):
        return _value(cell.value)
    if isinstance(cell, str | bool):
        return printable(str(cell))
    if isinstance(cell, float):
        # No −0, and nothing of the last bits, which differ between machines. Of numpy's type it would stay that.
        return round(float(cell), DECIMALS) + 0.0 if math.isfinite(cell) else None
    return None if cell is None else int(cell)


def _of_one_type(values: Sequence[Value]) -> list[Value]:
    kinds = {type(value) for value in values if value is not None}
    if str in kinds and len(kinds) > 1:
        return [None if value is None else str(value) for value in values]
    if float in kinds:
        return [None if value is None else float(value) for value in values]
    return [*values]
