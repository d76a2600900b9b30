"""Tables as pages show them: a row's method first, numbers that can be sorted, links to the runs behind a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from urbancross_bench.interfaces import Cell, Estimate, Table
from urbancross_bench.interfaces.renderer import printable

# What a reader looks for in a row: these, a number with its interval, and by what it was chosen and measured.
_HEAD, _NEXT = ("adaptation", "change", "scenario", "source", "target"), ("selector", "protocol")
# What may tell rows apart, the most telling first.
_NAMES = ("adaptation", "encoder", "selector", "protocol", "ties", "setting", "pre-training", "steps", "data")
# Of these, what a method has in common over its scenarios.
_SHARED = ("adaptation", "encoder", "selector", "protocol", "ties", "setting", "pre-training")


@dataclass(frozen=True)
class Column:
    """A column: its name, and whether it holds numbers."""

    name: str
    numeric: bool


@dataclass(frozen=True)
class ShownCell:
    """A cell; `link` leads somewhere or is empty, `kind` is `best`, `tied` or empty."""

    value: Any
    link: str = ""
    kind: str = ""


@dataclass(frozen=True)
class ShownTable:
    """A table for the template `table.html`; the first cell of a row is its heading."""

    id: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[ShownCell]]
    notes: Sequence[str] = ()
    marks: bool = False


def shown_table(table: Table, *, runs: str = "") -> ShownTable:
    """A table of the board; `runs` is the address of the page that lists the runs, if rows are to lead there."""
    order = _order(table)
    linked = bool(runs and table.behind)
    columns = [Column(table.columns[k], _is_numeric([row[k] for row in table.rows])) for k in order]
    rows = [
        [
            *(ShownCell(row[k], kind=_kind(table, i, k)) for k in order),
            *([ShownCell("runs", filtered(runs, table.behind[i]))] if linked else []),
        ]
        for i, row in enumerate(table.rows)
    ]
    columns += [Column("behind it", False)] if linked else []
    return ShownTable(f"table-{table.name}", table.title, columns, rows, table.notes, bool(table.best))


def labels(table: Table, rows: Sequence[Sequence[Cell]], *, within: str = "") -> list[str]:
    """What tells rows apart, one text a row: the method, and of encoder, selector, protocol … what is needed.

    within: a column, of scenarios say; rows that differ there are told apart as methods alone.
    """
    first, *others = [(name, [_text(row[table.columns.index(name)]) for row in rows]) for name in _telling(table)]
    groups = [row[table.columns.index(within)] for row in rows] if within else [None] * len(rows)

    def told(texts: Sequence[str], by: str) -> int:
        return len({*texts} if by in _SHARED else {*zip(texts, groups, strict=True)})

    _, found = first
    for name, column in others:
        longer = [" · ".join(filter(None, parts)) for parts in zip(found, column, strict=True)]
        found = longer if told(longer, name) > told(found, name) else found
    return found


def _telling(table: Table) -> list[str]:
    """Columns by which rows may be told apart: those known by name, then whatever stands left of the numbers."""
    known = [name for name in _NAMES if name in table.columns]
    left = table.columns[: next(_estimated(table), len(table.columns))]
    return [*known, *(name for name in left if name not in known)] or [*table.columns[:1]]


def _text(cell: Cell) -> str:
    return "" if cell is None else printable(str(cell))


def filtered(address: str, text: str) -> str:
    """The address of a page whose table is to show only the rows that have a cell with this text."""
    cell = '"{}"'.format(printable(text).replace('"', '""'))
    return f"{address}#filter={quote(cell, safe='')}"


def _order(table: Table) -> list[int]:
    """The columns as a page has them: what is read first also stands on a narrow screen."""
    wanted = [*_HEAD, *(table.columns[k] for k in [*_estimated(table)][:1]), *_NEXT]
    heads = [table.columns.index(name) for name in wanted if name in table.columns]
    return heads + [k for k in range(len(table.columns)) if k not in heads]


def _estimated(table: Table) -> Iterator[int]:
    """The columns of numbers with intervals."""
    return (k for k in range(len(table.columns)) if any(isinstance(row[k], Estimate) for row in table.rows))


def _kind(table: Table, row: int, column: int) -> str:
    return "best" if (row, column) in table.best else "tied" if (row, column) in table.tied else ""


def _is_numeric(cells: Sequence[Cell]) -> bool:
    known = [cell for cell in cells if cell is not None]
    return bool(known) and all(isinstance(cell, int | float | Estimate) for cell in known)
