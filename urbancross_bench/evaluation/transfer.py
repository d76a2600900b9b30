"""What an adaptation is worth: the share of the gap to the oracle that it closed, with its interval.

A difference comes as its value and an (R,) array of the same difference over R resamples, taken resample by
resample. Differences that are compared must come from the same resamples, so that they vary together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.evaluation.statistics import interval

Floats = NDArray[np.float64]
Difference = tuple[float, Floats]  # a value, and it over R resamples


@dataclass(frozen=True)
class Figure:
    """A value with its interval; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


UNDEFINED = Figure(None)


def gap_closed(won: Difference, gap: Difference) -> Figure:
    """won / gap, of method − source_only and oracle − source_only: 0 is no better than source-only, 1 as good as
    the oracle.

    Null unless the interval of the gap lies above 0: where the oracle is not clearly better there is nothing to
    close, and the ratio is noise over noise. Its interval leaves out the few resamples without a gap, fewer than
    the interval of the gap leaves below it. Raises ValueError for differences that are not paired.
    """
    (win, wins), (width, widths) = won, gap
    if wins.shape != widths.shape:
        raise ValueError(f"differences of {wins.shape} and {widths.shape} resamples are not paired")
    low = interval(widths)[0] if len(widths) else None
    if low is None or min(width, low) <= 0:
        return UNDEFINED
    there = widths > 0
    return Figure(win / width, *interval(wins[there] / widths[there]))
