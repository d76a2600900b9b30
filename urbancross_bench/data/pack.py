"""Packing: each image of a split is decoded once, resized once, and kept as uint8 in a file that is mapped.

A pack is read by the page, never loaded: what a process holds of it does not grow with the number of images.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.data.domain import Split
from urbancross_bench.errors import DataError
from urbancross_bench.interfaces.dataset import Indices
from urbancross_bench.interfaces.encoder import ImageFormat

_BLOCK = 64  # images decoded before they are written
_PIXELS, _TEXTS = "images.safetensors", "pack.json"


class Pixels:
    """N square images of S pixels, uint8, in one or several packs, in an order of their own.

    Nothing here tells where the images lie or what they are called.
    """

    def __init__(self, parts: Sequence[NDArray[np.uint8]], rows: Indices | None = None) -> None:
        """`parts` are (Nᵢ, S, S, 3); `rows` are (N,) indices into all of them, one part after the other."""
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        self._rows = np.arange(self._ends[-1]) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, indices: Indices) -> NDArray[np.uint8]:
        """A copy of some images, (B, S, S, 3)."""
        rows = self._rows[indices]
        if len(self._parts) == 1:
            return self._parts[0][rows]
        owner = np.searchsorted(self._ends, rows, side="right")
        taken = np.empty((len(rows), *self._parts[0].shape[1:]), dtype=np.uint8)
        for number, part in enumerate(self._parts):
            mine = owner == number
            taken[mine] = part[rows[mine] - (self._ends[number] - len(part))]
        return taken

    def blocks(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """Copies of all images in order, up to `size` at a time."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))

    def chosen(self, indices: Indices) -> Pixels:
        """Some of the images, in this order."""
        return Pixels(self._parts, self._rows[indices])

    @classmethod
    def joined(cls, several: Sequence[Pixels]) -> Pixels:
        """The images of several, one after the other."""
        starts = np.cumsum([0, *(int(pixels._ends[-1]) for pixels in several)])
        rows = [pixels._rows + start for pixels, start in zip(several, starts, strict=False)]
        return cls([part for pixels in several for part in pixels._parts], np.concatenate(rows))


@dataclass(frozen=True, eq=False)
class PackedSplit:
    """One split, ready for a model: N `images`, M captions, `image_of_caption` (M,) int64."""

    images: Pixels
    image_names: tuple[str, ...]
    captions: tuple[str, ...]
    image_of_caption: Indices

    @classmethod
    def load(cls, folder: Path) -> PackedSplit:
        """Open what `pack` wrote."""
        text = json.loads((folder / _TEXTS).read_text(encoding="utf-8"))
        owners = np.array(text["image_of_caption"], dtype=np.int64)
        return cls(Pixels([_map(folder / _PIXELS)]), tuple(text["image_names"]), tuple(text["captions"]), owners)


def pack(split: Split, image_format: ImageFormat, folder: Path, report: Callable[[float], None]) -> None:
    """Decode and resize every image of a split, in threads, into files in an existing folder.

    Images come out as PIL decodes and resizes them, whatever the number of threads. Raises DataError naming the
    first image that cannot be read.
    """
    from PIL import Image

    size, images = image_format.size, split.domain.images
    resampling = Image.Resampling[image_format.interpolation.upper()]

    def packed(index: int) -> bytes:
        pixels = images.read(index)
        if pixels.shape[:2] != (size, size):
            pixels = np.asarray(Image.fromarray(pixels).resize((size, size), resampling))
        return pixels.tobytes()

    members = split.members.tolist()
    with (folder / _PIXELS).open("wb") as file, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        file.write(_header((len(members), size, size, 3)))
        for start in range(0, len(members), _BLOCK):
            file.writelines(threads.map(packed, members[start : start + _BLOCK]))
            report(min(1.0, (start + _BLOCK) / len(members)))
    text = {
        "image_names": split.image_names,
        "captions": split.captions,
        "image_of_caption": split.image_of_caption.tolist(),
    }
    (folder / _TEXTS).write_text(json.dumps(text, ensure_ascii=False), encoding="utf-8")


def _header(shape: tuple[int, ...]) -> bytes:
    """That of a safetensors file with one uint8 tensor `images`, whose rows follow."""
    entry = {"dtype": "U8", "shape": shape, "data_offsets": [0, int(np.prod(shape))]}
    text = json.dumps({"images": entry}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _map(file: Path) -> NDArray[np.uint8]:
    """The tensor of such a file, read-only. The safetensors package would read it into memory.

    The array holds the mapping alone, not the path: a view made of it leads to no other file.
    """
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(mapped[:8], "little")
    entry = json.loads(mapped[8:start])["images"]
    shape = tuple(entry["shape"])
    if len(mapped) - start != np.prod(shape):
        raise DataError(f"pack {file} is not whole; remove its folder and run again")
    return np.frombuffer(mapped, dtype=np.uint8, offset=start).reshape(shape)
