"""Intervals against slow loops, scipy, closed forms and known coverage; draws against pinned numbers."""

from __future__ import annotations

import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from urbancross_bench.evaluation import statistics
from urbancross_bench.evaluation.spread import Spread
from urbancross_bench.evaluation.statistics import (
    SeedMeans,
    image_sums,
    interval,
    over_seeds,
    pairs_without_seeds,
    resampled_images,
    resampled_means,
    seed_weights,
    weighted_sums,
    without_seeds,
)

RAW = [14849682912918955432, 14903876974979881461, 9506078739185184192]
COUNTS = [[1, 0, 3, 1, 0, 2, 0], [2, 1, 0, 1, 1, 0, 2], [1, 0, 1, 2, 1, 1, 1], [1, 2, 0, 0, 1, 0, 3]]
WEIGHTS = ["-0x1.199895b49e974p-1", "0x1.efad77b11eeafp-3", "0x1.3b5a6f90adb90p-2"]
MEANS = ["0x1.bbbbbbbbbbbbep-1", "0x1.ccccccccccccdp-1", "0x1.416c16c16c16dp+0"]


def drawn(images: int, seed: int, resamples: int = 2000) -> np.ndarray:
    """(N, R) all counts in one array."""
    return np.concatenate([*resampled_images(images, seed, resamples).slices()], axis=1)


def one_query_each(values: np.ndarray, seed: int = 0, resamples: int = 2000) -> np.ndarray:
    """(R,) means of values that stand for one image each."""
    draws, each = resampled_images(len(values), seed, resamples), np.arange(len(values))
    return resampled_means({"x": image_sums(values, each, each, len(each))}, draws)["x"]


def test_a_resample_without_queries_is_the_plain_mean() -> None:
    """Five of six rows are one image, of which the first alone is asked."""
    image, values = np.array([0, 5]), np.array([20.0, 80.0])
    sums = {"x": image_sums(values, np.arange(2), image, 6), "y": image_sums(values / 2, np.arange(2), image, 6)}
    means = resampled_means(sums, resampled_images(6, seed=1, resamples=500))
    counts = drawn(6, seed=1, resamples=500)[image]
    assert (counts.sum(axis=0) == 0).any()
    for resample, (one, other) in enumerate(counts.T.astype(float)):
        expected = (20 * one + 80 * other) / (one + other) if one + other else 50.0
        assert means["x"][resample] == pytest.approx(expected)
        assert means["y"][resample] == pytest.approx(expected / 2)


def test_resampled_means_equal_a_loop_over_drawn_images() -> None:
    generator = np.random.default_rng(0)
    owner = np.sort(generator.integers(0, 150, size=400))
    owner[:150] = np.arange(150)
    values = {"x": generator.random(400), "y": generator.random(400)}
    draws = resampled_images(150, seed=5, resamples=20)
    sums = {name: image_sums(one, np.arange(400), owner, 150) for name, one in values.items()}
    sums["z"] = image_sums(values["x"][:150], np.arange(150), np.arange(150), 150)
    means = resampled_means(sums, draws)
    for resample, weights in enumerate(drawn(150, seed=5, resamples=20).T):
        images = [image for image in range(150) for _ in range(weights[image])]
        for name, one in values.items():
            found = [v for image in images for v in one[owner == image]]
            assert means[name][resample] == pytest.approx(np.mean(found))
        assert means["z"][resample] == pytest.approx(np.mean(values["x"][images]))


def test_draws_are_with_replacement_and_repeatable() -> None:
    draws = drawn(50, seed=1)
    assert (draws.sum(axis=0) == 50).all()
    assert draws.var() == pytest.approx(1 - 1 / 50, abs=0.02)  # a multinomial's cells
    assert stats.chisquare(draws.sum(axis=1)).pvalue > 0.001
    statistics._counts.cache_clear()
    assert (draws == drawn(50, seed=1)).all()
    assert (draws != drawn(50, seed=2)).any()
    assert (draws[:, :300] == drawn(50, seed=1, resamples=300)).all()


