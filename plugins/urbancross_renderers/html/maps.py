"""Where the tiles of a domain lie: a map of dots, north above, without anything drawn below them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from urbancross_renderers.html.markup import element

MOST = 2000  # dots
_WIDE, _EDGE, _DOT = 640.0, 16.0, 4.0

Place = tuple[str, float, float]  # split, latitude, longitude


@dataclass(frozen=True)
class TileMap:
    """A map for the template `domain.html`: its drawing, where it ends, and how many tiles each split has."""

    drawing: Markup
    south: str
    north: str
    west: str
    east: str
    splits: Sequence[tuple[str, int]]
    drawn: int
    tiles: int


def tile_map(places: Sequence[Place]) -> TileMap | None:
    """Of some tiles' splits, latitudes and longitudes; None of none. Of many, some are drawn, evenly chosen."""
    if not places:
        return None
    norths, easts = [north for _, north, _ in places], [east for *_, east in places]
    south, north, west, east = min(norths), max(norths), min(easts), max(easts)
    narrowing = math.cos(math.radians((south + north) / 2))
    wide, high = max((east - west) * narrowing, 1e-9), max(north - south, 1e-9)
    scale = (_WIDE - 2 * _EDGE) / max(wide, high)
    box = (min(_WIDE, wide * scale + 2 * _EDGE), min(_WIDE, high * scale + 2 * _EDGE))
    splits = [*dict.fromkeys(split for split, *_ in places)]
    every = max(1, -(-len(places) // MOST))
    dots = [
        _dot(splits.index(split), _EDGE + (e - west) * narrowing * scale, _EDGE + (north - n) * scale)
        for split, n, e in places[::every]
    ]
    ends = _degrees(south, "NS"), _degrees(north, "NS"), _degrees(west, "EW"), _degrees(east, "EW")
    said = f"{len(places)} tiles between {ends[0]} and {ends[1]}, {ends[2]} and {ends[3]}."
    drawing = element(
        "svg",
        element("title", "Map of the tiles"),
        element("desc", said),
        *dots,
        viewBox=f"0 0 {box[0]:.0f} {box[1]:.0f}",
        role="img",
        class_="map",
    )
    counts = [(split, sum(one == split for one, *_ in places)) for split in splits]
    return TileMap(drawing, *ends, counts, len(dots), len(places))


def _dot(kind: int, x: float, y: float) -> Markup:
    """A circle, a square or a triangle: shapes tell splits apart where colours do not."""
    if kind % 3 == 0:
        return element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=_DOT, class_="tile tile0")
    if kind % 3 == 1:
        size = 2 * _DOT
        return element(
            "rect", x=f"{x - _DOT:.1f}", y=f"{y - _DOT:.1f}", width=size, height=size, class_="tile tile1"
        )
    corners = ((0.0, -1.3), (1.2, 0.9), (-1.2, 0.9))
    points = " ".join(f"{x + _DOT * a:.1f},{y + _DOT * b:.1f}" for a, b in corners)
    return element("polygon", points=points, class_="tile tile2")


def _degrees(value: float, sides: str) -> str:
    value = (value + 180) % 360 - 180 if sides == "EW" else value
    return f"{abs(value):.2f}° {sides[0] if value >= 0 else sides[1]}"
