"""Marks to pixels, in integer arithmetic only, so that every machine draws the same bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from urbancross_datasets.synthetic.countries import MATERIALS, Country
from urbancross_datasets.synthetic.hashing import Ints, hash_cells, key_of, smooth_noise
from urbancross_datasets.synthetic.layout import Mark, lay_out
from urbancross_datasets.synthetic.scene import Scene
from urbancross_datasets.synthetic.shapes import Mask

# Raise it with every change that may alter a pixel: stored features are found again by it.
GENERATOR_VERSION = 1

SEGMENT_NAMES = tuple(dict.fromkeys(segment for segment, _, _ in MATERIALS.values()))

_CODES = {material: code for code, material in enumerate(MATERIALS)}
_SEGMENT_OF = np.array([SEGMENT_NAMES.index(segment) for segment, _, _ in MATERIALS.values()], dtype=np.uint8)
_GRAIN_OF = np.array([grain for _, _, grain in MATERIALS.values()], dtype=np.int64)
_OVERSAMPLING = 2
_SHADOW = -84


class Canvas:
    """A tile being painted, at twice its resolution: what each point shows, and how bright it is."""

    def __init__(self, size: int, extent: int) -> None:
        self.points = size * _OVERSAMPLING
        self.extent = extent
        self.material = np.zeros((self.points, self.points), dtype=np.uint8)
        self.shade = np.zeros((self.points, self.points), dtype=np.int64)
        self.position: Ints = (2 * np.arange(self.points, dtype=np.int64) + 1) * extent // (2 * self.points)

    def paint(self, mark: Mark, shadow: int) -> None:
        """Paints a mark over what is there, and its shadow before it."""
        if mark.height:
            length = mark.height * shadow >> 8
            dark, part = self._cover(mark, length * 3 // 5, -length * 4 // 5)
            self.shade[part][dark] = _SHADOW
        mask, part = self._cover(mark, 0, 0)
        rows, columns = part
        relief = mark.shape.relief(self.position[None, columns], self.position[rows, None])
        self.material[part][mask] = _CODES[mark.material]
        self.shade[part][mask] = np.broadcast_to(relief, mask.shape)[mask] + mark.shade

    def _cover(self, mark: Mark, east: int, south: int) -> tuple[Mask, tuple[slice, slice]]:
        """The points that the mark's shape covers once moved, within the part of the canvas it may reach."""
        columns = rows = slice(0, self.points)
        reach = mark.shape.reach()
        if reach is not None:
            x, y, half = reach
            columns, rows = self._span(x + east, half), self._span(y + south, half)
        covered = mark.shape.covers(self.position[None, columns] - east, self.position[rows, None] - south)
        return covered, (rows, columns)

    def _span(self, middle: int, half: int) -> slice:
        first = (middle - half) * self.points // self.extent
        last = (middle + half) * self.points // self.extent + 1
        return slice(min(max(first, 0), self.points), max(min(last, self.points), 0))


def render(scene: Scene, country: Country, size: int) -> NDArray[np.uint8]:
    """The tile as size×size×3 uint8 RGB."""
    canvas = _painted(scene, country, size)
    x, y = canvas.position[None, :], canvas.position[:, None]
    key = key_of("texture", scene.key)
    fine = (hash_cells(key, x, y) >> 7) - 256
    coarse = smooth_noise(key, x, y, 10)
    grain = _GRAIN_OF[canvas.material] * country.grain >> 8
    gain = 256 + canvas.shade + ((fine + coarse) * grain >> 9)
    points = _palette(country)[canvas.material] * gain[:, :, None]
    cells = sum(points[row::_OVERSAMPLING, column::_OVERSAMPLING] for row, column in np.ndindex(2, 2))
    lit = (cells // (256 * _OVERSAMPLING**2)) + country.haze
    return np.clip(lit, 0, 255).astype(np.uint8)


def segments(scene: Scene, country: Country, size: int) -> NDArray[np.uint8]:
    """What each pixel shows: size×size indices into `SEGMENT_NAMES`."""
    # One point in four stands for its pixel: names cannot be averaged.
    canvas = _painted(scene, country, size)
    return _SEGMENT_OF[canvas.material[::_OVERSAMPLING, ::_OVERSAMPLING]]


def _painted(scene: Scene, country: Country, size: int) -> Canvas:
    canvas = Canvas(size, country.extent)
    for mark in lay_out(scene, country):
        canvas.paint(mark, country.shadow)
    return canvas


def _palette(country: Country) -> Ints:
    """The colour of every material in a country and its light: materials×3."""
    colours = [country.colours.get(name, colour) for name, (_, colour, _) in MATERIALS.items()]
    return np.array(colours, dtype=np.int64) * np.array(country.light, dtype=np.int64) >> 8