def test_draws_and_sums_are_the_same_on_every_machine_and_numpy() -> None:
    """Pinned; a numpy, a library or a machine that moved them would move every published interval."""
    assert np.random.PCG64(5).random_raw(3).tolist() == RAW
    assert drawn(7, seed=5, resamples=4).T.tolist() == COUNTS
    assert [weight.hex() for weight in seed_weights(3, 4)[:, 0].tolist()] == WEIGHTS
    sums = image_sums(np.arange(30.0) % 7 / 3, np.arange(30), np.arange(30) // 3, 10)
    means = resampled_means({"x": sums}, resampled_images(10, seed=0, resamples=3))["x"]
    assert [mean.hex() for mean in means.tolist()] == MEANS


def counted_by_hand(images: int, seed: int, resamples: int) -> np.ndarray:
    """(N, R) from raw draws in whole numbers, all of them at once and without rounding."""
    raw = np.random.PCG64(seed).random_raw(images * resamples).tolist()
    index = np.array([(number >> 11) * images >> 53 for number in raw]).reshape(resamples, images)
    return np.stack([np.bincount(one, minlength=images) for one in index], axis=1)


def test_an_index_is_its_draws_upper_bits_times_the_number_of_images() -> None:
    assert (drawn(30, seed=9, resamples=20) == counted_by_hand(30, 9, 20)).all()


@pytest.mark.parametrize(("counts", "slices"), [(1, 50), (95, 50), (7 * 90, 8), (50 * 90, 1), (2**26, 1)])
def test_slices_and_chunks_move_nothing(monkeypatch: pytest.MonkeyPatch, counts: int, slices: int) -> None:
    values = np.random.default_rng(0).random(90)
    plain = one_query_each(values, resamples=50)
    statistics._counts.cache_clear()
    monkeypatch.setattr(statistics, "_COUNTS_AT_ONCE", counts)
    monkeypatch.setattr(statistics, "_DRAWS_AT_ONCE", 1)
    monkeypatch.setattr(statistics, "_WEIGHTS_AT_ONCE", 7 * 50)
    assert len([*resampled_images(90, 0, 50).slices()]) == slices
    assert (drawn(90, 0, 50) == counted_by_hand(90, 0, 50)).all()
    assert (one_query_each(values, resamples=50) == plain).all()
    statistics._counts.cache_clear()


def test_memory_does_not_grow_with_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    images, resamples = 20_000, 2000  # 40 MB of counts, 320 in float64
    monkeypatch.setattr(statistics, "_COUNTS_AT_ONCE", 2**20)
    monkeypatch.setattr(statistics, "_DRAWS_AT_ONCE", 2**17)
    values = np.random.default_rng(0).random(images)
    tracemalloc.start()
    one_query_each(values, resamples=resamples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    statistics._counts.cache_clear()
    assert peak < 20e6  # three slices, and chunks


def test_interval_agrees_with_scipy_where_every_image_has_one_query() -> None:
    values = np.random.default_rng(3).random(200)
    low, high = interval(one_query_each(values))
    peer = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0))
    assert low == pytest.approx(peer.confidence_interval.low, abs=0.006)
    assert high == pytest.approx(peer.confidence_interval.high, abs=0.006)


def test_the_interval_is_two_order_statistics() -> None:
    resampled = np.random.default_rng(0).permutation(np.arange(1.0, 2001.0))
    assert interval(resampled) == (50.0, 1951.0)
    assert interval(resampled, 0.9) == (100.0, 1901.0)
    assert interval(np.arange(1.0, 100.0)) == (2.0, 98.0)
    assert interval(np.array([1.0, 2.0, 3.0])) == (1.0, 3.0)


def test_no_interval_where_images_say_nothing() -> None:
    assert interval(one_query_each(np.array([100.0]))) == (None, None)
    assert interval(one_query_each(np.full(300, 100 / 3))) == (None, None)  # equal but for rounding
    assert interval(one_query_each(np.r_[np.zeros(99), 1e-3])) != (None, None)


