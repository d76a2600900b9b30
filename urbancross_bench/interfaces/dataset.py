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


class ImageSource(ABC):
    """Where a domain's images come from. Images are addressed by their index in the domain."""

    @abstractmethod
    def digest(self, index: int) -> str:
        """A string that changes whenever the pixels of image `index` may change (a content hash)."""

    @abstractmethod
    def read(self, index: int) -> NDArray[np.uint8]:
        """Image `index` as H×W×3 uint8 RGB. Raises `DataError` naming the file if it cannot be read."""


@dataclass(frozen=True, eq=False)
class Domain:
    """One domain: N images, M captions, each caption belonging to one image.

    Shapes: `image_names`, `splits` and every sequence in `attributes` have length N; `captions` and every
    sequence in `caption_attributes` have length M; `image_of_caption` is (M,) int64 with values in [0, N).
    Well-known attributes: `latitude`, `longitude` (degrees), `resolution` (metres per pixel), `scene_class`,
    `tags`. `captions_generated` says that a model wrote the captions from the images.
    """

    name: str
    image_names: Sequence[str]
    splits: Sequence[str]
    captions: Sequence[str]
    image_of_caption: NDArray[np.int64]
    images: ImageSource
    attributes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    caption_attributes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    captions_generated: bool = False


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
