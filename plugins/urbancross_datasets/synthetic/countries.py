"""The three fictional countries: where they lie, how they look and how their people put things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Colour = tuple[int, int, int]

# What a pixel can show: its segment name, its colour under neutral light and how grainy it is (in 256ths).
MATERIALS: Mapping[str, tuple[str, Colour, int]] = {
    "lawn": ("grass", (112, 142, 78), 34),
    "soil": ("bare soil", (158, 128, 94), 36),
    "concrete": ("paved ground", (158, 154, 146), 20),
    "road": ("road", (96, 96, 100), 16),
    "path": ("road", (176, 158, 124), 22),
    "marking": ("road", (226, 224, 214), 8),
    "bridge": ("bridge", (190, 184, 174), 12),
    "trees": ("trees", (54, 92, 48), 40),
    "water": ("water", (48, 84, 122), 14),
    "field": ("field", (206, 182, 84), 30),
    "pool": ("swimming pool", (64, 188, 216), 10),
    "tank": ("storage tank", (228, 228, 224), 10),
    "plane": ("plane", (244, 244, 246), 6),
    "boat": ("boat", (236, 236, 230), 8),
    "car": ("car", (150, 150, 158), 8),
    "pier": ("pier", (178, 166, 146), 14),
    "line": ("pitch", (236, 238, 230), 6),
    "red roof": ("building", (184, 84, 62), 22),
    "grey roof": ("building", (112, 118, 128), 18),
    "white roof": ("building", (230, 226, 216), 12),
    "blue roof": ("building", (76, 116, 176), 16),
    "green crop": ("field", (98, 154, 66), 30),
    "yellow crop": ("field", (212, 190, 86), 30),
    "brown crop": ("field", (142, 104, 72), 34),
    "dark green wood": ("trees", (42, 82, 44), 40),
    "light green wood": ("trees", (112, 150, 66), 40),
    "brown wood": ("trees", (140, 104, 58), 40),
    "blue water": ("water", (46, 88, 138), 14),
    "green water": ("water", (62, 112, 88), 14),
    "brown water": ("water", (128, 112, 82), 14),
    "green pitch": ("pitch", (84, 166, 84), 14),
    "red pitch": ("pitch", (186, 94, 70), 14),
    "blue pitch": ("pitch", (72, 118, 184), 14),
    "grey paving": ("paved ground", (104, 104, 108), 18),
    "white paving": ("paved ground", (206, 202, 192), 16),
    "red paving": ("paved ground", (172, 112, 92), 20),
}


@dataclass(frozen=True)
class Country:
    """One country. Weights are relative; what a table does not name weighs 2."""

    name: str
    south_west: tuple[int, int]  # the corner of its bounding box: latitude, longitude in degrees
    span: int  # degrees of latitude and of longitude
    extent: int  # what a tile's edge measures on the ground, in centimetres
    streets: str  # grid, organic or radial
    deck: Mapping[str, int]  # how many of 40 tiles show each scene class
    tones: Mapping[str, int]
    borders: Mapping[str, int]
    roads: Mapping[str, int]  # for the geo-tags: kinds of surrounding roads
    colours: Mapping[str, Colour]  # materials that look different here
    light: Colour  # gain of the red, green and blue channel in 256ths
    haze: int  # what the air adds to every channel
    grain: int  # how strong texture is, in 256ths
    shadow: int  # length of a shadow in 256ths of the height
    tree: int  # distance between trees, in centimetres
    gabled: bool
    accent: int  # turns every list of synonyms, so that each country prefers other words


COUNTRIES: Mapping[str, Country] = {
    country.name: country
    for country in (
        Country(
            name="nordia",
            south_west=(58, 12),
            span=3,
            extent=9600,
            streets="organic",
            deck={
                "residential": 6,
                "industrial": 3,
                "farmland": 4,
                "forest": 6,
                "river": 4,
                "lake": 5,
                "port": 3,
                "sports": 4,
                "parking": 3,
                "airport": 2,
            },
            tones={"red": 5, "white": 1, "dark green": 4, "yellow": 1},
            borders={"trees": 4, "water": 3, "soil": 1, "field": 1},
            roads={"service": 2, "residential": 3, "footway": 3},
            colours={},
            light=(232, 250, 268),
            haze=4,
            grain=256,
            shadow=300,
            tree=520,
            gabled=True,
            accent=0,
        ),
        Country(
            name="meridia",
            south_west=(37, -8),
            span=4,
            extent=12800,
            streets="radial",
            deck={
                "residential": 6,
                "industrial": 5,
                "farmland": 6,
                "forest": 3,
                "river": 3,
                "lake": 2,
                "port": 4,
                "sports": 3,
                "parking": 5,
                "airport": 3,
            },
            tones={"white": 3, "grey": 1, "yellow": 3, "brown": 3},
            borders={"trees": 1, "water": 2, "soil": 4, "field": 3},
            roads={"service": 4, "residential": 2, "primary": 2},
            colours={
                "lawn": (158, 146, 92),
                "soil": (190, 142, 98),
                "concrete": (186, 174, 154),
                "road": (132, 126, 120),
                "trees": (92, 104, 60),
                "water": (44, 106, 130),
            },
            light=(274, 256, 230),
            haze=14,
            grain=224,
            shadow=150,
            tree=680,
            gabled=True,
            accent=1,
        ),
        Country(
            name="costara",
            south_west=(-6, 104),
            span=3,
            extent=17600,
            streets="grid",
            deck={
                "residential": 5,
                "industrial": 4,
                "farmland": 3,
                "forest": 4,
                "river": 5,
                "lake": 3,
                "port": 6,
                "sports": 2,
                "parking": 4,
                "airport": 4,
            },
            tones={"white": 4, "grey": 4, "red": 1, "blue": 3},
            borders={"trees": 3, "water": 3, "soil": 3, "field": 1},
            roads={"service": 2, "secondary": 3, "living street": 2},
            colours={
                "lawn": (74, 134, 74),
                "soil": (168, 96, 70),
                "concrete": (170, 168, 166),
                "road": (70, 70, 80),
                "trees": (30, 96, 54),
                "water": (52, 118, 120),
            },
            light=(228, 262, 246),
            haze=20,
            grain=300,
            shadow=100,
            tree=800,
            gabled=False,
            accent=2,
        ),
    )
}
