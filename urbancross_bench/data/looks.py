"""What images look like: size, format, and a signature that outlives re-encoding and resizing.

A signature is 256 bits (is each pixel of a 17×16 grey thumbnail brighter than the one to its left?) and an 8×8 RGB
thumbnail. Two images look alike if at most `BITS` bits differ and the thumbnails by at most `DIFFERENCE` of 255 on
average: the first alone would pair beaches with beaches, the second alone one flat field with another.

What follows from a file's content is kept in the index under its digest: a check that was stopped goes on where it
was, and a second one reads what has changed.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.data.decode import DECODERS, FORMATS, decode
from urbancross_bench.data.images import FileImages
from urbancross_bench.data.index import open_index
from urbancross_bench.errors import DataError
from urbancross_bench.identity import canonical_json, library_versions
from urbancross_bench.interfaces.dataset import ImageSource, Indices
from urbancross_bench.processes import cores
from urbancross_bench.sources import own_version

BITS = 48  # of 256
DIFFERENCE = 3.0  # of 255
_WORDS, _COLOURS = 4, 8 * 8 * 3
_ROWS, _COLUMNS = 128, 1024  # of one block of comparisons: tens of megabytes even where all images are alike


@dataclass(frozen=True)
class Look:
    """What follows from the content of one image.

    height, width: pixels. format: PIL's name for it, empty if the source has no files. bits, thumbnail: the
    signature, in hex. brightest: of an image of 16 bits, the highest value once it is decoded. problem: why the
    content is no image; then nothing else is known.
    """

    height: int = 0
    width: int = 0
    format: str = ""
    bits: str = ""
    thumbnail: str = ""
    brightest: int | None = None
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Seen:
    """N images after each has been opened.

    missing, broken: index → what is wrong. digests, looks: N, empty and None where an image could not be read.
    decoded: (N,) bool. bits: (N, 4) uint64 and thumbnails: (N, 192) uint8, zero where not decoded. pixels: False
    where images are stored features; then none is decoded, and they can be compared by content alone.
    """

    missing: dict[int, str]
    broken: dict[int, str]
    digests: list[str]
    looks: list[Look | None]
    decoded: NDArray[np.bool_]
    bits: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]
    pixels: bool = True

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,) which images can be compared with others."""
        return self.decoded if self.pixels else np.array([bool(digest) for digest in self.digests], dtype=bool)


@dataclass(frozen=True)
class Match:
    """An image and its nearest twin: `identical` by content, or alike (differing bits, mean difference of 255)."""

    image: int
    twin: int
    identical: bool
    bits: int
    difference: float


def look_at(images: ImageSource, count: int, what: str) -> Seen:
    """Open and decode all `count` images of a source; `what` names it where progress is shown.

    An image that is missing or cannot be read raises nothing. Raises DataError if the source as a whole is gone.
    """
    missing, broken = dict(images.missing()), dict[int, str]()
    digests = _digests(images, [i for i in range(count) if i not in missing], broken)
    first: dict[str, int] = {}
    for index, digest in digests.items() if images.has_pixels else ():
        first.setdefault(digest, index)
    representatives, unread = list(first.values()), dict[str, str]()

    def compute(position: int) -> str:
        index = representatives[position]
        try:
            return canonical_json(asdict(_look(images, index, digests[index])))
        except Exception as error:  # a source of a plugin may raise anything; none of it follows from the content
            unread[digests[index]] = str(error) or repr(error)
            return ""

    # Another decoder may read what one could not.
    decoder = {**library_versions(*DECODERS), "rule": own_version("urbancross_bench.data.decode")}
    wanted = [(digest, digest) for digest in first]
    with open_index() as kept:
        values = kept.values(
            f"looks 2, {canonical_json(decoder)}", wanted, compute, what=f"opening the images of {what}"
        )
    known = {d: Look(**json.loads(v)) for d, v in zip(first, values, strict=True) if v}
    looks = [known.get(digests.get(index, "")) for index in range(count)]
    for index, digest in digests.items() if images.has_pixels else ():
        look = known.get(digest)
        if look is None or look.problem:
            broken[index] = look.problem if look else unread[digest]
    good = [look if look and not look.problem else None for look in looks]
    return Seen(
        dict(sorted(missing.items())),
        dict(sorted(broken.items())),
        [digests.get(index, "") for index in range(count)],
        good,
        np.array([look is not None for look in good], dtype=bool),
        _array([look.bits if look else "" for look in good], np.uint64, _WORDS),
        _array([look.thumbnail if look else "" for look in good], np.uint8, _COLOURS),
        images.has_pixels,
    )


