"""Which cells of a table are its best, and which cannot be told apart from them."""

from __future__ import annotations

from dataclasses import replace

from urbancross_bench.interfaces.renderer import Estimate, Table

_RANK, _GROUP = "rank", "tie group"


def marked(table: Table) -> Table:
    """The table with `best` and `tied`, from its tie groups; as it is where it has none.

    The first tie group of each field of rows that are ranked among each other holds its best row, of rank 1, and
    the rows that the test cannot tell apart from that. Their mean is marked: the first estimate of the table.
    """
    if _RANK not in table.columns or _GROUP not in table.columns:
        return table
    rank, group = table.columns.index(_RANK), table.columns.index(_GROUP)
    first = [i for i, row in enumerate(table.rows) if row[group] == 1]
    columns = [k for k in range(len(table.columns)) if any(isinstance(row[k], Estimate) for row in table.rows)]
    best = frozenset((i, columns[0]) for i in first if str(table.rows[i][rank]).split(" ")[0] == "1")
    return replace(table, best=best, tied=frozenset((i, columns[0]) for i in first) - best)
