"""From rows to tables: every cell of the grid, and each method over its scenarios."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np

from urbancross_bench.errors import UsageError, did_you_mean
from urbancross_bench.evaluation.statistics import interval
from urbancross_bench.interfaces.renderer import Cell, Estimate, Table
from urbancross_bench.leaderboard.rows import Row, baseline_of, make_rows
from urbancross_bench.leaderboard.view import View
from urbancross_bench.records import Record

Line = Mapping[str, Cell]


def make_tables(records: Sequence[Record], view: View, only: Container[str] | None = None) -> list[Table]:
    """The tables of a view, in order; the first is the one to look at. `only` limits runs and scores to these
    keys. Raises UsageError for a metric that no score has or a baseline that no row is.
    """
    records = [record for record in records if only is None or record.folder.name in only]
    rows = make_rows(records, view.weights, only)
    _check(rows, view)
    notes = _notes(records, rows, view)
    return [
        _table("summary", f"{view.title}: cross-domain scenarios", _summary(rows, view), notes),
        _table("scenarios", f"{view.title}: every scenario", _scenarios(rows, view), notes),
    ]


def _table(name: str, title: str, lines: Sequence[Line], notes: Sequence[str]) -> Table:
    columns = list(lines[0]) if lines else ["nothing to show"]
    return Table(name, title, columns, [[line[column] for column in columns] for line in lines], notes)


def _scenarios(rows: Sequence[Row], view: View) -> list[Line]:
    """One line per scenario, encoder, adaptation and selector; references after the ranked."""
    lines: list[Line] = []
    for row in sorted(rows, key=lambda row: (row.scenario, _is_reference(row, view))):
        baseline = baseline_of(row, rows, view.baseline)
        compared = baseline is not None and baseline is not row
        line: dict[str, Cell] = {
            "scenario": row.scenario,
            "kind": row.run["scenario"]["kind"],
            **_method(row),
            "seeds": len(row.seeds),
            view.metric: row.estimate(view.metric),
            f"Δ {view.baseline}": row.difference(baseline, view.metric) if baseline and compared else None,
            "chance": row.chance(view.metric),
            **{metric: row.estimate(metric) for metric in view.details},
            "weights": row.run["encoder"]["weights"]["status"],
            "pre-training steps": row.run["pretraining"]["steps"],
            "steps": row.run["budget"]["steps"],
            "protocol": row.score["protocol"],
            "ties": row.score["ties"],
            "test images": row.score["queries"]["i2t"],
            "test captions": row.score["queries"]["t2i"],
            "data": "; ".join(row.marks.values()),
        }
        lines.append(line)
    return lines


def _summary(rows: Sequence[Row], view: View) -> list[Line]:
    """One line per encoder, adaptation and selector: its mean over the scenarios where there is a shift."""
    shifted = [row for row in rows if row.run["scenario"]["kind"] not in ("in_domain", "seen_target")]
    lines: list[tuple[tuple[bool, float], Line]] = []
    for group in _groups(shifted):
        first, scenarios = group[0], {row.scenario for row in shifted if row.recipe == group[0].recipe}
        estimates = [(e.value, row.scenario) for row in group if (e := row.estimate(view.metric))]
        whole = len(estimates) == len(group) == len(scenarios)
        mean = _mean(group, view.metric) if whole else None
        worst = min(estimates) if whole else (None, None)
        chances = [chance for row in group if (chance := row.chance(view.metric)) is not None]
        line: dict[str, Cell] = {
            **_method(first),
            "scenarios": len(group),
            "seeds": min(len(row.seeds) for row in group),
            f"mean {view.metric}": mean,
            f"Δ {view.baseline}": _mean_difference(group, rows, view) if whole else None,
            "worst scenario": worst[1],
            f"worst {view.metric}": worst[0],
            "chance": float(np.mean(chances)) if chances else None,
            "data": ", ".join(dict.fromkeys(kind for row in group for kind in row.marks)),
        }
        lines.append(((_is_reference(first, view), -mean.value if mean else np.inf), line))
    return [line for _, line in sorted(lines, key=lambda entry: entry[0])]


def _method(row: Row) -> dict[str, Cell]:
    encoder, adaptation, selector, shown = row.method
    setting = f"{row.setting}, {shown}" if shown else row.setting
    return {"encoder": encoder, "adaptation": adaptation, "setting": setting, "selector": selector}


def _groups(rows: Iterable[Row]) -> list[list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.recipe, *row.method), []).append(row)
    return [groups[key] for key in sorted(groups)]


def _mean(rows: Sequence[Row], metric: str) -> Estimate:
    values = [e.value for row in rows if (e := row.estimate(metric)) is not None]
    resampled = np.mean([row.resampled(metric) for row in rows], axis=0)
    return Estimate(float(np.mean(values)), *interval(resampled))


def _mean_difference(group: Sequence[Row], rows: Sequence[Row], view: View) -> Estimate | None:
    """The mean of paired differences over scenarios; None where one of them cannot be taken."""
    pairs = [(row, base) for row in group if (base := baseline_of(row, rows, view.baseline)) not in (None, row)]
    differences = [row.difference(base, view.metric) for row, base in pairs if base]
    values = [difference.value for difference in differences if difference]
    if len(values) < len(group):
        return None
    resampled = [row.resampled(view.metric) - base.resampled(view.metric) for row, base in pairs if base]
    return Estimate(float(np.mean(values)), *interval(np.mean(resampled, axis=0)))


def _is_reference(row: Row, view: View) -> bool:
    return row.setting in view.reference_settings


def _check(rows: Sequence[Row], view: View) -> None:
    if not rows:
        return
    metrics = {name for row in rows for name in row.score["metrics"]}
    for metric in (view.metric, *view.details):
        if metric not in metrics:
            raise UsageError(
                f"view {view.title!r}: no score has the metric {metric!r}.{did_you_mean(metric, metrics)}"
            )
    methods = {row.run["adaptation"][key] for row in rows for key in ("label", "name")}
    if view.baseline not in methods and view.baseline != View.model_fields["baseline"].default:
        hint = did_you_mean(view.baseline, methods)
        raise UsageError(f"view {view.title!r}: no row is the baseline {view.baseline!r}.{hint}")


def _notes(records: Sequence[Record], rows: Sequence[Row], view: View) -> list[str]:
    """What a reader has to know to trust the numbers."""
    notes = [
        "Recall and mR in percent. Brackets: 95 % interval by resampling test images (with all their captions) "
        "and, where there are several, seeds.",
        f"Δ {view.baseline}: paired difference on the same images and seeds; no correction for many comparisons.",
        f"Rows of the settings {', '.join(view.reference_settings)} are references and stand last, unranked.",
    ]
    if rows and min(len(row.seeds) for row in rows) < 3:
        notes.append("Rows of fewer than three seeds: no difference there is more than an observation.")
    if len({row.recipe for row in rows}) > 1:
        notes.append(
            "Rows differ in encoder, recipe, budget or version of the code; only equal ones are compared."
        )
    failed = sum(not record.ok for record in records)
    if failed:
        notes.append(f"{failed} runs did not end well; a row that lacks a seed shows no number.")
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
