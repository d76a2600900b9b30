"""Plane shapes in integer centimetres: which points a shape covers, and how its surface is shaded.

x grows to the east and y to the south. A direction is an integer vector of length `UNIT` (to within
a quarter of a percent). Points come as int64 arrays x and y that broadcast against each other; the
results have their broadcast shape.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from urbancross_datasets.synthetic.hashing import Ints, hash_cells, ripple, smooth_noise

UNIT = 1 << 8

Mask = NDArray[np.bool_]
Vector = tuple[int, int]


class Shape(ABC):
    """A part of the plane."""

    @abstractmethod
    def covers(self, x: Ints, y: Ints) -> Mask:
        """Which points lie within."""

    def relief(self, x: Ints, y: Ints) -> Ints | int:
        """How much brighter (in 256ths) the surface is at points within."""
        return 0

    def reach(self) -> tuple[int, int, int] | None:
        """A square that holds the shape: centre x, y and half edge. None: it may lie anywhere."""
        return None


@dataclass(frozen=True)
class Box(Shape):
    """A rectangle along a direction. A gabled one (a roof) has one bright and one dark long half."""

    x: int
    y: int
    along: Vector
    half_length: int
    half_width: int
    gabled: bool = False

    def covers(self, x: Ints, y: Ints) -> Mask:
        u, v = turn(x - self.x, y - self.y, self.along)
        return (abs(u) <= self.half_length) & (abs(v) <= self.half_width)

    def relief(self, x: Ints, y: Ints) -> Ints | int:
        if not self.gabled:
            return 0
        _, v = turn(x - self.x, y - self.y, self.along)
        # The sun stands in the south-west in every country, and shadows fall to the north-east.
        sunward = sum(self.along) > 0
        return np.where((v > 0) == sunward, 26, -34)

    def reach(self) -> tuple[int, int, int]:
        return self.x, self.y, self.half_length + self.half_width


@dataclass(frozen=True)
class Oval(Shape):
    """An ellipse along a direction; `rough` (in 256ths of its radius) ravels its outline."""

    x: int
    y: int
    along: Vector
    half_length: int
    half_width: int
    rough: int = 0
    key: int = 0

    def covers(self, x: Ints, y: Ints) -> Mask:
        u, v = turn(x - self.x, y - self.y, self.along)
        distance = (u * 256 // self.half_length) ** 2 + (v * 256 // self.half_width) ** 2
        limit: Ints | int = 256
        if self.rough:
            limit = 256 + (smooth_noise(self.key, x, y, self.half_width.bit_length()) * self.rough >> 8)
        return distance <= limit * limit

    def reach(self) -> tuple[int, int, int]:
        half = max(self.half_length, self.half_width)
        return self.x, self.y, half + (half * self.rough >> 8)


@dataclass(frozen=True)
class Ring(Shape):
    """A circular band."""

    x: int
    y: int
    radius: int
    half_width: int

    def covers(self, x: Ints, y: Ints) -> Mask:
        distance = (x - self.x) ** 2 + (y - self.y) ** 2
        inner, outer = self.radius - self.half_width, self.radius + self.half_width
        return (distance >= inner * inner) & (distance <= outer * outer)


@dataclass(frozen=True)
class Strip(Shape):
    """An endless band through a point; `sway` is how far it winds to either side, in centimetres."""

    x: int
    y: int
    along: Vector
    half_width: int
    sway: int = 0
    key: int = 0

    def covers(self, x: Ints, y: Ints) -> Mask:
        u, v = turn(x - self.x, y - self.y, self.along)
        if self.sway:
            v = v + (ripple(self.key, u, 12) * self.sway >> 8)
        return abs(v) <= self.half_width


@dataclass(frozen=True)
class Scatter(Shape):
    """Many like things (trees, cars, furrows) within an area, one to a cell of a lattice along a direction.

    `pitch` is the size of a cell along and across, `fill` the share of filled cells in 256ths. A thing takes
    up the middle of its cell, square or round; `contrast` is how far brightness varies among them, in 256ths.
    """

    area: Shape
    along: Vector
    pitch: Vector
    fill: int
    key: int
    contrast: int = 0
    round: bool = False

    def covers(self, x: Ints, y: Ints) -> Mask:
        u, v, cell = self._cells(x, y)
        inside = u * u + v * v <= 120 * 120 if self.round else (abs(u) <= 90) & (abs(v) <= 90)
        return self.area.covers(x, y) & inside & (cell % 256 < self.fill)

    def relief(self, x: Ints, y: Ints) -> Ints:
        u, v, cell = self._cells(x, y)
        slope = (u - v >> 3) if self.round else 0
        return ((cell >> 8) - 128) * self.contrast // 128 - slope

    def reach(self) -> tuple[int, int, int] | None:
        return self.area.reach()

    def _cells(self, x: Ints, y: Ints) -> tuple[Ints, Ints, Ints]:
        """Where a point lies in its cell, in [-128, 128), and the cell's hash in [0, 65536)."""
        u, v = turn(x, y, self.along)
        long, wide = self.pitch
        row = v // wide
        if self.round:  # trees stand in no rows
            u = u + hash_cells(self.key, np.zeros((1, 1), dtype=np.int64), row) % long
        column = u // long
        cell = hash_cells(self.key, column, row)
        return u % long * 256 // long - 128, v % wide * 256 // wide - 128, cell


def turn(x: Ints, y: Ints, along: Vector) -> tuple[Ints, Ints]:
    """The parts of a vector along a direction and to the right of it."""
    east, south = along
    return x * east + y * south >> 8, y * east - x * south >> 8
