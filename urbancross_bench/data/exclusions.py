"""Exclusion lists: images and captions of a domain that are kept out of training, by name.

A csv `image,caption`, as `data check` writes it where one domain's training data stand in another's test split. A
row without a caption keeps the image out; a row with one keeps this caption of the image out. Test items stay what
they are: they are the same for every scenario.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from urbancross_bench.data.paths import plain_name
from urbancross_bench.data.text import read_csv
from urbancross_bench.errors import DataError, did_you_mean
from urbancross_bench.identity import file_digest
from urbancross_bench.interfaces.dataset import TRAINING, Domain


@dataclass(frozen=True)
class Excluded:
    """What a list kept out of a domain's training and validation: how many, and the list's name and SHA-256."""

    list: str
    sha256: str
    images: int
    captions: int

    def __str__(self) -> str:
        return f"without {self.images} images and {self.captions} captions that {self.list} excludes"


def without(domain: Domain, file: Path) -> tuple[Domain, Excluded]:
    """The domain with a list's images and captions out of its training and validation splits.

    An image that loses its last caption is out as well. Raises DataError naming file and line for an image that is
    not in the domain, for one that is a test image alone, for a caption of a test image, and for a caption that
    the image does not have.
    """
    if not file.exists():
        raise DataError(f"exclusion list {file} does not exist")
    position = {plain_name(name): index for index, name in enumerate(domain.image_names)}
    tested = {*domain.splits.get("test", np.empty(0)).tolist()}
    trained = {index for name in TRAINING for index in domain.splits.get(name, np.empty(0)).tolist()}
    captions_of: dict[int, list[int]] = {}
    for number, owner in enumerate(domain.image_of_caption.tolist()):
        captions_of.setdefault(owner, []).append(number)
    images, captions = set[int](), set[int]()
    for line, row in read_csv(file, ["image", "caption"]):
        where, name, caption = f"{file}:{line}", plain_name(row["image"].strip()), row["caption"].strip()
        index = position.get(name)
        if index is None:
            raise DataError(f"{where}: no image is called {name!r}.{did_you_mean(name, position)}")
        if index in tested and (caption or index not in trained):
            raise DataError(f"{where}: {name!r} is a test image; test items stay what they are")
        if not caption:
            images.add(index)
            continue
        found = [number for number in captions_of.get(index, []) if domain.captions[number] == caption]
        if not found:
            raise DataError(f"{where}: image {name!r} has no caption {caption!r}")
        captions.update(found)
    images |= {index for index, numbers in captions_of.items() if captions.issuperset(numbers)}
    captions -= {number for index in images for number in captions_of[index]}
    excluded = Excluded(file.name, file_digest(file), len(images & trained), len(captions))
    kept = np.array([number for number in range(len(domain.captions)) if number not in captions], dtype=np.int64)
    splits = {
        name: members[~np.isin(members, list(images))] if name in TRAINING else members
        for name, members in domain.splits.items()
    }
    return (
        replace(
            domain,
            splits=splits,
            captions=[domain.captions[number] for number in kept.tolist()],
            image_of_caption=domain.image_of_caption[kept],
            caption_attributes={
                name: [values[number] for number in kept.tolist()]
                for name, values in domain.caption_attributes.items()
            },
        ),
        excluded,
    )
