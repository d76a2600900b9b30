"""The embedded dataset: the same bytes everywhere, and captions that say what is drawn."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import ndimage

from urbancross_bench.errors import UsageError
from urbancross_bench.interfaces import SPLITS, Domain
from urbancross_datasets.synthetic.classes import BORDERS, CLASSES, HEADINGS, NUMBERS, SIDES
from urbancross_datasets.synthetic.countries import COUNTRIES
from urbancross_datasets.synthetic.dataset import Synthetic, SyntheticImages
from urbancross_datasets.synthetic.layout import lay_out
from urbancross_datasets.synthetic.options import SyntheticOptions
from urbancross_datasets.synthetic.render import GENERATOR_VERSION, SEGMENT_NAMES, render, segments
from urbancross_datasets.synthetic.scene import draw_scene

countries = st.sampled_from(sorted(COUNTRIES))
seeds = st.integers(0, 2**32 - 1)

# By version, country: the SHA-256 (first 16 digits) of tiles 0 to 19 at 64 pixels, seed 0.
GOLDEN = {
    (1, "nordia"): "3b64b7112f765c05",
    (1, "meridia"): "4632e63b0b94915a",
    (1, "costara"): "cc03355cc8a77c71",
}

# Classes whose counted things have a segment of their own and never touch one another.
COUNTED_SEGMENTS = {
    "residential": "swimming pool",
    "industrial": "storage tank",
    "river": "bridge",
    "port": "pier",
    "sports": "pitch",
    "airport": "plane",
}


def read(member: str, seed: int = 0, images: int = 40, size: int = 64) -> Domain:
    return Synthetic(SyntheticOptions(seed=seed, images=images, size=size)).read(member)


def fingerprint(member: str) -> str:
    domain = read(member)
    return hashlib.sha256(b"".join(domain.images.read(index).tobytes() for index in range(20))).hexdigest()[:16]


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("member", COUNTRIES)
def test_pixels_are_those_of_this_generator_version(member: str) -> None:
    drawn = fingerprint(member)
    assert drawn == GOLDEN.get((GENERATOR_VERSION, member)), (
        f"{member} is drawn differently ({drawn}): raise render.GENERATOR_VERSION, then note the new hashes"
    )


def test_nothing_depends_on_the_hash_seed_of_the_process() -> None:
    code = (
        "import hashlib\n"
        "from urbancross_datasets.synthetic.dataset import Synthetic\n"
        "from urbancross_datasets.synthetic.options import SyntheticOptions\n"
        "domain = Synthetic(SyntheticOptions(seed=3, images=40)).read('costara')\n"
        "splits = {name: members.tolist() for name, members in domain.splits.items()}\n"
        "facts = [domain.captions, splits, domain.attributes, domain.images.digest(5)]\n"
        "print(hashlib.sha256(repr(facts).encode() + domain.images.read(5).tobytes()).hexdigest())\n"
    )
    assert python(code, PYTHONHASHSEED="1") == python(code, PYTHONHASHSEED="2")


def test_importing_and_reading_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from urbancross_datasets.synthetic.dataset import Synthetic\n"
        "from urbancross_datasets.synthetic.options import SyntheticOptions\n"
        "Synthetic(SyntheticOptions(images=40)).read('nordia').images.read(0)\n"
        "print('torch' in sys.modules)\n"
    )
    assert python(code) == "False"


@pytest.mark.parametrize("member", [None, "nordai"])
def test_an_unknown_member_is_a_usage_error_that_helps(member: str | None) -> None:
    with pytest.raises(UsageError, match="nordia"):
        Synthetic(SyntheticOptions()).read(member)


@pytest.mark.parametrize("options", [{"images": 39}, {"size": 16}, {"seed": -1}, {"tiles": 40}])
def test_options_out_of_bounds_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        SyntheticOptions.model_validate(options)


def test_a_domain_keeps_its_shapes_and_every_class_trains() -> None:
    check_domain("nordia", 0, 320)


@settings(max_examples=10, deadline=None)
@given(member=countries, seed=seeds, images=st.integers(40, 160))
def test_any_domain_keeps_its_shapes_and_every_class_trains(member: str, seed: int, images: int) -> None:
    check_domain(member, seed, images)


def check_domain(member: str, seed: int, images: int) -> None:
    domain = read(member, seed, images)
    assert domain.name == member
    assert len(set(domain.image_names)) == sum(map(len, domain.splits.values())) == images
    assert domain.image_of_caption.dtype == np.int64
    assert domain.image_of_caption.tolist() == [index for index in range(images) for _ in range(5)]
    assert len(domain.captions) == 5 * images
    assert domain.caption_attributes["kind"] == (["refined"] + ["plain"] * 4) * images
    assert not domain.captions_generated
    assert {len(values) for values in domain.attributes.values()} == {images}

    shares = {name: len(members) for name, members in domain.splits.items()}
    assert set(shares) == set(SPLITS)
    assert abs(shares["train"] - images * 5 / 8) < 2
    assert abs(shares["test"] - images * 2 / 8) < 2
    classes = domain.attributes["scene_class"]
    trained = {classes[index] for index in domain.splits["train"]}
    assert trained == set(CLASSES)

    country = COUNTRIES[member]
    places = list(zip(domain.attributes["latitude"], domain.attributes["longitude"], strict=True))
    assert len(set(places)) == images
    south, west = country.south_west
    for latitude, longitude in places:
        assert south < latitude < south + country.span
        assert west < longitude < west + country.span


@settings(max_examples=60, deadline=None)
@given(member=countries, seed=seeds, index=st.integers(0, 39))
def test_captions_say_what_the_scene_shows(member: str, seed: int, index: int) -> None:
    scene = draw_scene(COUNTRIES[member], seed, index)
    refined, *plain = read(member, seed).captions[5 * index : 5 * index + 5]
    kind = CLASSES[scene.scene_class]

    def named(words: tuple[str, ...]) -> bool:
        return any(word.lower() in refined.lower() for word in words)

    assert named(kind.place)
    assert named(tuple(f"{scene.tone} {toned}" for toned in kind.toned))
    assert named(BORDERS[scene.border])
    assert named(SIDES[scene.side])
    assert named(HEADINGS[scene.heading])
    assert len(set(plain)) == 4
    assert max(map(len, plain)) < len(refined)

    nouns = "|".join(re.escape(noun) for pair in kind.counted for noun in pair)
    numbers = "|".join({word for words in NUMBERS.values() for word in words})
    said = [
        re.findall(rf"\b({numbers}) (?:{nouns})\b", caption, flags=re.IGNORECASE) for caption in (refined, *plain)
    ]
    assert len(said[0]) == 1
    assert {word.lower() for words in said for word in words} <= set(NUMBERS[scene.count])


def test_some_plain_captions_coincide_between_images_and_most_do_not() -> None:
    domain = read("meridia", images=320)
    repeated = [caption for caption, times in Counter(domain.captions).items() if times > 1]
    assert 20 < len(repeated) < 200
    assert not any("Tags:" in caption for caption in repeated)


@settings(max_examples=40, deadline=None)
@given(member=countries, seed=seeds, index=st.integers(0, 39))
def test_segments_show_as_many_things_as_the_caption_counts(member: str, seed: int, index: int) -> None:
    country = COUNTRIES[member]
    scene = draw_scene(country, seed, index)
    drawn = segments(scene, country, 128)
    assert drawn.shape == (128, 128)
    assert drawn.dtype == np.uint8
    assert drawn.max() < len(SEGMENT_NAMES)
    if scene.scene_class in COUNTED_SEGMENTS:
        code = SEGMENT_NAMES.index(COUNTED_SEGMENTS[scene.scene_class])
        _, count = ndimage.label(drawn == code, structure=np.ones((3, 3)))
        assert count == scene.count


@settings(max_examples=30, deadline=None)
@given(member=countries, seed=seeds, index=st.integers(0, 39), size=st.sampled_from([32, 64, 96]))
def test_every_tile_can_be_drawn(member: str, seed: int, index: int, size: int) -> None:
    country = COUNTRIES[member]
    scene = draw_scene(country, seed, index)
    tile = render(scene, country, size)
    assert tile.shape == (size, size, 3)
    assert tile.dtype == np.uint8
    assert tile.std() > 4
    assert list(lay_out(scene, country)) == list(lay_out(scene, country))


def test_tiles_stay_when_more_are_drawn_and_change_with_the_seed() -> None:
    few, many, other = read("costara"), read("costara", images=80), read("costara", seed=1)
    assert few.captions == many.captions[: len(few.captions)]
    assert few.images.digest(7) == many.images.digest(7) != other.images.digest(7)
    assert np.array_equal(few.images.read(7), many.images.read(7))
    assert not np.array_equal(few.images.read(7), other.images.read(7))


def test_digests_tell_tiles_apart() -> None:
    domains = [read(member, size=size) for member in COUNTRIES for size in (32, 64)]
    assert len({domain.images.digest(index) for domain in domains for index in range(40)}) == 240


def test_the_segments_of_a_domain_belong_to_its_images() -> None:
    images = read("nordia").images
    assert isinstance(images, SyntheticImages)
    assert images.segments(3).shape == images.read(3).shape[:2]


def test_countries_differ_in_colour_resolution_and_words() -> None:
    domains = [read(member) for member in COUNTRIES]
    colours = [np.mean([domain.images.read(index) for index in range(40)], axis=(0, 1, 2)) for domain in domains]
    vocabularies = [set(" ".join(domain.captions).split()) for domain in domains]
    for one in range(len(domains)):
        assert len(set(domains[one].attributes["resolution"])) == 1
        for two in range(one):
            assert np.abs(colours[one] - colours[two]).max() > 20
            assert domains[one].attributes["resolution"][0] != domains[two].attributes["resolution"][0]
            shared = vocabularies[one] & vocabularies[two]
            assert len(shared) > 0.6 * len(vocabularies[one])
            assert vocabularies[one] != vocabularies[two]
