"""From rows to tables: every cell of the grid, and each method over its scenarios."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from copy import deepcopy
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np

from urbancross_bench.errors import PluginError, UsageError, did_you_mean
from urbancross_bench.evaluation.significance import FEWEST_SEEDS, TEST_RESAMPLES
from urbancross_bench.evaluation.statistics import RESAMPLES, SeedMeans
from urbancross_bench.identity import canonical_json
from urbancross_bench.interfaces.column import Column
from urbancross_bench.interfaces.renderer import Cell, Estimate, Table
from urbancross_bench.leaderboard.ablation import ablation_tables
from urbancross_bench.leaderboard.comparisons import Difference, Standing, detectable, standings, verdicts
from urbancross_bench.leaderboard.matrix import matrix_lines
from urbancross_bench.leaderboard.peers import Peers, paired_differences
from urbancross_bench.leaderboard.rows import (
    Row,
    estimate_of,
    groups_of,
    make_rows,
    measure_cells,
    method_cells,
    resample_rows,
    stand_twice,
)
from urbancross_bench.leaderboard.transfer import transfer_lines
from urbancross_bench.leaderboard.view import View
from urbancross_bench.records import Record, failed_metrics

Line = Mapping[str, Cell]
Of = TypeVar("Of")


def make_tables(
    records: Sequence[Record], view: View, columns: Mapping[str, Column], only: Container[str] | None = None
) -> list[Table]:
    """The tables of a view, in order; the first is the one to look at. `only` limits runs and scores to these
    keys, `columns` are those that the view names.

    Raises UsageError for a metric that no score has or a baseline that no row is, PluginError for a column that
    fails.
    """
    records = [record for record in records if only is None or record.folder.name in only]
    everywhere = make_rows(records, view.weights, only)
    rows = [row for row in everywhere if not row.of_source]
    _check(rows, view)
    resample_rows(everywhere, view.metric, view.details)
    peers = Peers(rows)
    tested = _tested(rows, peers, view)
    differences = {row: _difference([row], peers, view, tested) for row in rows}
    notes, matrix = _notes(records, rows, differences, view), matrix_lines(rows, view)
    return [
        _table("summary", f"{view.title}: cross-domain scenarios", _means(rows, peers, view), notes),
        *(
            _table(f"by_{by}", f"{view.title}: by {by}", _means(rows, peers, view, by), notes)
            for by in view.grouping
            if any(len(group) > 1 for group in groups_of(filter(attrgetter("shifted"), rows), attrgetter(by)))
        ),
        _table("scenarios", f"{view.title}: every scenario", _scenarios(differences, view, columns), notes),
        *(
            [_table("matrix", f"{view.title}: {view.metric} from source to target", matrix, notes)]
            if matrix
            else []
        ),
        _table("transfer", f"{view.title}: what adapting was worth", transfer_lines(everywhere, view), notes),
        *ablation_tables(rows, view),
    ]


def _table(name: str, title: str, lines: Sequence[Line], notes: Sequence[str]) -> Table:
    columns = list(lines[0]) if lines else ["nothing to show"]
    return Table(name, title, columns, [[line[column] for column in columns] for line in lines], notes)


def _scenarios(
    differences: Mapping[Row, Difference | None], view: View, columns: Mapping[str, Column]
) -> list[Line]:
    """One line per scenario, encoder, adaptation and selector; references after the ranked."""
    ordered = sorted(differences, key=lambda row: (row.scenario, _is_reference(row, view)))
    judged = verdicts(_unless_reference([differences[row] for row in ordered], ordered, view))
    lines: list[dict[str, Cell]] = [
        {
            "scenario": row.scenario,
            "kind": row.kind,
            **method_cells(row),
            "seeds": len(row.seeds),
            view.metric: row.estimate(view.metric),
            f"Δ {view.baseline}": None if difference is None else difference.estimate,
            "verdict": verdict,
            "chance": row.chance(view.metric),
            "class oracle": row.bound("class_oracle", view.metric),
            "ceiling": row.bound("ceiling", view.metric),
            **{metric: row.estimate(metric) for metric in view.details},
            "weights": row.run["encoder"]["weights"]["status"],
            **_spent([row]),
            **measure_cells(row),
            "test images": row.score["images"],
            "test captions": row.score["texts"],
            "data": "; ".join(row.marks.values()),
        }
        for row, verdict in zip(ordered, judged, strict=True)
        for difference in [differences[row]]
    ]
    for name, column in columns.items():
        for row, line in zip(ordered, lines, strict=True):
            if name in line:
                raise UsageError(f"view {view.title!r}: there is a column {name!r} already")
            line[name] = _cell(name, column, row)
    return [*lines]


def _cell(name: str, column: Column, row: Row) -> Cell:
    """What a plugin says of a row. Raises PluginError where it fails, or gives what is no cell."""
    try:
        # Copies: what records have in common is held once.
        cell = column.cell(*deepcopy((row.run, [seed.score.content for seed in row.seeds])))
    except (Exception, SystemExit) as error:
        where = f"{row.scenario}, {row.method[1]}"
        raise PluginError(f"column {name!r} failed on {where}: {type(error).__name__}: {error}") from error
    if cell is not None and not isinstance(cell, str | int | float | Estimate):
        raise PluginError(f"column {name!r} gave a {type(cell).__name__}, which is no cell")
    numbers = [cell.value, cell.low, cell.high] if isinstance(cell, Estimate) else [cell]
    if not all(math.isfinite(number) for number in numbers if isinstance(number, int | float)):
        raise PluginError(f"column {name!r} gave {cell}; a value that is missing is None")
    return cell


def _tested(rows: Iterable[Row], peers: Peers, view: View) -> int:
    """How many rows may be compared with their baseline by the test."""
    bases = [(row, peers.baseline(row, view.baseline)) for row in rows if not _is_reference(row, view)]
    return max(1, sum(base not in (None, row) and len(row.seeds) >= FEWEST_SEEDS for row, base in bases))


def _difference(group: Sequence[Row], peers: Peers, view: View, tested: int = 1) -> Difference | None:
    """Of some rows to the baseline, the mean over them; one of so many that are tested."""
    means = paired_differences(group, peers, view.baseline, view.metric)
    return None if means is None else Difference.of(means, tested)


def _means(rows: Sequence[Row], peers: Peers, view: View, by: str = "") -> list[Line]:
    """One line per encoder, adaptation and selector: its mean over the scenarios where there is a shift.

    by: of those that have their target, say, in common; a line for each.
    """
    shifted = [row for row in rows if row.shifted]
    within: Callable[[Row], str] = attrgetter(by) if by else lambda row: ""
    scenarios: dict[tuple[str, str], set[str]] = {}
    for row in shifted:
        scenarios.setdefault((within(row), row.recipe), set()).add(row.scenario)
    groups = groups_of(shifted, within)
    whole = [
        sorted(row.scenario for row in group) == sorted(scenarios[within(group[0]), group[0].recipe])
        and all(row.estimate(view.metric) for row in group)
        for group in groups
    ]
    chosen = [group if is_whole else None for group, is_whole in zip(groups, whole, strict=True)]
    differences = [_difference(group, peers, view) if group else None for group in chosen]
    judged = verdicts(_unless_reference(differences, [group[0] for group in groups], view))
    means, ranks = _standings(groups, chosen, view)
    lines: list[tuple[tuple[str, str, str, bool, float], Line]] = []
    for group, mean, difference, verdict, rank in zip(groups, means, differences, judged, ranks, strict=True):
        first = group[0]
        worst = _worst(group, view.metric) if mean else None
        chances = [chance for row in group if (chance := row.chance(view.metric)) is not None]
        line: dict[str, Cell] = {
            **({by: within(first)} if by else {}),
            **method_cells(first),
            **measure_cells(first),
            "scenarios": len(group),
            "seeds": min(len(row.seeds) for row in group),
            f"mean {view.metric}": mean,
            "rank": rank.text if rank else None,
            "tie group": rank.group if rank else None,
            f"Δ {view.baseline}": None if difference is None else difference.estimate,
            "verdict": verdict,
            "worst scenario": worst[0] if worst else None,
            f"worst {view.metric}": worst[1] if worst else None,
            "chance": float(np.mean(chances)) if chances else None,
            **_spent(group),
            "data": ", ".join(dict.fromkeys(kind for row in group for kind in row.marks)),
        }
        block = within(first), first.score["protocol"], first.score["ties"]
        lines.append(((*block, _is_reference(first, view), -mean.value if mean else np.inf), line))
    return [line for _, line in sorted(lines, key=lambda entry: entry[0])]


def _standings(
    groups: Sequence[Sequence[Row]], chosen: Sequence[Sequence[Row] | None], view: View
) -> tuple[list[Estimate | None], list[Standing | None]]:
    """The mean of each chosen group and its standing; only one field's resamples are held at a time."""
    estimates: list[Estimate | None] = [None] * len(groups)
    ranks: list[Standing | None] = [None] * len(groups)
    fields: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        fields.setdefault(_field(group), []).append(index)
    for members in fields.values():
        some = [chosen[index] for index in members]
        means = [_over_scenarios(group, view.metric) if group else None for group in some]
        firsts = [groups[index][0] for index in members]
        found = standings(_unless_reference(means, firsts, view))
        for index, whole, mean, rank in zip(members, some, means, found, strict=True):
            estimates[index], ranks[index] = _mean(whole, mean, view.metric) if whole else None, rank
    return estimates, ranks


