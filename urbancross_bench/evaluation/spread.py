"""How far a mean over seeds and images may be off: its interval, and p of "no difference". numpy only.

`statistics.over_seeds` says what it is: the images' share, of which there are resamples, and the seeds' share,
Student's t. Here the latter is no draw but its distribution, so that seeds may stand in any order, and tails reach
as far as Holm's correction of many comparisons looks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
    without_seeds,
)
from urbancross_bench.evaluation.student import student_below

_FREEDOM = (
    60  # of Student's t that stands for the images' share beyond its resamples: heavier than a normal's tail
)
_CLOSE, _NEAR = 1e-9, 1e-12  # how well quantiles are found: in scales, or as a share of the tail
_MOST = 200  # steps of a search that needs some ten


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

    def below(self, value: float) -> float:
        """The probability of what lies at `value` or below it."""
        if self.scale == 0:
            return float((self.middles <= value).mean())
        found = student_below((value - self.middles) / self.scale, self.freedom)
        return float(sums_in_order(found) / len(found))

    def interval(self, level: float = LEVEL) -> Interval:
        """From the (1 − level) / 2 quantile to the one as far from above, cut at the bounds.

        See `statistics.interval`, which it is where there is no share of the seeds.
        """
        if self.scale == 0:
            return interval(self.middles, level, bounds=self.bounds)
        tail = (1 - level) / 2
        low, high = self.quantile(tail), self.quantile(1 - tail)
        if self.bounds is None:
            return low, high
        return min(max(low, self.bounds[0]), self.bounds[1]), max(min(high, self.bounds[1]), self.bounds[0])

    def p_value(self) -> float:
        """Two-sided p of "it is nought": twice the rarer of what lies at or below it, and of what lies above.

        Resamples of images cannot show what is rarer than one of them: there the images' share is taken for
        Student's t of 60 degrees of freedom, by its variance. 1 where no interval exists.
        """
        if self.scale == 0 and all_alike(self.middles):
            return 1.0
        mirrored = Spread(-self.middles, self.scale, self.freedom)
        tail = min(self.below(0.0), mirrored.below(0.0))
        return min(1.0, 2 * max(tail, min(1 / len(self.middles), self._far())))

    def _far(self) -> float:
        """How likely the images' share alone reaches from the mean to nought."""
        middle = float(sums_in_order(self.middles) / len(self.middles))
        deviation = math.sqrt(float(variances(self.middles)))
        if deviation == 0:
            return 0.0
        return float(student_below(np.array([-abs(middle) / deviation]), _FREEDOM)[0])

    def quantile(self, share: float) -> float:
        """What the share lies below, by false position (the Illinois way) between ends that hold it.

        Of a spread with a share of the seeds.
        """
        low, high, step = float(self.middles.min()), float(self.middles.max()), self.scale
        while (under := self.below(low) - share) > 0:
            low, step = low - step, 2 * step
        step = self.scale
        while (over := self.below(high) - share) < 0:
            high, step = high + step, 2 * step
        side = 0
        for _ in range(_MOST):
            if high - low <= _CLOSE * self.scale:
                break
            guess = (low * over - high * under) / (over - under)
            found = self.below(guess) - share
            if abs(found) <= _NEAR * min(share, 1 - share):
                return guess
            if found < 0:
                low, under = guess, found
                over = over / 2 if side == -1 else over
                side = -1
            else:
                high, over = guess, found
                under = under / 2 if side == 1 else under
                side = 1
        return (low + high) / 2


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
