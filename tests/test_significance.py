"""Tests of differences against exact enumeration, scipy, brute force and simulated methods of known truth."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from urbancross_bench.evaluation.significance import (
    TEST_RESAMPLES,
    above,
    holm,
    minimum_detectable,
    paired_permutation,
    rank_intervals,
    tie_groups,
    verdict,
)
from urbancross_bench.evaluation.spread import Spread
from urbancross_bench.evaluation.statistics import SeedMeans, interval
from urbancross_bench.evaluation.student import student
from urbancross_bench.leaderboard.comparisons import Field, standings

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from intervals import BASE, World, equal_methods, planted_gap, simulate


@pytest.mark.parametrize("shift", [0.0, 0.4, 0.9])
def test_permutation_agrees_with_all_swaps(shift: float) -> None:
    differences = np.random.default_rng(8).normal(size=11) + shift
    totals = np.array([np.dot(signs, differences) for signs in itertools.product([1, -1], repeat=11)])
    exact = (np.abs(totals) >= abs(differences.sum()) - 1e-12).mean()
    peer = stats.permutation_test(
        (differences, np.zeros(11)), lambda a, b: np.sum(a - b), permutation_type="samples"
    )
    assert peer.pvalue == pytest.approx(exact)
    assert paired_permutation(differences, seed=3) == pytest.approx(exact, abs=0.015)


def test_permutation_counts_equal_differences() -> None:
    assert paired_permutation(np.zeros(20), seed=0) == 1.0
    assert paired_permutation(np.array([0.1]), seed=0) == 1.0
    # All of one sign: only the two swaps of everything or nothing reach as far.
    assert paired_permutation(np.full(6, 0.1), seed=0) == pytest.approx(2 / 2**6, abs=0.01)
    assert paired_permutation(np.full(60, 0.1), seed=0) == 1 / (1 + TEST_RESAMPLES)
    many = np.random.default_rng(0).normal(0.01, 1, size=10_000)  # more than are drawn at once
    assert paired_permutation(many, 0) == pytest.approx(
        2 * stats.norm.sf(abs(many.sum()) / np.linalg.norm(many)), abs=0.02
    )
    assert paired_permutation(np.arange(9.0) - 3, 1, 70) == paired_permutation(np.arange(9.0) - 3, 1, 70)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 60])
def test_no_tail_of_student_is_nought(freedom: int) -> None:
    t = np.array([-1e80, -1e6, -40.0, -3.0, -0.5, 0.0, 2.0, 40.0])
    below, _ = student(t, freedom)
    assert below == pytest.approx(stats.t(freedom).cdf(t), abs=2e-15)
    assert (below > 0).all()


def rejected_by_holm(p_values: list[float], alpha: float) -> set[int]:
    """The procedure as its author states it."""
    order, rejected = sorted(range(len(p_values)), key=p_values.__getitem__), set[int]()
    for step, index in enumerate(order):
        if p_values[index] > alpha / (len(p_values) - step):
            break
        rejected.add(index)
    return rejected


def test_holm_rejects_what_the_procedure_rejects() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        p_values = list(generator.random(generator.integers(1, 9)) ** 4)
        adjusted = holm(p_values)
        for alpha in (0.01, 0.05, 0.3):
            assert {i for i, p in enumerate(adjusted) if p <= alpha} == rejected_by_holm(p_values, alpha)
        # A closed test with Bonferroni's for every intersection is the same procedure.
        for index, found in enumerate(adjusted):
            others = [p for i, p in enumerate(p_values) if i != index]
            sets = (s for n in range(len(p_values)) for s in itertools.combinations(others, n))
            assert found == pytest.approx(max(min(1.0, (len(s) + 1) * min((p_values[index], *s))) for s in sets))
    assert holm([]) == []
    assert holm([0.02, 0.02]) == [0.04, 0.04]


def test_no_verdict_of_better_under_three_seeds() -> None:
    assert verdict(2.0, 0.01, 3) == "better"
    assert verdict(-2.0, 0.05, 3) == "worse"
    assert verdict(2.0, 0.051, 3) == "not shown"
    assert verdict(2.0, 0.0001, 2) == "too few seeds"
    assert verdict(2.0, None, 5) == "too few seeds"


def test_rank_intervals_equal_a_loop() -> None:
    generator = np.random.default_rng(0)
    resampled = generator.normal(size=(4, 500)) + np.array([[0.0], [9.0], [1.0], [-9.0]])
    ranks = np.array([[sorted(column, reverse=True).index(v) + 1 for v in column] for column in resampled.T]).T
    assert rank_intervals(resampled) == [(int(np.sort(r)[11]), int(np.sort(r)[-12])) for r in ranks]
    assert rank_intervals(resampled)[1] == (1, 1)
    assert rank_intervals(resampled)[3] == (4, 4)
    assert rank_intervals(np.zeros((3, 50))) == [(1, 1)] * 3


def test_means_that_rounding_alone_tells_apart_have_one_rank() -> None:
    recalls = np.array([10.0, 20.0, 30.0, 40.0, 50.0, 33.1])
    order = np.random.default_rng(0)
    alike = {float(np.mean(order.permutation(recalls) / 3 * 0.1 + 7)) for _ in range(300)}
    assert len(alike) > 1
    values = np.array(sorted(alike))
    assert not above(values, values[0]).any()
    resampled = np.repeat(values[:, None], 40, axis=1)
    assert rank_intervals(resampled) == [(1, 1)] * len(values)
    assert above(np.array([7.1, 7.0]), 7.0).tolist() == [True, False]
    means = [SeedMeans(np.full(1, value), np.full((1, 40), value)) for value in values]
    [standing] = standings([Field.of(means)])
    assert {one.text for one in standing} == {"1 (1 to 1)"}


def test_tie_groups_hang_on_the_best_of_each() -> None:
    apart = np.zeros((5, 5), dtype=bool)
    assert tie_groups([1.0, 5.0, 3.0, 2.0, 4.0], apart) == [1] * 5
    for a, b in ((1, 0), (1, 3), (4, 0)):
        apart[a, b] = apart[b, a] = True
    # 5.0 leads 4.0 and 3.0; of the rest 2.0 leads 1.0.
    assert tie_groups([1.0, 5.0, 3.0, 2.0, 4.0], apart) == [2, 1, 1, 2, 1]
    assert tie_groups([1.0, 2.0, 3.0], ~np.eye(3, dtype=bool)) == [3, 2, 1]


@pytest.mark.parametrize("comparisons", [1, 6, 25])
def test_without_a_share_of_the_seeds_quantiles_times_the_standard_error_are_detectable(comparisons: int) -> None:
    resampled = 7 + 1.5 * stats.norm.ppf((np.arange(10_000) + 0.5) / 10_000)
    expected = (stats.t(60).ppf(1 - 0.025 / comparisons) + stats.norm.ppf(0.8)) * 1.5
    assert minimum_detectable(Spread(resampled, 0.0, 0), comparisons) == pytest.approx(expected, rel=2e-2)
    assert minimum_detectable(Spread(np.zeros(100), 0.0, 0)) is None


@pytest.mark.parametrize("comparisons", [1, 12, 172])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 0.03, 0.3])
def test_no_less_is_detectable_than_images_allow(scale: float, comparisons: int) -> None:
    """Seeds that agree, nearly or wholly, do not make up for images."""
    resampled = stats.norm.ppf((np.arange(10_000) + 0.5) / 10_000)
    found = minimum_detectable(Spread(resampled, scale, 2, given_seeds=2.0), comparisons)
    assert found is not None
    assert found > 2.0 * stats.t(60).ppf(1 - 0.025 / comparisons)
    far = Spread(resampled + found, scale, 2, given_seeds=2.0)
    assert far.p_value() < 0.05 / comparisons


@pytest.mark.parametrize("freedom", [2, 3, 4])
@pytest.mark.parametrize("comparisons", [1, 6, 172])
def test_what_is_detectable_is_found_four_times_in_five(freedom: int, comparisons: int) -> None:
    """Of the t test, which this is where images have no share, the power is the noncentral t's."""
    estimate = 1.5
    true = estimate / np.sqrt(stats.chi2(freedom).median() / freedom)
    found = minimum_detectable(Spread(np.full(1000, 9.0), estimate, freedom, given_seeds=1e-6), comparisons)
    assert found is not None
    critical = stats.t(freedom).ppf(1 - 0.025 / comparisons)
    assert stats.nct(freedom, found / true).sf(critical) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("comparisons", [1, 26])
