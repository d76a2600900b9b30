"""How far a mean over seeds and images may be off: its interval, and p of "no difference". numpy only.

`statistics.over_seeds` says what it is: the images' share, of which there are resamples, and the seeds' share,
Student's t. Here the latter is no draw but its distribution, so that seeds may stand in any order, and tails reach
as far as Holm's correction of many comparisons looks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from urbancross_bench.evaluation.statistics import (
    LEVEL,
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

_FREEDOM = 60  # of the t that stands for images beyond their resamples: with heavier tails than a normal one
_SOME = 500  # resamples that tell most
_NEARBY = 0.1  # of a quantile's distance from the mean, how well a guess knows it
_CLOSE = 3e-4  # of the scale, a last step: the next one would be its square
_MOST = 200  # steps of a search that needs some three


@dataclass(frozen=True, eq=False)
class Spread:
    """The distribution that stands for what a mean might have been.

    middles: (R,) resamples of the images' share around the mean. The seeds' share is Student's t of `freedom`
    times `scale`, the standard error of the seeds' means; of one seed, or of seeds that are alike, it is nought.
    """

    middles: Floats
    scale: float
    freedom: int
    bounds: Bounds = None

    @staticmethod
    def of(means: SeedMeans) -> Spread:
        """That of one mean."""
        [found] = spreads([means])
        return found

    def below(self, value: float) -> tuple[float, float]:
        """The probability of what lies at `value` or below it, and how fast it grows there."""
        if self.scale == 0:
            return float((self.middles <= value).mean()), 0.0
        found = student((value - self.middles) / self.scale, self.freedom)
        below, density = (float(sums_in_order(each) / len(each)) for each in found)
        return below, density / self.scale

    def interval(self, level: float = LEVEL) -> Interval:
        """From the (1 − level) / 2 quantile to the one as far from above, cut at the bounds.

        See `statistics.interval`, which it is where there is no share of the seeds.
        """
        if self.scale == 0:
            return interval(self.middles, level, bounds=self.bounds)
        tail = (1 - level) / 2
        return within(self.bounds, self.quantile(tail), self.quantile(1 - tail))

    def p_value(self) -> float:
        """Two-sided p of "it is nought": twice the rarer of what lies at or below it, and of what lies above.

        Resamples of images cannot show what is rarer than one of them: there the images' share is taken for
        Student's t of 60 degrees of freedom, by its variance. 1 where no interval exists.
        """
        if self.scale == 0 and all_alike(self.middles):
            return 1.0
        above = self if self._middle > 0 else Spread(-self.middles, self.scale, self.freedom)
        tail, shown = above.below(0.0)[0], 1 / len(self.middles)
        if tail < shown:
            tail = max(tail, min(shown, self._far()))
        return min(1.0, 2 * tail)

    def thinned(self) -> Spread:
        """By some of the resamples, which tells most of it."""
        return replace(self, middles=self.middles[:: -(-len(self.middles) // _SOME)])

    @cached_property
    def _middle(self) -> float:
        return float(sums_in_order(self.middles) / len(self.middles))

    @cached_property
    def deviation(self) -> float:
        """The standard error that is the images' share."""
        return math.sqrt(float(variances(self.middles)))

    def _far(self) -> float:
        """How likely the images' share alone reaches from the mean to nought."""
        if self.deviation == 0:
            return 0.0
        return float(student(np.array([-abs(self._middle) / self.deviation]), _FREEDOM)[0][0])

    def quantile(self, share: float) -> float:
        """What the share lies below. Of a spread with a share of the seeds."""
        both = _quantile_of_t(share, _FREEDOM) * self.deviation, _quantile_of_t(share, self.freedom) * self.scale
        reach = math.sqrt(both[0] * both[0] + both[1] * both[1])
        guess = self._middle + (reach if share > 0.5 else -reach)
        return self._found(share, guess, _NEARBY * (reach + self.scale))

    def _found(self, share: float, guess: float, step: float) -> float:
        """`quantile`, by Newton's method; where that does not home in, by halving what is known to hold it, or by
        leaps while one end of that is unknown.
        """
        low, high, last = -math.inf, math.inf, 2 * step
        for _ in range(_MOST):
            below, slope = self.below(guess)
            low, high = (guess, high) if below < share else (low, guess)
            move = (share - below) / slope if slope > 0 else math.inf
            if abs(move) <= _CLOSE * self.scale:
                return guess + move
            if abs(move) > last / 2 or not low < guess + move < high:
                if math.isfinite(low) and math.isfinite(high):
                    move = (low + high) / 2 - guess
                else:
                    move = step if below < share else -step
                    step *= 4
            guess, last = guess + move, abs(move)
        return guess


@lru_cache(maxsize=256)
def _quantile_of_t(share: float, freedom: int) -> float:
    """That of Student's t."""
    return Spread(np.zeros(1), 1.0, freedom)._found(share, 0.0, 1.0)


def spreads(several: Sequence[SeedMeans]) -> list[Spread]:
    """Of each of several, at least one, which have as many seeds and resamples."""
    middles = without_seeds(several)
    return [_spread(one.values, middle, one.bounds) for one, middle in zip(several, middles, strict=True)]


def paired_spreads(several: Sequence[SeedMeans]) -> Iterator[tuple[int, int, Spread]]:
    """a, b and the spread of several[a] - several[b] for all pairs, of two seeds or more."""
    for a, b, middles in pairs_without_seeds(several):
        yield a, b, _spread(several[a].values - several[b].values, middles, None)


def _spread(values: Floats, middles: Floats, bounds: Bounds) -> Spread:
    seeds = len(values)
    if seeds == 1:
        return Spread(middles, 0.0, 0, bounds)
    # From the first seed: equal seeds have no share, not even that of rounding.
    apart = values - values[0]
    centred = apart - math.fsum(apart) / seeds
    return Spread(middles, math.sqrt(math.fsum(centred * centred) / (seeds * (seeds - 1))), seeds - 1, bounds)
