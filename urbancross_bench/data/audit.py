"""Whether a domain may be ranked: all that is wrong with it, found before anything is trained on it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.data.builder import LIST, TWICE
from urbancross_bench.data.captions import CaptionFacts, caption_facts, owned
from urbancross_bench.data.domain import check, split_of
from urbancross_bench.data.floors import split_floors
from urbancross_bench.data.images import FileImages, FolderImages, NoImages, ZipImages, list_files
from urbancross_bench.data.index import Report
from urbancross_bench.data.looks import Match, look_at
from urbancross_bench.data.overlap import Opened, Shared, shared, twins
from urbancross_bench.data.paths import plain_name
from urbancross_bench.errors import DataError, plural
from urbancross_bench.evaluation.floors import Floors
from urbancross_bench.interfaces.dataset import SPLITS, TRAINING, Domain, ImageSource, Repair

Level = Literal["defect", "warning", "note"]
LEVELS: tuple[Level, ...] = ("defect", "warning", "note")
_DARK = 64  # of 256 levels: values of 14 bits or fewer in files of 16 use no more


@dataclass(frozen=True)
class Finding:
    """Something to know of a domain. A defect says that it may not be ranked.

    `kind` names what was looked for; `items` are the images, captions or files it is about, `count` of them (which
    may be left out of `items` where they are all alike). An item without a remedy needs none.
    """

    kind: str
    level: Level
    text: str
    count: int = 1
    items: tuple[Repair, ...] = ()


@dataclass(frozen=True, eq=False)
class Audit:
    """A domain and what was found, defects first.

    twins: of its images, within it. shared: what its training and its test share. captions: facts by split, none
    where the splits cannot be cut. floors: of the test split by tie rule, none where the domain is incoherent.
    """

    opened: Opened
    twins: Sequence[Match]
    shared: Shared
    captions: Mapping[str, CaptionFacts]
    floors: Mapping[str, Floors]
    findings: tuple[Finding, ...]

    @property
    def may_be_ranked(self) -> bool:
        """Whether there is no defect."""
        return all(finding.level != "defect" for finding in self.findings)


def audit(name: str, domain: Domain, report: Report) -> Audit:
    """Open every image of a domain and look for all that is known to go wrong."""
    seen = look_at(domain.images, len(domain.image_names), name)
    splits = {s: split_of(domain, s) for s in SPLITS if s in domain.splits} if _can_be_cut(domain) else {}
    opened = Opened(name, domain, seen, splits)
    matches = twins(opened, opened, report)
    within, captions = shared(opened, opened, matches), caption_facts(splits)
    found = [
        *_images(domain, opened),
        *_segments(domain, name),
        *_coherence(domain, opened),
        *_known_counts(domain, captions),
        *_doubles(opened, matches),
        *_sizes(opened),
        *_extensions(opened),
        *_depths(opened),
        *_elsewhere(domain),
        *_unnamed(domain),
        *_captions(opened, within, captions),
        *_repairs(domain),
    ]
    whole = all(finding.kind != "incoherent" for finding in found)
    floors = split_floors(splits["test"]) if whole else {}
    ordered = sorted(found, key=lambda finding: LEVELS.index(finding.level))
    return Audit(opened, matches, within, captions, floors, tuple(ordered))


def _can_be_cut(domain: Domain) -> bool:
    images, owners = len(domain.image_names), domain.image_of_caption
    indices = [owners, *domain.splits.values()]
    return owners.shape == (len(domain.captions),) and all(
        bool(((array >= 0) & (array < images)).all()) for array in indices
    )


def _images(domain: Domain, opened: Opened) -> Iterator[Finding]:
    total = len(domain.image_names)
    if isinstance(domain.images, NoImages):
        yield Finding("opened without images", "defect", f"all {total:,} images are not at hand", total)
        return
    if not domain.images.has_pixels:
        text = f"the {total:,} images are stored features: none was opened, and only equal ones were looked for"
        yield Finding("no pixels", "note", text, total)
    missing, broken = opened.seen.missing, opened.seen.broken
    remedy = "bring the file back, or take the image out of the caption file"
    items = [_item(domain, index, reason, remedy) for index, reason in missing.items()]
    yield from _found("missing images", "defect", "{} of {:,} images {are} missing", total, items)
    items = [_item(domain, index, reason, "replace the file") for index, reason in broken.items()]
    yield from _found("broken images", "defect", "{} of {:,} images cannot be read", total, items)


def _segments(domain: Domain, name: str) -> Iterator[Finding]:
    if domain.segments is None:
        return
    owners = domain.segments.image_of_segment.tolist()
    seen = look_at(domain.segments.images, len(owners), f"segments of {name}")
    where = {s: _where(domain.segments.images, s, f"segment {s}") for s in sorted(seen.missing | seen.broken)}
    items = [
        Repair(place, (seen.missing | seen.broken)[s], "replace the file", domain.image_names[owners[s]])
        for s, place in where.items()
    ]
    yield from _found("broken segments", "defect", "{} of {:,} segments cannot be read", len(owners), items)
    bare = set(range(len(domain.image_names))) - set(owners)
    items = [_item(domain, index, "no segment", "") for index in sorted(bare)]
    text = "{} of {:,} images {have} no segment"
    yield from _found("images without segments", "warning", text, len(domain.image_names), items)


def _coherence(domain: Domain, opened: Opened) -> Iterator[Finding]:
    try:
        check(replace(domain, images=_AllThere()))  # what is not there has been said
    except DataError as error:
        yield Finding("incoherent", "defect", str(error))
    labels = [name for name in opened.labels if name]
    twice = sum("+" in name for name in labels)
    if domain.overlapping and twice:
        yield Finding(
            "splits that overlap",
            "warning",
            f"{twice:,} images stand in two splits, as in the scripts these come from; tables mark such rows",
            twice,
        )
    if opened.splits and len(labels) < len(opened.labels):
        count = len(opened.labels) - len(labels)
        text = f"{count:,} of {len(opened.labels):,} images are in no split"
        yield Finding("images in no split", "note", text, count)


def _known_counts(domain: Domain, facts: Mapping[str, CaptionFacts]) -> Iterator[Finding]:
    if not domain.known_counts or not facts:
        return
    have = {name: (fact.images, fact.captions) for name, fact in facts.items()}
    images = {name: count for name, (count, _) in have.items()}
    for variant, known in domain.known_counts.items():
        if known == have:
            yield Finding("known counts", "note", f"the splits have the known sizes of: {variant}")
            return
    for variant, known in domain.known_counts.items():
        if {name: count for name, (count, _) in known.items()} == images:
            differing = "; ".join(
                f"{name} {have[name][1]:,}, not {known[name][1]:,}" for name in known if known[name] != have[name]
            )
            text = f"the splits have the known sizes of: {variant}; but captions differ: {differing}"
            yield Finding("other caption counts", "warning", text)
            return
    text = f"{_sizes_said(have)}: the splits have none of the known sizes, " + "; ".join(
        f"{variant}: {_sizes_said(known)}" for variant, known in domain.known_counts.items()
    )
    # Splits that the user had drawn have sizes of their own; what counts then is that no image has gone.
    totals = {sum(count for count, _ in known.values()) for known in domain.known_counts.values()}
    complete = len(domain.image_names) in totals
    yield Finding("other counts", "note" if not domain.given and complete else "defect", text)


def _doubles(opened: Opened, matches: Sequence[Match]) -> Iterator[Finding]:
    """Images that stand twice: across the line between training and test, and elsewhere."""
    domain, names = opened.domain, opened.domain.image_names
    test, training = {*opened.test.tolist()}, {*opened.training.tolist()}
    trained = training - test
    leaks = [m for m in matches if m.image in trained and m.twin in test]
    others = [m for m in matches if (m.image in test) == (m.twin in test)]

    def items(matches: Sequence[Match], identical: bool, remedy: str) -> list[Repair]:
        verb = "is" if identical else "looks like"
        return [
            _item(domain, m.image, f"{verb} {names[m.twin]}{' (test)' if remedy else ''}", remedy)
            for m in matches
            if m.identical == identical
        ]

    total, remedy = len(training), "exclude the image from training"
    text = "{} of {:,} train and val images {are} the same file as a test image"
    yield from _found("test images in training", "defect", text, total, items(leaks, True, remedy))
    text = "{} of {:,} train and val images look like a test image"
    yield from _found("test images in training, by look", "warning", text, total, items(leaks, False, remedy))
    text = "{} of {:,} images {are} the same file as another of their part (train and val, or test)"
    yield from _found("identical images", "note", text, len(names), items(others, True, ""))
    text = "{} of {:,} images look like another of their part (train and val, or test)"
    yield from _found("images alike", "note", text, len(names), items(others, False, ""))


def _sizes(opened: Opened) -> Iterator[Finding]:
    sizes = {i: (look.width, look.height) for i, look in enumerate(opened.seen.looks) if look}
    if not sizes:
        return
    (width, height), _ = Counter(sizes.values()).most_common(1)[0]
    items = [
        _item(opened.domain, index, f"{size[0]}×{size[1]} pixels", "")
        for index, size in sizes.items()
        if size != (width, height)
    ]
    text = f"{{}} of {{:,}} images {{are}} not {width}×{height} pixels, as most are"
    yield from _found("odd sizes", "note", text, len(sizes), items)


def _extensions(opened: Opened) -> Iterator[Finding]:
    from PIL import Image

    Image.init()  # or not all extensions are registered
    formats, items = {**Image.registered_extensions(), ".jpg": "JPEG"}, []
    for index, (name, look) in enumerate(zip(opened.domain.image_names, opened.seen.looks, strict=True)):
        expected = formats.get(PurePosixPath(name).suffix.lower())
        if look is None or not look.format or not expected:
            continue
        found = look.format.replace("MPO", "JPEG")  # several of them in one file
        if found != expected:
            items.append(_item(opened.domain, index, f"holds {found}", ""))
    text = "{} of {:,} images {are} in another format than the name says"
    yield from _found("wrong extensions", "note", text, len(opened.seen.looks), items)


def _depths(opened: Opened) -> Iterator[Finding]:
    """Images of 16 bits of which most fill a small part of them, as raw reflectances and counts do."""
    deep = {i: look.brightest for i, look in enumerate(opened.seen.looks) if look and look.brightest is not None}
    dark = {index: brightest for index, brightest in deep.items() if brightest < _DARK}
    if 2 * len(dark) <= len(deep):  # a few among bright ones show the night, or water
        return
    remedy = "stretch the values to the full 16 bits, alike in all images"
    items = [
        _item(opened.domain, index, f"no value above {brightest} of 255 is left", remedy)
        for index, brightest in dark.items()
    ]
    levels = max(dark.values()) + 1
    text = (
        f"{{}} of {{:,}} images {{are}} of 16 bits with no more than {levels} of 256 levels in use, since the "
        "high byte is kept; stretch them to the full range first"
    )
    yield from _found("dark 16-bit images", "warning", text, len(opened.seen.looks), items)


def _elsewhere(domain: Domain) -> Iterator[Finding]:
    """Images that a zip holds below another folder than most: thumbnails of missing ones, say."""
    images = domain.images
    folders = images.folders() if isinstance(images, ZipImages) else {}
    [(usual, there)] = Counter(folders.values()).most_common(1) or [("", 0)]
    items = [
        _item(domain, index, f"found in {folder!r}, most in {usual!r}", "")
        for index, folder in folders.items()
        if folder != usual and 2 * there > len(folders)  # else a folder a scene, say
    ]
    text = "{} of {:,} images {are} below another folder of the zip than most"
    yield from _found("several folders", "note", text, len(folders), items)


def _unnamed(domain: Domain) -> Iterator[Finding]:
    """Files beside the images that no caption names."""
    if not isinstance(domain.images, FolderImages | ZipImages):
        return
    images = domain.images
    names = [*domain.image_names, *(repair.image for repair in domain.repairs)]
    named = {plain_name(name) for name in names}
    suffixes = {PurePosixPath(name).suffix.lower() for name in domain.image_names}
    known = {*(PurePosixPath(name).name for name in named)} if isinstance(images, ZipImages) else named
    try:
        present = list_files(images.place)
    except DataError as error:  # of a folder that no image of the domain need be in
        yield Finding("images without captions", "note", f"not looked for: {error}")
        return
    others = [
        name
        for name in present
        if PurePosixPath(name).suffix.lower() in suffixes
        and (PurePosixPath(name).name if isinstance(images, ZipImages) else name) not in known
    ]
    items = [Repair(f"{images.place}:{name}", "no caption of the domain names it", "", name) for name in others]
    text = "{} {images} beside the domain's {:,} {are} named by none of its captions"
    yield from _found("images without captions", "note", text, len(domain.image_names), items)


def _captions(opened: Opened, within: Shared, facts: Mapping[str, CaptionFacts]) -> Iterator[Finding]:
    domain = opened.domain
    training = {text for _, text in owned(opened.cut(*TRAINING))}
    items = [
        _item(domain, image, f"stands in training: {text!r}", "exclude the caption from training")
        for image, text in owned(opened.cut("test"))
        if text in training
    ]
    text = f"{{}} of {{:,}} test captions stand in train or val too, {within.in_train:,} of them in train"
    yield from _found("test captions in training", "warning", text, within.test_captions, items)
    own: dict[int, list[str]] = {}
    for image, caption in zip(domain.image_of_caption.tolist(), domain.captions, strict=True) if facts else ():
        own.setdefault(image, []).append(caption)
    items = [
        _item(domain, image, f"{len(set(texts))} different of {len(texts)} captions", "")
        for image, texts in own.items()
        if len(set(texts)) < len(texts)
    ]
    text = "{} of {:,} images repeat a caption of their own"
    yield from _found("repeated captions", "note", text, len(own), items)


def _repairs(domain: Domain) -> Iterator[Finding]:
    """What the reader left out or read differently, by what it was."""
    groups: dict[tuple[str, str], list[Repair]] = {}
    for repair in domain.repairs:
        problem = re.sub(r"(['\"]).*\1|(?<=\bline )\d+", "…", repair.problem, flags=re.DOTALL)
        groups.setdefault((problem, repair.remedy), []).append(repair)
    for (problem, remedy), repairs in groups.items():
        level: Level = "warning" if remedy in ("left out", TWICE, LIST) else "note"
        text = f"the reader noted {len(repairs):,} {plural(len(repairs), 'place')}: {problem}; {remedy}"
        yield Finding(f"reader: {problem}", level, text, len(repairs), tuple(repairs))


class _AllThere(ImageSource):
    """In the place of images that have been looked at already."""

    def digest(self, index: int) -> str:
        raise NotImplementedError

    def read(self, index: int) -> NDArray[np.uint8]:
        raise NotImplementedError


def _found(kind: str, level: Level, text: str, total: int, items: Sequence[Repair]) -> Iterator[Finding]:
    """The finding if there are items; its text has places for their number and the total."""
    if items:
        words = ("are", "have", "images") if len(items) > 1 else ("is", "has", "image")
        said = dict(zip(("are", "have", "images"), words, strict=True))
        yield Finding(kind, level, text.format(f"{len(items):,}", total, **said), len(items), tuple(items))


def _item(domain: Domain, index: int, problem: str, remedy: str) -> Repair:
    name = domain.image_names[index]
    return Repair(_where(domain.images, index, name), problem, remedy, name)


def _where(images: ImageSource, index: int, name: str) -> str:
    return images.where(index) if isinstance(images, FileImages) else name


def _sizes_said(counts: Mapping[str, tuple[int, int]]) -> str:
    return " / ".join(f"{name} {images:,}" for name, (images, _) in counts.items())
