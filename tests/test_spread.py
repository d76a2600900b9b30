"""Spreads of means against scipy, simulation and the order of seeds; Student's t against scipy."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from urbancross_bench.evaluation.spread import Spread, intervals, paired_spreads, spreads
from urbancross_bench.evaluation.statistics import (
    SeedMeans,
    interval,
    over_seeds,
    resampled_images,
    resampled_means,
)
from urbancross_bench.evaluation.student import student

FAR = [0.0, -0.0, 1e-300, -1e12, 1e12, -1e200, 1e200, -np.inf, np.inf]


def means_of(seeds: int, *, gap: float = 5.0, alone: float = 0.3, resamples: int = 10_000) -> SeedMeans:
    """Seeds two points apart, over images that move them all by one."""
    generator = np.random.default_rng(seeds)
    values = gap + 2 * generator.normal(size=seeds)
    together, each = generator.normal(size=resamples), alone * generator.normal(size=(seeds, resamples))
    return SeedMeans(values, values[:, None] + together + each)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 6, 9, 29, 60, 199])
def test_students_t_is_scipys(freedom: int) -> None:
    t = np.concatenate([np.linspace(-60, 60, 4001), FAR])
    found, density = student(t, freedom)
    assert found == pytest.approx(stats.t(freedom).cdf(t), abs=2e-15)
    assert (np.diff(found[:4001]) > -1e-15).all()
    assert density == pytest.approx(stats.t(freedom).pdf(np.clip(t, -1e100, 1e100)), rel=1e-12, abs=1e-100)


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("images", [1, 4])
def test_one_image_or_images_that_are_alike_show_no_difference(seeds: int, images: int) -> None:
    values = 100.0 - np.arange(seeds) / 2
    sums = {
        str(seed): np.stack([np.full(images, value), np.ones(images)], axis=1) for seed, value in enumerate(values)
    }
    resampled = np.stack([*resampled_means(sums, resampled_images(images, 0)).values()])
    means = SeedMeans(values, resampled)
    zero = SeedMeans(np.zeros(seeds), np.zeros_like(resampled))
    found = [Spread.of(means)]
    if seeds > 1:
        found += [spread for *_, spread in paired_spreads([means, zero])]
    assert [spread.p_value() for spread in found] == [1.0] * len(found)
    assert (found[0].interval() == (None, None)) == (seeds == 1)  # else there is that of the seeds


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 8])
def test_ends_and_p_are_those_of_the_sum_of_both_shares(seeds: int) -> None:
    means = means_of(seeds)
    spread = Spread.of(means)
    assert spread.scale == pytest.approx(stats.sem(means.values))
    drawn = np.random.default_rng(0).choice(spread.middles, 400_000)
    drawn = drawn + spread.scale * stats.t(seeds - 1).rvs(400_000, random_state=1)
    for level in (0.5, 0.95):
        tail = (1 - level) / 2
        low, high = spread.interval(level)
        assert low is not None
        assert high is not None
        assert ((drawn <= low).mean(), (drawn >= high).mean()) == pytest.approx((tail, tail), abs=1.5e-3)
    beyond = min((drawn <= 0).mean(), (drawn >= 0).mean())
    assert spread.p_value() == pytest.approx(2 * beyond, abs=3e-3)
    # Joint resamples, for ranks, are draws of the same.
    low, high = interval(over_seeds(means), 0.5)
    assert (low, high) == pytest.approx(spread.interval(0.5), rel=0.03)


@pytest.mark.parametrize("seeds", [3, 4])
def test_seeds_may_stand_in_any_order(seeds: int) -> None:
    means = means_of(seeds)
    spread = Spread.of(means)
    for order in permutations(range(seeds)):
        other = Spread.of(SeedMeans(means.values[[*order]], means.resampled[[*order]]))
        assert other.p_value() == pytest.approx(spread.p_value(), rel=1e-9)
        assert other.interval() == pytest.approx(spread.interval(), rel=1e-9)


@pytest.mark.parametrize("gap", [4.0, 5.9, 6.0, 6.1, 7.0, -6.0, -9.0])
def test_p_and_interval_agree(gap: float) -> None:
    spread = Spread.of(means_of(3, gap=gap))
    low, high = spread.interval()
    assert low is not None
    assert high is not None
    assert (spread.p_value() <= 0.05) == (low > 0 or high < 0)
    assert Spread(-spread.middles, spread.scale, spread.freedom).p_value() == spread.p_value()
    edge = Spread(spread.middles - low, spread.scale, spread.freedom)
    assert edge.p_value() == pytest.approx(0.05, rel=1e-6)


def test_no_family_is_too_large_for_a_difference_that_is_plain() -> None:
    means = means_of(5, gap=0.0)
    plain = SeedMeans(means.values + 2000, means.resampled + 2000)
    assert 0 < Spread.of(plain).p_value() < 1e-10
    # Of seeds that are alike only images speak: beyond what resamples show, nearly as normal numbers would.
    of_images = stats.norm.ppf((np.arange(10_000) + 0.5) / 10_000)
    for deviations, least, most in ((2.0, 0.049, 0.051), (4.5, 6.8e-6, 4e-5), (6.0, 2e-9, 2e-7)):
        assert least < Spread(of_images + deviations, 0.0, 2).p_value() < most
    shown = [Spread(of_images + step / 100, 0.0, 2).p_value() for step in range(800)]
    assert shown == sorted(shown, reverse=True)


def test_where_seeds_have_no_share_it_is_the_percentile_interval() -> None:
    resampled = np.random.default_rng(0).normal(size=2000)
    for spread in (
        Spread.of(SeedMeans(np.array([0.5]), resampled[None])),
        Spread.of(SeedMeans(np.full(3, 0.5), np.stack([resampled] * 3))),
    ):
        assert spread.interval() == pytest.approx(interval(resampled))
        resampled_p = 2 * min((resampled <= 0).mean(), (resampled >= 0).mean())
        given_seeds = 2 * stats.t(60).sf(abs(resampled.mean()) / resampled.std())
        assert spread.p_value() == pytest.approx(max(resampled_p, given_seeds))
        assert spread.p_value() == pytest.approx(resampled_p, rel=0.02)
    nothing = Spread.of(SeedMeans(np.zeros(3), np.zeros((3, 50))))
    assert (nothing.interval(), nothing.p_value()) == ((None, None), 1.0)


def hits_of(gained: NDArray[np.float64]) -> SeedMeans:
    """Of (S, N) changes, seed by seed and image by image, of one query each."""
    sums = {str(seed): np.stack([row, np.ones(len(row))], axis=1) for seed, row in enumerate(gained)}
    means = resampled_means(sums, resampled_images(gained.shape[1], seed=3, resamples=10_000))
    return SeedMeans(gained.mean(axis=1), np.stack([*means.values()]))


def test_seeds_that_agree_by_chance_do_not_make_up_for_images() -> None:
    """Two methods that score 1 % of 200 images: now and then all three seeds differ by the same number of hits."""
    generator, agreeing = np.random.default_rng(0), 0
    while agreeing < 6:
        often = generator.beta(0.02, 1.98, size=200)
        gained = np.subtract(*(generator.random((2, 3, 200)) < often).astype(float))
        spread = Spread.of(hits_of(gained))
        if spread.scale == 0 and gained.mean() != 0:
            agreeing += 1
            low, high = spread.interval()
            assert low is not None
            assert high is not None
            assert high - low > 3 * gained.mean(axis=0).std() / np.sqrt(200)
            by_image = gained.sum(axis=0)[gained.any(axis=0)]
            swapped = np.abs(generator.choice([-1, 1], (20_000, len(by_image))) @ by_image)
            swaps = (swapped >= abs(by_image.sum()) - 1e-9).mean()
            assert spread.p_value() >= swaps / 3


def test_seeds_that_are_alike_but_for_rounding_are_alike() -> None:
    noise = np.random.default_rng(0).normal(size=(3, 2000))
    rounded, exact = (
        Spread.of(SeedMeans(values, 0.3 + noise)) for values in (np.array([0.1 + 0.2, 0.3, 0.3]), np.full(3, 0.3))
    )
    assert rounded.scale == 0
    assert rounded.interval() == pytest.approx(exact.interval())
    assert rounded.p_value() == pytest.approx(exact.p_value())


@pytest.mark.parametrize("changed", [6, 10, 16, 24])
def test_few_images_that_change_are_no_proof(changed: int) -> None:
    """Of methods that no seed moves and that differ in some images by chance, as often in favour of either."""
    p_values = []
    for wins in range(changed + 1):
        gained = np.zeros((3, 300))
        gained[:, :wins], gained[:, wins:changed] = 1, -1
        p_values.append(Spread.of(hits_of(gained)).p_value())
    chances = stats.binom(changed, 0.5).pmf(np.arange(changed + 1))
    for level in (0.05 / 5, 0.05 / 20, 0.05 / 50, 0.05 / 200):
        assert chances[np.array(p_values) <= level].sum() <= level


def test_pairs_and_several_are_what_each_is_alone() -> None:
    several = [means_of(3, gap=gap, resamples=2000) for gap in (1.0, 4.0)]
    several.append(SeedMeans(several[0].values + np.array([0.1, -0.2, 0.3]), several[1].resampled.copy()))
    for one, spread in zip(several, spreads(several), strict=True):
        assert spread.interval() == Spread.of(one).interval()
    for a, b, spread in paired_spreads(several):
        alone = Spread.of(several[a] - several[b])
        assert spread.scale == alone.scale
        assert spread.p_value() == pytest.approx(alone.p_value(), rel=1e-4)


def test_intervals_of_several_are_to_the_bit_what_each_is_alone() -> None:
    generator = np.random.default_rng(0)
    shapes = [generator.normal, generator.standard_cauchy, lambda size: generator.choice([0.0, 50.0], size)]
    several = [
        Spread(shape(size=2000), scale, freedom=2, bounds=bounds)
        for scale in (0.0, 1e-9, 0.01, 1.0, 1e3)  # from all images to all seeds; more than stay in a cache
        for shape in shapes
        for bounds in (None, (-1.0, 1.0), (-1e6, 1e6))
    ]
    found = intervals(several)
    assert found == [one.interval() for one in several]
    for spread, (low, high) in zip(several, found, strict=True):
        if spread.scale and spread.bounds is None:
            assert spread.below(low) == pytest.approx(0.025, abs=1e-6)
            assert spread.below(high) == pytest.approx(0.975, abs=1e-6)