def test_what_more_seeds_would_detect_they_find_four_times_in_five(seeds: int, comparisons: int) -> None:
    """From two seeds or three on, if their standard error is the middle one of those they might have had."""
    for known in (2, 3):
        deviation = 1.5  # of one seed
        middle = np.sqrt(stats.chi2(known - 1).median() / (known - 1))
        spread = Spread(np.full(1000, 9.0), deviation * middle / np.sqrt(known), known - 1, given_seeds=1e-6)
        found = minimum_detectable(spread, comparisons, seeds)
        assert found is not None
        critical = stats.t(seeds - 1).ppf(1 - 0.025 / comparisons)
        assert stats.nct(seeds - 1, found * np.sqrt(seeds) / deviation).sf(critical) == pytest.approx(
            0.8, abs=0.02
        )


def test_as_many_seeds_as_there_are_would_detect_what_they_do() -> None:
    spread = Spread(np.linspace(-3, 3, 1000), 1.1, 4, given_seeds=0.4)
    assert minimum_detectable(spread, 6, 5) == minimum_detectable(spread, 6)


def test_what_seeds_owe_to_these_images_becomes_less_with_more_of_them() -> None:
    """Where it is nearly all there is, ten seeds detect what the standard error of theirs allows."""
    of_three = 1.0
    spread = Spread(0.01 * stats.norm.ppf((np.arange(1000) + 0.5) / 1000), 0.01, 2, given_seeds=of_three)
    at_least = [minimum_detectable(spread, 1, seeds) for seeds in (None, 12, 48)]
    assert at_least == pytest.approx(
        [of_three * share * stats.t(60).ppf(0.975) for share in (1, 0.5, 0.25)], rel=0.05
    )


