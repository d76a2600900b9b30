"""What packing leaves, as models and methods take it: rows of mapped files, in an order of their own.

Nothing here tells where the files lie or what the images are called, so a view made of it leads no further.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

from urbancross_bench.errors import DataError
from urbancross_bench.interfaces.dataset import Indices

IMAGES, SEGMENTS, TEXTS = "images.safetensors", "segments.safetensors", "texts.safetensors"
FACTS = "pack.json"
_BLOCK = 256  # rows copied at once
_DTYPES: dict[str, np.dtype[Any]] = {"U8": np.dtype("u1"), "F32": np.dtype("<f4")}


def sorted_places(keys: Sequence[Any]) -> Indices:
    """(N,) where each of N keys stands that come one after the other when they are sorted."""
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


class Rows:
    """N rows of equal shape from one or several arrays, in an order of their own."""

    def __init__(self, parts: Sequence[NDArray[Any]], order: Indices | None = None) -> None:
        """`parts` are (Nᵢ, …) of one dtype; `order` (N,) are indices into all of them, one after the other."""
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        self._order = np.arange(self._ends[-1]) if order is None else order

    def __len__(self) -> int:
        return len(self._order)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of one row."""
        return self._parts[0].shape[1:]

    @property
    def nbytes(self) -> int:
        """What copies of all rows take, in bytes."""
        return len(self) * int(np.prod(self.shape)) * self._parts[0].itemsize

    def take(self, indices: Indices) -> NDArray[Any]:
        """A copy of some rows, (B, …)."""
        rows = self._order[indices]
        if len(self._parts) == 1:
            copy: NDArray[Any] = self._parts[0][rows]
            return copy
        owner = np.searchsorted(self._ends, rows, side="right")
        taken = np.empty((len(rows), *self.shape), dtype=self._parts[0].dtype)
        for number, part in enumerate(self._parts):
            mine = owner == number
            taken[mine] = part[rows[mine] - (self._ends[number] - len(part))]
        return taken

    def chosen(self, indices: Indices) -> Rows:
        """Some of the rows, in this order."""
        return Rows(self._parts, self._order[indices])

    def digests(self) -> list[bytes]:
        """A hash of each row."""
        places = (np.arange(start, min(start + _BLOCK, len(self))) for start in range(0, len(self), _BLOCK))
        return [xxh3_128_digest(np.ascontiguousarray(row).data) for some in places for row in self.take(some)]

    def without_others(self) -> Rows:
        """The same, features in an array of their own, so that they lead to no others; pixels stay mapped."""
        return self if self._parts[0].dtype == np.uint8 else Rows([self.take(np.arange(len(self)))])

    @classmethod
    def joined(cls, several: Sequence[Rows]) -> Rows:
        """The rows of several, one after the other."""
        starts = np.cumsum([0, *(int(rows._ends[-1]) for rows in several)])
        order = [rows._order + start for rows, start in zip(several, starts, strict=False)]
        return cls([part for rows in several for part in rows._parts], np.concatenate(order))


class Taken(NamedTuple):
    """B images as they were packed.

    `rows` are (B, S, S, 3) uint8 pixels, or (B, D) float32 features of an image tower that never changes.
    `segments` are (B, K, …), pixels or features likewise, of which `present`, (B, K) bool, are there; else None.
    """

    rows: NDArray[Any]
    segments: NDArray[Any] | None = None
    present: NDArray[np.bool_] | None = None


