"""Intervals by resampling: images are the clusters, seeds the outermost level. numpy only.

Several captions belong to one image, so queries are not independent; resampling captions gives intervals that
are too narrow. Every resample draws images with replacement and takes all their queries along. Over several
seeds, each resample also draws seeds with replacement; the images it draws are the same for every seed and
for both methods of a comparison, since all are scored on the same test split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95


def image_sums(values: Floats, image_of_query: NDArray[np.int64], images: int) -> Floats:
    """(N, 2): per image the sum of its queries' values and their number; a mean is a ratio of two sums."""
    sums = np.bincount(image_of_query, weights=values, minlength=images)
    counts = np.bincount(image_of_query, minlength=images).astype(np.float64)
    return np.stack([sums, counts], axis=1)


@lru_cache(maxsize=2)
def resampled_images(images: int, seed: int, resamples: int = RESAMPLES) -> Floats:
    """(R, N): how often each resample draws each image. Give all scores of one test split the same seed."""
    generator = np.random.Generator(np.random.PCG64(seed))
    draws = generator.integers(0, images, size=(resamples, images))
    offsets = np.arange(resamples)[:, None] * images
    return (
        np.bincount((draws + offsets).ravel(), minlength=resamples * images)
        .reshape(resamples, images)
        .astype(np.float64)
    )


def resampled_seeds(seeds: int, resamples: int = RESAMPLES) -> Floats:
    """(R, S): the share of each seed in each resample."""
    generator = np.random.Generator(np.random.PCG64(seeds))
    draws = generator.integers(0, seeds, size=(resamples, seeds))
    return np.stack([(draws == seed).mean(axis=1) for seed in range(seeds)], axis=1)


def resampled_means(sums: Mapping[str, Floats], draws: Floats) -> dict[str, Floats]:
    """Name → (R,) means over the queries of the images that each resample drew; `sums` from `image_sums`."""
    means = {}
    for name, pair in sums.items():
        totals = draws @ pair
        means[name] = totals[:, 0] / totals[:, 1]
    return means


def over_seeds(per_seed: Sequence[Floats]) -> Floats:
    """(R,) mean over the seeds that each resample drew, from one (R,) array of means per seed."""
    shares = resampled_seeds(len(per_seed), len(per_seed[0]))
    means: Floats = (shares * np.stack(per_seed, axis=1)).sum(axis=1)
    return means


def interval(resampled: Floats, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of resampled values."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
