"""Intervals against a slow loop, scipy and known coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from urbancross_bench.evaluation.statistics import (
    image_sums,
    interval,
    over_seeds,
    resampled_images,
    resampled_means,
    resampled_seeds,
)


def test_resampled_means_equal_a_loop_over_drawn_images() -> None:
    generator = np.random.default_rng(0)
    owner = np.sort(generator.integers(0, 12, size=40))
    owner[:12] = np.arange(12)
    values = generator.random(40)
    draws = resampled_images(12, seed=5, resamples=20)
    means = resampled_means({"x": image_sums(values, owner, 12)}, draws)["x"]
    for weights, mean in zip(draws, means, strict=True):
        drawn = [v for image in range(12) for _ in range(int(weights[image])) for v in values[owner == image]]
        assert mean == pytest.approx(np.mean(drawn))


def test_draws_are_with_replacement_and_repeatable() -> None:
    draws = resampled_images(50, seed=1)
    assert (draws.sum(axis=1) == 50).all()
    assert draws.mean() == pytest.approx(1.0)
    assert draws.var() == pytest.approx(1 - 1 / 50, abs=0.02)  # a multinomial's cells
    resampled_images.cache_clear()
    assert (draws == resampled_images(50, seed=1)).all()
    assert (draws != resampled_images(50, seed=2)).any()


def test_interval_agrees_with_scipy_where_every_image_has_one_query() -> None:
    values = np.random.default_rng(3).random(200)
    sums = image_sums(values, np.arange(200), 200)
    low, high = interval(resampled_means({"x": sums}, resampled_images(200, seed=0))["x"])
    peer = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0))
    assert low == pytest.approx(peer.confidence_interval.low, abs=0.006)
    assert high == pytest.approx(peer.confidence_interval.high, abs=0.006)


def test_clusters_widen_the_interval() -> None:
    # Five captions that always agree are one observation, not five.
    values = np.repeat(np.random.default_rng(4).random(60) > 0.5, 5).astype(float)
    owner = np.repeat(np.arange(60), 5)
    clustered = interval(resampled_means({"x": image_sums(values, owner, 60)}, resampled_images(60, 0))["x"])
    naive = interval(
        resampled_means({"x": image_sums(values, np.arange(300), 300)}, resampled_images(300, 0))["x"]
    )
    assert clustered[1] - clustered[0] > 1.8 * (naive[1] - naive[0])


def test_seeds_are_the_outermost_level() -> None:
    flat = [np.full(2000, value) for value in (10.0, 20.0, 30.0)]
    resampled = over_seeds(flat)
    assert resampled.mean() == pytest.approx(20.0, abs=0.5)
    # The standard deviation of a mean of three draws from {10, 20, 30}.
    assert resampled.std() == pytest.approx(np.std([10, 20, 30]) / np.sqrt(3), rel=0.05)
    assert resampled_seeds(1).tolist() == [[1.0]] * 2000
