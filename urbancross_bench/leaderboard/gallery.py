"""Which queries a gallery shows, and what stands in the top lists of several methods for each."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import DataError
from urbancross_bench.evaluation.protocols import PROTOCOLS
from urbancross_bench.evaluation.samples import evenly_spaced
from urbancross_bench.evaluation.ties import TIES
from urbancross_bench.identity import key_of
from urbancross_bench.interfaces.evidence import Hit, Item, ShownQuery, TopList
from urbancross_bench.leaderboard.comparable import measure_of, seeds_of
from urbancross_bench.leaderboard.rows import Row
from urbancross_bench.leaderboard.spent import length
from urbancross_bench.leaderboard.stored import Exhibit
from urbancross_bench.leaderboard.view import View
from urbancross_bench.records import ScoreRecord

QUERIES = 8  # of each direction and test split
METHODS = 8  # of each test split: the baseline and the best
_SAMPLES = 12
_SIDE = 96  # pixels of a thumbnail
_QUALITY = 88

Ints = NDArray[np.int64]


def samples_of(exhibit: Exhibit) -> list[tuple[Item, Item]]:
    """Test images with their first captions, evenly over the split."""
    split = exhibit.split
    if split is None:
        return []
    show = _Shower(exhibit)
    first = {image: text for text, image in reversed([*enumerate(split.image_of_caption.tolist())])}
    return [
        (show.image(image), show.text(first[image]))
        for image in evenly_spaced(len(split.images), _SAMPLES).tolist()
    ]


def queries_of(domain: str, test: str, rows: Sequence[Row], exhibit: Exhibit, view: View) -> Iterator[ShownQuery]:
    """Captions, then images, evenly over the split, each with the top lists of the methods of one protocol.

    Nothing where the store has lost the split. Raises DataError for a record whose top lists do not fit it.
    """
    split = exhibit.split
    if split is None:
        return
    show = _Shower(exhibit)
    for protocol in sorted({row.score["protocol"] for row in rows}):
        chosen = _methods([row for row in rows if row.score["protocol"] == protocol], view)
        lowest = [row.seeds[0].score for row in chosen]
        lists = [
            _Lists(label, score, score.arrays()) for label, score in zip(_labels(chosen), lowest, strict=True)
        ]
        for direction in ("t2i", "i2t"):
            with_lists = [one for one in lists if f"{direction}.top" in one.arrays]
            if with_lists:
                yield from _asked(domain, test, protocol, direction, with_lists, show)


def _methods(rows: Sequence[Row], view: View) -> list[Row]:
    """Up to `METHODS`: a baseline, the best ranked row it may be compared with, then the best of the others."""

    def reference(row: Row) -> bool:
        return view.is_reference(row.setting)

    def baseline(row: Row) -> bool:
        return bool(row.run["adaptation"]["label"] == view.baseline)

    def value(row: Row) -> float:
        found = row.seeds[0].value(view.metric)
        return -math.inf if found is None else found

    best = sorted(rows, key=lambda row: -value(row))  # of equal ones the first in the order of rows
    first = sorted(filter(baseline, best), key=lambda row: (reference(row), row.kind == "in_domain"))[:1]
    ranked = [row for row in best if not (reference(row) or baseline(row))]
    rivals = [row for row in ranked if [row.peers] == [other.peers for other in first]]
    return [*dict.fromkeys([*first, *rivals[:1], *best])][:METHODS]


def _labels(rows: Sequence[Row]) -> list[str]:
    """What each of some rows of one test split is called, with its lowest seed: no two alike."""
    names = [" · ".join(_called(row)) for row in rows]
    names = _told_apart(names, [f"{length(row.run['pretraining'])}, {row.run['steps']} steps" for row in rows])
    names = _told_apart(names, [f"ties {row.score['ties']}" for row in rows])
    names = _told_apart(names, [f"row {seeds_of(row.run)}" for row in rows])
    names = _told_apart(names, [row.score["precision"] for row in rows])
    names = _told_apart(names, [f"measured as {key_of(measure_of(row.score))[:8]}" for row in rows])
    return [f"{name} · seed {row.numbers[0]}" for name, row in zip(names, rows, strict=True)]


def _called(row: Row) -> Iterator[str]:
    encoder, adaptation, selector, shown = row.method
    yield from (adaptation, f"from {row.source}", encoder, selector)
    if shown:
        yield shown


def _told_apart(names: Sequence[str], further: Sequence[str]) -> list[str]:
    """Names, with something more where several are the same."""
    return [
        f"{name} · {more}" if names.count(name) > 1 else name for name, more in zip(names, further, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Lists:
    """The arrays of a score, and which pairs of its items are right."""

    label: str
    score: ScoreRecord
    arrays: Mapping[str, NDArray[Any]]


def _asked(
    domain: str, test: str, protocol: str, direction: str, lists: Sequence[_Lists], show: _Shower
) -> Iterator[ShownQuery]:
    right = show.right(protocol, direction, lists[0])
    rows = lists[0].arrays[f"{direction}.query_row"]
    asks, answers = (show.text, show.image) if direction == "t2i" else (show.image, show.text)
    equal = show.equal_images if direction == "t2i" else show.equal_texts
    for query in evenly_spaced(len(rows), QUERIES).tolist():
        shown = []
        for one in lists:
            top = one.arrays[f"{direction}.top"]
            gallery = one.arrays[f"{direction}.gallery_row"]
            if len(top) != len(rows) or top.max(initial=0) >= len(gallery):
                raise DataError(f"record {one.score.folder}: its top lists do not fit its test split")
            hits = _hits(top[query], gallery, right[query], equal, answers)
            shown.append(TopList(one.label, _rank(one, direction, query), hits))
        yield ShownQuery(domain, test, protocol, asks(int(rows[query])), shown)


def _hits(top: Ints, gallery: Ints, right: frozenset[int], equal: Ints, show: Callable[[int], Item]) -> list[Hit]:
    """Of one query, from items of the gallery; `equal` says of its rows which are the same."""
    same_as_right = {int(equal[gallery[item]]) for item in right}
    hits, seen = [], set[int]()
    for item in top.tolist():
        row = int(gallery[item])
        same = int(equal[row])
        is_right = item in right
        hits.append(Hit(show(row), is_right, not is_right and same in same_as_right, same in seen))
        seen.add(same)
    return hits


def _rank(one: _Lists, direction: str, query: int) -> float:
    """Of the first right answer, under the score's tie rule."""
    counts = (one.arrays[f"{direction}.{name}"][[query]] for name in ("greater", "tied", "tied_positives"))
    return float(TIES[one.score.content["ties"]].ranks(*counts)[0])


