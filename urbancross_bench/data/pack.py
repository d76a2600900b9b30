"""Packing: each image of a split is decoded once, resized once, and kept as uint8 in a file that is mapped.

A pack is read by the page, never loaded: what a process holds of it does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.data.domain import Split
from urbancross_bench.data.packed import IMAGES, SEGMENTS, header, write_facts
from urbancross_bench.interfaces.dataset import Segments
from urbancross_bench.interfaces.encoder import ImageFormat
from urbancross_bench.processes import cores

_BLOCK = 64  # images decoded before they are written
_WHITE = 250  # what a segment's painted background keeps to at least, after JPEG


def pack(split: Split, image_format: ImageFormat, folder: Path, report: Callable[[float], None]) -> None:
    """Decode and resize every image of a split, in threads, into files in an existing folder.

    Images come out as PIL decodes and resizes them, whatever the number of threads. Raises DataError naming the
    first image that cannot be read.
    """
    images = split.domain.images
    members = split.members.tolist()
    _write(
        folder / IMAGES,
        len(members),
        image_format,
        ([member] for member in members),
        lambda some: [resized(images.read(index), image_format).tobytes() for index in some],
        report,
    )
    write_facts(folder, split_facts(split))


def split_facts(split: Split) -> dict[str, object]:
    """What is kept of a split beside its rows."""
    return {
        "image_names": split.image_names,
        "captions": split.captions,
        "image_of_caption": split.image_of_caption.tolist(),
    }


def pack_segments(
    split: Split, image_format: ImageFormat, most: int, folder: Path, report: Callable[[float], None]
) -> None:
    """Pack the segments of every image of a split: of more than `most`, those that show the largest area.

    They are kept by area, equal ones by content, so that neither the order of files nor a segmenter's decides
    anything. Raises DataError naming the first segment that cannot be read.
    """
    segments = split.domain.segments
    assert segments is not None, "the plan packs segments only where there are any"
    groups = split.segments
    _write(
        folder / SEGMENTS,
        sum(min(most, len(group)) for group in groups),
        image_format,
        groups,
        lambda group: [resized(one, image_format).tobytes() for one in _largest(segments, group, most)],
        report,
    )
    write_facts(folder, {"counts": [min(most, len(group)) for group in groups], "most": most})


def _largest(segments: Segments, group: Sequence[int], most: int) -> list[NDArray[np.uint8]]:
    """The segments of one image that show most."""
    source, areas = segments.images, segments.areas
    if areas is not None:
        order = sorted(group, key=lambda index: (-int(areas[index]), source.digest(index)))
        return [source.read(index) for index in order[:most]]
    # Of files that do not say it, what is not painted white.
    read = {index: source.read(index) for index in group}
    shown = {index: int((pixels < _WHITE).any(axis=2).sum()) for index, pixels in read.items()}
    order = sorted(group, key=lambda index: (-shown[index], source.digest(index)))
    return [read[index] for index in order[:most]]


def resized(pixels: NDArray[np.uint8], image_format: ImageFormat) -> NDArray[np.uint8]:
    """(H, W, 3) pixels as an encoder wants them, (S, S, 3)."""
    from PIL import Image

    size, resampling = image_format.size, Image.Resampling[image_format.interpolation.upper()]
    if pixels.shape[:2] != (size, size):
        pixels = np.asarray(Image.fromarray(pixels).resize((size, size), resampling))
    return pixels


def _write(
    file: Path,
    count: int,
    image_format: ImageFormat,
    groups: Iterable[Sequence[int]],
    packed: Callable[[Sequence[int]], list[bytes]],
    report: Callable[[float], None],
) -> None:
    """Write `count` square images, group by group, each group by a thread."""
    size, waiting = image_format.size, list(groups)
    with file.open("wb") as opened, ThreadPoolExecutor(min(8, cores())) as threads:
        opened.write(header(file, "U8", (count, size, size, 3)))
        for start in range(0, len(waiting), _BLOCK):
            for part in threads.map(packed, waiting[start : start + _BLOCK]):
                opened.writelines(part)
            report(min(1.0, (start + _BLOCK) / len(waiting)))