def _spent(rows: Sequence[Row]) -> Line:
    """What rows were given: where they started, what they might change, in how many steps, in how many trials."""
    given: dict[str, list[Cell]] = {
        "pre-training": [_length(row.run["pretraining"]) for row in rows],
        "parameters trained": [row.trained for row in rows],
        "steps": [row.run["steps"] for row in rows],
        "trials": [row.trials for row in rows],
    }
    return {name: cells[0] if len(set(cells)) == 1 else "varies" for name, cells in given.items()}


def _length(recipe: Mapping[str, Any]) -> str:
    return f"{recipe['steps']} steps" if recipe["epochs"] is None else f"{recipe['epochs']:g} epochs"


def _field(group: Sequence[Row]) -> str:
    """Groups with the same are ranked among each other: one recipe, as many trials, transductive or not, measured
    on the same scenarios and seeds.
    """
    alike = [group[0].recipe, group[0].trials, bool(group[0].score["calibration"])]
    return canonical_json([alike, sorted([row.scenario, row.measured_on] for row in group)])


def _mean(rows: Sequence[Row], means: SeedMeans | None, metric: str) -> Estimate:
    if means is not None:
        return estimate_of(SeedMeans(means.values, means.resampled[:, :RESAMPLES], means.bounds))
    return Estimate(float(np.mean([e.value for row in rows if (e := row.estimate(metric))])))


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
    return [None if _is_reference(row, view) else one for one, row in zip(found, rows, strict=True)]


