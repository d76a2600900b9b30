"""Places: distances against the haversine formula, geographic blocks against their promise, names and boxes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

from urbancross_bench.cli.maps import HEIGHT, WIDTH, text_map
from urbancross_bench.data.geo import (
    box_facts,
    breadth,
    metadata_entries,
    name_facts,
    nearest_distances,
    on_globe,
    span,
    tag_text,
)
from urbancross_bench.data.images import NoImages
from urbancross_bench.data.splits import blocked
from urbancross_bench.errors import DataError
from urbancross_bench.interfaces import Domain

SAMPLES = SHARED / "samples"
Floats = NDArray[np.float64]

latitudes = st.one_of(st.sampled_from([-90.0, 0.0, 89.9999, 90.0]), st.floats(-90, 90))
longitudes = st.one_of(st.sampled_from([-180.0, -179.9999, 0.0, 179.9999, 180.0]), st.floats(-180, 180))
places_lists = st.lists(st.tuples(latitudes, longitudes), min_size=1, max_size=80)


def haversine(a: Floats, b: Floats) -> Floats:
    """(N, M) kilometres between all of (N, 2) and (M, 2) places."""
    (lat_a, lon_a), (lat_b, lon_b) = np.radians(a.T)[..., None], np.radians(b.T)[:, None, :]
    h = np.sin((lat_b - lat_a) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    return 2 * 6371.0 * np.arcsin(np.sqrt(np.clip(h, 0, 1)))


def domain_at(places: Floats, names: list[str] | None = None) -> Domain:
    names = names or [f"{index}.jpg" for index in range(len(places))]
    return Domain(
        name="d",
        image_names=names,
        splits={},
        captions=["a place"] * len(names),
        image_of_caption=np.arange(len(names)),
        images=NoImages(names),
        attributes={"latitude": places[:, 0].tolist(), "longitude": places[:, 1].tolist()},
    )


@given(places_lists, places_lists)
@settings(deadline=None)
def test_nearest_distances_are_those_of_the_haversine_formula(
    places: list[tuple[float, float]], others: list[tuple[float, float]]
) -> None:
    a, b = np.array(places), np.array(others)
    expected = haversine(a, b).min(axis=1)
    # Either formula loses digits at the far side of the globe.
    tolerance = np.where(expected > 19_000, 1.0, 1e-6)
    assert (np.abs(nearest_distances(a, b) - expected) <= tolerance).all()


@pytest.mark.parametrize(
    ("height", "breadth", "south"), [(2.0, 3.0, 50.0), (0.01, 360.0, 89.99), (180.0, 360.0, -90.0)]
)
def test_nearest_distances_of_many_places(height: float, breadth: float, south: float) -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.random((n, 2)) * [height, breadth] + [south, -180] for n in (6000, 3001))

    def vectors(places: Floats) -> Floats:
        lat, lon = np.radians(places.T)
        return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)

    chords, _ = cKDTree(vectors(b)).query(vectors(a))
    assert nearest_distances(a, b) == pytest.approx(2 * 6371 * np.arcsin(chords / 2), rel=1e-12)


def test_nowhere_is_infinitely_far() -> None:
    nowhere = np.empty((0, 2))
    assert np.isinf(nearest_distances(np.zeros((3, 2)), nowhere)).all()
    assert nearest_distances(nowhere, np.zeros((3, 2))).shape == (0,)


def region(seed: int, count: int, latitude: float, longitude: float, kilometres: float) -> Floats:
    """Places in a square of about so many kilometres around a centre, over the antimeridian and up to a pole."""
    half = kilometres / 2 / 111.2
    width = min(half / max(math.cos(math.radians(latitude)), 1e-3), 180)
    drawn = np.random.default_rng(seed).uniform(-1, 1, (count, 2)) * [half, width] + [latitude, longitude]
    return np.stack([np.clip(drawn[:, 0], -90, 90), (drawn[:, 1] + 180) % 360 - 180], axis=1)


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(20, 150),
    centre=st.tuples(latitudes, longitudes),
    block=st.sampled_from([2.0, 10.0, 60.0]),
    share=st.sampled_from([0.0, 0.1, 0.5]),
)
@settings(deadline=None)
def test_no_block_is_cut_and_no_neighbour_of_a_test_image_is_trained_on(
    seed: int, count: int, centre: tuple[float, float], block: float, share: float
) -> None:
    places, distance = region(seed, count, *centre, 12 * block), share * block
    domain = domain_at(places)
    try:
        splits = blocked(domain, seed, block, distance).splits
    except DataError:  # too few blocks for three splits
        assume(False)
    assert min(len(members) for members in splits.values()) > 0
    train, val, test = (splits[name] for name in ("train", "val", "test"))
    for near, far in ((train, test), (val, test), (train, val)):
        assert haversine(places[near], places[far]).min() > distance - 1e-9
    # Rows of equal height, cut into columns of about equal width, as the docstring says.
    rows = np.floor(places[:, 0] * 111.195 / block)
    middle = np.radians((rows + 0.5) * block / 111.195)
    columns = np.floor(places[:, 1] * 111.195 * np.maximum(np.cos(middle), 1e-3) / block)
    blocks = {name: {(rows[i], columns[i]) for i in members} for name, members in splits.items()}
    assert not blocks["train"] & blocks["test"]
    assert not blocks["train"] & blocks["val"]
    assert not blocks["val"] & blocks["test"]
    # What is in no split is there for a reason.
    out = np.setdiff1d(np.arange(count), np.concatenate([train, val, test]))
    if len(out):
        assert haversine(places[out], places[np.concatenate([test, val])]).min(axis=1).max() <= distance + 1e-9
    # Who is where does not depend on the order of the images.
    order = np.random.default_rng(seed).permutation(count)
    names = [domain.image_names[i] for i in order]
    again = blocked(domain_at(places[order], names), seed, block, distance)
    for name in splits:
        assert {names[i] for i in again.splits[name]} == {domain.image_names[i] for i in splits[name]}


@pytest.mark.parametrize("longitude", [10.0, 180.0])
def test_geographic_splits_come_near_to_their_shares(longitude: float) -> None:
    """A large region, with a distance of a tenth of a block."""
    places = region(0, 20_000, 48.0, longitude, 300.0)
    domain = blocked(domain_at(places), 7, 10.0, 1.0)
    shares = {name: len(members) / len(places) for name, members in domain.splits.items()}
    assert 0.19 < shares["test"] < 0.21
    assert 0.085 < shares["val"] < 0.105
    assert 0.62 < shares["train"] < 0.70
    left = round((1 - sum(shares.values())) * len(places))
    assert f"{left} images between them in no split" in domain.partition
    assert "no image within 1 km of one in another split" in domain.partition
    tests, rest = (
        places[np.concatenate([domain.splits[n] for n in names])] for names in (["test"], ["train", "val"])
    )
    nearest = nearest_distances(rest, tests).min()
    assert f"nearest to a test image: {nearest:.2f} km" in domain.partition


def test_another_seed_draws_other_blocks() -> None:
    domain = domain_at(region(0, 500, 48.0, 11.0, 100.0))
    drawn = [blocked(domain, seed, 10.0, 1.0).splits["test"].tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "no column 'latitude'"),
        ({"latitude": [1.0] * 4}, "no column 'longitude'"),
        (
            {"latitude": [1.0, None, None, 2.0], "longitude": [0.0] * 4},
            r"2 images have no latitude, '1\.jpg' the first",
        ),
        ({"latitude": [1.0, 95.0, 0.0, 0.0], "longitude": [0.0] * 4}, r"'1\.jpg' lies at latitude 95"),
        ({"latitude": [1.0] * 4, "longitude": [0.0, 0.0, float("nan"), 0.0]}, r"'2\.jpg' lies at .*longitude nan"),
        ({"latitude": [1.0] * 4, "longitude": [0.0] * 4}, "leave no image for val, test; choose smaller"),
    ],
)
def test_blocks_need_places(attributes: dict[str, list[float | None]], message: str) -> None:
    names = [f"{index}.jpg" for index in range(4)]
    domain = Domain("d", names, {}, ["x"] * 4, np.arange(4), NoImages(names), attributes=attributes)
    with pytest.raises(DataError, match=message):
        blocked(domain, 0, 10.0, 1.0)


@given(st.lists(longitudes, min_size=1, max_size=20))
@settings(deadline=None)
def test_a_span_holds_every_longitude_and_none_is_shorter(values: list[float]) -> None:
    west, east = span(np.array(values))
    whole = breadth(west, east)
    assert all((value - west) % 360 <= whole + 1e-9 for value in values)
    shortest = min(max((value - start) % 360 for value in values) for start in values)
    if shortest < 180 - 1e-9:
        assert whole == pytest.approx(shortest, abs=1e-9)
    elif shortest > 180 + 1e-9:
        assert (west, east) == (min(values), max(values))


def test_what_lies_on_the_globe() -> None:
    inside = on_globe(np.array([90.0, 90.1, np.nan, 0.0]), np.array([-180.0, 0.0, 0.0, 181.0]))
    assert inside.tolist() == [True, False, False, False]


@given(st.floats(-89, 88), st.floats(1e-5, 1), longitudes, st.floats(1e-5, 1))
@settings(deadline=None)
def test_a_box_has_centre_and_extent(south: float, height: float, west: float, breadth: float) -> None:
    east = west + breadth if west + breadth <= 180 else west + breadth - 360
    facts = box_facts([west, south, east, south + height])
    centre = np.array([[facts["latitude"], facts["longitude"]]])
    sides = np.array([[south, facts["longitude"]], [south + height, facts["longitude"]]])
    ends = np.array([[facts["latitude"], west], [facts["latitude"], east]])
    tall, wide = (haversine(pair[:1], pair[1:]).item() * 1000 for pair in (sides, ends))
    assert facts["extent"] == pytest.approx(max(tall, wide), rel=1e-3)
    assert haversine(centre, sides) == pytest.approx(tall / 2000, rel=1e-3)
    assert haversine(centre, ends) == pytest.approx(wide / 2000, rel=1e-3)


@pytest.mark.parametrize(
    "box",
    [
        None,
        [],
        [1, 2, 3],
        [1, 2, 3, "north"],
        [1, 2, 3, 91],
        [1, -91, 3, 4],
        [181, 2, 3, 4],
        [5, 2, 3, 4],  # west lies east of east, and the box is none over the antimeridian
        [1, 4, 3, 2],
        [1, 2, 3, float("nan")],
        [1, 2, float("nan"), 4],
        [float("nan"), 2, 3, 4],
        [1, 2, 3, 10**400],
        "1234",
    ],
)
def test_what_is_no_box(box: object) -> None:
    with pytest.raises(ValueError, match="box"):
        box_facts(box)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("a100011518_FI_17.jpg", {"country": "FI", "year": 2017}),
        ("w1_DE_09", {"country": "DE", "year": 2009}),
        ("images2/n77_ES_21.png", {"country": "ES", "year": 2021}),
        ("a1000035634_S2_21.jpg", {"country": None, "year": 2021}),
        ("airport_1.jpg", {}),
        ("x100011518_FI_17.jpg", {}),
        ("a100011518_FIN_17.jpg", {}),
        ("a100011518_FI_2017.jpg", {}),
        ("", {}),
    ],
)
def test_what_a_name_tells(name: str, facts: dict[str, object]) -> None:
    assert name_facts(name) == facts


def test_an_image_has_the_entry_of_its_own_name(tmp_path: Path) -> None:
    file = tmp_path / "metadata.json"
    file.write_text(
        json.dumps({name: {"center_tags": {"of": name}} for name in ("a", "sub/a", "b.png", "c", "d")})
    )
    names = ["a.png", "sub/a.png", "b.png", "far/c.png", "far/c.png", "one/d.png", "two/d.png", "."]
    found = {name: entry["center_tags"]["of"] for name, entry in metadata_entries(file, names).items()}
    assert found == {"a.png": "a", "sub/a.png": "sub/a", "b.png": "b.png", "far/c.png": "c"}


def test_tags_become_words_each_once() -> None:
    around = [{"highway": "service"}, {"highway": "service", "oneway": "yes"}, {}]
    assert tag_text({"amenity": "school"}, around) == (
        "amenity of school; surrounded by highway of service, oneway of yes"
    )
    assert tag_text({"amenity": "school"}, []) == "amenity of school"
    assert tag_text({}, [{"natural": "wood"}]) == "surrounded by natural of wood"
    assert tag_text({}, []) == ""


def test_tags_are_texts_and_numbers_that_can_be_written() -> None:
    nothing = {"building": float("nan"), "height": None, "amenity": "", "name": " "}
    assert tag_text({**nothing, "levels": 3}, [nothing]) == "levels of 3"
    for value, message in (
        (["a"], r"tag 'name' is \['a'\], neither text nor number"),
        (True, "tag 'name' is True, neither"),
        ("\ud83d cut", r"tag 'name': '\\ud83d cut' cannot be written: surrogates"),
    ):
        with pytest.raises(ValueError, match=message):
            tag_text({}, [{"name": value}])


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no SkyScript samples at {SAMPLES}")
def test_real_metadata_agrees_with_the_real_images() -> None:
    """Box and pixels give the ground resolution of the sensor: NAIP 60 cm, Swisstopo 10 cm, Finland 50 cm."""
    metadata = json.loads((SAMPLES / "skyscript_meta.json").read_text())
    metres = {"US": 0.6, "CH": 0.1, "FI": 0.5}
    for name, entry in metadata.items():
        facts, place = name_facts(name), box_facts(entry["bbox"])
        year = entry["time"][0] if isinstance(entry["time"], list) else entry["time"]
        assert facts["year"] == year
        with Image.open(SAMPLES / "skyscript_images" / f"{name}.jpg") as image:
            assert place["extent"] / max(image.size) == pytest.approx(metres[facts["country"]], rel=0.1)
        west, south, east, north = entry["bbox"]
        assert west < place["longitude"] < east
        assert south < place["latitude"] < north
        text = tag_text(entry["center_tags"], entry["surrounding_tags"])
        centre, _, around = text.partition("; surrounded by ")
        assert centre.split(", ") == [f"{key} of {value}" for key, value in entry["center_tags"].items()]
        said = {f"{key} of {value}" for tags in entry["surrounding_tags"] for key, value in tags.items()}
        assert sorted(around.split(", ")) == sorted(said or {""})


def dots(lines: list[str]) -> set[tuple[int, int]]:
    """The dots of a map's braille characters as (row, column) from its north-west corner."""
    bits = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1)]
    return {
        (4 * row + down, 2 * column + right)
        for row, line in enumerate(lines[1:-2])
        for column, letter in enumerate(line[line.index("│") + 1 : -1])
        if letter != " "
        for bit, (down, right) in enumerate(bits)
        if ord(letter) - 0x2800 >> bit & 1
    }


