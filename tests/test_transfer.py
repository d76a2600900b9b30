"""The share of a gap by hand, from resamples whose intervals are known."""

from __future__ import annotations

import numpy as np
import pytest

from urbancross_bench.evaluation.statistics import RESAMPLES, interval
from urbancross_bench.evaluation.transfer import UNDEFINED, Difference, Figure, gap_closed

NOISE, OTHER = np.random.default_rng(0).normal(size=(2, RESAMPLES))


def about(value: float, spread: float = 1.0, noise: np.ndarray = NOISE) -> Difference:
    """A difference whose resamples are the value and some noise; those of the same noise vary together."""
    return value, value + spread * noise


def around(value: float, resampled: np.ndarray) -> Figure:
    """A figure of about this value, with the interval of these resamples."""
    return Figure(pytest.approx(value), *map(pytest.approx, interval(resampled)))


def test_the_share_of_the_gap_closed() -> None:
    gap = about(10, 0.01)
    for won, share in ((0, 0), (5, 0.5), (10, 1), (12, 1.2), (-2, -0.2)):
        ratios = np.array([(won + noise) / (10 + 0.01 * noise) for noise in NOISE])
        assert gap_closed(about(won), gap) == around(share, ratios)
    assert gap_closed(gap, gap) == Figure(1)  # in every resample: no interval


def test_differences_that_are_not_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="not paired"):
        gap_closed(about(1), (10, NOISE[:5]))


def test_a_gap_that_may_be_none_is_not_divided_by() -> None:
    won = about(0.5)
    assert gap_closed(won, about(1)) == UNDEFINED
    assert gap_closed(won, (0, np.zeros(RESAMPLES))) == UNDEFINED
    assert gap_closed(won, about(-5, 0.1, OTHER)) == UNDEFINED  # the oracle is worse
    assert gap_closed((1, NOISE[:0]), (2, NOISE[:0])) == UNDEFINED  # not known to be one


def test_few_resamples_without_a_gap_do_not_move_its_share_to_infinity() -> None:
    gaps = 10 + NOISE / 10
    gaps[:20] = np.linspace(-1e-9, 0, 20)
    found = gap_closed((5, np.full(RESAMPLES, 5.0)), (10, gaps))
    assert found == around(0.5, 5 / gaps[20:])
    assert (found.low, found.high) == pytest.approx((0.5, 0.5), abs=0.02)