class _Shower:
    """Items of a test split by their rows."""

    def __init__(self, exhibit: Exhibit) -> None:
        assert exhibit.split is not None
        self._split = exhibit.split
        self.equal_images, self.equal_texts = exhibit.equal
        self._thumbnails: dict[int, bytes | None] = {}

    def text(self, row: int) -> Item:
        """A caption."""
        owner = int(self._split.image_of_caption[row])
        return Item(f"a caption of {self._split.image_names[owner]}", "text", self._split.captions[row])

    def image(self, row: int) -> Item:
        """An image with its thumbnail; without one where features are all there is."""
        if row not in self._thumbnails:
            pixels = self._split.images.rows.take(np.array([row]))[0]
            is_picture = pixels.dtype == np.uint8 and pixels.ndim == 3
            self._thumbnails[row] = _thumbnail(pixels) if is_picture else None
        return Item(self._split.image_names[row], "image", None, self._thumbnails[row])

    def right(self, protocol: str, direction: str, one: _Lists) -> list[frozenset[int]]:
        """Per query the gallery items that count as right. Raises DataError for a record of another split."""
        owner = one.arrays["image_of_text"]
        if not np.array_equal(owner, self._split.image_of_caption):
            raise DataError(f"record {one.score.folder}: its test split is not the one in the store")
        items = PROTOCOLS[protocol](owner, len(self._split.images), self.equal_images, self.equal_texts)
        asked, answer = items.right if direction == "i2t" else items.right[::-1]
        found: list[set[int]] = [set() for _ in one.arrays[f"{direction}.query_row"]]
        for query, item in zip(asked.tolist(), answer.tolist(), strict=True):
            found[query].add(item)
        return [frozenset(some) for some in found]


def _thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """(H, W, 3) pixels as a JPEG, no larger than `_SIDE`."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()
