"""From rows to tables: every cell of the grid, and each method over its scenarios."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from urbancross_bench.evaluation.statistics import interval
from urbancross_bench.interfaces.renderer import Cell, Estimate, Table
from urbancross_bench.leaderboard.rows import Row, baseline_of, make_rows
from urbancross_bench.leaderboard.view import View
from urbancross_bench.records import Record


def make_tables(records: Sequence[Record], view: View) -> list[Table]:
    """The tables of a view, in order; the first is the one to look at."""
    rows = make_rows(records, view.weights)
    notes = _notes(records, rows, view)
    return [_summary(rows, view, notes), _scenarios(rows, view, notes)]


def _scenarios(rows: Sequence[Row], view: View, notes: Sequence[str]) -> Table:
    """One row per scenario, encoder, adaptation and selector; references after the ranked."""
    columns = ["scenario", "kind", "encoder", "adaptation", "setting", "selector", "seeds"]
    columns += [view.metric, f"Δ {view.baseline}", "chance", *view.details]
    columns += ["weights", "pre-training steps", "steps", "protocol", "ties", "test images", "test captions"]
    cells: list[list[Cell]] = []
    for row in sorted(rows, key=lambda row: (row.scenario, _is_reference(row, view))):
        baseline = baseline_of(row, rows, view.baseline)
        is_baseline = baseline is row
        line: list[Cell] = [
            row.scenario,
            row.run["scenario"]["kind"],
            *row.method[:2],
            row.setting,
            row.method[2],
        ]
        line += [len(row.seeds), row.estimate(view.metric)]
        line += [None if baseline is None or is_baseline else row.difference(baseline, view.metric)]
        line += [row.chance(view.metric), *(row.estimate(metric) for metric in view.details)]
        line += [
            row.run["encoder"]["weights"]["status"],
            row.run["pretraining"]["steps"],
            row.run["budget"]["steps"],
        ]
        line += [
            row.score["protocol"],
            row.score["ties"],
            row.score["queries"]["i2t"],
            row.score["queries"]["t2i"],
        ]
        cells.append(line)
    return Table("scenarios", f"{view.title}: every scenario", columns, cells, notes)


def _summary(rows: Sequence[Row], view: View, notes: Sequence[str]) -> Table:
    """One row per encoder, adaptation and selector: its mean over the scenarios where there is a shift."""
    shifted = [row for row in rows if row.run["scenario"]["kind"] not in ("in_domain", "seen_target")]
    columns = ["encoder", "adaptation", "setting", "selector", "scenarios", "seeds"]
    columns += [
        f"mean {view.metric}",
        f"Δ {view.baseline}",
        "worst scenario",
        f"worst {view.metric}",
        "chance",
    ]
    lines: list[tuple[tuple[bool, float], list[Cell]]] = []
    for group in _groups(shifted):
        everywhere = len(group) == len({row.scenario for row in shifted if row.recipe == group[0].recipe})
        estimates = [row.estimate(view.metric) for row in group] if everywhere else [None]
        pairs = [(row, base) for row in group if (base := baseline_of(row, rows, view.baseline)) is not None]
        worst = min(
            ((e.value, r.scenario) for e, r in zip(estimates, group, strict=False) if e), default=(None, None)
        )
        whole = None not in estimates
        line: list[Cell] = [*group[0].method[:2], group[0].setting, group[0].method[2]]
        line += [len(group), len(group[0].seeds)]
        mean = _mean(group, view.metric) if whole else None
        line += [mean, _mean_difference(pairs, view) if whole and len(pairs) == len(group) else None]
        line += [worst[1] if whole else None, worst[0] if whole else None]
        chances = [c for row in group if (c := row.chance(view.metric)) is not None]
        line += [float(np.mean(chances)) if chances else None]
        lines.append(((_is_reference(group[0], view), -mean.value if mean else np.inf), line))
    ordered = [line for _, line in sorted(lines, key=lambda entry: entry[0])]
    return Table("summary", f"{view.title}: cross-domain scenarios", columns, ordered, notes)


def _groups(rows: Iterable[Row]) -> list[list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.recipe, *row.method), []).append(row)
    return [groups[key] for key in sorted(groups)]


def _mean(rows: Sequence[Row], metric: str) -> Estimate:
    values = [e.value for row in rows if (e := row.estimate(metric)) is not None]
    resampled = np.mean([row.resampled(metric) for row in rows], axis=0)
    return Estimate(float(np.mean(values)), *interval(resampled))


def _mean_difference(pairs: Sequence[tuple[Row, Row]], view: View) -> Estimate | None:
    differences = [row.difference(base, view.metric) for row, base in pairs if base is not row]
    values = [d.value for d in differences if d is not None]
    if not values or len(values) < len(pairs):
        return None
    resampled = [row.resampled(view.metric) - base.resampled(view.metric) for row, base in pairs]
    return Estimate(float(np.mean(values)), *interval(np.mean(resampled, axis=0)))


def _is_reference(row: Row, view: View) -> bool:
    return row.setting in view.reference_settings


def _notes(records: Sequence[Record], rows: Sequence[Row], view: View) -> list[str]:
    """What a reader has to know to trust the numbers."""
    notes = [
        "Recall and mR in percent. Brackets: 95 % interval by resampling test images (with all their captions) "
        "and, where there are several, seeds.",
        f"Δ {view.baseline}: paired difference on the same images and seeds; no correction for many comparisons.",
        "Rows of the settings " + ", ".join(view.reference_settings) + " are references and stand last, unranked.",
    ]
    if rows and max(len(row.seeds) for row in rows) < 3:
        notes.append("Fewer than three seeds: no difference here is more than an observation.")
    failed = sum(not record.ok for record in records)
    if failed:
        notes.append(f"{failed} runs did not end well; a row that lacks a seed shows no number.")
    hidden = sum(
        record.ok and record.spec["encoder"]["weights"]["status"] not in view.weights for record in records
    )
    if hidden:
        notes.append(
            f"{hidden} runs are left out: their encoder's weights are not among {', '.join(view.weights)}."
        )
    generated = sorted({d for row in rows for d, is_so in row.run["captions_generated"].items() if is_so})
    if generated:
        notes.append(f"A model wrote the captions of {', '.join(generated)} from the images.")
    return notes
