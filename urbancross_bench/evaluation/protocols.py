"""Protocols: which images and texts are queries and gallery, and which pairs of them are right.

A protocol says nothing of ties (see `ties`); a preset names a pair of both that published code uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Items:
    """What is ranked: `image` (I,) and `text` (T,) name the rows given, item by item.

    `right` are two (P,) arrays, an image item and a text item each: the pairs that count as right, in order of the
    text items. Every item stands in at least one. `picture` (N,): equal for image rows that are one image here.
    """

    image: Ints
    text: Ints
    right: tuple[Ints, Ints]
    picture: Ints

    def __post_init__(self) -> None:
        for array in (self.image, self.text, *self.right, self.picture):
            array.flags.writeable = False  # all metrics are shown them


def classic(image_of_text: Ints, images: int, image_id: Ints, text_id: Ints | None) -> Items:
    """An image's own texts are right, the best of them counts; a text's own image is right.

    Every copy of a text or image is an item: an identical caption of another image is wrong.
    """
    texts = np.arange(len(image_of_text))
    return Items(np.arange(images), texts, (image_of_text, texts), np.arange(images))


def deduplicated(image_of_text: Ints, images: int, image_id: Ints, text_id: Ints | None) -> Items:
    """Every string and every image is one item; a string belongs to each image that has it (SkyScript).

    Of equal strings, or equal images, the row that comes first gives the vector.
    """
    if text_id is None:
        raise ValueError("protocol 'deduplicated' needs text_id, which says which strings are equal")
    _, first_image, image = np.unique(image_id, return_index=True, return_inverse=True)
    _, first_text, text = np.unique(text_id, return_index=True, return_inverse=True)
    pairs = np.unique(text * len(first_image) + image[image_of_text])
    right_text, right_image = np.divmod(pairs, len(first_image))
    return Items(first_image, first_text, (right_image, right_text), image)


def row_diagonal(image_of_text: Ints, images: int, image_id: Ints, text_id: Ints | None) -> Items:
    """Every text is a row with its image; only text and image of one row belong together (UrbanCross's code).

    An image with five texts stands five times, and the other four texts are wrong for each of its rows.
    """
    texts = np.arange(len(image_of_text))
    return Items(image_of_text, texts, (texts, texts), np.arange(images))


PROTOCOLS: Mapping[str, Callable[[Ints, int, Ints, Ints | None], Items]] = {
    "classic": classic,
    "deduplicated": deduplicated,
    "row_diagonal": row_diagonal,
}

# Code that sorts with argsort or topk leaves the order of ties to chance: by expectation is what that comes to.
PRESETS: Mapping[str, tuple[str, str]] = {
    "amfmn": ("classic", "expected"),  # and GaLR, SWAN, PIR, HarMA
    "clip_benchmark": ("classic", "expected"),  # and RemoteCLIP, GeoRSCLIP
    "skyscript": ("deduplicated", "expected"),
    "urbancross_released": ("row_diagonal", "optimistic"),
}


def protocol_and_ties(name: str, ties: str) -> tuple[str, str]:
    """The protocol and tie rule that a name stands for: a preset brings both, a protocol takes `ties`."""
    return PRESETS.get(name, (name, ties))
