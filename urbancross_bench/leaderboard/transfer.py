"""The table of what adapting was worth: how much of the gap to the oracle it closed, and what it has forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from urbancross_bench.evaluation import transfer
from urbancross_bench.evaluation.statistics import SeedMeans, over_seeds
from urbancross_bench.interfaces.renderer import Cell, Estimate
from urbancross_bench.leaderboard.means import are_whole
from urbancross_bench.leaderboard.peers import Peers, paired_differences
from urbancross_bench.leaderboard.rows import (
    Row,
    estimate_of,
    groups_of,
    measure_cells,
    method_cells,
)
from urbancross_bench.leaderboard.view import View


def transfer_lines(rows: Sequence[Row], view: View) -> list[dict[str, Cell]]:
    """One line per encoder, adaptation and selector over the scenarios where there is a shift.

    Figures are null where a seed or a scenario is missing. The share of the gap between baseline and oracle that
    is closed: the mean difference as a share of the oracle's, so larger gaps weigh more; null, too, unless the
    oracle is clearly better. What is forgotten: the mean loss against the baseline on the test splits of all
    sources, where runs were scored on those.
    """
    shifted, peers = [row for row in rows if row.shifted], Peers(rows)
    targets = [row for row in shifted if not row.of_source]
    on_sources = [row for row in shifted if row.of_source]
    gaps: dict[tuple[Row | None, ...], transfer.Difference | None] = {}  # few: methods share their oracles
    lines, groups = [], groups_of(targets)
    for group, is_whole in zip(groups, are_whole(groups, view.metric), strict=True):
        if peers.baseline(group[0], view.baseline) in (None, group[0]):
            continue
        if view.is_reference(group[0].setting):
            continue
        won = paired_differences(group, peers, view.baseline, view.metric) if is_whole else None
        oracles = tuple(peers.baseline(row, view.oracle) for row in group)
        if oracles not in gaps:
            gaps[oracles] = _gap(oracles, peers, view)
        gap, closed = gaps[oracles], transfer.UNDEFINED
        if won is not None and gap is not None:
            closed = transfer.gap_closed(_paired(won), gap)
        own = [row for row in on_sources if _of_one_method(row, group[0])]
        wanted = {(row.scenario, source) for row in group for source in row.run["scenario"]["source"]}
        kept = None
        if is_whole and wanted == {(row.scenario, row.score["domain"]) for row in own}:
            kept = paired_differences(own, peers, view.baseline, view.metric)
        lines.append(
            {
                **method_cells(group[0]),
                **measure_cells(group[0]),
                "scenarios": len({row.scenario for row in group}),
                "seeds": min(len(row.seeds) for row in group),
                "gap closed, %": _percent(closed),
                f"forgotten {view.metric}": None if kept is None else _minus(estimate_of(kept)),
            }
        )
    return lines


def _of_one_method(a: Row, b: Row) -> bool:
    return (a.method, a.content, a.recipe) == (b.method, b.content, b.recipe)


def _gap(oracles: Sequence[Row | None], peers: Peers, view: View) -> transfer.Difference | None:
    """Oracle minus baseline, over some scenarios; None where one has no oracle."""
    found = [row for row in oracles if row is not None]
    if len(found) < len(oracles):
        return None
    gap = paired_differences(found, peers, view.baseline, view.metric)
    return None if gap is None else _paired(gap)


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
