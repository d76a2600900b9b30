"""The table of every source against every target."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from urbancross_bench.interfaces.renderer import Cell
from urbancross_bench.leaderboard.rows import Row, groups_of, measure_cells, method_cells
from urbancross_bench.leaderboard.view import View


def matrix_lines(rows: Sequence[Row], view: View) -> list[dict[str, Cell]]:
    """One line per encoder, adaptation, selector and source, with a column per target; in-domain scenarios too.

    None where a method was not run, or where it stands twice. No lines where nothing but one scenario was run.
    """
    targets = sorted({row.target for row in rows})
    if len({row.scenario for row in rows}) < 2:
        return []
    lines = []
    for group in groups_of(rows, attrgetter("source")):
        on = {target: [row for row in group if row.target == target] for target in targets}
        lines.append(
            {
                "source": group[0].source,
                **method_cells(group[0]),
                **measure_cells(group[0]),
                "seeds": min(len(row.seeds) for row in group),
                **{
                    f"→ {name}": one[0].estimate(view.metric) if len(one) == 1 else None
                    for name, one in on.items()
                },
            }
        )
    return lines
