"""The table of what adapting was worth: how much of the gap to the oracle it closed, and what it has forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from urbancross_bench.evaluation import transfer
from urbancross_bench.evaluation.statistics import SeedMeans, over_seeds
from urbancross_bench.interfaces.renderer import Cell, Estimate
from urbancross_bench.leaderboard.rows import (
    Row,
    baseline_of,
    estimate_of,
    groups_of,
    method_cells,
    paired_differences,
)
from urbancross_bench.leaderboard.view import View


def transfer_lines(rows: Sequence[Row], view: View) -> list[dict[str, Cell]]:
    """One line per encoder, adaptation and selector over the scenarios where there is a shift.

    Figures are means over scenarios, null where one of them cannot be taken: the share of the gap between baseline
    and oracle that is closed (null, too, unless the oracle is clearly better), and the loss against the baseline
    on the test splits of all sources, where runs were scored on those.
    """
    shifted = [row for row in rows if row.shifted]
    targets = [row for row in shifted if not row.of_source]
    on_sources = [row for row in shifted if row.of_source]
    lines = []
    for group in groups_of(targets):
        if baseline_of(group[0], rows, view.baseline) in (None, group[0]):
            continue
        if group[0].setting in view.reference_settings:
            continue
        won = paired_differences(group, rows, view.baseline, view.metric)
        gap = _gap(group, rows, view)
        closed = transfer.UNDEFINED
        if won is not None and gap is not None:
            closed = transfer.gap_closed(_paired(won), _paired(gap))
        own = [row for row in on_sources if row.method == group[0].method and row.recipe == group[0].recipe]
        wanted = {(row.scenario, source) for row in group for source in row.run["scenario"]["source"]}
        kept = None
        if wanted == {(row.scenario, row.score["domain"]) for row in own}:
            kept = paired_differences(own, rows, view.baseline, view.metric)
        lines.append(
            {
                **method_cells(group[0]),
                "scenarios": len(group),
                "seeds": min(len(row.seeds) for row in group),
                "gap closed, %": _percent(closed),
                f"forgotten {view.metric}": None if kept is None else _minus(estimate_of(kept)),
            }
        )
    return lines


def _gap(group: Sequence[Row], rows: Sequence[Row], view: View) -> SeedMeans | None:
    """Oracle minus baseline, over the scenarios of a group; None where one has no oracle."""
    oracles = [baseline_of(row, rows, view.oracle) for row in group]
    found = [row for row in oracles if row is not None]
    return paired_differences(found, rows, view.baseline, view.metric) if len(found) == len(group) else None


def _paired(means: SeedMeans) -> transfer.Difference:
    return means.value, over_seeds(means)


def _percent(figure: transfer.Figure) -> Estimate | None:
    if figure.value is None:
        return None
    ends = [None if end is None else 100.0 * end for end in (figure.low, figure.high)]
    return Estimate(100.0 * figure.value, *ends)


def _minus(estimate: Estimate) -> Estimate:
    low, high = (None if end is None else 0.0 - end for end in (estimate.high, estimate.low))  # no −0
    return Estimate(0.0 - estimate.value, low, high)
