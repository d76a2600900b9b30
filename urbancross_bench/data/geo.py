"""Places on the globe: distances, boxes, and what SkyScript's file names and metadata say of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.data.nearest import nearest
from urbancross_bench.data.text import read_json
from urbancross_bench.errors import DataError, some

RADIUS = 6371.0  # kilometres, of the sphere that distances are measured on

Floats = NDArray[np.float64]

# a100011518_FI_17.jpg: an OSM area, node or way, its id, the image's source, the year.
_SKYSCRIPT = re.compile(r"(?P<kind>[anw])(?P<osm_id>\d+)_(?P<source>[A-Z0-9]{2})_(?P<year>\d{2})(?:\.\w+)?")


def nearest_distances(places: Floats, others: Floats) -> Floats:
    """(N,) great-circle kilometres from each of (N, 2) latitudes and longitudes to the nearest of (M, 2).

    Infinite where there are no others.
    """
    if not len(others):
        return np.full(len(places), np.inf)
    # A chord, unlike a cosine, keeps its precision for places that are close.
    chords = nearest(_unit_vectors(places), _unit_vectors(others))
    distances: Floats = 2 * RADIUS * np.arcsin(np.minimum(chords / 2, 1.0))
    return distances


def on_globe(latitude: Floats, longitude: Floats) -> NDArray[np.bool_]:
    """(N,) whether latitudes lie in [-90, 90] and longitudes in [-180, 180] degrees; NaN does not."""
    return (np.abs(latitude) <= 90) & (np.abs(longitude) <= 180)


def span(longitude: Floats) -> tuple[float, float]:
    """West and east end of an arc that holds all of (N,) longitudes, N > 0; west > east: over the antimeridian.

    The shortest such arc, or from the least to the greatest where all of them reach around half the globe.
    """
    around = np.unique(longitude)
    gaps = np.diff(around, append=around[0] + 360)
    widest = int(gaps.argmax())
    if gaps[widest] <= 180:
        return float(around[0]), float(around[-1])
    return float(around[(widest + 1) % len(around)]), float(around[widest])


def breadth(west: float, east: float) -> float:
    """Degrees of longitude from west to east, in [0, 360]; over the antimeridian where west > east."""
    return east - west if west <= east else east - west + 360


def _unit_vectors(places: Floats) -> Floats:
    latitude, longitude = np.radians(places).T
    return np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1
    )


def box_facts(box: Any) -> dict[str, float]:
    """Centre and extent (metres, the longer side) of a box `[west, south, east, north]` in degrees.

    West may lie east of east where a box crosses the antimeridian. Raises ValueError for anything else.
    """
    try:
        if isinstance(box, str):
            raise TypeError("four digits are no box")
        west, south, east, north = (float(value) for value in box)
    except (OverflowError, TypeError, ValueError):
        raise ValueError(f"a box is [west, south, east, north] in degrees, not {box!r}") from None
    possible = all(abs(value) <= 180 for value in (west, east)) and -90 <= south <= north <= 90
    # What would cross the antimeridian and reach around half the globe has two values exchanged.
    if not possible or (west > east and breadth(west, east) > 180):
        raise ValueError(f"{box!r} is no box [west, south, east, north] in degrees")
    latitude, longitude = (south + north) / 2, west + breadth(west, east) / 2
    height = np.radians(north - south) * RADIUS * 1000
    width = np.radians(breadth(west, east)) * RADIUS * 1000 * np.cos(np.radians(latitude))
    return {
        "latitude": latitude,
        "longitude": longitude - 360 if longitude > 180 else longitude,
        "extent": float(max(height, width)),
    }


def name_facts(name: str) -> dict[str, Any]:
    """Country and year that a SkyScript file name tells; empty for other names.

    `a100011518_FI_17.jpg` is from 2017. `S2` in the country's place means Sentinel-2 and names no country.
    """
    match = _SKYSCRIPT.fullmatch(name.rpartition("/")[2])
    if match is None:
        return {}
    country = match["source"] if match["source"].isalpha() else None
    return {"country": country, "year": 2000 + int(match["year"])}


def metadata_entries(file: Path, names: Sequence[str]) -> dict[str, Any]:
    """Name of an image → its entry in SkyScript's metadata json, where it stands with or without its ending, and
    without its folder where no other image has that name.

    Images may lack an entry. Raises DataError naming the file where all do, or where no entry has tags: it is
    another file than was meant.
    """
    layout = (
        "SkyScript's metadata is one object, image → "
        '{"bbox": […], "center_tags": {key: value}, "surrounding_tags": [{key: value}, …]}'
    )
    content = read_json(file)
    if not isinstance(content, dict):
        raise DataError(
            f"{file} holds a {type(content).__name__}, not an object with an entry per image; {layout}"
        )
    last = Counter(PurePosixPath(name).stem for name in {*names})  # rows may repeat an image

    def entry_of(name: str) -> Any:
        path = PurePosixPath(name)
        own = [key for key in (name, str(path.parent / path.stem)) if key in content]
        return content.get(own[0] if own else path.stem if last[path.stem] == 1 else None)

    sought = {name: entry_of(name) for name in names}
    found = {name: entry for name, entry in sought.items() if entry is not None}
    if names and not found:
        keys = some([*map(repr, content)], 3) or "none"
        raise DataError(
            f"{file} has no entry for any of {len(sought):,} images, {names[0]!r} the first; its keys are {keys}; "
            f"{layout}"
        )
    for name, entry in found.items():
        if not isinstance(entry, dict):
            raise DataError(f"{file}: entry {name!r} is garbled, a {type(entry).__name__}; {layout}")
    if found and not any({"center_tags", "surrounding_tags"} & entry.keys() for entry in found.values()):
        name, entry = next(iter(found.items()))
        raise DataError(
            f"{file}: no entry of these images has center_tags or surrounding_tags; {name!r} has "
            f"{', '.join(map(repr, entry)) or 'nothing'}; {layout}"
        )
    return found


def tag_text(centre: Mapping[str, Any], surroundings: list[Mapping[str, Any]]) -> str:
    """OSM tags in UrbanCross's words, each once: `amenity of school; surrounded by highway of service`.

    One that is None, NaN or blank, as tables say that there is none, is left out. Raises ValueError for one that
    is neither text nor number, or cannot be written.
    """

    def said(tags: list[Mapping[str, Any]]) -> str:
        there = ((k, v) for group in tags for k, v in group.items() if v is not None and v == v and str(v).strip())
        return ", ".join(dict.fromkeys(_tag(key, value) for key, value in there))

    near, around = said([centre]), said(surroundings)
    return "; ".join(part for part in (near, around and f"surrounded by {around}") if part)


def _tag(key: str, value: Any) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError(f"tag {key!r} is {value!r}, neither text nor number")
    try:
        f"{key} {value}".encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"tag {key!r}: {value!r} cannot be written: {error.reason}") from error
    return f"{key} of {value}"
