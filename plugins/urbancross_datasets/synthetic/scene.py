"""What a tile shows: its visible attributes and its place on the map, drawn from the hash of its index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from urbancross_datasets.synthetic.classes import CLASSES, DENSITIES, HEADINGS, SIDES
from urbancross_datasets.synthetic.countries import Country
from urbancross_datasets.synthetic.hashing import Draws

_MAP_CELLS = 64  # tiles lie in distinct cells of a map of 64×64 cells, so a country holds 4096 of them


@dataclass(frozen=True)
class Scene:
    """One tile. The key draws whatever the attributes leave open."""

    key: str
    scene_class: str
    count: int
    tone: str
    density: str
    heading: str
    border: str
    side: str
    road: str
    latitude: float
    longitude: float


def draw_scene(country: Country, seed: int, index: int) -> Scene:
    """Tile `index`, which does not depend on how many tiles there are."""
    key = f"{country.name}/{seed}/{index}"
    draws = Draws("scene", key)
    name = _class_of(country, seed, index)
    kind = CLASSES[name]
    side = draws.pick(tuple(SIDES))
    latitude, longitude = _position(country, seed, index)
    return Scene(
        key=key,
        scene_class=name,
        count=draws.pick(kind.counts),
        tone=_weigh(draws, kind.tones, country.tones),
        density=draws.pick(tuple(DENSITIES)),
        heading=_shore(side) if name == "port" else draws.pick(tuple(HEADINGS)),
        border=_weigh(draws, kind.borders, country.borders),
        side=side,
        road=draws.weigh(country.roads),
        latitude=latitude,
        longitude=longitude,
    )


def _class_of(country: Country, seed: int, index: int) -> str:
    """Classes are dealt from shuffled decks of 40 cards, so that their shares hold in every 40 tiles."""
    deck = [name for name, cards in country.deck.items() for _ in range(cards)]
    dealt = Draws("deck", country.name, seed, index // len(deck)).shuffle(deck)
    return dealt[index % len(deck)]


def _weigh(draws: Draws, choices: Iterable[str], weights: Mapping[str, int]) -> str:
    return draws.weigh({choice: weights.get(choice, 2) for choice in choices})


def _shore(side: str) -> str:
    """The heading of a shore with the water to one side."""
    return "north-south" if side in ("east", "west") else "east-west"


def _position(country: Country, seed: int, index: int) -> tuple[float, float]:
    """Latitude and longitude of the tile's cell; an odd factor permutes the cells."""
    draws = Draws("map", country.name, seed)
    cells = _MAP_CELLS * _MAP_CELLS
    cell = ((2 * draws.between(0, cells) + 1) * index + draws.between(0, cells)) % cells
    south, west = country.south_west
    row, column = divmod(cell, _MAP_CELLS)
    # In whole microdegrees until the last division, which is exact to the last bit everywhere.
    step = country.span * 1_000_000 // _MAP_CELLS
    latitude = south * 1_000_000 + row * step + step // 2
    longitude = west * 1_000_000 + column * step + step // 2
    return latitude / 1_000_000, longitude / 1_000_000
