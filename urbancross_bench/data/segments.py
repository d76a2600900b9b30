"""Segment stores: which regions of a domain's images are its segments, and how they came to be.

A store is a folder with two files. `masks.jsonl` has a line per image, in the domain's order: its name and digest,
its splits, and its size with its regions as `data.masks` writes them, or why it failed; with them a hash of its
captions where these had a say. `segments.json` says how all of it was made (`making`), and the SHA-256 of the
former; it is put in place last, so that a store without it is unfinished.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.data.masks import from_counts
from urbancross_bench.errors import DataError, UsageError
from urbancross_bench.files import write_json
from urbancross_bench.identity import digest
from urbancross_bench.interfaces.dataset import Domain, ImageSource, Segments

SCHEMA = 1
BY_CAPTION = "caption"  # the chooser that sees captions
MANIFEST, MASKS = "segments.json", "masks.jsonl"
_WHITE = 255
_RENDERING = "outside white, the whole image"
_QUALITY = 95  # of the JPEGs, of 100


@dataclass(frozen=True)
class SegmentStore:
    """What stands in a store.

    `splits`: those whose images were segmented; all images if it is empty. `rows`: one per image, as JSON values,
    with `image`, the `splits` that it is in, `digest`, `captions` where the choice looked at them
    (`captions_key`), and either `size` (H, W) and `regions`, or `failure`, the reason.
    """

    making: Mapping[str, Any]
    caption_aware: bool
    splits: Sequence[str]
    rows: Sequence[Mapping[str, Any]]

    @property
    def failures(self) -> dict[str, str]:
        """The images that could not be segmented, with the reasons."""
        return {row["image"]: row["failure"] for row in self.rows if "failure" in row}

    @property
    def segments(self) -> int:
        """How many there are, of all images together."""
        return sum(len(row.get("regions", ())) for row in self.rows)


def captions_of(domain: Domain) -> list[list[str]]:
    """The captions of each of a domain's N images. Raises DataError if one belongs to no image."""
    owners, count = domain.image_of_caption, len(domain.image_names)
    if len(owners) != len(domain.captions) or ((owners < 0) | (owners >= count)).any():
        raise DataError(
            f"domain {domain.name!r}: a caption belongs to no image; `urbancross-bench data check` says more"
        )
    captions: list[list[str]] = [[] for _ in domain.image_names]
    for owner, caption in zip(owners.tolist(), domain.captions, strict=True):
        captions[owner].append(caption)
    return captions


def captions_key(captions: Sequence[str]) -> str:
    """A hash of an image's captions, whatever their order."""
    return digest(caption.encode("utf-8", "surrogatepass") for caption in sorted(captions))


def making_identity(making: Mapping[str, Any]) -> dict[str, Any]:
    """What of a making counts: not what tells a reader where the weights came from, such as names of files."""
    counts = dict(making)
    for name in ("weights", "encoder_weights"):
        if isinstance(said := making.get(name), Mapping):
            counts[name] = {fact: value for fact, value in said.items() if fact != "source"}
    return counts


def write_store(folder: Path, store: SegmentStore) -> None:
    """Write a store in place of one that may be there.

    Cut short, it leaves that, or none where there was none; or what `complete_writing` makes the new one of.
    """
    # Escaped, since a name may hold bytes that are no text.
    content = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in store.rows).encode("ascii")
    said = {
        "schema": SCHEMA,
        "making": dict(store.making),
        "caption_aware": store.caption_aware,
        "splits": list(store.splits),
        "images": len(store.rows),
        "segments": store.segments,
        "failed": len(store.failures),
        "masks_sha256": _digest(content),
    }
    masks, manifest = _unfinished(folder)
    masks.write_bytes(content)
    write_json(manifest, said)
    masks.replace(folder / MASKS)
    manifest.replace(folder / MANIFEST)


