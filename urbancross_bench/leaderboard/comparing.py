"""Two methods, or two sets of records, against each other: per scenario a paired test, and query by query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import UsageError
from urbancross_bench.evaluation.significance import FEWEST_SEEDS, TEST_RESAMPLES, holm, paired_permutation
from urbancross_bench.interfaces.renderer import Cell, Table, printable
from urbancross_bench.leaderboard.comparisons import Difference, detectable, judged
from urbancross_bench.leaderboard.marks import marks_of
from urbancross_bench.leaderboard.notes import differences_of
from urbancross_bench.leaderboard.pairing import Sides, Wanted, other_differences, paired
from urbancross_bench.leaderboard.queries import Asked, Queries, farthest, queries_of
from urbancross_bench.leaderboard.rows import Row, method_cells, resample_rows
from urbancross_bench.records import versions_of


@dataclass(frozen=True, eq=False)
class Pair:
    """A row of A and one of B over the seeds that both have, and what a paired test says of A minus B.

    adjusted: p of "no difference" after Holm's correction over all pairs; None with too few seeds. swapped: p of
    "these two models are alike", by swapping images between them, corrected alike; of any number of seeds.
    """

    a: Row
    b: Row
    difference: Difference
    adjusted: float | None
    verdict: str
    swapped: float

    @cached_property
    def queries(self) -> dict[str, Queries]:
        """By direction."""
        return queries_of(self.a, self.b)

    @property
    def cells(self) -> dict[str, str]:
        """What the pair is of: column → printable text, `of A / of B` where the two differ."""
        told = {
            "scenario": self.a.scenario,
            "encoder": _both(self.a.method[0], self.b.method[0]),
            "adaptation": _both(self.a.method[1], self.b.method[1]),
            "setting": _both(_seen(self.a), _seen(self.b)),
            "selector": self.a.method[2],
            "protocol": str(self.a.score["protocol"]),
            "ties": str(self.a.score["ties"]),
        }
        return {column: printable(text) for column, text in told.items()}


@dataclass(frozen=True, eq=False)
class Comparison:
    """All pairs in order, and what a reader has to know of them; `a` and `b` as they were asked for."""

    a: str
    b: str
    metric: str
    pairs: Sequence[Pair]
    refused: Sequence[str]
    notes: Sequence[str]

    def farthest(self, top: int) -> tuple[list[Asked], list[Asked]]:
        """The queries that A won and lost most; see `queries.farthest`."""
        return farthest(self.pairs, top)


def compare(sides: Sides, a: str, b: str, wanted: Wanted) -> Comparison:
    """The comparison of two sides from `pairing`, called `a` and `b`.

    Raises UsageError where nothing can be compared, saying what differs, and DataError for a record that is
    damaged or whose queries are not those of the other.
    """
    found, refused = paired(sides)
    lacking = [f"{row.scenario}: no {wanted.metric}" for pair in found for row in pair if not _has(row, wanted)]
    whole = [pair for pair in found if all(_has(row, wanted) for row in pair)]
    if not whole:
        raise UsageError(f"no pair has the metric {wanted.metric!r} for all its seeds; `rescore` computes others")
    whole.sort(key=lambda pair: (pair[0].scenario, pair[0].method, pair[1].method, pair[0].score["protocol"]))
    pairs = _judged(whole, wanted.metric)
    notes = _notes(pairs, sides, wanted.metric)
    refused = [printable(reason) for reason in [*refused, *lacking]]
    return Comparison(printable(a), printable(b), wanted.metric, pairs, refused, notes)


def table_of(comparison: Comparison, *, to_read: bool = False) -> Table:
    """One line per pair. Won, tied and lost are queries of A. to_read: p rounded, in words, not as a number."""
    metric = comparison.metric
    lines: list[dict[str, Cell]] = []
    for pair in comparison.pairs:
        counts = {direction: found.counts for direction, found in pair.queries.items()}
        lines.append(
            {
                **pair.cells,
                "seeds": len(pair.a.seeds),
                f"A {metric}": pair.a.estimate(metric),
                f"B {metric}": pair.b.estimate(metric),
                "A − B": pair.difference.estimate,
                "p (Holm)": _in_words(pair.adjusted) if to_read else pair.adjusted,
                "A is": pair.verdict,
                "p of these models (Holm)": _in_words(pair.swapped) if to_read else pair.swapped,
                **{f"{way}: won/tied/lost": "/".join(map(str, found.values())) for way, found in counts.items()},
            }
        )
    return Table.of_lines("compare", f"A: {comparison.a}   B: {comparison.b}", lines, comparison.notes)


def _in_words(p: float | None) -> str | None:
    """Four decimals: no p is nought."""
    return None if p is None else f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def table_of_queries(comparison: Comparison, asked: Sequence[Asked], title: str) -> Table:
    """One line per query."""
    rows: list[list[Cell]] = []
    columns = [*comparison.pairs[0].cells, "direction", "query", "rank A", "rank B"]
    for one in asked:
        cells = comparison.pairs[one.pair].cells
        rows.append([*cells.values(), one.direction, one.name, one.a, one.b])
    return Table("queries", title, columns, rows)


def as_json(comparison: Comparison, top: int) -> dict[str, Any]:
    """All of it for programs, but of the queries only those farthest apart."""
    won, lost = comparison.farthest(top)
    return {
        "a": comparison.a,
        "b": comparison.b,
        "metric": comparison.metric,
        "pairs": [_pair_as_json(pair, comparison.metric) for pair in comparison.pairs],
        "not_compared": list(comparison.refused),
        "notes": list(comparison.notes),
        "won_most": [vars(one) for one in won],
        "lost_most": [vars(one) for one in lost],
    }


def _pair_as_json(pair: Pair, metric: str) -> dict[str, Any]:
    return {
        **{name: pair.cells[name] for name in ("scenario", "selector", "protocol", "ties")},
        **{name: _side_as_json(row, metric) for name, row in (("a", pair.a), ("b", pair.b))},
        "seeds": list(pair.a.numbers),
        "difference": asdict(pair.difference.estimate),
        "p": pair.difference.p,
        "p_holm": pair.adjusted,
        "a_is": pair.verdict,
        "p_of_models_holm": pair.swapped,
        "images": pair.a.score["images"],
        "chance": pair.a.chance(metric),
        "queries": {direction: found.counts for direction, found in pair.queries.items()},
    }


def _side_as_json(row: Row, metric: str) -> dict[str, Any]:
    estimate = row.estimate(metric)
    return {
        "encoder": row.method[0],
        "adaptation": row.method[1],
        "versions": versions_of(row.run["adaptation"]),
        "setting": _seen(row),
        **(asdict(estimate) if estimate else {}),
        "runs": [seed.score.content["run"] for seed in row.seeds],
    }


def _has(row: Row, wanted: Wanted) -> bool:
    return all(seed.value(wanted.metric) is not None for seed in row.seeds)


def _judged(pairs: Sequence[tuple[Row, Row]], metric: str) -> list[Pair]:
    """All pairs are one family."""
    resample_rows({row: None for pair in pairs for row in pair}, metric)
    tested = sum(len(a.seeds) >= FEWEST_SEEDS for a, _ in pairs)
    differences = [_difference(a, b, metric, tested) for a, b in pairs]
    swapped = holm([paired_permutation(_added(a, metric) - _added(b, metric), a.score["draws"]) for a, b in pairs])
    return [
        Pair(a, b, difference, said.adjusted, said.verdict, p)
        for (a, b), difference, said, p in zip(pairs, differences, judged(differences), swapped, strict=True)
    ]


def _difference(a: Row, b: Row, metric: str, tested: int) -> Difference:
    """A minus B, one of so many that are tested.

    Unlike by `Row.difference` also between versions of the code, which a note tells of.
    """
    mine, theirs = (row.means(metric, TEST_RESAMPLES) for row in (a, b))
    assert mine is not None  # rows without the metric have been left out
    assert theirs is not None
    return Difference.of(mine - theirs, tested, higher_is_better=a.score["metrics"][metric]["higher_is_better"])


def _added(row: Row, metric: str) -> NDArray[np.float64]:
    """(N,) what each test image adds to the mean over seeds, which is their sum."""
    of_seeds = np.stack([seed.added(metric) for seed in row.seeds])
    found: NDArray[np.float64] = np.add.reduce(of_seeds) / len(of_seeds)
    return found


def _both(a: str, b: str) -> str:
    return a if a == b else f"{a} / {b}"


def _seen(row: Row) -> str:
    return str(method_cells(row)["setting"])


def _notes(pairs: Sequence[Pair], sides: Sides, metric: str) -> list[str]:
    """What a reader has to know to trust the numbers."""
    notes = [
        f"{metric}: mean over seeds, and 95 % interval by resampling test images with all their captions. A − B: "
        "paired, on the same images and seeds. A is: paired bootstrap over images and seeds, 5 % over all lines "
        "with three seeds or more (Holm's correction).",
        "Won, tied, lost: queries whose rank of the first right answer (the mean over seeds, under the tie rule) "
        "is smaller, the same, greater under A.",
        *detectable([([pair.a], pair.difference) for pair in pairs], metric),
    ]
    if any(len(pair.a.seeds) < FEWEST_SEEDS for pair in pairs):
        notes.append("Fewer than three seeds: no difference there is more than an observation.")
    notes += _on_alike(pairs)
    told: dict[str, list[str]] = {}
    for pair in pairs:
        every = {seed for row in (*sides.a, *sides.b) if _is_of(row, pair) for seed in row.numbers}
        left = sorted(every - set(pair.a.numbers))
        if left:
            seeds = ", ".join(map(str, left))
            told.setdefault(f"Only A or B has seed {seeds}, which is left out", []).append(pair.a.scenario)
        if other := other_differences(pair.a, pair.b, by_method=sides.by_method):
            told.setdefault(f"A and B also differ in {other}", []).append(pair.a.scenario)
        weights = {str(row.run["encoder"]["weights"]["status"]) for row in (pair.a, pair.b)}
        if "untrained" in weights:
            told.setdefault("The encoder's weights are untrained", []).append(pair.a.scenario)
        mine, theirs = (set(marks_of(row).values()) for row in (pair.a, pair.b))
        for mark in sorted(mine | theirs):
            whose = "Data" if mark in mine & theirs else f"Data of {'A' if mark in mine else 'B'}"
            told.setdefault(f"{whose}: {mark}", []).append(pair.a.scenario)
    for text, scenarios in told.items():
        where = dict.fromkeys(scenarios)
        everywhere = len(where) == len({pair.a.scenario for pair in pairs})
        notes.append(f"{text}." if everywhere else f"{text} ({'; '.join(where)}).")
    return [printable(note) for note in notes]


def _on_alike(pairs: Sequence[Pair]) -> list[str]:
    """What tells lines apart that look alike; none where no two do."""
    lines: dict[tuple[str, ...], list[Pair]] = {}
    for pair in pairs:
        lines.setdefault(tuple(pair.cells.values()), []).append(pair)
    alike = [some for some in lines.values() if len(some) > 1]
    if not alike:
        return []
    sides = [rows for some in alike for rows in ([pair.a for pair in some], [pair.b for pair in some])]
    versions: dict[str, None] = {}
    for rows in sides:
        said = [" on ".join(versions_of(row.run["adaptation"])) for row in rows]
        if len({*said}) > 1:
            versions[f"{rows[0].method[1]} {', '.join(said)}"] = None
    in_order = f"In their order the versions are {'; '.join(versions)}. " if versions else ""
    return [
        f"Lines that look alike differ in {', '.join(differences_of(sides))}. {in_order}--json names their runs; "
        "fewer places may keep them apart."
    ]


def _is_of(row: Row, pair: Pair) -> bool:
    """Whether a row as it was found is one of a pair, which keeps its common seeds alone."""
    return any(seed in side.seeds for side in (pair.a, pair.b) for seed in row.seeds)