def test_clusters_widen_the_interval() -> None:
    # Five captions that always agree are one observation, not five.
    values = np.repeat(np.random.default_rng(4).random(60) > 0.5, 5).astype(float)
    owner = np.repeat(np.arange(60), 5)
    clustered = resampled_means({"x": image_sums(values, np.arange(300), owner, 60)}, resampled_images(60, 0))["x"]
    assert np.ptp(interval(clustered)) > 1.8 * np.ptp(interval(one_query_each(values)))


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seed_weights_give_students_t_in_every_direction(seeds: int) -> None:
    weights = seed_weights(seeds, 40_000)
    assert np.abs(weights.sum(axis=0)).max() < 1e-9 * np.abs(weights).max()
    for direction in np.random.default_rng(0).normal(size=(4, seeds)):
        t = direction @ weights / stats.sem(direction)
        quantiles = np.quantile(t, [0.025, 0.25, 0.5, 0.75, 0.975])
        assert quantiles == pytest.approx(
            stats.t(seeds - 1).ppf([0.025, 0.25, 0.5, 0.75, 0.975]), rel=0.06, abs=0.02
        )


def test_of_equal_images_the_interval_is_students() -> None:
    values = np.array([10.0, 20.0, 36.0])
    means = SeedMeans(values, np.repeat(values[:, None], 40_000, axis=1))
    half = stats.t(2).ppf(0.975) * stats.sem(values)
    assert interval(over_seeds(means)) == pytest.approx((22 - half, 22 + half), abs=0.05 * half)
    assert Spread.of(means).interval() == pytest.approx((22 - half, 22 + half), rel=1e-7)


def test_of_equal_seeds_the_interval_is_that_of_images() -> None:
    resampled = one_query_each(np.random.default_rng(1).random(80))
    means = SeedMeans(np.full(4, 0.5), np.stack([resampled] * 4))
    assert over_seeds(means) - 0.5 == pytest.approx(resampled - 0.5)


def test_one_seed_has_the_interval_of_images() -> None:
    resampled = one_query_each(np.random.default_rng(1).random(80))
    assert (over_seeds(SeedMeans(np.array([0.5]), resampled[None])) == resampled).all()


def test_images_and_seeds_add_up_as_in_the_analysis_of_variance() -> None:
    """Against mean squares of a crossed table: (images − interaction) for images, Student's t for seeds."""
    generator = np.random.default_rng(2)
    seeds, images = 4, 300
    table = generator.normal(size=images) + 2 * generator.normal(size=(seeds, images))
    table += np.array([[0.03], [-0.03], [0.01], [0.0]]) - table.mean(axis=1, keepdims=True)
    means = SeedMeans(table.mean(axis=1), np.stack([one_query_each(row, resamples=20_000) for row in table]))
    residual = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    interaction = (residual**2).sum() / ((seeds - 1) * (images - 1)) / seeds / images
    of_images = table.mean(axis=0).var(ddof=1) / images - interaction
    of_seeds = stats.sem(means.values) * stats.t(seeds - 1).rvs(400_000, random_state=0)
    oracle = means.value + np.sqrt(of_images) * generator.normal(size=400_000) + of_seeds
    low, high = np.quantile(oracle, [0.025, 0.975])
    for found in (interval(over_seeds(means)), Spread.of(means).interval()):
        assert found == pytest.approx((low, high), abs=0.03 * (high - low))


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_pairs_are_what_each_is_alone(seeds: int) -> None:
    generator = np.random.default_rng(seeds)
    images = one_query_each(generator.random(80))
    shares = [(1, 0.1), (1, 0.0), (2, 0.01), (0, 0.0)]  # of the images, and of images and seeds
    several = [
        SeedMeans(values, values[:, None] + alone * images + both * generator.normal(size=(seeds, len(images))))
        for values, (alone, both) in zip(generator.random((4, seeds)), shares, strict=True)
    ]
    several.append(several[0])
    found = {(a, b): rest for a, b, *rest in pairs_without_seeds(several)}
    assert list(found) == [*combinations(range(5), 2)]
    for (a, b), (resampled, of_images) in found.items():
        difference = several[a] - several[b]
        [(alone, variance)] = without_seeds([difference])
        assert np.abs(resampled - alone).max() <= 1e-5 * np.ptp(alone)
        assert of_images == pytest.approx(variance, rel=1e-5, abs=1e-12)
        assert variance == pytest.approx(difference.resampled.mean(axis=0).var(), rel=1e-9, abs=1e-12)
    assert not found[0, 4][0].any()
    for one, (each, variance) in zip(several, without_seeds(several), strict=True):
        [(alone, of_itself)] = without_seeds([one])
        assert (alone.tobytes(), of_itself) == (each.tobytes(), variance)


