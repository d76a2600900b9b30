"""What a scene can be, and the words for it. Every tuple of words holds synonyms of one thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Words = tuple[str, ...]


@dataclass(frozen=True)
class SceneClass:
    """One class of scenes: all share the same six visible attributes, each said of another thing."""

    place: Words  # the scene as a whole
    counted: tuple[tuple[str, str], ...]  # the things a caption counts: singular, plural
    counts: tuple[int, ...]
    tones: Words  # what colours the toned thing can have
    toned: Words
    crowd: Words  # the things that stand sparse or dense
    line: Words  # the thing that has a heading
    borders: Words  # what can lie along one edge
    tags: Words


CLASSES: Mapping[str, SceneClass] = {
    "residential": SceneClass(
        place=("a residential area", "a housing estate", "a neighbourhood"),
        counted=(("swimming pool", "swimming pools"), ("pool", "pools")),
        counts=(1, 2, 3, 4),
        tones=("red", "grey", "white"),
        toned=("roofs", "rooftops", "house roofs"),
        crowd=("houses", "homes", "buildings"),
        line=("a street", "a road", "an avenue"),
        borders=("trees", "water", "soil", "field"),
        tags=("landuse of residential", "road of residential"),
    ),
    "industrial": SceneClass(
        place=("an industrial area", "a factory site", "an industrial estate"),
        counted=(("storage tank", "storage tanks"), ("round tank", "round tanks")),
        counts=(1, 2, 3, 4, 5),
        tones=("white", "grey", "blue", "red"),
        toned=("warehouse roofs", "flat roofs", "roofs"),
        crowd=("warehouses", "halls", "buildings"),
        line=("a road", "an access road", "a street"),
        borders=("trees", "water", "soil", "field"),
        tags=("landuse of industrial", "building of warehouse"),
    ),
    "farmland": SceneClass(
        place=("farmland", "an agricultural area", "cultivated land"),
        counted=(("field", "fields"), ("plot", "plots")),
        counts=(2, 3, 4, 5),
        tones=("green", "yellow", "brown"),
        toned=("crops", "plants", "cropland"),
        crowd=("trees", "bushes", "shrubs"),
        line=("a row of furrows", "a track", "a hedge"),
        borders=("trees", "water", "soil"),
        tags=("landuse of farmland", "road of track"),
    ),
    "forest": SceneClass(
        place=("a forest", "woodland", "a wooded area"),
        counted=(("clearing", "clearings"), ("glade", "glades")),
        counts=(1, 2, 3),
        tones=("dark green", "light green", "brown"),
        toned=("foliage", "treetops", "leaves"),
        crowd=("trees", "crowns", "tall trees"),
        line=("a path", "a trail", "a track"),
        borders=("water", "soil", "field"),
        tags=("natural of wood", "road of path"),
    ),
    "river": SceneClass(
        place=("a river", "a river landscape", "a stream"),
        counted=(("bridge", "bridges"), ("road bridge", "road bridges")),
        counts=(1, 2, 3),
        tones=("blue", "green", "brown"),
        toned=("water", "river water", "flowing water"),
        crowd=("trees", "bushes", "shrubs"),
        line=("the current", "the channel", "the watercourse"),
        borders=("trees", "soil", "field"),
        tags=("waterway of river", "man made of bridge"),
    ),
    "lake": SceneClass(
        place=("a lake", "a lake landscape", "a pond"),
        counted=(("island", "islands"), ("islet", "islets")),
        counts=(1, 2, 3),
        tones=("blue", "green", "brown"),
        toned=("water", "lake water", "still water"),
        crowd=("trees", "bushes", "shrubs"),
        line=("a long shore", "a basin", "an oblong shore"),
        borders=("trees", "soil", "field"),
        tags=("natural of water", "leisure of park"),
    ),
    "port": SceneClass(
        place=("a port", "a harbour", "a marina"),
        counted=(("pier", "piers"), ("jetty", "jetties")),
        counts=(1, 2, 3, 4),
        tones=("red", "white", "blue"),
        toned=("containers", "freight containers", "sheds"),
        crowd=("boats", "ships", "vessels"),
        line=("a quay", "a wharf", "a waterfront"),
        borders=("water",),
        tags=("landuse of harbour", "man made of pier"),
    ),
    "sports": SceneClass(
        place=("a sports ground", "a sports centre", "a playing ground"),
        counted=(("pitch", "pitches"), ("court", "courts")),
        counts=(1, 2, 3, 4),
        tones=("green", "red", "blue"),
        toned=("playing surfaces", "turf", "sports surfaces"),
        crowd=("trees", "bushes", "shrubs"),
        line=("a line of pitches", "a path", "a walkway"),
        borders=("trees", "water", "soil", "field"),
        tags=("leisure of pitch", "leisure of sports centre"),
    ),
    "parking": SceneClass(
        place=("a car park", "a parking lot", "a parking area"),
        counted=(("row of bays", "rows of bays"), ("parking row", "parking rows")),
        counts=(2, 3, 4, 5),
        tones=("grey", "white", "red"),
        toned=("pavement", "ground", "paving"),
        crowd=("cars", "vehicles", "parked cars"),
        line=("a row of bays", "a lane", "a driveway"),
        borders=("trees", "water", "soil", "field"),
        tags=("amenity of parking", "road of service"),
    ),
    "airport": SceneClass(
        place=("an airport", "an airfield", "an aerodrome"),
        counted=(("plane", "planes"), ("aircraft", "aircraft")),
        counts=(1, 2, 3, 4, 5),
        tones=("white", "grey", "blue", "red"),
        toned=("hangar roofs", "terminal roofs", "roofs"),
        crowd=("hangars", "halls", "buildings"),
        line=("a runway", "an airstrip", "a landing strip"),
        borders=("trees", "water", "soil", "field"),
        tags=("aeroway of runway", "aeroway of hangar"),
    ),
}

BORDERS: Mapping[str, Words] = {
    "trees": ("trees", "a wood", "a strip of trees"),
    "water": ("water", "open water", "a body of water"),
    "soil": ("bare soil", "bare ground", "bare land"),
    "field": ("a yellow field", "ripe crops", "a cornfield"),
}

SIDES: Mapping[str, Words] = {
    "north": ("to the north", "at the top", "on the northern side"),
    "east": ("to the east", "on the right", "on the eastern side"),
    "south": ("to the south", "at the bottom", "on the southern side"),
    "west": ("to the west", "on the left", "on the western side"),
}

HEADINGS: Mapping[str, Words] = {
    "north-south": ("from north to south", "from top to bottom", "vertically"),
    "east-west": ("from east to west", "from left to right", "horizontally"),
    "northeast-southwest": ("from northeast to southwest", "diagonally to the top right", "to the northeast"),
    "northwest-southeast": ("from northwest to southeast", "diagonally to the top left", "to the northwest"),
}

DENSITIES: Mapping[str, Words] = {
    "sparse": ("few", "scattered", "isolated"),
    "medium": ("some", "a number of", "moderately many"),
    "dense": ("many", "densely packed", "crowded"),
}

NUMBERS: Mapping[int, Words] = {
    1: ("one", "a single"),
    2: ("two", "a pair of"),
    3: ("three",),
    4: ("four", "several"),
    5: ("five", "several"),
}