def complete_writing(folder: Path) -> None:
    """Put a manifest in its place that a killed `write_store` did not; only where nobody else writes."""
    _, manifest = _unfinished(folder)
    with suppress(OSError, ValueError):
        if _fits(_content(manifest), _digest((folder / MASKS).read_bytes())):
            manifest.replace(folder / MANIFEST)


def read_store(folder: Path) -> SegmentStore:
    """What `write_store` wrote. Raises DataError naming the folder if it is no store, or not whole."""
    try:
        said, masks = _content(folder / MANIFEST), (folder / MASKS).read_bytes()
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} is no segment store, or an unfinished one: it lacks {Path(error.filename).name}; "
            "`urbancross-bench data segment` makes and completes stores"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"segment store {folder} cannot be read: {error}") from error
    schema = said.get("schema") if isinstance(said, dict) else None
    if schema != SCHEMA:
        raise DataError(
            f"segment store {folder} is of schema {schema!r}, this version reads {SCHEMA}; make it anew"
        )
    found = _digest(masks)
    for other in (_unfinished(folder)[1], folder / MANIFEST):  # it is being replaced, or that was cut short
        with suppress(OSError, ValueError):
            said = said if _fits(said, found) else _content(other)
    if not _fits(said, found):
        raise DataError(
            f"segment store {folder}: {MASKS} is damaged or cut short; remove the store and make it anew"
        )
    try:
        rows = [json.loads(line) for line in masks.splitlines()]
        making, caption_aware = dict(said["making"]), bool(said["caption_aware"])
        store = SegmentStore(making, caption_aware, said["splits"], rows)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"segment store {folder} is damaged: {error!r}") from error
    if making.get("chooser") == BY_CAPTION and not caption_aware:
        raise DataError(
            f"{folder / MANIFEST} says caption_aware: false, but chooser: {BY_CAPTION}, which looks at captions; "
            "it was edited or written wrongly: make the store anew"
        )
    return store


def _unfinished(folder: Path) -> tuple[Path, Path]:
    return (folder / MASKS).with_suffix(".tmp"), (folder / MANIFEST).with_suffix(".tmp")


def _content(manifest: Path) -> Any:
    return json.loads(manifest.read_text(encoding="utf-8"))


def _digest(masks: bytes) -> str:
    return hashlib.sha256(masks).hexdigest()


def _fits(said: Any, masks_digest: str) -> bool:
    return isinstance(said, dict) and said.get("masks_sha256") == masks_digest


def open_segments(folder: Path, domain: Domain) -> Segments:
    """The segments of a domain's images as a store says.

    An image without regions, and one that failed, has none. Regions of images that the domain lacks, because they
    were excluded, say, are left out. Raises DataError if an image, or captions that had a say, changed since; if
    an image of the splits that were segmented is unknown to the store; if the store is damaged.
    """
    store = read_store(folder)
    try:
        known = {row["image"]: row for row in store.rows}
        # Of a store of some splits, images in none of them need not be known.
        members = [domain.splits[split].tolist() for split in store.splits if split in domain.splits]
        wanted = (
            {index for split in members for index in split} if store.splits else range(len(domain.image_names))
        )
        unknown = [domain.image_names[index] for index in sorted(wanted) if domain.image_names[index] not in known]
        if unknown:
            raise DataError(
                f"segment store {folder} does not know {len(unknown)} images of domain {domain.name!r}, "
                f"{unknown[0]!r} the first; was it made of this domain?"
            )
        owners, regions, areas = [], [], []
        captions = captions_of(domain) if store.caption_aware else None
        for index, name in enumerate(domain.image_names):
            row = known.get(name)
            if row is None or "failure" in row:
                continue
            same = row["digest"] == domain.images.digest(index)
            agreed = captions is None or "captions" not in row or row["captions"] == captions_key(captions[index])
            if not (same and agreed):
                what = f"captions of image {name!r} have" if same else f"image {name!r} has"
                raise DataError(f"segment store {folder}: {what} changed since; remove the store and make it anew")
            height, width = row["size"]
            found = [_Cut(index, name, int(height), int(width), region["counts"]) for region in row["regions"]]
            regions += found
            areas += [int(region["area"]) for region in row["regions"]]
            owners += [index] * len(found)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"segment store {folder} is damaged: {error!r}") from error
    return Segments(
        SegmentImages(domain.images, regions),
        np.array(owners, dtype=np.int64),
        caption_aware=store.caption_aware,
        making=store.making,
        areas=np.array(areas, dtype=np.int64),
    )