@pytest.mark.parametrize("seeds", [3, 4, 5])
def test_ties_of_equal_seeds_are_nought(seeds: int) -> None:
    """What no training moves: two methods then differ by the images drawn alone, often by nothing."""
    hits = np.zeros((2, 300))
    hits[0, :3] = 1
    means = [one_query_each(row) * 100 / 3 for row in hits]
    mine, theirs = (
        SeedMeans(np.full(seeds, row.mean() * 100 / 3), np.stack([resampled] * seeds))
        for row, resampled in zip(hits, means, strict=True)
    )
    none = means[0] == means[1]
    assert 0 < none.sum() < len(none)
    [(_, _, paired, _)] = pairs_without_seeds([mine, theirs])
    for found in (over_seeds(mine - theirs), paired):
        assert ((found == 0) == none).all()


@pytest.mark.parametrize("resamples", [3, 4095, 10_000])
def test_variances_of_pairs_are_the_same_in_any_order(resamples: int) -> None:
    generator = np.random.default_rng(resamples)
    values = generator.integers(0, 10**6, size=(5, resamples)) * np.array([[1.0], [1.0], [1e6], [0.0], [1.0]])
    values[4] = values[0] + 1
    found = statistics._variances_of_pairs(values)
    assert found == pytest.approx(np.var(values[:, None] - values, axis=-1), rel=1e-5, abs=1e-9)
    for _ in range(5):
        order = generator.permutation(resamples)
        assert statistics._variances_of_pairs(values[:, order]).tobytes() == found.tobytes()


def test_means_are_taken_seed_by_seed() -> None:
    a, b = (SeedMeans(np.arange(3.0) * k, np.arange(12.0).reshape(3, 4) * k) for k in (2, 4))
    for found, factor in ((b - a, 2), (SeedMeans.average([a, b]), 3)):
        assert found.values.tolist() == [0.0, factor, 2.0 * factor]
        assert (found.resampled == np.arange(12.0).reshape(3, 4) * factor).all()
    assert a.value == 2.0


def test_sums_are_exact_whatever_the_order_and_the_company() -> None:
    """Whole numbers as Python adds them, others the same for images in another order and beside other columns."""
    generator = np.random.default_rng(0)
    weights = generator.integers(0, 4, size=(700, 50), dtype=np.uint8)
    whole, thirds, huge = generator.integers(0, 6, 700) * 100.0, generator.random(700) / 3, np.full(700, 1e9)
    largest = int(weights.sum(axis=0).max())
    [found] = statistics._totals(np.stack([whole, thirds, huge]), [weights], largest)
    exact = [sum(int(v) * int(w) for v, w in zip(whole, column, strict=True)) for column in weights.T]
    assert found[0].tolist() == exact
    assert found[1] == pytest.approx(thirds @ weights, rel=1e-12)
    order = generator.permutation(700)
    for row, values in enumerate((whole, thirds, huge)):
        [alone] = statistics._totals(values[None, order], [weights[order]], largest)
        assert alone[0].tobytes() == found[row].tobytes()


def test_variances_are_those_of_numpy() -> None:
    for resamples in (1, 63, 64, 2000):
        values = np.random.default_rng(0).normal(50, 3, size=(4, resamples))
        assert statistics.variances(values) == pytest.approx(values.var(axis=1))


def test_weighted_sums_equal_a_product() -> None:
    values, weights = np.arange(130.0), np.random.default_rng(0).integers(0, 3, size=(130, 9))
    assert weighted_sums(values, weights) == pytest.approx(values @ weights)
