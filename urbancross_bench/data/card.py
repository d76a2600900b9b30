"""What a domain is, in plain JSON values: the facts that `data show` prints.

What cannot be known is null. Pixels are needed for fingerprints and for some resolutions only; where images are
missing, the rest of the card stands.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from urbancross_bench.data.domain import split_of
from urbancross_bench.data.geo import on_globe, span
from urbancross_bench.data.images import said_missing
from urbancross_bench.errors import DataError
from urbancross_bench.evaluation.distances import words
from urbancross_bench.interfaces.dataset import SPLITS, Domain

CARD = "card.json"  # beside what ranking knows of a test split
_MOST = 5  # of the classes and tags that are named
_SAMPLE = 16  # images opened to learn their pixels

Place = tuple[NDArray[np.float64], NDArray[np.float64]]


def card(domain: Domain, *, pixels: bool = True) -> dict[str, Any]:
    """The facts of a domain; without `pixels` no image is opened, and what only images could tell is null."""
    captions = np.bincount(domain.image_of_caption, minlength=len(domain.image_names))
    said = [words(caption) for caption in domain.captions]
    splits = [name for name in SPLITS if name in domain.splits]
    return {
        "name": domain.name,
        "images": len(domain.image_names),
        "pixels": domain.images.has_pixels,
        "captions": len(domain.captions),
        "splits": {name: _split(domain, name, pixels) for name in splits},
        "in_no_split": in_no_split(domain),
        "test_images_in_train": _repeated(domain) if pixels else None,
        "captions_per_image": _spread(captions),
        "distinct_captions": len(set(domain.captions)),
        "words_per_caption": _spread([len(caption) for caption in said]),
        "vocabulary": len({word for caption in said for word in caption}),
        "classes": _most(_known(domain, "scene_class").values()),
        "resolution": _resolution(domain, pixels),
        "years": dict(sorted(_counts(_known(domain, "year").values()).items())) or None,
        "countries": _counts(_known(domain, "country").values()) or None,
        "place": _place(domain),
        "tags": _most(tag for value in _known(domain, "tags").values() for tag in _tags(value)),
        "segments": _segments(domain),
        "captions_generated": domain.captions_generated,
        "partition": domain.partition or None,
        "overlapping": domain.overlapping,
        "mark": domain.mark or None,
        "licence": domain.licence or None,
        "shareable": domain.shareable,
        "repairs": len(domain.repairs),
    }


def in_no_split(domain: Domain) -> int:
    """How many images stand in no split."""
    return len(domain.image_names) - len({i for members in domain.splits.values() for i in members.tolist()})


def places(domain: Domain) -> Place:
    """Latitudes and longitudes, in degrees, of the images that have both on the globe: two (n,), n ≤ N."""
    latitude, longitude = (_known(domain, name) for name in ("latitude", "longitude"))
    both = [index for index in latitude if index in longitude]
    columns = [np.array([float(values[i]) for i in both], dtype=np.float64) for values in (latitude, longitude)]
    there = on_globe(*columns)
    return columns[0][there], columns[1][there]


def located(domain: Domain) -> list[tuple[str, float, float]]:
    """Split, latitude and longitude, in degrees, of each image of a split that has a place on the globe."""
    latitude, longitude = (_known(domain, name) for name in ("latitude", "longitude"))
    found = []
    for split in (name for name in SPLITS if name in domain.splits):
        for index in domain.splits[split].tolist():
            if index in latitude and index in longitude:
                place = float(latitude[index]), float(longitude[index])
                if on_globe(*(np.array(degrees) for degrees in place)):
                    found.append((split, *place))
    return found


def _split(domain: Domain, name: str, pixels: bool) -> dict[str, Any]:
    split = split_of(domain, name)
    fingerprint, reason = None, None if pixels else "images were not opened"
    try:
        if pixels:
            _expect_images(domain, [name])
            fingerprint = split.fingerprint
    except DataError as error:
        reason = str(error)
    return {
        "images": len(split.members),
        "captions": len(split.captions),
        "fingerprint": fingerprint,
        "no_fingerprint_because": reason,
    }


def _repeated(domain: Domain) -> int | None:
    """How many test images stand in train as well, by the digests of their contents."""
    try:
        _expect_images(domain, ["train", "test"])
        train, test = (
            [domain.images.digest(i) for i in domain.splits[name].tolist()] for name in ("train", "test")
        )
    except (DataError, KeyError):
        return None
    known = {*train}
    return sum(digest in known for digest in test)


def _expect_images(domain: Domain, splits: Sequence[str]) -> None:
    """Raise DataError unless all images of some splits are there."""
    missing = domain.images.missing()
    absent = {i: missing[i] for name in splits for i in domain.splits[name].tolist() if i in missing}
    if absent:
        raise DataError(said_missing(domain.images, absent, domain.image_names))


def _resolution(domain: Domain, pixels: bool) -> dict[str, Any] | None:
    """Metres per pixel: as the domain says, else from the extents and pixels of a few images."""
    said = [float(value) for value in _known(domain, "resolution").values()]
    if said:
        return {**_range(said), "images": len(said), "from": "the domain"}
    extents = _known(domain, "extent") if pixels else {}
    measured = []
    for index in [*extents][:: max(1, -(-len(extents) // _SAMPLE))]:
        try:
            measured.append(float(extents[index]) / max(domain.images.read(index).shape[:2]))
        except DataError:
            continue
    return {**_range(measured), "images": len(measured), "from": "extent over pixels"} if measured else None


def _place(domain: Domain) -> dict[str, Any] | None:
    latitude, longitude = places(domain)
    if not len(latitude):
        return None
    return {
        "latitude": [float(latitude.min()), float(latitude.max())],
        "longitude": list(span(longitude)),
        "images": len(latitude),
    }


def _tags(value: Any) -> list[str]:
    """Each tag of an image once: of a list, or of a text (`amenity of school; surrounded by road of service`)."""
    found = re.split(r"[;,]", value) if isinstance(value, str) else map(str, value)
    tags = (tag.strip().removeprefix("surrounded by ") for tag in found)
    return list(dict.fromkeys(tag for tag in tags if tag))


def _segments(domain: Domain) -> dict[str, Any] | None:
    if domain.segments is None:
        return None
    owners = domain.segments.image_of_segment
    return {
        "segments": len(owners),
        "per_image": _spread(np.bincount(owners, minlength=len(domain.image_names))),
        "caption_aware": domain.segments.caption_aware,
    }


def _known(domain: Domain, attribute: str) -> Mapping[int, Any]:
    """The images that have an attribute, with its value; a number that is none counts as none."""
    values = enumerate(domain.attributes.get(attribute, ()))
    return {i: v for i, v in values if v is not None and not (isinstance(v, float) and not math.isfinite(v))}


def _counts(values: Iterable[Any]) -> dict[str, int]:
    """How often each value stands, the most frequent first, equal counts by name."""
    return dict(sorted(Counter(map(str, values)).items(), key=lambda item: (-item[1], item[0])))


def _most(values: Iterable[Any]) -> dict[str, Any] | None:
    """How many different values there are, and the most frequent with their counts."""
    counts = _counts(values)
    return {"distinct": len(counts), "most": dict([*counts.items()][:_MOST])} if counts else None


def _spread(values: ArrayLike) -> dict[str, float] | None:
    array = np.asarray(values)
    return {"min": int(array.min()), "mean": float(array.mean()), "max": int(array.max())} if array.size else None


def _range(values: ArrayLike) -> dict[str, float]:
    array = np.asarray(values, dtype=np.float64)
    return {"min": float(array.min()), "median": float(np.median(array)), "max": float(array.max())}
