"""Intervals end where a value cannot be any further: in one place, at the bounds that a metric names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result
from made_up_records import IMAGES, PARTS, edit, write_runs
from safetensors.numpy import load_file, save_file

from urbancross_bench.evaluation import evaluate_retrieval
from urbancross_bench.evaluation.spread import Spread
from urbancross_bench.evaluation.statistics import SeedMeans, interval
from urbancross_bench.execution.scoring import metric_values
from urbancross_bench.interfaces import Metric, Options, QueryScores
from urbancross_bench.registry import Registry

Cli = Callable[..., Result]
PERCENT = (0.0, 100.0)


def of_seeds(*values: float, bounds: tuple[float, float] | None = PERCENT) -> SeedMeans:
    """Means of seeds, hardly moved by the images."""
    moved = np.random.default_rng(0).normal(scale=0.1, size=(len(values), 2000))
    return SeedMeans(np.array(values), np.array(values)[:, None] + moved, bounds)


def test_what_is_cut_off_cannot_be_true() -> None:
    """Whatever the truth between the bounds, it is covered after the cut where it was before, and else not."""
    generator = np.random.default_rng(1)
    outside = 0
    for _ in range(200):
        resampled = generator.normal(generator.uniform(0, 100), generator.uniform(1, 60), size=400)
        low, high = interval(resampled)
        least, greatest = interval(resampled, bounds=PERCENT)
        assert None not in (low, high, least, greatest)
        outside += low < 0 or high > 100  # type: ignore[operator]
        assert 0 <= least <= greatest <= 100  # type: ignore[operator]
        for truth in [0.0, 100.0, *generator.uniform(0, 100, size=20)]:
            assert (low <= truth <= high) == (least <= truth <= greatest)  # type: ignore[operator]
    assert 50 < outside < 200
    assert interval(np.full(400, 3.0), bounds=PERCENT) == (None, None)


def test_two_seeds_leave_the_bounds_and_are_put_back() -> None:
    high, low = of_seeds(99.0, 90.0), of_seeds(1.0, 4.0)
    without = {"high": replace(high, bounds=None), "low": replace(low, bounds=None)}
    free = {name: Spread.of(means).interval() for name, means in without.items()}
    assert free["high"][1] > 110  # type: ignore[operator]
    assert free["low"][0] < -5  # type: ignore[operator]
    assert Spread.of(high).interval() == (free["high"][0], 100.0)
    assert Spread.of(low).interval() == (0.0, free["low"][1])


def test_bounds_of_differences_and_of_means() -> None:
    one, other, without = of_seeds(1.0, 2.0), of_seeds(3.0, 4.0, bounds=(20.0, 50.0)), of_seeds(1.0, bounds=None)
    assert (one - one).bounds == (-100.0, 100.0)
    assert (one - other).bounds == (-50.0, 80.0)
    assert ((one - one) - (one - one)).bounds == (-200.0, 200.0)  # of an interaction
    assert SeedMeans.average([one, other]).bounds == (10.0, 75.0)
    assert SeedMeans.average([one - one, one - one]).bounds == (-100.0, 100.0)
    assert (of_seeds(1.0) - without).bounds is SeedMeans.average([of_seeds(1.0), without]).bounds is None


# In tables.


def two_seeds(place: Path) -> Path:
    """Records of two seeds that are far apart, some near 100, some near 0; the bounds are not in them yet."""
    write_runs(place, methods=("source_only", "ours"), seeds=(0, 1), pairs=(("a", "b"),))
    for file in (place / "runs").glob("*/scores/*/queries.safetensors"):
        run = json.loads((file.parents[2] / "run.json").read_text())
        right = {"source_only": (1, 5), "ours": (IMAGES, IMAGES - 4)}[run["adaptation"]["label"]][run["seed"]]
        pair = np.stack([100.0 * (np.arange(IMAGES) < right), np.ones(IMAGES)], axis=1)
        save_file(load_file(file) | {f"image_sums.{part}": pair for part in PARTS}, file)
        score = json.loads(file.with_name("score.json").read_text())
        value = {"value": 100.0 * right / IMAGES}
        edit(file.with_name("score.json"), metrics={n: entry | value for n, entry in score["metrics"].items()})
    return place


def numbers(cli: Cli, place: Path, table: str) -> Iterator[tuple[str, float]]:
    out = place / "tables"
    assert cli("leaderboard", "build", place, "--out", out, "--format", "json").status == 0
    for number, row in enumerate(json.loads((out / f"{table}.json").read_text())["rows"]):
        yield from ((f"{number} {column}", value) for column, value in row.items() if isinstance(value, float))


@pytest.mark.parametrize("table", ["scenarios", "summary"])
def test_tables_cut_where_records_name_bounds_and_nowhere_else(cli: Cli, tmp_path: Path, table: str) -> None:
    place = two_seeds(tmp_path)
    before = dict(numbers(cli, place, table))
    for file in place.glob("runs/*/scores/*/score.json"):
        metrics = json.loads(file.read_text())["metrics"]
        edit(file, metrics={name: entry | {"bounds": PERCENT} for name, entry in metrics.items()})
    after = dict(numbers(cli, place, table))
    limits = {name: -100.0 if "Δ" in name else 0.0 for name in before}
    assert after == {name: min(100.0, max(limits[name], value)) for name, value in before.items()}
    moved = {name.partition(" ")[2] for name in before if after[name] != before[name]}
    # 83 ± some 90 for the difference, 93 and 10 for the means.
    mean = {"scenarios": "mR", "summary": "mean mR"}[table]
    assert {f"{mean} low", f"{mean} high", "Δ source_only high"} <= moved
    assert all(name.endswith((" low", " high")) for name in moved)


# In records.


def test_percentages_have_bounds_and_ranks_have_none() -> None:
    generator = np.random.default_rng(0)
    features = [generator.normal(size=(12, 4)).astype(np.float32) for _ in range(2)]
    ranking = evaluate_retrieval(*features, np.arange(12))
    found, _ = metric_values(ranking, [Registry.discover().resolve("metric", name) for name in METRICS], draws=0)
    assert not found["failed"]
    bounds = {name: entry["bounds"] for name, entry in found["metrics"].items()}
    assert {name for name, value in bounds.items() if value is None} == {"i2t_mean_rank", "t2i_mean_rank"}
    assert {tuple(value) for value in bounds.values() if value} == {PERCENT}
    assert {"mR", "i2t_R@1", "t2i_MRR"} <= bounds.keys()


METRICS = ("recall", "rank")


def scored_with(bounds: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    class Bounded(Metric):
        def score(self, ranking: Any) -> dict[str, QueryScores]:
            return {"x": QueryScores("i2t", 100.0 * ranking.i2t.hits(1), bounds=bounds)}

    resolved = Registry.discover().resolve("metric", "recall")
    monkeypatch.setattr(type(resolved), "build", lambda self: Bounded(Options()))
    same = np.eye(4, dtype=np.float32)
    ranking = evaluate_retrieval(same, same[[0, 1, 3, 2]], np.arange(4))
    return metric_values(ranking, [resolved], draws=0)[0]


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ((0.0, 99.0), "0 and 99, which must be finite and in order, and goes from 0 to 100"),
        ((1.0, 100.0), "1 and 100, which"),
        ((100.0, 0.0), "100 and 0, which"),
        ((0.0, np.inf), "0 and inf, which"),
        ((0.0, np.nan), "0 and nan, which"),
        ((0.0, 50.0, 100.0), "(0.0, 50.0, 100.0), not two numbers"),
        (100.0, "100.0, not two numbers"),
    ],
)
def test_bounds_that_cannot_be_cost_their_metric_alone(
    monkeypatch: pytest.MonkeyPatch, bounds: Any, said: str
) -> None:
    [problem] = scored_with(bounds, monkeypatch)["failed"].values()
    assert f"value 'x' has the bounds {said}" in problem


@pytest.mark.parametrize("bounds", [np.array([0, 100], np.float32), [np.int64(0), 100], (1e-8, 100 - 1e-8)])
def test_bounds_are_numbers_of_any_kind_and_values_may_be_rounded(
    monkeypatch: pytest.MonkeyPatch, bounds: Any
) -> None:
    found = scored_with(bounds, monkeypatch)
    assert json.loads(json.dumps(found["metrics"]["x"]["bounds"])) == [float(bounds[0]), float(bounds[1])]
