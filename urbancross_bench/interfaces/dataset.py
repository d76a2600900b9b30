"""Datasets: named pools of satellite image-caption pairs with splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.interfaces.options import Options

SPLITS = ("train", "val", "test")
TRAINING = ("train", "val")  # of which a method may see something
Indices = NDArray[np.int64]


def index_splits(labels: Sequence[str]) -> dict[str, Indices]:
    """From one split name per image to `Domain.splits`."""
    return {name: np.flatnonzero(np.asarray(labels) == name).astype(np.int64) for name in sorted(set(labels))}


class ImageSource(ABC):
    """Where a domain's images come from. Images are addressed by their index in the domain.

    `has_pixels`: False for a domain that is made of stored features; then nothing ever calls `read`.
    """

    has_pixels: ClassVar[bool] = True

    @abstractmethod
    def digest(self, index: int) -> str:
        """A string that changes whenever the pixels of image `index` may change (a content hash)."""

    @abstractmethod
    def read(self, index: int) -> NDArray[np.uint8]:
        """Image `index` as H×W×3 uint8 RGB. Raises `DataError` naming the file if it cannot be read."""

    def missing(self) -> Mapping[int, str]:
        """The images that are known not to be there, with the reason; asked before anything is read."""
        return {}


@dataclass(frozen=True, eq=False)
class Segments:
    """Cut-outs of a domain's images, S in all, as a set per image: their order means nothing.

    `image_of_segment` is (S,) int64 into the domain's images; `images` addresses segments by index in [0, S).
    `caption_aware` says that they were chosen with the image's own caption, or that this cannot be ruled out.
    `making` says how they came to be, as JSON values: segmenter, weights, options, chooser, count. Of an archive
    that says nothing, it is empty. `areas` is (S,), the pixels that each shows, None where that is not known.
    """

    images: ImageSource
    image_of_segment: Indices
    caption_aware: bool = True
    making: Mapping[str, Any] = field(default_factory=dict)
    areas: Indices | None = None


@dataclass(frozen=True)
class Repair:
    """Something a reader left out or read differently than it stands, so that nothing is lost in silence.

    `where` names file and line; `remedy` says what was done; `image` is the name of the image it touches, if any.
    """

    where: str
    problem: str
    remedy: str
    image: str = ""


@dataclass(frozen=True, eq=False)
class Domain:
    """One domain: N images, M captions, each caption belonging to one image.

    Shapes: `image_names` and every sequence in `attributes` have length N; `captions` and every sequence in
    `caption_attributes` have length M; `image_of_caption` is (M,) int64 with values in [0, N). `splits` maps each
    of `SPLITS` to the indices of its images; an image may be in none.

    Well-known attributes: `latitude`, `longitude` (degrees), `resolution` (metres per pixel), `extent` (metres
    along the longer side, where the resolution is not known), `scene_class`, `tags`, `country`, `year`. A
    `scene_class` is a name, None where an image has none; a split has classes where each of its images has one.

    captions_generated: a model wrote the captions from the images.
    partition: where the splits come from, in words: a file's, or drawn with which seed.
    given: the splits are those of the dataset's files, not drawn by us.
    overlapping: the splits may share images, as those of some released scripts do.
    mark: said of every row that uses the splits, where they are not those that rows are usually compared on.
    shareable: the licence lets anybody show images and captions to others; pages show none unless it is said.
    known_counts: published sizes of the splits, `{"official": {"test": (images, captions)}}`, to check against.
    repairs: what the reader left out or read differently.
    """

    name: str
    image_names: Sequence[str]
    splits: Mapping[str, Indices]
    captions: Sequence[str]
    image_of_caption: Indices
    images: ImageSource
    attributes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    caption_attributes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    segments: Segments | None = None
    captions_generated: bool = False
    partition: str = ""
    given: bool = True
    overlapping: bool = False
    mark: str = ""
    licence: str = ""
    shareable: bool = False
    known_counts: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    repairs: Sequence[Repair] = ()


class Dataset(ABC):
    """A dataset plugin: reads one domain, or one of several members (`synthetic/nordia`)."""

    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options) -> None:
        self.options = options

    @abstractmethod
    def read(self, member: str | None) -> Domain:
        """The domain called `member` (None where the dataset has no members).

        Reads names, captions and splits only; pixels are read later, one by one, through `Domain.images`.
        Raises `DataError` naming the file and what is wrong with it.
        """