def nearest(a: Seen, rows: Indices, b: Seen, columns: Indices, report: Callable[[float], None]) -> list[Match]:
    """Those of `rows` of `a` that have a twin among `columns` of `b`: identical in content, else the most alike.

    An image is no twin of itself. Memory is linear in rows and columns; `report` is told the share done.
    """
    rows, columns = rows[a.known[rows]], columns[b.known[columns]]
    at: dict[str, list[int]] = {}
    for index in columns.tolist():
        at.setdefault(b.digests[index], []).append(index)
    found, alone = list[Match](), list[int]()
    for index in rows.tolist():
        twin = next((j for j in at.get(a.digests[index], [])[:2] if a is not b or j != index), None)
        if twin is None:
            alone.append(index)
        else:
            found.append(Match(index, twin, True, 0, 0.0))
    alone = alone if a.pixels and b.pixels else []
    blocks = [np.array(alone[i : i + _ROWS], dtype=np.int64) for i in range(0, len(alone), _ROWS)]
    with ThreadPoolExecutor(min(8, cores())) as threads:
        for done, matches in enumerate(threads.map(lambda block: _alike(a, block, b, columns), blocks), start=1):
            found += matches
            report(done / len(blocks))
    return sorted(found, key=lambda match: match.image)


def _alike(a: Seen, rows: Indices, b: Seen, columns: Indices) -> list[Match]:
    """For each of a few rows the nearest column that looks alike, the first of equals."""
    best = np.full(len(rows), np.inf)
    chosen = {}
    for start in range(0, len(columns), _COLUMNS):
        block = columns[start : start + _COLUMNS]
        bits = np.zeros((len(rows), len(block)), dtype=np.uint16)
        for word in range(_WORDS):
            bits += np.bitwise_count(a.bits[rows, None, word] ^ b.bits[None, block, word])
        if a is b:
            bits[rows[:, None] == block[None]] = 256
        row, column = np.nonzero(bits <= BITS)
        colours = b.thumbnails[block[column]].astype(np.int16)
        colours -= a.thumbnails[rows[row]]
        difference = np.abs(colours, out=colours).mean(axis=1)
        close = difference <= DIFFERENCE
        row, column, difference = row[close], column[close], difference[close]
        distance = bits[row, column] + difference / 256  # bits first, then colours
        order = np.lexsort((distance, row))
        for k in order[np.unique(row[order], return_index=True)[1]].tolist():
            if distance[k] < best[row[k]]:
                best[row[k]] = distance[k]
                index, twin = int(rows[row[k]]), int(block[column[k]])
                chosen[index] = Match(index, twin, False, int(bits[row[k], column[k]]), float(difference[k]))
    return list(chosen.values())


def _digests(images: ImageSource, present: Sequence[int], broken: dict[int, str]) -> dict[int, str]:
    """Digests of the images that can be read; what is wrong with the others goes to `broken`."""
    found = dict[int, str]()
    for index in present:
        try:
            found[index] = images.digest(index)
        except Exception as error:  # a source of a plugin may raise anything
            broken[index] = str(error) or repr(error)
    return found


def _look(images: ImageSource, index: int, digest: str) -> Look:
    """Raises DataError for what is no fact about the content."""
    if not isinstance(images, FileImages):
        return Look(*_facts(images.read(index), ""))
    content = images.content(index)
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(f"image {images.where(index)} has changed while it was in use; run the command again")
    try:
        pixels = decode(content, digest)
    except DataError as error:
        if isinstance(error.__cause__, MemoryError):
            raise
        return Look(problem=str(error).removeprefix(f"image {digest} "))
    brightest = int(pixels.max()) if _is_deep(content) else None
    return Look(*_facts(pixels, _format(content)), brightest)


def _facts(pixels: NDArray[np.uint8], format_: str) -> tuple[int, int, str, str, str]:
    from PIL import Image

    image, box = Image.fromarray(pixels), Image.Resampling.BOX
    grey = np.asarray(image.convert("L").resize((17, 16), box))
    bits = np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes().hex()
    return pixels.shape[0], pixels.shape[1], format_, bits, image.resize((8, 8), box).tobytes().hex()


def _format(content: bytes) -> str:
    """PIL's name for the format of an image that has been decoded."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.format or ""
    except (UnidentifiedImageError, NotImplementedError):
        return "TIFF"  # nothing else is decoded without PIL


def _is_deep(content: bytes) -> bool:
    """Whether an image that has been decoded is of 16 bits, as only PNG and TIFF may be."""
    import tifffile

    if content.startswith(b"\x89PNG"):
        return content[24] == 16
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            return file.pages.first.bitspersample == 16
    except tifffile.TiffFileError:  # of another format
        return False


def _array(texts: Sequence[str], dtype: type[np.generic], width: int) -> NDArray[Any]:
    """(N, width) from texts of hex digits; empty ones are zeros."""
    row = np.dtype(dtype).itemsize * width
    content = b"".join(bytes.fromhex(text) or bytes(row) for text in texts)
    return np.frombuffer(content, dtype=dtype).reshape(len(texts), width)