@dataclass(frozen=True)
class _Cut:
    """One segment: of which image, and the run lengths of its mask."""

    image: int
    name: str
    height: int
    width: int
    counts: str


class SegmentImages(ImageSource):
    """A domain's images with all but one region painted white, as UrbanCross's released segments are."""

    def __init__(self, images: ImageSource, cuts: Sequence[_Cut]) -> None:
        self._images = images
        self._cuts = cuts
        self._last = threading.local()  # a thread reads the segments of an image one after another

    def digest(self, index: int) -> str:
        """Of the image's digest, the mask and what is done with them."""
        cut = self._cuts[index]
        parts = (self._images.digest(cut.image), str(cut.height), str(cut.width), cut.counts, _RENDERING)
        return digest(part.encode() for part in parts)

    def read(self, index: int) -> NDArray[np.uint8]:
        """The whole image, white outside the region. Raises DataError if the image does, or has another size."""
        cut = self._cuts[index]
        pixels = self._read(cut.image)
        if pixels.shape[:2] != (cut.height, cut.width):
            raise DataError(
                f"image {cut.name!r} is {pixels.shape[0]}×{pixels.shape[1]}, its segments {cut.height}×{cut.width}"
            )
        return painted(pixels, from_counts(cut.counts, cut.height, cut.width))

    def _read(self, image: int) -> NDArray[np.uint8]:
        if getattr(self._last, "image", None) != image:
            self._last.pixels, self._last.image = self._images.read(image), image
        pixels: NDArray[np.uint8] = self._last.pixels
        return pixels


def painted(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(H, W, 3) pixels, white where the (H, W) mask is not."""
    return np.where(mask[..., None], pixels, np.uint8(_WHITE))


def check_archive(place: Path, names: Sequence[str]) -> None:
    """Whether `write_archive` can write there. Raises UsageError; DataError for two images of one stem."""
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(f"{place} is there already and not an empty folder; name another for the JPEGs")
    if place.resolve() == Path.cwd():
        raise UsageError(f"{place} is the current folder, which cannot be replaced; name another for the JPEGs")
    stems = Counter(PurePosixPath(name).stem for name in names)
    repeated = [name for name in names if stems[PurePosixPath(name).stem] > 1]
    if repeated:
        raise DataError(
            f"image {repeated[0]!r} would share its segment folder {PurePosixPath(repeated[0]).stem}/ with "
            "another; UrbanCross's layout has no place for both"
        )


def write_archive(place: Path, domain: Domain, segments: Segments) -> Iterator[int]:
    """Write the segments as UrbanCross's archives have them, `<stem>/<stem>_<i>.jpg`; yields how many are written.

    The folder appears when all are.
    """
    from PIL import Image

    unfinished = place.with_name(f".{place.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a killed command
    unfinished.mkdir(parents=True)
    number, before = 0, -1
    for index, owner in enumerate(segments.image_of_segment.tolist()):
        number, before = (number + 1 if owner == before else 0), owner
        stem = PurePosixPath(domain.image_names[owner]).stem
        (unfinished / stem).mkdir(exist_ok=True)
        image = Image.fromarray(segments.images.read(index))
        image.save(unfinished / stem / f"{stem}_{number}.jpg", quality=_QUALITY)
        yield index + 1
    if place.is_dir():
        place.rmdir()
    unfinished.rename(place)
