"""Query by query: the ranks of two rows, who won, and what a query is called."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import DataError
from urbancross_bench.evaluation.ties import TIES
from urbancross_bench.interfaces.renderer import harmless, printable
from urbancross_bench.leaderboard.rows import Row

if TYPE_CHECKING:
    from urbancross_bench.leaderboard.comparing import Pair

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DIRECTIONS = ("i2t", "t2i")
WON, TIED, LOST = "won", "tied", "lost"
_SAME = ("query_row", "gallery_row", "right", "image_of_query")  # what makes two rankings ask the same
_COLUMNS = ("direction", "query", "name", "rank A", "rank B", "A")
_HEADER = 2000  # characters; a header of ours is shorter
_RANKS_ALIKE = 1e-9  # relative; means of equal ranks in another order are equal


@dataclass(frozen=True, eq=False)
class Queries:
    """The Q queries of one direction under A and B. `a`, `b`: (Q,) rank of the first right answer under the
    recorded tie rule, from 1, the mean over seeds. `names`: (Q,) printable.
    """

    names: Sequence[str]
    a: Floats
    b: Floats

    @cached_property
    def ratio(self) -> Floats:
        """(Q,) how many times farther down B has the right answer; above 1 where A won, and exactly 1 if tied."""
        found: Floats = np.where(np.isclose(self.a, self.b, rtol=_RANKS_ALIKE, atol=0.0), 1.0, self.b / self.a)
        return found

    @cached_property
    def outcomes(self) -> dict[str, NDArray[np.bool_]]:
        """(Q,) each: which queries A won, tied and lost."""
        return {WON: self.ratio > 1, TIED: self.ratio == 1, LOST: self.ratio < 1}

    @property
    def counts(self) -> dict[str, int]:
        """How many queries A won, tied and lost."""
        return {outcome: int(which.sum()) for outcome, which in self.outcomes.items()}


@dataclass(frozen=True)
class Asked:
    """One query: the number of its pair, its direction, its number and name there, its two ranks, and whether A
    `won`, `tied` or `lost`.
    """

    pair: int
    direction: str
    number: int
    name: str
    a: float
    b: float
    outcome: str


def queries_of(a: Row, b: Row) -> dict[str, Queries]:
    """Both directions of two rows over the same seeds. Raises DataError if they do not ask the same queries of the
    same gallery, or a record lacks what it must have.
    """
    first = _Counts(a.seeds[0].score.folder, a.seeds[0].score.arrays())
    ranks: dict[str, list[list[Floats]]] = {direction: [[], []] for direction in DIRECTIONS}
    for side, row in enumerate((a, b)):
        for seed in row.seeds:
            one = _Counts(seed.score.folder, seed.score.arrays())
            for direction in DIRECTIONS:
                if not all(np.array_equal(one(f"{direction}.{n}"), first(f"{direction}.{n}")) for n in _SAME):
                    raise DataError(
                        f"records {first.folder} and {one.folder} were ranked with other {direction} queries, "
                        "answers or galleries, though their test split is the same; they cannot be compared"
                    )
                counts = (one(f"{direction}.{name}") for name in ("greater", "tied", "tied_positives"))
                ranks[direction][side].append(TIES[row.score["ties"]].ranks(*counts))
    images = _image_names(first.folder, int(a.score["images"]))
    owner = first("image_of_text")
    names = {"i2t": _of_images(images, first("i2t.query_row")), "t2i": _of_texts(images, owner)}
    names["t2i"] = [names["t2i"][row] for row in first("t2i.query_row").tolist()]
    return {
        direction: Queries(names[direction], *(np.add.reduce(side) / len(side) for side in ranks[direction]))
        for direction in DIRECTIONS
    }


def farthest(pairs: Sequence[Pair], top: int) -> tuple[list[Asked], list[Asked]]:
    """The queries that A won, and those it lost, by the largest ratio of ranks; at most `top` of each.

    Equal ratios stand in the order of pairs, directions and queries.
    """
    places = [(n, direction, found) for n, pair in enumerate(pairs) for direction, found in pair.queries.items()]
    lists = []
    for sign in (1.0, -1.0):
        best: list[tuple[float, int, int]] = []
        for place, (_, _, found) in enumerate(places):
            far = sign * np.log(found.ratio)
            order = np.argsort(-far, kind="stable")[:top]
            best += [(-float(far[query]), place, query) for query in order.tolist() if far[query] > 0]
        lists.append([_asked(*places[place], query) for _, place, query in sorted(best)[:top]])
    return lists[0], lists[1]


def is_csv(file: Path) -> bool:
    """Whether `write_csv` wrote a file, by its header. Raises OSError, ValueError."""
    with file.open(encoding="utf-8", newline="") as opened:
        return opened.readline(_HEADER).rstrip("\n").endswith(f",{','.join(_COLUMNS)}")


def write_csv(pairs: Sequence[Pair], file: TextIO) -> int:
    """Write a line for every query of every pair; return their number. No cell is one a spreadsheet would run."""
    writer, written = csv.writer(file, lineterminator="\n"), 0
    for number, pair in enumerate(pairs):
        cells = pair.cells
        if not written:
            writer.writerow([*cells, *_COLUMNS])
        told = [harmless(text) for text in cells.values()]
        for one in _every(number, pair):
            ranks = (f"{one.a:.4f}", f"{one.b:.4f}")
            writer.writerow([*told, one.direction, one.number, harmless(one.name), *ranks, one.outcome])
            written += 1
    return written


def _every(number: int, pair: Pair) -> Iterator[Asked]:
    for direction, found in pair.queries.items():
        for query in range(len(found.a)):
            yield _asked(number, direction, found, query)


def _asked(pair: int, direction: str, found: Queries, query: int) -> Asked:
    outcome = next(outcome for outcome, which in found.outcomes.items() if which[query])
    ranks = float(found.a[query]), float(found.b[query])
    return Asked(pair, direction, query, found.names[query], *ranks, outcome)


@dataclass(frozen=True, eq=False)
class _Counts:
    """The arrays of a record, with an error that names it."""

    folder: Path
    arrays: dict[str, NDArray[Any]]

    def __call__(self, name: str) -> NDArray[Any]:
        if name not in self.arrays:
            raise DataError(f"record {self.folder} lacks the array {name!r} in its queries")
        return self.arrays[name]


def _image_names(folder: Path, images: int) -> list[str]:
    """The names of the test images; their numbers where a record has none. Raises DataError for a damaged file."""
    file = folder / "items.json"
    if not file.is_file():
        return [f"image {number}" for number in range(images)]
    try:
        names = [str(name) for name in json.loads(file.read_text(encoding="utf-8"))["image_names"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"record {file} cannot be read: {error!r}") from error
    if len(names) != images:
        raise DataError(f"record {file} names {len(names)} images, where {images} were ranked")
    return [printable(name) for name in names]


def _of_images(images: Sequence[str], rows: Ints) -> list[str]:
    """Where an image stands several times (`row_diagonal`), its rows are numbered."""
    if len(np.unique(rows)) == len(rows):
        return [images[row] for row in rows.tolist()]
    return [f"{images[row]}, row {place}" for row, place in zip(rows.tolist(), _places(rows), strict=True)]


def _of_texts(images: Sequence[str], owner: Ints) -> list[str]:
    """Records hold no captions: licences may forbid it. A caption is named by its image and place there."""
    return [f"{images[row]}, caption {place}" for row, place in zip(owner.tolist(), _places(owner), strict=True)]


def _places(rows: Ints) -> list[int]:
    """From 1: how many equal entries stand up to each."""
    seen: Counter[int] = Counter()
    places = []
    for row in rows.tolist():
        seen[row] += 1
        places.append(seen[row])
    return places
