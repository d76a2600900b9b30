"""Places on the globe: distances, boxes, and what SkyScript's file names and metadata say of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

RADIUS = 6371.0  # kilometres, of the sphere that distances are measured on
_BLOCK = 1024

Floats = NDArray[np.float64]

# a100011518_FI_17.jpg: an OSM area, node or way, its id, the image's source, the year.
_SKYSCRIPT = re.compile(r"(?P<kind>[anw])(?P<osm_id>\d+)_(?P<source>[A-Z0-9]{2})_(?P<year>\d{2})(?:\.\w+)?")


def nearest_distances(places: Floats, others: Floats) -> Floats:
    """(N,) great-circle kilometres from each of (N, 2) latitudes and longitudes to the nearest of (M, 2)."""
    points, targets = _unit_vectors(places), _unit_vectors(others)
    chords = np.full(
        len(points), np.inf
    )  # a chord, unlike a cosine, keeps its precision for places that are close
    for start in range(0, len(points), _BLOCK):
        block = points[start : start + _BLOCK, None]
        for other in range(0, len(targets), _BLOCK):
            distances = np.linalg.norm(block - targets[other : other + _BLOCK], axis=2).min(axis=1)
            np.minimum(chords[start : start + _BLOCK], distances, out=chords[start : start + _BLOCK])
    return 2 * RADIUS * np.arcsin(np.minimum(chords / 2, 1.0))


def _unit_vectors(places: Floats) -> Floats:
    latitude, longitude = np.radians(places).T
    return np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1
    )


def box_facts(box: Any) -> dict[str, float]:
    """Centre and extent (metres, the longer side) of a box `[west, south, east, north]` in degrees.

    Raises ValueError for anything else.
    """
    try:
        west, south, east, north = (float(value) for value in box)
    except (TypeError, ValueError):
        raise ValueError(f"a box is [west, south, east, north] in degrees, not {box!r}") from None
    if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
        raise ValueError(f"{box!r} is no box [west, south, east, north] in degrees")
    latitude, longitude = (south + north) / 2, (west + east) / 2
    height = np.radians(north - south) * RADIUS * 1000
    width = np.radians(east - west) * RADIUS * 1000 * np.cos(np.radians(latitude))
    return {"latitude": latitude, "longitude": longitude, "extent": float(max(height, width))}


def name_facts(name: str) -> dict[str, Any]:
    """Country and year that a SkyScript file name tells; empty for other names.

    `a100011518_FI_17.jpg` is from 2017. `S2` in the country's place means Sentinel-2 and names no country.
    """
    match = _SKYSCRIPT.fullmatch(name.rpartition("/")[2])
    if match is None:
        return {}
    country = match["source"] if match["source"].isalpha() else None
    return {"country": country, "year": 2000 + int(match["year"])}


def tag_text(centre: Mapping[str, str], surroundings: list[Mapping[str, str]]) -> str:
    """OSM tags in UrbanCross's words, each once: `amenity of school; surrounded by highway of service`."""

    def said(tags: list[Mapping[str, str]]) -> str:
        return ", ".join(dict.fromkeys(f"{key} of {value}" for group in tags for key, value in group.items()))

    near, around = said([centre]), said(surroundings)
    return f"{near}; surrounded by {around}" if around else near
