"""Geographic tags as English: from `amenity of school; surrounded by highway of service` to noun phrases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_AROUND = "surrounded by "

# Keys whose tags name a thing, and what it is where the value is `yes`. Other keys (`surface`) describe one.
_THINGS = {
    "aerialway": "cable car",
    "aeroway": "airfield",
    "amenity": "amenity",
    "barrier": "barrier",
    "boundary": "boundary",
    "building": "building",
    "craft": "workshop",
    "emergency": "emergency facility",
    "geological": "geological feature",
    "golf": "golf course",
    "highway": "road",
    "historic": "historic place",
    "landuse": "land",
    "leisure": "leisure ground",
    "man made": "structure",
    "military": "military area",
    "natural": "natural feature",
    "office": "office",
    "place": "place",
    "power": "power facility",
    "public transport": "public transport stop",
    "railway": "railway",
    "shop": "shop",
    "tourism": "tourist sight",
    "waterway": "waterway",
}
# Values that say of which kind a road is, or land: the noun they go with. Others are nouns themselves.
_KINDS = {
    "highway": {
        **dict.fromkeys(("trunk", "primary", "secondary", "tertiary"), "road"),
        **dict.fromkeys(("residential", "service", "unclassified"), "road"),
        "pedestrian": "street",
    },
    "landuse": dict.fromkeys(
        ("residential", "commercial", "industrial", "retail", "military", "religious", "institutional"), "land"
    ),
    "railway": dict.fromkeys(("abandoned", "disused", "narrow gauge", "preserved", "razed"), "railway"),
    "boundary": dict.fromkeys(("administrative", "maritime", "political"), "boundary"),
}
_SAID = {
    ("amenity", "fast food"): "fast food restaurant",
    ("amenity", "fuel"): "petrol station",
    ("amenity", "parking"): "car park",
    ("amenity", "police"): "police station",
    ("amenity", "recycling"): "recycling point",
    ("highway", "construction"): "road under construction",
    ("highway", "steps"): "flight of steps",
    ("landuse", "construction"): "construction site",
    ("natural", "wood"): "woodland",
    ("railway", "rail"): "railway line",
}
_BUILDINGS = {  # known by their own name: a house is no "house building"
    *("barn", "bungalow", "cabin", "cathedral", "chapel", "church", "dormitory", "garage", "greenhouse"),
    *("hangar", "hospital", "hotel", "house", "hut", "kiosk", "mosque", "roof", "shed", "stadium", "synagogue"),
    *("temple", "tower", "warehouse"),
}
_SHOPS = ("bakery", "butcher", "centre", "florist", "hairdresser", "kiosk", "mall", "market", "shop", "store")
_MASSES = {  # never with an article
    *("farmland", "grass", "grassland", "greenery", "heath", "land", "mud", "rock", "sand", "scree", "scrub"),
    *("shingle", "soil", "water", "wetland", "woodland"),
}
_NO_PLURAL = ("ss", "us", "is")  # a pass, a bus, tennis
_VOWEL = re.compile(r"(?!uni(?![nm])|us[ae]|util|eu|one\b|ufo)[aeiou]|hour|honest|8|1[18]\b", re.IGNORECASE)


@dataclass(frozen=True)
class Told:
    """What tags tell, as phrases: things in the centre, things around it, properties of the centre."""

    centre: tuple[str, ...]
    around: tuple[str, ...]
    properties: tuple[tuple[str, str], ...]


def read_tags(text: str) -> Told:
    """The phrases of a tag text, each once, in its order; no text is an error.

    A piece without ` of ` goes on with the value before it (a name with a comma), or is a thing by itself.
    """
    near, around = text.strip(), ""
    if near.startswith(_AROUND):
        near, around = "", near.removeprefix(_AROUND)
    elif f"; {_AROUND}" in near:
        near, _, around = near.partition(f"; {_AROUND}")
    own = _pairs(near)
    centre = [_thing(key, value) for key, value in own if _names_a_thing(key)]
    properties = [(key, listed(_several(value))) for key, value in own if not _names_a_thing(key)]
    # Which of the things around it has a grass surface is not said, so properties tell nothing there.
    about = [_thing(key, value) for key, value in _pairs(around) if _names_a_thing(key)]
    return Told(tuple(dict.fromkeys(centre)), tuple(dict.fromkeys(about)), tuple(dict.fromkeys(properties)))


def listed(phrases: Sequence[str]) -> str:
    """`a, b and c`."""
    *first, last = phrases
    return f"{', '.join(first)} and {last}" if first else last


def _pairs(text: str) -> list[tuple[str, str]]:
    """Keys and values; a thing by itself has no key."""
    pairs = list[tuple[str, str]]()
    for piece in filter(None, map(_plain, text.split(","))):
        key, of, value = piece.partition(" of ")
        if of:
            pairs.append(("highway" if key == "road" else key, value))
        elif pairs and pairs[-1][0]:
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]}, {piece}")
        else:
            pairs.append(("", piece))
    return pairs


def _plain(text: str) -> str:
    return " ".join(text.replace("_", " ").replace(":", " ").split())


def _several(value: str) -> list[str]:
    """The values of `a;b`."""
    return [part for part in map(str.strip, value.split(";")) if part] or [value]


def _names_a_thing(key: str) -> bool:
    return not key or key in _THINGS


def _thing(key: str, value: str) -> str:
    """Noun phrases with their articles."""
    return listed([_with_article(_noun(key, part)) for part in _several(value)])


def _noun(key: str, value: str) -> str:
    if value == "yes" and key:
        return _THINGS[key]
    if (key, value) in _SAID:
        return _SAID[key, value]
    if value in _KINDS.get(key, {}):
        return f"{value} {_KINDS[key][value]}"
    if key == "highway" and value.endswith(" link"):
        return f"{value} road"
    if key == "building" and value not in _BUILDINGS:
        return f"{value[:-1] if _is_plural(value) else value} building"
    if (key == "shop" and not value.endswith(_SHOPS)) or key == "office":
        return f"{value} {key}"
    return f"{key} {value}" if key in ("golf", "power") else value


def _with_article(noun: str) -> str:
    mass = noun.rpartition(" ")[2] in _MASSES
    if mass or (_is_plural(noun) and " of " not in noun):
        return noun
    return f"{'an' if _VOWEL.match(noun) else 'a'} {noun}"


def _is_plural(noun: str) -> bool:
    return noun.endswith("s") and not noun.endswith(_NO_PLURAL)
