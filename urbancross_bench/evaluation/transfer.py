"""What an adaptation is worth: figures that compare scores of one method on a pair of domains, with intervals.

A score comes as its value and an (R,) array of the same score over R resamples. Scores that are compared must come
from the same resamples, so that they vary together: `source_only`, the method and `oracle` on one test split, or
before and after on the source's. Differences are taken resample by resample. A figure that is not defined is null,
and so is an interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.evaluation.statistics import interval

Floats = NDArray[np.float64]
Score = tuple[float, Floats]  # a value, and it over R resamples
Pair = tuple[str, str]  # source and target


@dataclass(frozen=True)
class Figure:
    """A value with its interval; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


UNDEFINED = Figure(None)


@dataclass(frozen=True)
class OverPairs:
    """The mean over all ordered pairs of domains, and the pair with the lowest value."""

    mean: Figure
    worst: Figure
    worst_pair: Pair | None


def gain(method: Score, source_only: Score) -> Figure:
    """Δ = method − source_only, both scored on the target's test split: what adapting changed."""
    return _figure(_difference(method, source_only))


def gap_closed(method: Score, source_only: Score, oracle: Score) -> Figure:
    """(method − source_only) / (oracle − source_only): 0 is no better than source-only, 1 as good as the oracle.

    Null unless the interval of the gap, oracle − source_only, lies above 0: where the oracle is not clearly better
    there is nothing to close, and the ratio is noise over noise. Its interval leaves out the few resamples without
    a gap, fewer than the interval of the gap leaves below it.
    """
    value, gaps = gap = _difference(oracle, source_only)
    low = _figure(gap).low
    if low is None or min(value, low) <= 0:
        return UNDEFINED
    won, wins = _difference(method, source_only)
    there = gaps > 0
    return _figure((won / value, wins[there] / gaps[there]))


def forgetting(before: Score, after: Score) -> Figure:
    """before − after, both on the source's own test split: what adapting to the target cost there. Below 0 the
    source gained too.
    """
    return _figure(_difference(before, after))


def over_pairs(scores: Mapping[Pair, Score | None], domains: Sequence[str]) -> OverPairs:
    """Mean and worst of any score or gain over the ordered pairs (source, target) of different domains.

    A pair that is missing, or None, leaves both undefined: a mean over fewer pairs is another quantity. Worst is
    the lowest value with that pair's own interval; that it is the worst of several is not in the interval. Raises
    ValueError for a pair that is none of the domains'.
    """
    pairs = [*permutations(dict.fromkeys(domains), 2)]
    strange = sorted(set(scores) - set(pairs))
    if strange:
        raise ValueError(f"{strange[0]} is no ordered pair of different domains among {', '.join(domains)}")
    found = [(pair, score) for pair in pairs if (score := scores.get(pair)) is not None]
    if not pairs or len(found) < len(pairs):
        return OverPairs(UNDEFINED, UNDEFINED, None)
    values, resampled = zip(*(score for _, score in found), strict=True)
    worst_pair, worst = min(found, key=lambda item: item[1][0])
    mean = (float(np.mean(values)), np.mean(resampled, axis=0))
    return OverPairs(_figure(mean), _figure(worst), worst_pair)


def _difference(a: Score, b: Score) -> Score:
    if a[1].shape != b[1].shape:
        raise ValueError(f"scores of {a[1].shape} and {b[1].shape} resamples are not paired")
    return a[0] - b[0], a[1] - b[1]


def _figure(score: Score) -> Figure:
    value, resampled = score
    if not len(resampled):
        return Figure(value)
    low, high = interval(resampled)
    return Figure(value, low, high)