@given(places_lists)
@settings(deadline=None)
def test_a_map_fits_and_shows_the_places(places: list[tuple[float, float]]) -> None:
    latitude, longitude = np.array(places).T
    lines = text_map(latitude, longitude)
    assert lines == text_map(latitude, longitude)
    assert len(lines) <= HEIGHT
    assert max(map(len, lines)) <= WIDTH
    drawn = dots(lines)
    assert 1 <= len(drawn) <= len({*places})


def test_a_map_is_true_to_north_and_east_over_the_antimeridian() -> None:
    """Four places in a row of equal steps, two in a column: so are their dots, in the same scale each way."""
    latitude, longitude = np.array([60.0, 60.0, 60.0, 60.0, 61.0]), np.array([178.0, 179.0, 180.0, -179.0, 178.0])
    lines = text_map(latitude, longitude)
    drawn = sorted(dots(lines))
    assert drawn[0][1] == 0  # the northern place, in the west
    row = [column for line, column in drawn[1:]]
    assert len({line for line, _ in drawn[1:]}) == 1
    steps = np.diff(row)
    assert len(row) == 4
    assert max(steps) - min(steps) <= 1
    tall = drawn[1][0] - drawn[0][0]
    assert tall / steps.mean() == pytest.approx(1 / math.cos(math.radians(60.5)), rel=0.1)
    assert lines[0].startswith("61.00°N")
    assert lines[-2].startswith("60.00°N")
    assert lines[-1].split() == ["178.00°E", "179.00°W"]


def test_no_place_no_map() -> None:
    assert text_map(np.empty(0), np.empty(0)) == []