def test_images_without_spread_detect_nothing() -> None:
    for seeds in (None, 5):
        assert minimum_detectable(Spread(np.full(1000, 0.3), 1.0, 2), seeds=seeds) is None


def test_of_seeds_that_do_not_differ_nothing_is_said_of_more() -> None:
    resampled = np.linspace(-1, 1, 1000)
    assert minimum_detectable(Spread(resampled, 0.0, 0), seeds=5) is None
    assert minimum_detectable(Spread(resampled, 0.0, 2), seeds=5) is None


@pytest.mark.parametrize("seeds", [3, 5, 10, 100])
def test_more_seeds_do_not_make_up_for_images(seeds: int) -> None:
    resampled = stats.norm.ppf((np.arange(10_000) + 0.5) / 10_000)
    found = minimum_detectable(Spread(resampled, 3.0, 1), 1, seeds)
    assert found is not None
    assert found > stats.t(60).ppf(0.975)


def test_intervals_hold_the_truth_and_equal_methods_stay_equal() -> None:
    """A share of benchmarks/intervals.py, with bounds that a wrong method misses: see the next test."""
    world, generator = World(images=80, seeds=3, seed_sd=0.6), np.random.default_rng(1)
    (means, differences, tables, single, swapped), size, _ = equal_methods(world, 150, generator)
    assert 92.5 <= means <= 98.5
    assert 92.5 <= differences <= 98.5
    assert tables <= 9
    assert single <= 8
    assert swapped > 40  # takes these models for the methods
    alone, _ = planted_gap(world, 2 * size, 40, generator)
    assert alone >= 85


def test_twice_the_detectable_difference_of_a_table_is_found_in_it() -> None:
    world, generator = World(images=80, seeds=5, seed_sd=0.06), np.random.default_rng(4)
    _, single, table = equal_methods(world, 20, generator)
    assert table > 1.3 * single
    _, found = planted_gap(world, 2 * table, 40, generator)
    assert found >= 85
    _, found = planted_gap(world, 0.5 * table, 40, generator)
    assert found <= 50  # or it would not be the least


def test_a_plain_bootstrap_of_three_seeds_misses_those_bounds() -> None:
    world, generator = World(images=80, seeds=3, seed_sd=0.6), np.random.default_rng(1)
    held = []
    for _ in range(100):
        for means in simulate(world, [BASE] * 4, generator, 500).means:
            shares = generator.multinomial(3, [1 / 3] * 3, size=500) / 3
            low, high = interval((shares.T * means.resampled).sum(axis=0))
            held.append(low is not None and low <= BASE <= high)
    assert 100 * np.mean(held) < 88


def test_intervals_of_one_seed_hold_the_truth_over_images() -> None:
    world, generator = World(images=150, seeds=1, seed_sd=0.0), np.random.default_rng(2)
    (means, differences, tables, _, swapped), *_ = equal_methods(world, 150, generator)
    assert 92 <= means <= 98
    assert 92 <= differences <= 98
    assert tables <= 9
    assert swapped <= 10
