"""Randomness that is the same on every machine: splitmix64 over counters, in integers throughout."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Ints = NDArray[np.int64]

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def key_of(*parts: str | int) -> int:
    """A 64-bit key of its parts."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class Draws:
    """A sequence of draws that depends on its key alone."""

    def __init__(self, *parts: str | int) -> None:
        self._state = key_of(*parts)

    def bits(self) -> int:
        """The next 64 bits."""
        self._state = (self._state + _STEP) & _MASK
        word = self._state
        word = ((word ^ (word >> 30)) * _FIRST) & _MASK
        word = ((word ^ (word >> 27)) * _SECOND) & _MASK
        return word ^ (word >> 31)

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return low + ((self.bits() >> 32) * (high - low + 1) >> 32)

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`, all equally likely."""
        return choices[self.between(0, len(choices) - 1)]

    def weigh(self, weights: Mapping[T, int]) -> T:
        """One of the keys, each as likely as its weight."""
        ticket = self.between(1, sum(weights.values()))
        for choice, weight in weights.items():
            ticket -= weight
            if ticket <= 0:
                return choice
        raise ValueError("no weights to draw from")

    def shuffle(self, items: Sequence[T]) -> list[T]:
        """The items in an order drawn at random."""
        return [item for _, _, item in sorted((self.bits(), place, item) for place, item in enumerate(items))]


def hash_cells(key: int, column: Ints, row: Ints) -> Ints:
    """A number in [0, 65536) for every cell (column, row) of a plane; the shapes broadcast."""
    word = column.view(np.uint64) * np.uint64(_STEP) ^ row.view(np.uint64) * np.uint64(_FIRST)
    word ^= np.uint64(key)
    word ^= word >> np.uint64(30)
    word *= np.uint64(_FIRST)
    word ^= word >> np.uint64(27)
    word *= np.uint64(_SECOND)
    word >>= np.uint64(48)
    return word.view(np.int64)


def ripple(key: int, position: Ints, bits: int) -> Ints:
    """Smooth noise in [-256, 256) along a line, with features about 2^bits wide."""
    return (_row_noise(key, position, np.zeros((1, 1), dtype=np.int64), bits) >> 7) - 256


def smooth_noise(key: int, x: Ints, y: Ints, bits: int) -> Ints:
    """Smooth noise in [-256, 256) at integer positions, with features about 2^bits wide."""
    row = y >> bits
    above, below = _row_noise(key, x, row, bits), _row_noise(key, x, row + 1, bits)
    return (_blend(above, below, _ease(y, bits)) >> 7) - 256


def _row_noise(key: int, x: Ints, row: Ints, bits: int) -> Ints:
    """Smooth noise in [0, 65536) along rows of cells."""
    column = x >> bits
    return _blend(hash_cells(key, column, row), hash_cells(key, column + 1, row), _ease(x, bits))


def _ease(position: Ints, bits: int) -> Ints:
    """The smoothstep 3t² - 2t³ of the way t through a cell, in 256ths."""
    t = (position & (1 << bits) - 1) << 8 >> bits
    eased: Ints = t * t * (768 - 2 * t) >> 16
    return eased


def _blend(start: Ints, end: Ints, share: Ints) -> Ints:
    return start + ((end - start) * share >> 8)
