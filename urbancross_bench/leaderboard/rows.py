"""From records to rows: the seeds of one cell put together, with intervals and paired differences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from sys import intern
from typing import Any

import numpy as np

from urbancross_bench.errors import DataError
from urbancross_bench.evaluation.significance import TEST_RESAMPLES
from urbancross_bench.evaluation.spread import intervals, spreads
from urbancross_bench.evaluation.statistics import RESAMPLES, Bounds, SeedMeans
from urbancross_bench.identity import canonical_json
from urbancross_bench.interfaces.renderer import Cell, Estimate
from urbancross_bench.interfaces.scenarios import route, sources
from urbancross_bench.leaderboard.comparable import (
    averaged_of,
    cell_of,
    comparison_of,
    data_of,
    measure_of,
    method_of,
    recipe_of,
)
from urbancross_bench.leaderboard.resampling import OfSplit, SeedScore, Spool
from urbancross_bench.leaderboard.superseding import taken_once
from urbancross_bench.leaderboard.threads import shared_out
from urbancross_bench.records import Record, is_shifted

_AT_ONCE = 25  # rows, by each thread: bounds the memory of resampling


@dataclass(frozen=True, eq=False)
class Row:
    """One cell of the grid over its seeds, which are in order. `complete` is False where a seed is missing.

    failed: runs of its recipe that failed in a scenario with a shift, one for each method and scenario.
    """

    seeds: tuple[SeedScore, ...]
    complete: bool
    failed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    _estimates: dict[str, Estimate] = field(default_factory=dict)

    @property
    def run(self) -> Mapping[str, Any]:
        """What the runs of all seeds have in common."""
        return self.seeds[0].run

    @property
    def score(self) -> Mapping[str, Any]:
        """What the scores of all seeds have in common."""
        return self.seeds[0].score.content

    @property
    def method(self) -> tuple[str, str, str, str]:
        """Encoder, adaptation, selector, and how much of the target was shown within the setting."""
        run = self.run
        return run["encoder"]["label"], run["adaptation"]["label"], self.score["selector"], self.shown

    @cached_property
    def recipe(self) -> str:
        """What all rows of one comparison share over its scenarios; see also `method`."""
        return intern(averaged_of(self.run, self.score))

    @cached_property
    def content(self) -> str:
        """What the method is, whatever a grid calls it; of all its scenarios."""
        return intern(canonical_json(method_of(self.run, self.score)))

    @cached_property
    def data(self) -> str:
        """What it was trained and chosen on, and for."""
        return intern(canonical_json(data_of(self.run)))

    @cached_property
    def peers(self) -> str:
        """What it shares with the rows that it may be compared with: comparison, selector and measure."""
        return intern(canonical_json([comparison_of(self.run), self.score["selected_by"], measure_of(self.score)]))

    @property
    def scenario(self) -> str:
        """Source → target."""
        return route(self.run["scenario"])

    @property
    def source(self) -> str:
        """What it was trained on."""
        return sources(self.run["scenario"])

    @property
    def target(self) -> str:
        """What it was trained for."""
        return str(self.run["scenario"]["target"])

    @property
    def kind(self) -> str:
        """Of its scenario."""
        return str(self.run["scenario"]["kind"])

    @property
    def shifted(self) -> bool:
        """Whether the target is none of the sources."""
        return is_shifted(self.run["scenario"])

    @property
    def of_source(self) -> bool:
        """Whether this was scored on a source's test split, not on the target's."""
        return bool(self.score["domain"] != self.run["scenario"]["target"])

    @property
    def shown(self) -> str:
        """What the setting alone does not say: how much of the target was shown, how often it was tried."""
        if not self.run["search"]:
            return self.extent
        tried = f"{trials_of(self.run)} trials"
        return ", ".join(filter(None, [self.extent, tried if self.trials > 1 else f"first of {tried}"]))

    @property
    def extent(self) -> str:
        """Of `shown`, how much of the target that was."""
        return ", ".join(filter(None, [extent_of(self.run), "transductive" if self.score["calibration"] else ""]))

    @property
    def trials(self) -> int:
        """Of a search, as far as the selector chose among them; 1 without any."""
        return 1 if self.score["selected_by"]["name"] == "last" else trials_of(self.run)  # it takes the grid's own

    @property
    def trained(self) -> list[int | None]:
        """(seeds,) how many parameters a training could change; None in records that do not say."""
        found = [seed.score.content.get("parameters") for seed in self.seeds]
        return [None if one is None else int(one["trained"]) for one in found]

    @property
    def setting(self) -> str:
        """What method and selector saw of the target, together."""
        return str(self.score["setting"])

    def means(self, metric: str, resamples: int = RESAMPLES) -> SeedMeans | None:
        """The metric's mean of each seed, with resamples; None where a seed or the metric is missing."""
        values = self.values(metric)
        if values is None:
            return None
        resampled = np.empty((len(values), resamples))
        for seed, into in zip(self.seeds, resampled, strict=True):
            seed.resampled(metric, into)
        return SeedMeans(np.array(values), resampled, self.limits(metric))

    def limits(self, metric: str) -> Bounds:
        """Between which the metric lies; None where it has no bounds, and in records that do not say."""
        found = self.score["metrics"][metric].get("bounds")
        return None if found is None else (float(found[0]), float(found[1]))

    def values(self, metric: str) -> list[float] | None:
        """The metric's mean of each seed, as recorded; None where a seed or the metric is missing."""
        values = [value for seed in self.seeds if (value := seed.value(metric)) is not None]
        return values if self.complete and len(values) == len(self.seeds) else None

    def estimate(self, metric: str) -> Estimate | None:
        """Mean over seeds with its interval, of one seed as recorded; None where one or the metric is missing."""
        if self.complete and len(self.seeds) == 1:
            return self.seeds[0].estimate(metric)
        if metric not in self._estimates and (means := self.means(metric)) is not None:
            self.remember(metric, estimate_of(means))
        return self._estimates.get(metric)

    def remember(self, metric: str, estimate: Estimate) -> None:
        """Keep the estimate of a metric."""
        self._estimates[metric] = estimate

    def chance(self, metric: str) -> float | None:
        """What a random order scores."""
        entry = self.score["metrics"].get(metric)
        return None if entry is None else float(entry["chance"])

    def bound(self, name: str, metric: str) -> float | None:
        """A floor or ceiling of the test split by name (`class_oracle`, `ceiling`); None where it is not known."""
        found = (self.score["floors"].get(name) or {}).get(metric)
        return None if found is None else float(found)

    def difference(self, other: Row, metric: str) -> SeedMeans | None:
        """This minus another row on the same test split and seeds, paired; None where that does not hold."""
        if not self.is_paired(other, metric):
            return None
        mine, theirs = self.means(metric, TEST_RESAMPLES), other.means(metric, TEST_RESAMPLES)
        return None if mine is None or theirs is None else mine - theirs

    def is_paired(self, other: Row, metric: str) -> bool:
        """Whether there is a difference to another row."""
        return self.measured_on == other.measured_on and None not in (self.values(metric), other.values(metric))

    @property
    def numbers(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(seed.run["seed"] for seed in self.seeds)

    @cached_property
    def measured_on(self) -> str:
        """What two rows must share for a paired difference: how they were measured, and seeds."""
        return intern(canonical_json([measure_of(self.score), self.numbers]))


def estimate_of(means: SeedMeans) -> Estimate:
    """The mean over seeds with its interval."""
    [estimate] = _estimates_of([means])
    return estimate


def _estimates_of(several: Sequence[SeedMeans]) -> Iterator[Estimate]:
    """Of each the mean over seeds with its interval."""
    for _, alike in groupby(several, key=lambda means: len(means.values)):
        some = [*alike]
        for means, ends in zip(some, intervals(spreads(some)), strict=True):
            yield Estimate(means.value, *ends)


def resample_rows(rows: Iterable[Row], metric: str, details: Sequence[str] = ()) -> None:
    """Resample a metric of all rows, and estimate further ones, so that tables need not read a record again.

    Rows of one test split go together, as they share their draws of images, but not too many at once.
    """

    def split(row: Row) -> tuple[int, int]:
        return row.score["draws"], row.score["images"]

    spool = Spool()
    splits = [[*alike] for _, alike in groupby(sorted(rows, key=split), key=split)]
    some = [rows[start : start + _AT_ONCE] for rows in splits for start in range(0, len(rows), _AT_ONCE)]
    shared_out(lambda rows: _resample_some(rows, metric, details, spool), some)


def _resample_some(rows: Sequence[Row], metric: str, details: Sequence[str], spool: Spool) -> None:
    sums = OfSplit([seed for row in rows if row.complete for seed in row.seeds])
    whole = [row for row in rows if row.values(metric) is not None]
    sums.keep([seed for row in whole for seed in row.seeds], metric, spool)
    several = [row for row in whole if len(row.seeds) > 1]
    wanted = [(row, metric, means) for row in several if (means := row.means(metric)) is not None]
    wanted += _means_of_details(several, details, sums)
    for (row, name, _), estimate in zip(wanted, _estimates_of([means for *_, means in wanted]), strict=True):
        row.remember(name, estimate)


def _means_of_details(
    rows: Sequence[Row], details: Sequence[str], sums: OfSplit
) -> Iterator[tuple[Row, str, SeedMeans]]:
    found = [(row, name, values) for name in details for row in rows if (values := row.values(name)) is not None]
    resampled = iter(sums.resample([(seed, name) for row, name, _ in found for seed in row.seeds], RESAMPLES))
    for row, name, values in found:
        stacked = np.stack([next(resampled) for _ in values])
        yield row, name, SeedMeans(np.array(values), stacked, row.limits(name))


def make_rows(records: Iterable[Record], weights: Sequence[str]) -> list[Row]:
    """Group the scores of finished runs by everything but the seed, in an order that depends on content alone.

    A row is complete if it has every seed that any run of the same comparison has. Raises DataError if one seed of
    one row has two scores (then they differ in something no key tells), and naming a record that lacks a fact.
    """
    groups: dict[str, list[SeedScore]] = defaultdict(list)
    seeds: dict[str, set[int]] = defaultdict(set)
    failed: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for record in records:
        try:
            comparison = comparison_of(record.spec)
            # A failed run has no score, but its seed is one that its rows lack, and so is its scenario.
            seeds[comparison].add(record.spec["seed"])
            if not record.ok and is_shifted(record.spec["scenario"]):
                what = canonical_json([record.spec[name] for name in ("scenario", "adaptation", "search")])
                failed[recipe_of(record.spec)][what] = record.spec
            if not record.ok or record.spec["encoder"]["weights"]["status"] not in weights:
                continue
            for score in record.scores:
                groups[cell_of(comparison, record.spec, score.content)].append(SeedScore(record.spec, score))
        except (LookupError, TypeError, AttributeError) as error:
            raise DataError(f"record {record.folder} cannot be used: {error!r}") from error
    rows = []
    for group in taken_once([*groups.values()]):
        ordered = tuple(sorted(group, key=lambda s: s.run["seed"]))
        numbers = [s.run["seed"] for s in ordered]
        if len(set(numbers)) < len(numbers):
            twice = next(number for number in numbers if numbers.count(number) > 1)
            twins = ", ".join(str(s.score.folder) for s in ordered if s.run["seed"] == twice)
            raise DataError(f"several scores stand for seed {twice} of one row: {twins}; keep one of them")
        run = ordered[0].run
        rows.append(Row(ordered, set(numbers) == seeds[comparison_of(run)], failed[recipe_of(run)]))
    return sorted(rows, key=_order)


def _order(row: Row) -> str:
    scenario = row.run["scenario"]
    cell = cell_of(comparison_of(row.run), row.run, row.score)
    return canonical_json([scenario["source"], scenario["target"], row.method, cell])


def trials_of(run: Mapping[str, Any]) -> int:
    """Of a run's search; 1 without any."""
    return len(run["search"]["trials"]) if run["search"] else 1


def extent_of(run: Mapping[str, Any]) -> str:
    """How much of the target a run was shown, where its setting does not say it."""
    shown = run["shown"]
    if shown["disjoint_halves"]:
        return "disjoint halves"
    return f"{100 * shown['share']:g} % of the pairs" if shown["setting"] == "few_shot" else ""


def method_cells(row: Row) -> dict[str, Cell]:
    """What a line says of its method."""
    encoder, adaptation, selector, shown = row.method
    setting = f"{row.setting}, {shown}" if shown else row.setting
    return {"encoder": encoder, "adaptation": adaptation, "setting": setting, "selector": selector}


def measure_cells(row: Row) -> dict[str, Cell]:
    """What a line says of how it was measured: numbers of two protocols are not to be compared."""
    return {"protocol": row.score["protocol"], "ties": row.score["ties"]}


def groups_of(rows: Iterable[Row], within: Callable[[Row], str] = lambda row: "") -> list[list[Row]]:
    """Each method's rows over its scenarios; over those that are alike in what `within` says.

    Those of one setting: weights that have seen one target make oracles of some rows alone.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((within(row), row.recipe, *row.method, row.setting), []).append(row)
    return [groups[key] for key in sorted(groups)]


def stand_twice(group: Sequence[Row]) -> bool:
    """Whether a method's rows are not of one method: two are of one scenario's same domain, where their measures
    differ, or what its label means does.
    """
    places = {(row.scenario, row.score["domain"]) for row in group}
    return len(places) < len(group) or len({row.content for row in group}) > 1
