"""What a table says about its rows together: verdicts, ranks, ties, and what its test sets can show at all."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from urbancross_bench.errors import plural
from urbancross_bench.evaluation.significance import (
    ALPHA,
    FEWEST_SEEDS,
    MORE_SEEDS,
    above,
    holm,
    minimum_detectable,
    rank_intervals,
    tie_groups,
    verdict,
)
from urbancross_bench.evaluation.spread import Spread, paired_spreads
from urbancross_bench.evaluation.statistics import SeedMeans, over_seeds
from urbancross_bench.interfaces.renderer import Estimate
from urbancross_bench.leaderboard.rows import Row


@dataclass(frozen=True)
class Standing:
    """Where a row stands among the others: its rank, the range it takes over resamples, its tie group."""

    rank: int
    best: int
    worst: int
    group: int | None

    @property
    def text(self) -> str:
        """The rank with its range."""
        return f"{self.rank} ({self.best} to {self.worst})"


@dataclass(frozen=True)
class Difference:
    """A paired difference with what a test says of it alone; its resamples are let go.

    p: of "no difference"; None with too few seeds. detectable: the true difference that the test finds four times
    in five, in the family that `of` was told of, or alone with too few seeds; None where no interval exists.
    with_more: the same by a number of seeds above theirs, if those differ as these do.
    """

    estimate: Estimate
    seeds: int
    p: float | None
    detectable: float | None
    with_more: Mapping[int, float | None]
    higher_is_better: bool

    @staticmethod
    def of(means: SeedMeans, comparisons: int = 1, *, higher_is_better: bool = True) -> Difference:
        """The difference whose mean of each seed this is, in a family of so many comparisons."""
        spread, seeds = Spread.of(means), len(means.values)
        p = spread.p_value() if seeds >= FEWEST_SEEDS else None
        estimate = Estimate(means.value, *spread.interval())
        family = 1 if p is None else comparisons
        least = minimum_detectable(spread, family)
        with_more = {more: minimum_detectable(spread, family, more) for more in MORE_SEEDS if more > seeds}
        return Difference(estimate, seeds, p, least, with_more, higher_is_better)


Compared = Sequence[tuple[Sequence[Row], Difference]]  # each with the rows that it is a mean over


@dataclass(frozen=True)
class Judged:
    """What a table says of a difference. adjusted: p after Holm's correction; None with too few seeds."""

    adjusted: float | None
    verdict: str


def judged(differences: Sequence[Difference]) -> list[Judged]:
    """The verdict of each. The family of Holm's correction: all that have enough seeds."""
    family = [(i, found.p) for i, found in enumerate(differences) if found.p is not None]
    adjusted = dict(zip((i for i, _ in family), holm([p for _, p in family]), strict=True))
    return [
        Judged(adjusted.get(i), verdict(value if found.higher_is_better else -value, adjusted.get(i), found.seeds))
        for i, found in enumerate(differences)
        for value in [found.estimate.value]
    ]


def verdicts(differences: Sequence[Difference | None]) -> list[str | None]:
    """The words of `judged`; None where there is no difference, which is not of the family."""
    said = iter(judged([found for found in differences if found is not None]))
    return [None if found is None else next(said).verdict for found in differences]


@dataclass(frozen=True)
class Field:
    """Rows that are ranked among each other; their resamples are let go.

    values: of each the mean. ranges: the best and the worst rank that each takes. p: of "no difference", of each
    pair; None with too few seeds.
    """

    values: tuple[float, ...]
    ranges: tuple[tuple[int, int], ...]
    p: Mapping[tuple[int, int], float] | None

    @staticmethod
    def of(means: Sequence[SeedMeans]) -> Field:
        """The field of rows with these means, on the same scenarios and seeds."""
        ranges = rank_intervals(np.stack([over_seeds(one) for one in means]))
        tested = len(means[0].values) >= FEWEST_SEEDS
        p = {(a, b): _p_if_small(spread) for a, b, spread in paired_spreads(means)} if tested else None
        return Field(tuple(one.value for one in means), tuple(ranges), p)


def standings(fields: Sequence[Field]) -> list[list[Standing]]:
    """The standing of each row of each field of a table. The family of Holm's correction: all pairs of all fields.

    No group where seeds are too few to tell anything apart.
    """
    adjusted = iter(holm([p for field in fields for p in (field.p or {}).values()]))
    return [_of_field(field, {pair: next(adjusted) for pair in field.p or {}}) for field in fields]


def _of_field(field: Field, adjusted: Mapping[tuple[int, int], float]) -> list[Standing]:
    told_apart = np.zeros((len(field.values), len(field.values)), dtype=bool)
    for (a, b), p in adjusted.items():
        told_apart[a, b] = told_apart[b, a] = p <= ALPHA
    values = np.array(field.values)
    groups = tie_groups(field.values, told_apart) if adjusted else [None] * len(field.values)
    return [
        Standing(1 + int(above(values, value).sum()), best, worst, group)
        for value, (best, worst), group in zip(field.values, field.ranges, groups, strict=True)
    ]


def detectable(compared: Compared, metric: str) -> list[str]:
    """Notes on the smallest differences that the test can show, and on those it could where seeds are too few for
    one; none where nothing is compared.

    compared: what is judged together. It stands by test set; a mean over several test sets is of none of them, but
    of all together.
    """
    by_test_set = all(len({row.target for row in rows}) == 1 for rows, _ in compared)
    what, where = (metric, ", by test set") if by_test_set else (f"mean {metric}", "")
    tested = [one for one in compared if one[1].p is not None]
    untested = [one for one in compared if one[1].p is None]
    together = f" over all {len(tested)} comparisons" if len(tested) > 1 else ""
    alone = "a test would find four times in five where seeds are too few for one, at 5 % for each alone"
    said = {f"the test finds four times in five, at 5 %{together}": tested, alone: untested}
    return [
        f"True difference in {what} that {finds}{where} (median of its comparisons"
        f"{'; after →: with more seeds that differ as these do' if '→' in sizes else ''}): {sizes}."
        for finds, some in said.items()
        if (sizes := _sizes(some, by_test_set=by_test_set))
    ]


def _sizes(compared: Compared, *, by_test_set: bool) -> str:
    sizes: dict[tuple[str, int, int], list[Difference]] = {}
    for rows, found in compared:
        if found.detectable is not None:
            test_set = (rows[0].target, rows[0].score["images"]) if by_test_set else ("", 0)
            sizes.setdefault((*test_set, found.seeds), []).append(found)
    parts = []
    for (target, images, seeds), some in sorted(sizes.items()):
        least, counted = _median(one.detectable for one in some), f"{seeds} {plural(seeds, 'seed')}"
        known = f"{target} ({images} images, {counted}) {least}" if by_test_set else f"{least} ({counted})"
        more = [(_median(one.with_more.get(number) for one in some), number) for number in MORE_SEEDS]
        parts.append(" → ".join([known, *(f"{size} ({number} seeds)" for size, number in more if size)]))
    return ", ".join(parts)


def _median(sizes: Iterable[float | None]) -> str:
    """In words; empty where nothing is known."""
    known = [size for size in sizes if size is not None]
    return f"{statistics.median(known):.1f}" if known else ""


def _p_if_small(spread: Spread) -> float:
    """p, of some resamples alone where it cannot tell two methods apart: pairs are many."""
    p = spread.thinned().p_value()
    return p if p > 2 * ALPHA else spread.p_value()
