"""Which of two methods is better, and how sure that is. numpy only.

Two tests on the same queries, for two questions:

* `spread.Spread.p_value`, the paired bootstrap over images with Student's t over seeds: would the difference hold
  for other images and other seeds of training? Every verdict rests on it.
* `paired_permutation`, which swaps whole images between the methods: do these very models differ, on images like
  these? It takes the seeds as given. Swapping seeds as well would be a test of the methods, but three seeds have
  eight swaps, whose smallest p is a quarter. Read as a verdict on methods it calls equal ones different far
  too often (`benchmarks/intervals.py` shows how often).

Sources: Efron and Tibshirani, An Introduction to the Bootstrap, 1993 (bootstrap, p of a resample count); Holm, A
Simple Sequentially Rejective Multiple Test Procedure, 1979.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.evaluation.spread import FREEDOM, Spread, quantile_of_t, quantiles
from urbancross_bench.evaluation.statistics import (
    LEVEL,
    ROUNDING,
    Floats,
    interval,
    normal_numbers,
    weighted_sums,
)

TEST_RESAMPLES = 10_000
FEWEST_SEEDS = 3
FEWEST_IMAGES = 20  # of which resamples say what they should; of ten an interval holds the truth in 93.5 %
MORE_SEEDS = (5, 10)  # of which a table says what they would show
ALPHA = 0.05
_POWER = 0.8
_AT_ONCE = 4096  # images whose swaps are drawn at once: bounds the memory
_EXPERIMENTS = 2000
_MIXED = [0.01, *(step / 16 for step in range(1, 17))]

BETTER, WORSE, NOT_SHOWN, TOO_FEW = "better", "worse", "not shown", "too few seeds"


def paired_permutation(differences: Floats, seed: int, resamples: int = TEST_RESAMPLES) -> float:
    """Two-sided p of "these two models are alike", by swapping images between them.

    differences: (N,) what each image adds to the difference of the two means, all its queries and all seeds
    together; their sum is the difference. Swapping an image turns the sign of its number. (1 + c) / (1 + R), where
    c of R random swaps give a difference at least as large as the real one.
    """
    bits, sums = np.random.PCG64(seed), np.zeros(resamples)
    for start in range(0, len(differences), _AT_ONCE):
        some = differences[start : start + _AT_ONCE]
        sums += weighted_sums(some, _swaps(bits, len(some), resamples))
    plain = float(weighted_sums(differences, np.ones((len(differences), 1)))[0])
    swapped = np.abs(plain - 2 * sums)
    slack = 1e-9 * float(np.abs(differences).max(initial=0.0))  # equal sums in another order are equal
    return float((1 + (swapped >= abs(plain) - slack).sum()) / (1 + resamples))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values of one family, corrected: below 0.05 are those that Holm's procedure rejects at 0.05.

    The chance of any false rejection in the family is then at most 5 %, however the tests depend on each other.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(difference: float, adjusted: float | None, seeds: int) -> str:
    """`better`, `worse`, `not shown`, or `too few seeds` (under three, whatever p says).

    adjusted: p after `holm` over the table's comparisons; None for one that has too few seeds to be in the family.
    """
    if seeds < FEWEST_SEEDS or adjusted is None:
        return TOO_FEW
    if adjusted > ALPHA:
        return NOT_SHOWN
    return BETTER if difference > 0 else WORSE


def rank_intervals(resampled: Floats, level: float = LEVEL) -> list[tuple[int, int]]:
    """Best and worst rank of each of M methods (1 is the largest mean) over (M, R) joint resamples.

    Joint: the same images and seeds for all methods. A method's rank in a resample is one more than the number of
    methods above it; the ends are cut as by `statistics.interval`.
    """
    ranks = np.stack([1.0 + above(resampled, one).sum(axis=0) for one in resampled])
    ends = []
    for rank in ranks:
        low, high = interval(rank, level)
        ends.append((int(rank[0] if low is None else low), int(rank[0] if high is None else high)))
    return ends


def above(values: Floats, one: Floats | float) -> NDArray[np.bool_]:
    """Which values lie above one by more than rounding: a mean of the same recalls in another order is equal."""
    found: NDArray[np.bool_] = values > one + ROUNDING * np.maximum(1.0, np.abs(one))
    return found


def tie_groups(values: Sequence[float], told_apart: NDArray[np.bool_]) -> list[int]:
    """The group of each method: 1 for the best and all that cannot be told apart from it, and so on downwards.

    told_apart: (M, M), whether the difference of two methods holds after `holm` over all M (M − 1) / 2 pairs; so
    many, since which method is the best of a group is seen on the same data.
    """
    groups = [0] * len(values)
    left = sorted(range(len(values)), key=lambda i: -values[i])
    group = 0
    while left:
        group += 1
        best = left[0]
        for index in left:
            if index == best or not told_apart[best, index]:
                groups[index] = group
        left = [index for index in left if not groups[index]]
    return groups


def minimum_detectable(spread: Spread, comparisons: int = 1, seeds: int | None = None) -> float | None:
    """The true difference that the paired test finds four times in five, in the metric's unit.

    comparisons: over which the test is held to 5 %. The first step of `holm` is meant, at 5 % / comparisons: that
    is what it takes where nothing else differs.
    seeds: had there been so many, that differ as the spread's own do; None where it has one, or they are alike.

    The standard error of few seeds is itself a matter of luck, and so is what the test asks for: of many such
    experiments, each with a standard error of its own, four in five ask for less. The spread's own is taken for
    the middle one of them. Where there is no share of the seeds, it is (t.975 + z.8) · SE, z by quantiles of the
    resamples, t as `Spread.p_value` asks for it. None where images show no spread, so that nothing is found.
    """
    if not spread.images_differ:
        return None
    level = 1 - ALPHA / comparisons
    of_t = quantile_of_t((1 + level) / 2, FREEDOM)
    if spread.scale == 0:
        if seeds is not None:
            return None
        low, high = spread.interval(level)
        lower, upper = spread.interval(_POWER - (1 - _POWER))
        if low is None or high is None or lower is None or upper is None:
            return None
        return max((high - low) / 2, of_t * spread.error_given_seeds) + (upper - lower) / 2
    luck, chance, _ = _experiments(spread.freedom)
    deviation, freedom = spread.deviation, spread.freedom
    scale, of_these = spread.scale / luck[len(luck) // 2], spread.error_given_seeds
    if seeds is not None:
        fewer = (freedom + 1) / seeds  # what each seed owes to chance on these images becomes less, too
        scale *= math.sqrt(fewer)
        of_these = math.sqrt(deviation**2 + fewer * max(0.0, of_these**2 - deviation**2))
        freedom = seeds - 1
        luck, chance, _ = _experiments(freedom)
    whole = deviation + scale * luck
    asked = whole * np.interp(scale * luck / whole, _MIXED, _asked(freedom, level))
    asked = np.maximum(asked, of_t * of_these)
    needed = np.sort(asked - math.sqrt(deviation * deviation + scale * scale) * chance)
    return float(needed[math.ceil(_POWER * len(needed)) - 1])


@lru_cache(maxsize=64)
def _asked(freedom: int, level: float) -> Floats:
    """The least difference that passes for each share of the scale, where scale and deviation add up to 1."""
    images = _experiments(freedom)[2]
    asked = quantiles([Spread((1 - mixed) * images, mixed, freedom) for mixed in _MIXED], (1 + level) / 2)
    asked.setflags(write=False)
    return asked


@lru_cache(maxsize=8)
def _experiments(freedom: int) -> tuple[Floats, Floats, Floats]:
    """Of as many experiments, in order of it, the estimate of a standard error of 1 by so many degrees of freedom;
    (E,) errors of the mean that go with it; and fewer normal numbers, for the images' share.
    """
    numbers = normal_numbers(freedom, freedom + 2, _EXPERIMENTS)
    luck = np.sqrt(np.add.reduce(numbers[:freedom] * numbers[:freedom], axis=0) / freedom)
    order = np.argsort(luck, kind="stable")
    return luck[order], numbers[freedom][order], numbers[-1][::4]


def _swaps(bits: np.random.PCG64, images: int, resamples: int) -> NDArray[np.bool_]:
    """(N, R): the next random bits, one per image and resample, from `random_raw` as all draws."""
    words = -(-resamples // 64)
    raw = np.asarray(bits.random_raw(images * words), dtype="<u8")
    return np.unpackbits(raw.view(np.uint8).reshape(images, words * 8), axis=1, count=resamples).view(np.bool_)
