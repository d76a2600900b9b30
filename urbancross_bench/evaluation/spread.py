"""How far a mean over seeds and images may be off: its interval, and p of "no difference". numpy only.

`statistics.over_seeds` says what it is: the images' share, of which there are resamples, and the seeds' share,
Student's t. Here the latter is no draw but its distribution, so that seeds may stand in any order, and tails reach
as far as Holm's correction of many comparisons looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.evaluation.statistics import (
    LEVEL,
    ROUNDING,
    Bounds,
    Floats,
    Interval,
    SeedMeans,
    all_alike,
    interval,
    pairs_without_seeds,
    sums_in_order,
    variances,
    within,
    without_seeds,
)
from urbancross_bench.evaluation.student import student

Ints = NDArray[np.int64]

FREEDOM = 60  # of the t that stands for images beyond their resamples: with heavier tails than a normal one
_SOME = 500  # resamples that tell most
_NEARBY = 0.1  # of a quantile's distance from the mean, how well a guess knows it
_CLOSE = 3e-4  # of the scale, a last step: the next one would be its square
_MOST = 200  # steps of a search that needs some three
_AT_ONCE = 2**16  # resamples: more do not stay in a processor's cache


@dataclass(frozen=True, eq=False)
class Spread:
    """The distribution that stands for what a mean might have been.

    middles: (R,) resamples of the images' share around the mean. The seeds' share is Student's t of `freedom`
    times `scale`, the standard error of the seeds' means; of one seed, or of seeds that are alike, it is nought.
    given_seeds: the standard error of the mean of these very seeds over other images, where it is above that of
    the middles: of one seed, or of seeds that are alike, it is the same.
    """

    middles: Floats
    scale: float
    freedom: int
    bounds: Bounds = None
    given_seeds: float = 0.0

    @staticmethod
    def of(means: SeedMeans) -> Spread:
        """That of one mean."""
        [found] = spreads([means])
        return found

    def below(self, value: float) -> float:
        """The probability of what lies at `value` or below it."""
        if self.scale == 0:
            return float((self.middles <= value).mean())
        return float(_below(self.middles[None], np.array([self.scale]), self.freedom, np.array([value]))[0][0])

    def interval(self, level: float = LEVEL) -> Interval:
        """From the (1 − level) / 2 quantile to the one as far from above, cut at the bounds.

        See `statistics.interval`, which it is where there is no share of the seeds.
        """
        [found] = intervals([self], level)
        return found

    def p_value(self) -> float:
        """Two-sided p of "it is nought": twice the rarer of what lies at or below it, and of what lies above.

        And no less than for these very seeds, whose mean images alone move by Student's t of 60 degrees of freedom
        times its standard error. Three seeds may nearly agree by chance where few images make all the difference:
        then neither share shows how little it is. Nor do resamples show what is rarer than one of them. 1 where
        images show no spread, as one alone: nothing is known then of how they differ, whatever seeds do.
        """
        if not self.images_differ:
            return 1.0
        above = self if self.middle > 0 else Spread(-self.middles, self.scale, self.freedom)
        return min(1.0, 2 * max(above.below(0.0), self._below_given_seeds()))

    def thinned(self) -> Spread:
        """By some of the resamples, which tells most of it."""
        return replace(self, middles=self.middles[:: -(-len(self.middles) // _SOME)])

    @cached_property
    def middle(self) -> float:
        """The mean of the resamples."""
        return float(sums_in_order(self.middles) / len(self.middles))

    @cached_property
    def deviation(self) -> float:
        """The standard error that is the images' share."""
        return math.sqrt(float(variances(self.middles)))

    @property
    def error_given_seeds(self) -> float:
        """The standard error of the mean of these very seeds, over other images."""
        return max(self.given_seeds, self.deviation)

    @property
    def images_differ(self) -> bool:
        """Whether images show any spread, by more than rounding: else nothing is known of others."""
        return self.error_given_seeds > ROUNDING * max(1.0, abs(self.middle))

    def _below_given_seeds(self) -> float:
        """How likely images alone move the mean of these very seeds to nought, and beyond."""
        error = self.error_given_seeds
        return float(student(np.array([-abs(self.middle) / error]), FREEDOM)[0][0]) if error else 0.0


