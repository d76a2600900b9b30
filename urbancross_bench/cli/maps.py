"""A small map of places in text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WIDTH, HEIGHT = 60, 16  # characters, frame and labels included
_LEAST = 0.01  # degrees of latitude that a map shows at least


def degrees(value: float, digits: int, letters: str) -> str:
    """`60.25°N`: a latitude with letters `NS`, a longitude with `EW`."""
    return f"{abs(value):.{digits}f}°{letters[value < 0]}"


def text_map(latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> list[str]:
    """Lines that show where (n,) places in degrees lie, in braille characters of eight dots; none for no places.

    North is up; in the middle of the map a kilometre is as long along both axes.
    """
    import numpy as np

    from urbancross_bench.data.geo import breadth, span

    if not len(latitude):
        return []
    west, east = span(longitude)
    middle, centre = float(latitude.min() + latitude.max()) / 2, west + breadth(west, east) / 2
    shrink = max(math.cos(math.radians(middle)), 0.01)  # a degree of longitude in degrees of latitude
    tall, wide = max(float(np.ptp(latitude)), _LEAST), max(breadth(west, east) * shrink, _LEAST)
    digits = max(0, 2 - math.floor(math.log10(max(tall, wide))))
    sides = [degrees(middle + half, digits, "NS") for half in (tall / 2, -tall / 2)]
    half = wide / shrink / 2
    ends = [degrees(_wrapped(value), digits, "EW") for value in (centre - half, centre + half)]
    margin = max(map(len, sides))
    dot = max(wide / (2 * (WIDTH - margin - 3)), tall / (4 * (HEIGHT - 3)))  # degrees of latitude
    across, down = (max(2, round(size / dot)) for size in (wide, tall))
    dots = np.zeros((-(-down // 4) * 4, -(-across // 2) * 2), dtype=bool)
    x = ((longitude - west) % 360 - breadth(west, east) / 2) * shrink / wide + 0.5  # in [0, 1]
    y = (middle - latitude) / tall + 0.5
    dots[np.rint(y * (down - 1)).astype(int), np.rint(x * (across - 1)).astype(int)] = True
    return _framed(_braille(dots), sides, ends, margin)


def _wrapped(longitude: float) -> float:
    """In [-180, 180]."""
    return longitude - 360 * math.copysign(1, longitude) if abs(longitude) > 180 else longitude


def _braille(dots: NDArray[np.bool_]) -> list[str]:
    """(4·rows, 2·columns) dots as rows of braille characters; one without a dot is a blank."""
    import numpy as np

    cells = dots.reshape(len(dots) // 4, 4, -1, 2).transpose(0, 2, 1, 3).reshape(len(dots) // 4, -1, 8)
    codes = cells @ np.array([0x01, 0x08, 0x02, 0x10, 0x04, 0x20, 0x40, 0x80])
    return ["".join(chr(0x2800 + code) if code else " " for code in row) for row in codes.tolist()]


def _framed(drawn: list[str], sides: list[str], ends: list[str], margin: int) -> list[str]:
    """A drawing in its frame: north and south end of the map at its left, west and east end below."""
    bar, pad = "─" * len(drawn[0]), " " * margin
    north, south = (f"{side:>{margin}}" for side in sides)
    foot = f"{ends[0]}{ends[1]:>{max(len(bar) + 2 - len(ends[0]), len(ends[1]) + 1)}}"
    return [
        f"{north} ┌{bar}┐",
        *(f"{pad} │{line}│" for line in drawn),
        f"{south} └{bar}┘",
        f"{pad} {foot}",
    ]
