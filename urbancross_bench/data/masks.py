"""Masks as text, and which of an image's masks are kept.

A mask is written as COCO writes it: run lengths down its columns, the first run being of what is outside, in
COCO's compressed form. Of 2×2 pixels, let the upper right alone be inside: runs 2, 1, 1, written `211`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import DataError, RunError

Pixels = NDArray[np.bool_]


def to_counts(mask: Pixels) -> str:
    """COCO's compressed run lengths of an (H, W) mask."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    if len(runs) > 1 and runs[-1] == 0:  # the mask reaches the last pixel, where a run of nothing would follow
        runs.pop()
    return "".join(_written(run - runs[i - 2] if i > 2 else run) for i, run in enumerate(runs))


def from_counts(counts: str, height: int, width: int) -> Pixels:
    """The (H, W) mask of COCO's compressed run lengths. Raises DataError if they are not those of such a mask."""
    runs: list[int] = []
    value, shift = 0, 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            raise DataError(f"run lengths hold {character!r} where none may be")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) << (shift - 4)  # the sign bit of the last five
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    if shift or min(runs, default=0) < 0 or sum(runs) != height * width:
        raise DataError(f"run lengths are not those of {height}×{width} pixels")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T


def _written(value: int) -> str:
    """Groups of five bits, the lowest first; 32 says that another follows, 16 of the last one is the sign."""
    text = ""
    while True:
        group, value = value & 31, value >> 5
        if value == (-1 if group & 16 else 0):
            return text + chr(48 + group)
        text += chr(48 + group + 32)


@dataclass(frozen=True, order=True)
class Region:
    """A mask as it is kept. They are ordered by content alone: the largest first, then by box and by run lengths.

    `rank` is minus the pixels inside, `box` left, top, width and height in pixels. `quality` and `stability` are
    those of `interfaces.Mask`.
    """

    rank: int
    box: tuple[int, int, int, int]
    counts: str
    quality: float | None = field(default=None, compare=False)
    stability: float | None = field(default=None, compare=False)

    @property
    def area(self) -> int:
        """Pixels inside."""
        return -self.rank

    def as_json(self) -> dict[str, Any]:
        """As stores hold it."""
        return {
            "area": self.area,
            "box": list(self.box),
            "counts": self.counts,
            "quality": self.quality,
            "stability": self.stability,
        }


def region(mask: Pixels, quality: float | None = None, stability: float | None = None) -> Region:
    """The region of an (H, W) mask that is not empty. Estimates are kept to six decimals."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    box = left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1
    return Region(-int(mask.sum()), box, to_counts(mask), _rounded(quality), _rounded(stability))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)


def by_area(regions: Sequence[Region], size: tuple[int, int], count: int) -> list[Region]:
    """The largest, as UrbanCross's released code has it."""
    return sorted(regions)[:count]


def by_quality(regions: Sequence[Region], size: tuple[int, int], count: int) -> list[Region]:
    """Those that the model itself thinks best."""

    def quality(one: Region) -> float:
        if one.quality is None:
            raise RunError("the segmenter says nothing of its masks' quality; use another --chooser")
        return one.quality

    return sorted(regions, key=lambda one: (-quality(one), one))[:count]


def by_diversity(regions: Sequence[Region], size: tuple[int, int], count: int) -> list[Region]:
    """One by one, each time that which covers most pixels that none has covered yet.

    Greedy maximum coverage; regions within the covered ones come last, the largest first.
    """
    left = [(one, from_counts(one.counts, *size)) for one in sorted(regions)]
    covered, taken = np.zeros(size, dtype=bool), list[Region]()
    while left and len(taken) < count:
        gains = [int(np.count_nonzero(mask & ~covered)) for _, mask in left]
        best, mask = left.pop(int(np.argmax(gains)))  # of equal gains the first, in the order of content
        covered |= mask
        taken.append(best)
    return taken


def by_score(scores: Callable[[Sequence[Region]], NDArray[np.float64]]) -> Chooser:
    """Those that are scored highest; asked for only where some must be left out."""

    def highest(regions: Sequence[Region], size: tuple[int, int], count: int) -> list[Region]:
        first = sorted(regions)
        if len(first) <= count:
            return first
        order = np.argsort(-scores(first), kind="stable")  # of equal scores the first, in the order of content
        return [first[index] for index in order[:count].tolist()]

    return highest


Chooser = Callable[[Sequence[Region], tuple[int, int], int], list[Region]]
CHOOSERS: dict[str, Chooser] = {"area": by_area, "quality": by_quality, "diversity": by_diversity}


def chosen(
    regions: Sequence[Region], size: tuple[int, int], chooser: Chooser, count: int, min_area: float
) -> list[Region]:
    """At most `count` different regions of an image of `size` (H, W), in the order of their content.

    Of regions with the same pixels the one of the best quality stands for all. Those smaller than `min_area` are
    left out: pixels, or below 1 a share of the image.
    """
    least = min_area if min_area >= 1 else min_area * size[0] * size[1]
    different: dict[str, Region] = {}
    for one in sorted(regions, key=lambda one: (one.quality or 0.0, one.stability or 0.0)):
        different[one.counts] = one
    kept = [one for one in different.values() if one.area >= least]
    return sorted(chooser(kept, size, count))
