"""Student's t, by operations that IEEE 754 defines to the bit: +, −, ×, / and √. numpy only.

Sources: Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.3 and 26.7.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_HALVINGS = 3  # of an angle, to at most π/16, where _TERMS of the series are all digits there are
_TERMS = 13
_FARTHEST = 1e100  # as good as infinity, and can be squared


def student_below(t: Floats, freedom: int) -> Floats:
    """The probability that Student's t of so many degrees of freedom lies below each of the values."""
    t = np.minimum(np.maximum(t, -_FARTHEST), _FARTHEST)
    whole = t * t + freedom
    sine = t / np.sqrt(whole)
    if freedom % 2 == 0:
        inside = sine * _polynomial(freedom / whole, freedom // 2, lambda k: (2 * k - 1) / (2 * k))
    else:
        inside = _arctangent(t / math.sqrt(freedom))
        if freedom > 1:
            odd = _polynomial(freedom / whole, (freedom - 1) // 2, lambda k: 2 * k / (2 * k + 1))
            inside = inside + sine * np.sqrt(freedom / whole) * odd
        inside = inside * (2.0 / math.pi)
    below: Floats = 0.5 + 0.5 * inside
    return np.minimum(np.maximum(below, 0.0), 1.0)


def _polynomial(x: Floats, terms: int, factor: Callable[[int], float]) -> Floats | float:
    """1 + f(1) x + f(1) f(2) x² + …, of so many terms."""
    total: Floats | float = 1.0
    for k in range(terms - 1, 0, -1):
        total = 1.0 + factor(k) * x * total
    return total


def _arctangent(x: Floats) -> Floats:
    for _ in range(_HALVINGS):
        x = x / (1.0 + np.sqrt(1.0 + x * x))
    squared, total = x * x, np.zeros_like(x)
    for k in range(_TERMS, -1, -1):
        total = (1.0 if k % 2 == 0 else -1.0) / (2 * k + 1) + squared * total
    angle: Floats = 2.0**_HALVINGS * x * total
    return angle
