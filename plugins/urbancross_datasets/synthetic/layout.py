"""Where things lie: turns a scene's attributes into marks, painted one over the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from urbancross_datasets.synthetic.countries import Country
from urbancross_datasets.synthetic.hashing import Draws
from urbancross_datasets.synthetic.scene import Scene
from urbancross_datasets.synthetic.shapes import UNIT, Box, Oval, Ring, Scatter, Shape, Strip, Vector

_EAST: Vector = (UNIT, 0)
_DIRECTIONS: dict[str, Vector] = {
    "north-south": (0, UNIT),
    "east-west": _EAST,
    "northeast-southwest": (205, -154),
    "northwest-southeast": (205, 154),
}
_OUTWARD: dict[str, Vector] = {"north": (0, -1), "east": (1, 0), "south": (0, 1), "west": (-1, 0)}
_ENDLESS = 1 << 30  # longer than any tile
_LEVEL = {"sparse": 0, "medium": 1, "dense": 2}


@dataclass(frozen=True)
class Mark:
    """A shape of one material. A height (in centimetres) casts a shadow; shade brightens, in 256ths."""

    shape: Shape
    material: str
    height: int = 0
    shade: int = 0


def lay_out(scene: Scene, country: Country) -> Iterator[Mark]:
    """The marks of a tile whose top left corner is the origin, from the ground up."""
    return _LAYOUTS[scene.scene_class](_Site(scene, country))


class _Site:
    """A tile being laid out, with a local frame: u runs along the heading, v to the right of it.

    The frame's origin is the middle of what the border along one edge leaves free; `half` is how far
    things may lie from it, along or across, to be in sight.
    """

    def __init__(self, scene: Scene, country: Country) -> None:
        self.scene = scene
        self.country = country
        self.draws = Draws("layout", scene.key)
        self.level = _LEVEL[scene.density]
        self.along = _DIRECTIONS[scene.heading]
        self.across = (-self.along[1], self.along[0])
        self.outward = _OUTWARD[scene.side]
        self.extent = country.extent
        self.depth = self.extent * self.draws.between(24, 32) // 100
        self.half = self.extent * 36 // 100
        east, south = self.outward
        middle = self.extent // 2
        self.x, self.y = middle - east * self.depth // 2, middle - south * self.depth // 2
        self.edge = Strip(
            middle + east * middle, middle + south * middle, (south * UNIT, -east * UNIT), self.depth,
            sway=self.extent // 40, key=self.key(),
        )  # fmt: skip

    def at(self, u: int, v: int) -> tuple[int, int]:
        """A point of the local frame on the tile."""
        east, south = self.along
        return self.x + (u * east - v * south) // UNIT, self.y + (u * south + v * east) // UNIT

    def near(self, distance: int) -> int:
        """A jitter of up to that distance."""
        return self.draws.between(-distance, distance)

    def spread(self, count: int, gap: int) -> list[int]:
        """Positions of `count` things in a row about the origin, at most `gap` apart."""
        gap = min(gap, 2 * self.half // count)
        return [gap * place - gap * (count - 1) // 2 for place in range(count)]

    def hand(self) -> int:
        """One side of the heading or the other."""
        return self.draws.pick((-1, 1))

    def key(self) -> int:
        return self.draws.bits()

    def everywhere(self) -> Box:
        return Box(self.extent // 2, self.extent // 2, _EAST, self.extent, self.extent)

    def box(self, u: int, v: int, length: int, width: int, gabled: bool = False) -> Box:
        """A box whose half length lies along u."""
        return Box(*self.at(u, v), self.along, length, width, gabled)

    def oval(self, u: int, v: int, length: int, width: int, rough: int = 0) -> Oval:
        """An ellipse whose half length lies along u."""
        return Oval(*self.at(u, v), self.along, length, width, rough, self.key())

    def strip(self, v: int, half_width: int, sway: int = 0) -> Strip:
        """A band along the heading."""
        return Strip(*self.at(0, v), self.along, half_width, sway, self.key())

    def crossing(self, u: int, half_width: int, sway: int = 0) -> Strip:
        """A band across the heading."""
        return Strip(*self.at(u, 0), self.across, half_width, sway, self.key())

    def trees(self, area: Shape, fill: int, material: str = "trees") -> Mark:
        pitch = self.country.tree
        scatter = Scatter(area, _EAST, (pitch, pitch), fill, self.key(), contrast=44, round=True)
        return Mark(scatter, material, height=300)

    def furrows(self, area: Shape) -> Shape:
        return Scatter(area, self.along, (_ENDLESS, 420), 256, self.key())

    def border(self) -> Iterator[Mark]:
        """What lies along one edge."""
        if self.scene.border == "trees":
            yield Mark(self.edge, "trees", shade=-50)
            yield self.trees(self.edge, 250)
        else:
            yield Mark(self.edge, self.scene.border)

    def streets(self) -> list[Shape]:
        """The street pattern of the country, about the main street along the heading."""
        half = 280
        sway = 500 if self.country.streets == "organic" else 0
        streets: list[Shape] = [self.strip(0, half + 60, sway), self.crossing(self.near(500), half, sway)]
        if self.country.streets == "radial":
            streets += [Ring(*self.at(0, 0), radius, half) for radius in (2300, 5200)]
        if self.country.streets == "grid":
            streets += [self.strip(v, half) for v in (-4400, 4400)]
            streets += [self.crossing(u, half) for u in (-6200, 6200)]
        return streets


def _residential(site: _Site) -> Iterator[Mark]:
    yield Mark(site.everywhere(), "lawn")
    yield site.trees(site.everywhere(), 40)
    streets = site.streets()
    yield from (Mark(street, "road") for street in streets)
    yield from site.border()
    corners = site.draws.shuffle([(a, b) for a in (-1, 1) for b in (-1, 1)])
    pool_at = [(a * site.half // 2, b * site.half // 2) for a, b in corners[: site.scene.count]]
    gardens = [site.box(u, v, 720, 570) for u, v in pool_at]
    plots = list(_plots(site))
    free = ~_meet(plots, [*streets, site.edge, *gardens])
    for plot, is_free in zip(plots, free, strict=True):
        if is_free:
            yield Mark(plot, f"{site.scene.tone} roof", height=450, shade=site.near(24))
    for u, v in pool_at:
        yield Mark(site.box(u, v, 620, 470), "concrete", shade=30)
        yield Mark(site.oval(u, v, 480, 340), "pool")


def _industrial(site: _Site) -> Iterator[Mark]:
    yield Mark(site.everywhere(), "concrete")
    yield Mark(site.strip(0, 380), "road")
    yield from site.border()
    hand, half = site.hand(), site.half
    halls = (2, 3, 5)[site.level]
    for u in site.spread(halls, 2 * half // halls):
        hall = site.box(u, hand * half * 3 // 5, half * 4 // 5 // halls, half * 3 // 10)
        yield Mark(hall, f"{site.scene.tone} roof", height=700, shade=site.near(16))
    radius = min(620, half // 6)
    for u in site.spread(site.scene.count, 3 * radius):
        yield Mark(site.oval(u, -hand * half // 2, radius, radius), "tank", height=500)


def _farmland(site: _Site) -> Iterator[Mark]:
    crop, count = f"{site.scene.tone} crop", site.scene.count
    width = 2 * site.half // count
    # The last field reaches on beyond the edge, and each field covers what the one before has too much.
    for place, v in enumerate(site.spread(count, width)):
        start = -2 * site.extent if place == 0 else v - width // 2
        stop = 2 * site.extent
        field = site.box(0, (start + stop) // 2, 2 * site.extent, (stop - start) // 2)
        yield Mark(field, crop, shade=26 if place % 2 else -26)
        yield Mark(site.furrows(field), crop, shade=36 if place % 2 else -10)
        if place:
            yield Mark(site.strip(start, 130), "path")
            yield site.trees(site.strip(start, 420), (30, 110, 230)[site.level])
    yield from site.border()


def _forest(site: _Site) -> Iterator[Mark]:
    wood, half = f"{site.scene.tone} wood", site.half
    if site.level == 0:
        yield Mark(site.everywhere(), "lawn")
    else:
        yield Mark(site.everywhere(), wood, shade=-70)
    yield site.trees(site.everywhere(), (110, 190, 256)[site.level], wood)
    yield Mark(site.strip(0, 260, sway=300), "path")
    yield from site.border()
    for u in site.spread(site.scene.count, half * 3 // 4):
        yield Mark(site.oval(u, site.hand() * half // 2, half // 4, half // 4, rough=70), "soil", shade=30)


def _river(site: _Site) -> Iterator[Mark]:
    yield Mark(site.everywhere(), "lawn")
    yield from site.border()
    half = site.extent * 13 // 100
    river = site.strip(0, half, sway=site.extent // 16)
    yield site.trees(replace(river, half_width=2 * half), (30, 100, 230)[site.level])
    yield Mark(river, f"{site.scene.tone} water")
    for u in site.spread(site.scene.count, site.half):
        yield Mark(site.box(u, 0, site.extent // 32, 2 * half), "bridge", height=300)


def _lake(site: _Site) -> Iterator[Mark]:
    yield Mark(site.everywhere(), "lawn")
    yield from site.border()
    half = site.half
    lake = site.oval(0, 0, half * 11 // 10, half * 6 // 10, rough=60)
    shore = replace(lake, half_length=half * 11 // 8, half_width=half * 8 // 10)
    yield site.trees(shore, (30, 110, 240)[site.level])
    yield Mark(lake, f"{site.scene.tone} water")
    for u in site.spread(site.scene.count, half * 2 // 3):
        island = site.oval(u, site.near(half // 8), half // 6, half // 7, rough=60)
        yield Mark(island, "soil")
        yield site.trees(island, 120)


def _port(site: _Site) -> Iterator[Mark]:
    yield Mark(site.everywhere(), "concrete")
    yield from site.border()
    extent = site.extent
    # The heading lies along the shore; the water is to its right (v > 0) or to its left.
    hand = 1 if site.across[0] * site.outward[0] + site.across[1] * site.outward[1] > 0 else -1
    shore = (extent - site.depth) // 2
    yield Mark(site.strip(hand * (shore - 1300), 260), "road")
    for u in site.spread(7, extent // 7):
        stack = site.box(u, hand * (shore - 2200 - extent // 14), extent // 20, extent // 16)
        yield Mark(stack, f"{site.scene.tone} roof", height=500, shade=site.near(20))
    reach = site.depth * 2 // 5
    for berth in site.spread((2, 5, 9)[site.level], extent // 7):
        v = hand * (shore + reach + site.near(reach // 2))
        yield Mark(site.oval(berth + site.near(200), v, extent // 70, extent // 24), "boat", height=150)
    for u in site.spread(site.scene.count, site.half):
        yield Mark(site.box(u, hand * (shore + reach), extent // 50, reach), "pier", height=200)
    yield Mark(site.strip(hand * shore, 220), "concrete", shade=40)


def _sports(site: _Site) -> Iterator[Mark]:
    yield Mark(site.everywhere(), "lawn")
    yield site.trees(site.everywhere(), (10, 60, 150)[site.level])
    yield Mark(site.strip(-site.half * 4 // 5, 240), "path")
    yield from site.border()
    width = min(site.half * 8 // 10 // site.scene.count, site.half * 4 // 10)
    length = site.half // 2
    line = max(60, site.extent // 130)
    for u in site.spread(site.scene.count, width * 5 // 2):
        yield Mark(site.box(u, 0, width + line, length + line), "line")
        yield Mark(site.box(u, 0, width, length), f"{site.scene.tone} pitch")
        yield Mark(site.box(u, 0, width, line // 2), "line")
        yield Mark(Ring(*site.at(u, 0), width // 2, line // 2), "line")


def _parking(site: _Site) -> Iterator[Mark]:
    yield Mark(site.everywhere(), f"{site.scene.tone} paving")
    for v in site.spread(site.scene.count, 2 * site.half // site.scene.count):
        bays = site.box(0, v, 2 * site.extent, 520)
        fill = (60, 140, 240)[site.level]
        yield Mark(bays, "marking", shade=-60)
        cars = Scatter(bays, site.along, (380, 540), fill, site.key(), contrast=110)
        yield Mark(cars, "car", height=120)
    yield from site.border()


def _airport(site: _Site) -> Iterator[Mark]:
    yield Mark(site.everywhere(), "lawn")
    yield from site.border()
    hand, half = site.hand(), site.half
    runway = -hand * half * 2 // 3
    yield Mark(site.strip(runway, half // 5), "road")
    dashes = Scatter(site.strip(runway, 110), site.along, (1500, _ENDLESS), 256, site.key())
    yield Mark(dashes, "marking")
    yield Mark(site.box(0, hand * half // 3, half, half * 2 // 5), "concrete")
    halls = (1, 3, 5)[site.level]
    for u in site.spread(halls, half * 2 // 3):
        hall = site.box(u, hand * half * 4 // 5, half // 6, half // 6)
        yield Mark(hall, f"{site.scene.tone} roof", height=600)
    span = min(700, half // 6)
    for u in site.spread(site.scene.count, half * 2 // 5):
        for length, width in ((span, span // 4), (span // 4, span)):
            yield Mark(site.box(u, hand * half // 5, length, width), "plane", height=250)


def _plots(site: _Site) -> Iterator[Box]:
    """Houses all over the tile, in rows along the heading, streets or not."""
    pitch = (2000, 1600, 1300)[site.level]
    reach = site.extent * 3 // 4 // pitch
    rows = [place * pitch + pitch // 2 for place in range(-reach, reach)]
    for v in rows:
        for u in rows:
            length, width = 480 + site.near(90), 380 + site.near(50)
            yield site.box(u + site.near(150), v + site.near(150), length, width, site.country.gabled)


def _meet(boxes: Sequence[Box], shapes: Sequence[Shape]) -> NDArray[np.bool_]:
    """Which of the boxes, all along one direction, have their middle or a corner in one of the shapes."""
    east, south = boxes[0].along
    sides = np.array([(0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)], dtype=np.int64)
    half = np.array([(box.half_length, box.half_width) for box in boxes], dtype=np.int64)
    u, v = np.moveaxis(half[:, None, :] * sides, 2, 0)
    x = np.array([[box.x] for box in boxes], dtype=np.int64) + (u * east - v * south) // UNIT
    y = np.array([[box.y] for box in boxes], dtype=np.int64) + (u * south + v * east) // UNIT
    hits: NDArray[np.bool_] = np.any([shape.covers(x, y).any(axis=1) for shape in shapes], axis=0)
    return hits


_LAYOUTS: dict[str, Callable[[_Site], Iterator[Mark]]] = {
    "residential": _residential,
    "industrial": _industrial,
    "farmland": _farmland,
    "forest": _forest,
    "river": _river,
    "lake": _lake,
    "port": _port,
    "sports": _sports,
    "parking": _parking,
    "airport": _airport,
}
