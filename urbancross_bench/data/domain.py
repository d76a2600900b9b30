"""Checking a domain and cutting it into splits named by their content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.data.images import said_missing
from urbancross_bench.data.segments import making_identity
from urbancross_bench.errors import DataError
from urbancross_bench.identity import canonical_json, digest, key_of
from urbancross_bench.interfaces.dataset import SPLITS, Domain, ImageSource


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a domain: N images with their captions, still undecoded.

    `members` (N,) are image indices in the domain; `image_of_caption` (M,) points into the split, [0, N).
    """

    domain: Domain
    name: str
    members: NDArray[np.int64]
    captions: tuple[str, ...]
    image_of_caption: NDArray[np.int64]

    @property
    def image_names(self) -> list[str]:
        """(N,) names of the images."""
        return [self.domain.image_names[index] for index in self.members.tolist()]

    @property
    def image_class(self) -> list[str] | None:
        """(N,) the `scene_class` of each image; None unless every image of the split has one.

        Not part of the fingerprint: nothing that trains sees classes.
        """
        classes = self.domain.attributes.get("scene_class")
        if classes is None:
            return None
        known = [classes[index] for index in self.members.tolist() if classes[index] is not None]
        return known if len(known) == len(self.members) else None

    @property
    def image_class_key(self) -> str | None:
        """A hash of the classes; None where there are none."""
        return None if self.image_class is None else key_of({"classes": self.image_class})

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the content: pixels (by digest), names, captions, and which belongs to which."""
        text = canonical_json([self.image_names, self.captions, self.image_of_caption.tolist()])
        images = self.domain.images
        digests = [images.digest(int(index)) for index in self.members]
        for found in digests:
            if not isinstance(found, str):
                raise DataError(f"{type(images).__name__}.digest must give text, a hash, not {found!r}")
        return digest([text.encode(), *map(str.encode, digests)])

    @cached_property
    def segments(self) -> list[list[int]]:
        """(N,) the segments of each image, by their numbers in the domain; none where it has none."""
        segments = self.domain.segments
        of_image: dict[int, list[int]] = {}
        for number, owner in enumerate([] if segments is None else segments.image_of_segment.tolist()):
            of_image.setdefault(owner, []).append(number)
        return [of_image.get(index, []) for index in self.members.tolist()]

    @cached_property
    def segments_fingerprint(self) -> str:
        """A hash of the segments of each image, as sets, and of how they were made."""
        segments = self.domain.segments
        if segments is None:
            return ""
        sets = [sorted(segments.images.digest(number) for number in group) for group in self.segments]
        return digest([canonical_json([sets, making_identity(segments.making), segments.caption_aware]).encode()])


def misshapen(domain: object) -> str:
    """What is not of the type that `Domain` says, in words; empty if all is. A plugin may give anything."""
    if not isinstance(domain, Domain):
        return f"it is a {type(domain).__name__}, not a Domain"
    if not isinstance(domain.images, ImageSource):
        return f"images is a {type(domain.images).__name__}, not an ImageSource"
    if not isinstance(domain.splits, Mapping):
        return "splits is no mapping of split names to image indices; `index_splits` makes one of labels"
    if not isinstance(domain.attributes, Mapping):
        return "attributes is no mapping of names to a value per image"
    indices = {"image_of_caption": domain.image_of_caption}
    for name, values in (indices | {f"split {n!r}": members for n, members in domain.splits.items()}).items():
        if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iu":
            return f"{name} is no one-dimensional array of integers"
    classes = [name for name in domain.attributes.get("scene_class", ()) if name is not None]
    texts_of = {"image_names": domain.image_names, "captions": domain.captions, "scene_class": classes}
    for name, texts in texts_of.items():
        if not all(isinstance(text, str) for text in texts):
            return f"{name} holds something that is no text"
    return ""


def check(domain: Domain) -> None:
    """Raise DataError unless the domain is whole: lengths agree, every image is there and has a caption, splits
    are filled and share no image (unless it says that they do).
    """
    images, captions = len(domain.image_names), len(domain.captions)
    _expect(
        domain.image_of_caption.shape == (captions,),
        f"{captions} captions but image_of_caption has shape {domain.image_of_caption.shape}",
    )
    for name, values in domain.attributes.items():
        _expect(len(values) == images, f"attribute {name!r} has {len(values)} values for {images} images")
    repeated = [name for name, count in Counter(domain.image_names).items() if count > 1]
    _expect(not repeated, f"{len(repeated)} image names stand twice, {repeated[:1]} the first")
    _check_splits(domain)
    inside = captions == 0 or (domain.image_of_caption.min() >= 0 and domain.image_of_caption.max() < images)
    _expect(bool(inside), f"a caption belongs to no image: image_of_caption leaves [0, {images})")
    bare = np.setdiff1d(np.arange(images), domain.image_of_caption)
    _expect(not len(bare), f"{len(bare)} images have no caption, {_first(domain, bare)} the first")
    blank = [index for index, caption in enumerate(domain.captions) if not caption.strip()]
    owners = domain.image_of_caption[blank]
    _expect(not blank, f"{len(blank)} captions are blank, one of {_first(domain, owners)} the first")
    if missing := domain.images.missing():
        said = said_missing(domain.images, missing, domain.image_names)
        raise DataError(f"{said}; `urbancross-bench data check` lists them")


def _check_splits(domain: Domain) -> None:
    images, owner = len(domain.image_names), np.full(len(domain.image_names), -1)
    unknown = sorted(set(domain.splits) - set(SPLITS))
    _expect(not unknown, f"unknown splits {unknown}; a split is one of {', '.join(SPLITS)}")
    for number, name in enumerate(SPLITS):
        members = domain.splits.get(name, np.empty(0, dtype=np.int64))
        remedy = "; the option `split=drawn`, where its reader has it, draws all three" if domain.given else ""
        _expect(len(members) > 0, f"no image is in split {name!r}{remedy}")
        _expect(
            bool(members.min() >= 0 and members.max() < images) and len(np.unique(members)) == len(members),
            f"split {name!r} names an image twice or leaves [0, {images})",
        )
        shared = members[owner[members] >= 0]
        _expect(
            domain.overlapping or not len(shared),
            f"{len(shared)} images stand in split {name!r} and in another, {_first(domain, shared)} the first",
        )
        owner[members] = number


def split_of(domain: Domain, name: str) -> Split:
    """The split called `name`, captions in the domain's order."""
    members = domain.splits[name]
    position = np.full(len(domain.image_names), -1, dtype=np.int64)
    position[members] = np.arange(len(members))
    local = position[domain.image_of_caption]
    chosen = np.flatnonzero(local >= 0)
    return Split(domain, name, members, tuple(domain.captions[i] for i in chosen.tolist()), local[chosen])


def _first(domain: Domain, indices: NDArray[np.int64]) -> str:
    return repr(domain.image_names[int(indices[0])]) if len(indices) else ""


def _expect(holds: bool, problem: str) -> None:
    if not holds:
        raise DataError(problem)
