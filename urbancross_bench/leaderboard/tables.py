"""From rows to tables: every cell of the grid, and each method over its scenarios."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from operator import attrgetter
from typing import TypeVar

import numpy as np

from urbancross_bench.errors import PluginError, UsageError, did_you_mean
from urbancross_bench.evaluation.significance import FEWEST_SEEDS, TEST_RESAMPLES
from urbancross_bench.evaluation.statistics import RESAMPLES, SeedMeans
from urbancross_bench.identity import canonical_json
from urbancross_bench.interfaces.column import Column
from urbancross_bench.interfaces.renderer import Cell, Estimate, Table, no_cell
from urbancross_bench.leaderboard.ablation import CELLS, EFFECTS, ablation_tables
from urbancross_bench.leaderboard.comparable import seeds_of
from urbancross_bench.leaderboard.comparisons import Compared, Difference, Field, Standing, standings, verdicts
from urbancross_bench.leaderboard.marks import marks_of
from urbancross_bench.leaderboard.matrix import matrix_lines
from urbancross_bench.leaderboard.means import are_whole
from urbancross_bench.leaderboard.notes import notes_of, on_means, on_scenarios, on_transfer
from urbancross_bench.leaderboard.peers import Peers, paired_differences, pairs_of
from urbancross_bench.leaderboard.rows import (
    Row,
    estimate_of,
    groups_of,
    make_rows,
    measure_cells,
    method_cells,
    resample_rows,
)
from urbancross_bench.leaderboard.spent import spent
from urbancross_bench.leaderboard.threads import shared_out
from urbancross_bench.leaderboard.transfer import transfer_lines
from urbancross_bench.leaderboard.view import View
from urbancross_bench.records import Record, failed_metrics

# Of all tables that `make_tables` may give in the view that is in use where none is given.
NAMES = {"summary", "by_target", "scenarios", "matrix", "transfer", CELLS, EFFECTS}
SUFFIXES = (
    ".md",
    ".csv",
    ".tex",
    ".json",
    ".parquet",
    ".svg",
)  # of the files that renderers and plots make of them
Line = Mapping[str, Cell]
Of = TypeVar("Of")


def make_tables(records: Sequence[Record], view: View, columns: Mapping[str, Column]) -> list[Table]:
    """The tables of a view, in order; the first is the one to look at. `columns` are those that the view names.

    Raises UsageError for a metric that no score has and a baseline or oracle that no row is, PluginError for a
    column that fails.
    """
    everywhere = make_rows(records, view.weights)
    rows = [row for row in everywhere if not row.of_source]
    _check(rows, view)
    resample_rows(everywhere, view.metric, view.details)
    peers, shifted = Peers(rows), [row for row in rows if row.shifted]

    def table(
        name: str,
        about: str,
        lines: Sequence[Line],
        of: Sequence[Row],
        notes: Sequence[str] = (),
        behind: Sequence[str] = (),
    ) -> Table:
        notes = notes_of(notes, of, records, view) if lines else notes_of([], [], records, view)
        made = Table.of_lines(name, f"{view.title}: {about}", lines, notes)
        return replace(made, behind=behind)

    def means(name: str, about: str, by: str = "") -> Table:
        lines, compared = _means(shifted, peers, view, by)
        return table(name, about, lines, shifted, on_means(shifted, compared, view, by))

    ordered = sorted(rows, key=lambda row: (row.scenario, view.is_reference(row.setting)))
    scenarios, compared = _scenarios(ordered, peers, view, columns)
    behind = [seeds_of(row.run) for row in ordered]
    matrix = matrix_lines(rows, view)
    return [
        means("summary", "scenarios with a shift"),
        *(
            means(f"by_{by}", f"by {by}", by)
            for by in view.grouping
            if any(len(group) > 1 for group in groups_of(shifted, attrgetter(by)))
        ),
        table("scenarios", "every scenario", scenarios, rows, on_scenarios(rows, compared, view), behind),
        *([table("matrix", f"{view.metric} from source to target", matrix, rows)] if matrix else []),
        table(
            "transfer",
            "what adapting was worth",
            transfer_lines(everywhere, view),
            shifted,
            on_transfer(shifted, view),
        ),
        *ablation_tables(rows, view),
    ]


def _scenarios(
    ordered: Sequence[Row], peers: Peers, view: View, columns: Mapping[str, Column]
) -> tuple[list[Line], Compared]:
    """One line per scenario, encoder, adaptation and selector; and what is judged."""
    differences = _differences([[row] for row in ordered], peers, view)
    ranked = _unless_reference(differences, ordered, view)
    lines = [
        _line(
            view,
            {"scenario": row.scenario, "kind": row.kind},
            method_cells(row),
            {"seeds": len(row.seeds)},
            {view.metric: row.estimate(view.metric)},
            {f"Δ {view.baseline}": None if difference is None else difference.estimate},
            {
                "verdict": verdict,
                "chance": row.chance(view.metric),
                "class oracle": row.bound("class_oracle", view.metric),
                "ceiling": row.bound("ceiling", view.metric),
            },
            {metric: row.estimate(metric) for metric in view.details if metric != view.metric},
            {"weights": row.run["encoder"]["weights"]["status"]},
            spent([row]),
            measure_cells(row),
            {
                "test images": row.score["images"],
                "test captions": row.score["texts"],
                "data": "; ".join(marks_of(row).values()),
            },
            {name: _cell(name, column, row) for name, column in columns.items()},
        )
        for row, difference, verdict in zip(ordered, differences, verdicts(ranked), strict=True)
    ]
    return lines, [([row], found) for row, found in zip(ordered, ranked, strict=True) if found]


def _line(view: View, *parts: Mapping[str, Cell]) -> Line:
    """A line of a table. Raises UsageError where two columns have one name: metrics and plugins may have any."""
    line: dict[str, Cell] = {}
    for part in parts:
        if twice := line.keys() & part.keys():
            raise UsageError(f"view {view.title!r}: there is a column {min(twice)!r} already")
        line |= part
    return line


def _cell(name: str, column: Column, row: Row) -> Cell:
    """What a plugin says of a row. Raises PluginError where it fails, or gives what is no cell."""
    try:
        # Copies: what records have in common is held once.
        cell = column.cell(*deepcopy((row.run, [seed.score.content for seed in row.seeds])))
    except (Exception, SystemExit) as error:
        where = f"{row.scenario}, {row.method[1]}"
        raise PluginError(f"column {name!r} failed on {where}: {type(error).__name__}: {error}") from error
    if why := no_cell(cell):
        raise PluginError(f"column {name!r} gave {why}")
    return cell


def _differences(groups: Sequence[Sequence[Row] | None], peers: Peers, view: View) -> list[Difference | None]:
    """Of each group to the baseline, the mean over its rows; those of a table, which are tested together."""
    asked = [group or () for group in groups]
    tested = sum(
        pairs is not None and len(group[0].seeds) >= FEWEST_SEEDS and not view.is_reference(group[0].setting)
        for group in asked
        for pairs in [pairs_of(group, peers, view.baseline, view.metric)]
    )

    def difference(group: Sequence[Row]) -> Difference | None:
        means = paired_differences(group, peers, view.baseline, view.metric)
        return None if means is None else Difference.of(means, max(1, tested))

    return shared_out(difference, asked)


def _means(shifted: Sequence[Row], peers: Peers, view: View, by: str = "") -> tuple[list[Line], Compared]:
    """One line per encoder, adaptation and selector, its mean over the scenarios where there is a shift; and what
    is judged.

    by: of those that have their target, say, in common; a line for each.
    """
    within: Callable[[Row], str] = attrgetter(by) if by else lambda row: ""
    groups = groups_of(shifted, within)
    whole = are_whole(groups, view.metric, by)
    chosen = [group if is_whole else None for group, is_whole in zip(groups, whole, strict=True)]
    differences = _differences(chosen, peers, view)
    ranked = _unless_reference(differences, [group[0] for group in groups], view)
    judged = verdicts(ranked)
    means, ranks = _standings(groups, chosen, view)
    lines: list[tuple[tuple[str, str, str, bool, float], Line]] = []
    for group, mean, difference, verdict, rank in zip(groups, means, differences, judged, ranks, strict=True):
        first = group[0]
        worst = _worst(group, view.metric) if mean else None
        chances = [chance for row in group if (chance := row.chance(view.metric)) is not None]
        line = _line(
            view,
            {by: within(first)} if by else {},
            method_cells(first),
            measure_cells(first),
            {"scenarios": len({row.scenario for row in group}), "seeds": min(len(row.seeds) for row in group)},
            {f"mean {view.metric}": mean},
            {"rank": rank.text if rank else None, "tie group": rank.group if rank else None},
            {f"Δ {view.baseline}": None if difference is None else difference.estimate},
            {"verdict": verdict, "worst scenario": worst[0] if worst else None},
            {f"worst {view.metric}": worst[1] if worst else None},
            {"chance": float(np.mean(chances)) if chances else None},
            spent(group),
            {"data": ", ".join(dict.fromkeys(kind for row in group for kind in marks_of(row)))},
        )
        block = within(first), first.score["protocol"], first.score["ties"]
        lines.append(((*block, view.is_reference(first.setting), -mean.value if mean else np.inf), line))
    compared = [(group, found) for group, found in zip(groups, ranked, strict=True) if found]
    return [line for _, line in sorted(lines, key=lambda entry: entry[0])], compared


def _standings(
    groups: Sequence[Sequence[Row]], chosen: Sequence[Sequence[Row] | None], view: View
) -> tuple[list[Estimate | None], list[Standing | None]]:
    """The mean of each chosen group, and its standing, None for one without others; only one field's resamples are
    held at a time.
    """
    estimates: list[Estimate | None] = [None] * len(groups)
    alike: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        alike.setdefault(_field(group), []).append(index)
    fields: list[tuple[list[int], Field]] = []
    for members in alike.values():
        some = [chosen[index] for index in members]
        means = shared_out(lambda group: _over_scenarios(group, view.metric) if group else None, some)
        for index, mean in zip(members, means, strict=True):
            estimates[index] = None if mean is None else _shown(mean)
        ranked = _unless_reference(means, [groups[index][0] for index in members], view)
        of_row = {index: mean for index, mean in zip(members, ranked, strict=True) if mean is not None}
        if len(of_row) > 1:
            fields.append(([*of_row], Field.of([*of_row.values()])))
    ranks: list[Standing | None] = [None] * len(groups)
    for (members, _), found in zip(fields, standings([field for _, field in fields]), strict=True):
        for index, standing in zip(members, found, strict=True):
            ranks[index] = standing
    return estimates, ranks


def _field(group: Sequence[Row]) -> str:
    """Groups with the same are ranked among each other: one recipe, as many trials, transductive or not, of the
    same data, measured on the same scenarios and seeds.
    """
    alike = [group[0].recipe, group[0].trials, bool(group[0].score["calibration"])]
    return canonical_json([alike, sorted([row.scenario, row.data, row.measured_on] for row in group)])


def _shown(means: SeedMeans) -> Estimate:
    return estimate_of(SeedMeans(means.values, means.resampled[:, :RESAMPLES], means.bounds))


def _worst(rows: Sequence[Row], metric: str) -> tuple[str, Estimate]:
    """The scenario with the lowest estimate; that it is the worst of several is not in the interval."""
    found = [(row.scenario, e) for row in rows if (e := row.estimate(metric))]
    return min(found, key=lambda one: (one[1].value, one[0]))


def _over_scenarios(rows: Sequence[Row], metric: str) -> SeedMeans | None:
    """The mean over rows seed by seed; None where one is missing or has other seeds."""
    if any(row.values(metric) is None for row in rows) or len({row.numbers for row in rows}) > 1:
        return None
    return SeedMeans.average(found for row in rows if (found := row.means(metric, TEST_RESAMPLES)))


def _unless_reference(found: Sequence[Of | None], rows: Sequence[Row], view: View) -> list[Of | None]:
    """References are neither ranked nor judged: each would cost the others power."""
    return [None if view.is_reference(row.setting) else one for one, row in zip(found, rows, strict=True)]


def _check(rows: Sequence[Row], view: View) -> None:
    if not rows:
        return
    metrics = {name: entry for row in rows for name, entry in row.score["metrics"].items()}
    for metric in (view.metric, *view.details):
        if metric not in metrics:
            failed = failed_metrics(seed.score.content for row in rows for seed in row.seeds)
            hint = f" Failed: {'; '.join(failed)}." if failed else did_you_mean(metric, metrics)
            raise UsageError(f"view {view.title!r}: no score has the metric {metric!r}.{hint}")
    if not metrics[view.metric]["higher_is_better"]:
        raise UsageError(
            f"view {view.title!r}: rows are ordered by a metric of which more is better; name {view.metric!r} "
            "among the details"
        )
    methods = {row.run["adaptation"][key] for row in rows for key in ("label", "name")}
    for role, method in (("baseline", view.baseline), ("oracle", view.oracle)):
        if method not in methods and method != View.model_fields[role].default:
            hint = did_you_mean(method, methods)
            raise UsageError(f"view {view.title!r}: no row is the {role} {method!r}.{hint}")