class PackedSegments:
    """Up to `most` segments of each of N images: runs in `values`, (T, …)."""

    def __init__(self, values: Rows, starts: Indices, counts: Indices, most: int) -> None:
        self._values = values
        self._starts = starts
        self._counts = counts
        self._most = most

    @property
    def values(self) -> Rows:
        """All segments, (T, …), whosever they are."""
        return self._values

    def __len__(self) -> int:
        return len(self._counts)

    def present(self, indices: Indices) -> NDArray[np.bool_]:
        """(B, K) which segments of some images are there."""
        there: NDArray[np.bool_] = np.arange(self._most) < self._counts[indices, None]
        return there

    def take(self, indices: Indices) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """(B, K, …) segments of some images, zeros where there are fewer, and `present` of them."""
        present, place = self.present(indices), np.arange(self._most)
        taken = np.zeros((*present.shape, *self._values.shape), dtype=self._values.take(place[:0]).dtype)
        taken[present] = self._values.take((self._starts[indices, None] + place)[present])
        return taken, present

    def of_images(self) -> Rows:
        """The segments of these images alone, (T', …): the first image's, the second's and so on."""
        present = self.present(np.arange(len(self)))
        return self._values.chosen((self._starts[:, None] + np.arange(self._most))[present])

    def without_others(self) -> PackedSegments:
        """The same, with the segments of these images alone among its `values`."""
        counts = np.minimum(self._counts, self._most)
        return PackedSegments(self.of_images().without_others(), np.cumsum(counts) - counts, counts, self._most)

    def chosen(self, indices: Indices) -> PackedSegments:
        """Those of some of the images, in this order."""
        return PackedSegments(self._values, self._starts[indices], self._counts[indices], self._most)

    @classmethod
    def joined(cls, several: Sequence[PackedSegments]) -> PackedSegments:
        """Those of the images of several, one after the other."""
        offsets = np.cumsum([0, *(len(one._values) for one in several)])
        starts = [one._starts + offset for one, offset in zip(several, offsets, strict=False)]
        values, counts = Rows.joined([one._values for one in several]), [one._counts for one in several]
        return cls(values, np.concatenate(starts), np.concatenate(counts), max(one._most for one in several))

    @classmethod
    def load(cls, folder: Path) -> PackedSegments:
        """Open what `pack_segments`, or a stage that embedded them, wrote."""
        facts = _facts(folder)
        counts = np.array(facts["counts"], dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        return cls(Rows([mapped(folder / SEGMENTS)]), starts, counts, facts["most"])


class PackedImages:
    """N images as an encoder takes them, with their segments where it takes any."""

    def __init__(self, rows: Rows, segments: PackedSegments | None = None) -> None:
        self._rows = rows
        self._segments = segments

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> Rows:
        """The images themselves, without their segments."""
        return self._rows

    @property
    def segments(self) -> PackedSegments | None:
        """Their segments; None where the encoder takes none."""
        return self._segments

    def take(self, indices: Indices) -> Taken:
        """A copy of some images."""
        if self._segments is None:
            return Taken(self._rows.take(indices))
        return Taken(self._rows.take(indices), *self._segments.take(indices))

    def blocks(self, size: int) -> Iterator[Taken]:
        """Copies of all images in order, up to `size` at a time."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))

    def without_others(self) -> PackedImages:
        """The same, see `Rows.without_others`."""
        segments = None if self._segments is None else self._segments.without_others()
        return PackedImages(self._rows.without_others(), segments)

    def chosen(self, indices: Indices) -> PackedImages:
        """Some of the images, in this order."""
        segments = None if self._segments is None else self._segments.chosen(indices)
        return PackedImages(self._rows.chosen(indices), segments)

    @classmethod
    def joined(cls, several: Sequence[PackedImages]) -> PackedImages:
        """The images of several, one after the other; all of them with segments, or none."""
        segments = [images._segments for images in several if images._segments is not None]
        rows = Rows.joined([images._rows for images in several])
        return cls(rows, PackedSegments.joined(segments) if segments else None)


@dataclass(frozen=True, eq=False)
class PackedSplit:
    """One split, ready for a model: N `images`, M captions, `image_of_caption` (M,) int64.

    `text_features` are (M, D) float32, of a text tower that never changes; None where captions are encoded anew.
    """

    images: PackedImages
    image_names: tuple[str, ...]
    captions: tuple[str, ...]
    image_of_caption: Indices
    text_features: Rows | None = None

    @classmethod
    def load(cls, folder: Path, towers: Path | None = None, segments: Path | None = None) -> PackedSplit:
        """Open what `pack`, or an encoder without towers, left in a folder.

        `towers`: a folder with features of images, texts or both, in their place. `segments`: one with segments.
        """
        facts = _facts(folder)
        images, texts = folder / IMAGES, folder / TEXTS
        if towers is not None:
            images = towers / IMAGES if (towers / IMAGES).exists() else images
            texts = towers / TEXTS
        return cls(
            PackedImages(Rows([mapped(images)]), PackedSegments.load(segments) if segments else None),
            tuple(facts["image_names"]),
            tuple(facts["captions"]),
            np.array(facts["image_of_caption"], dtype=np.int64),
            Rows([mapped(texts)]) if texts.exists() else None,
        )

    def part(self, members: Indices) -> PackedSplit:
        """Some of the images, in this order, with their captions in the split's order."""
        position = np.full(len(self.images), -1, dtype=np.int64)
        position[members] = np.arange(len(members))
        kept = self.captions_of(members)
        return PackedSplit(
            self.images.chosen(members),
            tuple(self.image_names[index] for index in members.tolist()),
            tuple(self.captions[index] for index in kept.tolist()),
            position[self.image_of_caption[kept]],
            None if self.text_features is None else self.text_features.chosen(kept),
        )

    def without_others(self) -> PackedSplit:
        """The same, see `Rows.without_others`."""
        features = None if self.text_features is None else self.text_features.without_others()
        return replace(self, images=self.images.without_others(), text_features=features)

    def captions_of(self, members: Indices) -> Indices:
        """The captions of some images, in the split's order."""
        return np.flatnonzero(np.isin(self.image_of_caption, members)).astype(np.int64)


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """The text beside packed rows."""
    (folder / FACTS).write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")


def header(file: Path, dtype: str, shape: tuple[int, ...]) -> bytes:
    """That of a safetensors file with one tensor, called as the file, whose values follow; `U8` or `F32`."""
    size = int(np.prod(shape)) * _DTYPES[dtype].itemsize
    text = json.dumps({file.stem: {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def mapped(file: Path) -> NDArray[Any]:
    """The tensor of such a file, read-only. The safetensors package would read it into memory.

    The array holds the mapping alone, not the path: a view made of it leads to no other file.
    """
    with file.open("rb") as opened:
        content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(content[:8], "little")
    entry = json.loads(content[8:start])[file.stem]
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    if len(content) - start != np.prod(shape) * dtype.itemsize:
        raise DataError(f"pack {file} is not whole; remove its folder and run again")
    values: NDArray[Any] = np.frombuffer(content, dtype=dtype, offset=start).reshape(shape)
    return values


def _facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    return facts
