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
_LEAST = 2.0**-53  # probability that is told from none, as 0.5 is added to it
_FARTHEST = 1e100  # as good as infinity, and can be squared


def student(t: Floats, freedom: int) -> tuple[Floats, Floats]:
    """The probability that Student's t of so many degrees of freedom lies below each value; its density there."""
    t = np.minimum(np.maximum(t, -_FARTHEST), _FARTHEST)
    whole = t * t + freedom
    root = np.sqrt(whole)
    sine, cosine, squared = t / root, math.sqrt(freedom) / root, freedom / whole
    half = freedom // 2
    if freedom % 2 == 0:
        inside = sine * _polynomial(squared, half, lambda k: (2 * k - 1) / (2 * k))
        peak = 0.5 * math.prod((2 * k + 1) / (2 * k) for k in range(1, half))
        density = cosine * _power(squared, half)
    else:
        inside = _arctangent(t / math.sqrt(freedom))
        if freedom > 1:
            inside += sine * cosine * _polynomial(squared, half, lambda k: 2 * k / (2 * k + 1))
        inside *= 2.0 / math.pi
        peak = math.prod(2 * k / (2 * k - 1) for k in range(1, half + 1)) / math.pi
        density = _power(squared, half + 1)
    below = np.minimum(np.maximum(0.5 + 0.5 * inside, _LEAST), 1.0)
    return below, peak / math.sqrt(freedom) * density


def _polynomial(x: Floats, terms: int, factor: Callable[[int], float]) -> Floats | float:
    """1 + f(1) x + f(1) f(2) x² + …, of so many terms."""
    total: Floats | float = 1.0
    for k in range(terms - 1, 0, -1):
        total = 1.0 + factor(k) * x * total
    return total


def _power(x: Floats, exponent: int) -> Floats:
    """By products alone: what `**` rounds to differs between machines."""
    power = x
    for bit in f"{exponent:b}"[1:]:
        power = power * power
        if bit == "1":
            power = power * x
    return power


def _arctangent(x: Floats) -> Floats:
    for _ in range(_HALVINGS):
        x = x / (1.0 + np.sqrt(1.0 + x * x))
    squared, total = x * x, np.zeros_like(x)
    for k in range(_TERMS, -1, -1):
        total = (1.0 if k % 2 == 0 else -1.0) / (2 * k + 1) + squared * total
    angle: Floats = 2.0**_HALVINGS * x * total
    return angle