def intervals(several: Sequence[Spread], level: float = LEVEL) -> list[Interval]:
    """`Spread.interval` of each of several, which have as many seeds and resamples; sooner than one by one."""
    found = [interval(one.middles, level, bounds=one.bounds) if one.scale == 0 else None for one in several]
    moved = iter([one for one in several if one.scale > 0])
    tail, ends = (1 - level) / 2, dict[Spread, Interval]()
    while some := [*islice(moved, max(1, _AT_ONCE // len(several[0].middles)))]:
        lows, highs = quantiles(some, tail).tolist(), quantiles(some, 1 - tail).tolist()
        ends |= {one: within(one.bounds, *both) for one, *both in zip(some, lows, highs, strict=True)}
    return [known or ends[one] for one, known in zip(several, found, strict=True)]


def quantiles(several: Sequence[Spread], share: float) -> Floats:
    """(B,) what the share lies below, of each of several that `intervals` takes, with a share of the seeds."""
    freedom, middles = several[0].freedom, np.stack([one.middles for one in several])
    scale = np.array([one.scale for one in several])
    of_images = quantile_of_t(share, FREEDOM) * np.array([one.deviation for one in several])
    of_seeds = quantile_of_t(share, freedom) * scale
    reach = np.sqrt(of_images * of_images + of_seeds * of_seeds)
    guess = np.array([one.middle for one in several]) + (reach if share > 0.5 else -reach)
    return _search(
        lambda which, values: _below(middles[which], scale[which], freedom, values),
        share,
        guess,
        step=_NEARBY * (reach + scale),
        close=_CLOSE * scale,
    )


@lru_cache(maxsize=256)
def quantile_of_t(share: float, freedom: int) -> float:
    """That of Student's t."""
    one = np.ones(1)
    return float(_search(lambda _, t: student(t, freedom), share, 0 * one, step=one, close=_CLOSE * one)[0])


def _below(middles: Floats, scale: Floats, freedom: int, values: Floats) -> tuple[Floats, Floats]:
    """(B,) the probability of what lies below each of (B,) values, and how fast it grows there."""
    found = student((values[:, None] - middles) / scale[:, None], freedom)
    below, density = (sums_in_order(each) / each.shape[1] for each in found)
    return below, density / scale


def _search(
    below: Callable[[Ints, Floats], tuple[Floats, Floats]],
    share: float,
    guess: Floats,
    step: Floats,
    close: Floats,
) -> Floats:
    """(B,) where `below` is the share, by Newton's method; where that does not home in, by halving what is known
    to hold it, or by leaps while one end of that is unknown.

    below: some of the B, values → probability and slope there. step: of a first leap. close: of a last move.
    """
    low, high, last = np.full(guess.shape, -np.inf), np.full(guess.shape, np.inf), 2 * step
    left = np.arange(len(guess))
    for _ in range(_MOST):
        at = guess[left]
        probability, slope = below(left, at)
        short = probability < share
        low[left[short]], high[left[~short]] = at[short], at[~short]
        move = np.divide(share - probability, slope, out=np.full(at.shape, np.inf), where=slope > 0)
        there = np.abs(move) <= close[left]
        homing = (np.abs(move) <= last[left] / 2) & (low[left] < at + move) & (at + move < high[left])
        held = np.isfinite(low[left]) & np.isfinite(high[left])
        halve, leap = ~there & ~homing & held, ~there & ~homing & ~held
        move[halve] = (low[left] + high[left])[halve] / 2 - at[halve]
        move[leap] = np.where(short, step[left], -step[left])[leap]
        step[left[leap]] *= 4
        guess[left], last[left] = at + move, np.abs(move)
        left = left[~there]
        if len(left) == 0:
            break
    return guess


def spreads(several: Sequence[SeedMeans]) -> list[Spread]:
    """Of each of several, at least one, which have as many seeds and resamples."""
    shares = without_seeds(several)
    return [_spread(one.values, *share, one.bounds) for one, share in zip(several, shares, strict=True)]


def paired_spreads(several: Sequence[SeedMeans]) -> Iterator[tuple[int, int, Spread]]:
    """a, b and the spread of several[a] - several[b] for all pairs, of two seeds or more."""
    for a, b, middles, of_images in pairs_without_seeds(several):
        yield a, b, _spread(several[a].values - several[b].values, middles, of_images, None)


def _spread(values: Floats, middles: Floats, of_images: float, bounds: Bounds) -> Spread:
    seeds, scale = len(values), 0.0
    if not all_alike(values):  # those that are have no share, not even that of rounding
        centred = values - math.fsum(values) / seeds
        scale = math.sqrt(math.fsum(centred * centred) / (seeds * (seeds - 1)))
    return Spread(middles, scale, seeds - 1, bounds, math.sqrt(of_images))