def _is_reference(row: Row, view: View) -> bool:
    return row.setting in view.reference_settings


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
    if view.baseline not in methods and view.baseline != View.model_fields["baseline"].default:
        hint = did_you_mean(view.baseline, methods)
        raise UsageError(f"view {view.title!r}: no row is the baseline {view.baseline!r}.{hint}")


def _notes(
    records: Sequence[Record], rows: Sequence[Row], differences: Mapping[Row, Difference | None], view: View
) -> list[str]:
    """What a reader has to know to trust the numbers."""
    several = any(len(row.seeds) > 1 for row in rows)
    compared = [(row, found) for row, found in differences.items() if found and not _is_reference(row, view)]
    notes = [
        "Recall and mR in percent. Brackets: 95 % interval by resampling test images with all their captions; the "
        "gallery stays as it is." + (" Seeds are drawn too, by Student's t." if several else ""),
        f"Δ {view.baseline}: paired difference on the same images and seeds. Verdict: paired bootstrap over "
        "images and seeds, 5 % over all comparisons of ranked rows with three seeds or more in this table (Holm's "
        "correction).",
        "Rank, and in brackets the range of ranks in 95 % of the resamples, among ranked rows of one recipe. Tie "
        "group: rows that cannot be told apart from the best of their group (same test, Holm over all pairs).",
        f"Gap closed: the share of the way from {view.baseline} to {view.oracle}, the mean over scenarios; none "
        "unless the oracle is clearly better. Forgotten: what was lost on the sources' own test splits against "
        f"{view.baseline}, where runs were scored there.",
        f"Rows of the settings {', '.join(view.reference_settings)} are references and stand last, unranked.",
        *detectable(compared, view.metric),
    ]
    if any(len(row.seeds) == 1 for row in rows):
        notes.append("Rows of one seed: their intervals are for other images, not for other trainings.")
    if any(len(row.seeds) < FEWEST_SEEDS for row in rows):
        notes.append("Rows of fewer than three seeds: no difference there is more than an observation.")
    if any(stand_twice(group) for group in groups_of(rows)):
        notes.append(
            "A method stands twice in one scenario where its test split, the classes there, or what its label "
            "means changed between runs; no mean is taken over its scenarios."
        )
    if len({row.recipe for row in rows}) > 1:
        notes.append(
            "Rows differ in encoder, recipe, budget or version of the code; only equal ones are compared."
        )
    failed = sum(not record.ok for record in records)
    if failed:
        notes.append(f"Runs that did not end well: {failed}. A row that lacks a seed shows no number.")
    hidden = sum(
        record.ok and record.spec["encoder"]["weights"]["status"] not in view.weights for record in records
    )
    if hidden:
        shown = ", ".join(view.weights)
        notes.append(f"{hidden} runs are left out: their encoder's weights are not among {shown}.")
    domains = {name: facts for row in rows for name, facts in row.run["domains"].items()}
    generated = sorted(name for name, facts in domains.items() if facts["captions_generated"])
    if generated:
        notes.append(f"A model wrote the captions of {', '.join(generated)} from the images.")
    if any(row.marks for row in rows):
        notes.append(
            "The column data marks rows whose data are not the usual: excluded, or standing in several splits."
        )
    notes += [f"Splits of {name}: {domains[name]['partition']}." for name in sorted(domains)]
    return notes
