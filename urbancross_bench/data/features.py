"""Stored features: rows of files, found by the name of an image or the words of a caption."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import DataError, some
from urbancross_bench.identity import digest
from urbancross_bench.interfaces.dataset import ImageSource

# Beyond these norms a vector has no direction in single precision: its squares vanish or overflow.
LEAST_NORM, LARGEST_NORM = 1e-12, 1e18
_SHOWN = 3  # rows that a message names
_BLOCK = 4096  # rows that are looked at together


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """N rows of one file, `rows` (N, D) floats of any precision, and the `names` they are found by."""

    file: Path
    names: Sequence[str]
    rows: NDArray[Any]

    @property
    def width(self) -> int:
        """D."""
        return int(self.rows.shape[1])

    def check(self) -> FeatureTable:
        """Itself. Raises DataError unless it is a table of directions, each with a name of its own."""
        if self.rows.dtype.kind != "f":
            raise DataError(
                f"features {self.file} are of type {self.rows.dtype}; write floats (float16 to float64)"
            )
        if self.rows.ndim != 2 or not self.rows.size:
            raise DataError(f"features {self.file} have shape {self.rows.shape}; a row per name is wanted, (N, D)")
        if len(self.names) != len(self.rows):
            raise DataError(f"features {self.file}: {len(self.names)} names for {len(self.rows)} rows")
        self._expect_none("have an empty name", [not name.strip() for name in self.names])
        self._expect_none("have the name of a row before", _repeats(self.names))
        blocks = [self.single(slice(start, start + _BLOCK)) for start in range(0, len(self.rows), _BLOCK)]
        self._expect_none("hold NaN or infinity", np.concatenate([~np.isfinite(b).all(axis=1) for b in blocks]))
        norms = np.concatenate([np.sqrt(np.square(b, dtype=np.float64).sum(axis=1)) for b in blocks])
        self._expect_none("are zero, or as good as zero", norms < LEAST_NORM)
        self._expect_none("are too long for single precision", norms > LARGEST_NORM)
        return self

    def single(self, rows: Any) -> NDArray[np.float32]:
        """Some rows in single precision; what it cannot hold becomes infinite."""
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(self.rows[rows], dtype=np.float32)

    def _expect_none(self, problem: str, bad: Iterable[bool] | NDArray[np.bool_]) -> None:
        rows = np.flatnonzero(np.fromiter(bad, dtype=bool))
        if len(rows):
            named = [f"row {row} ({self.names[row]!r})" for row in rows.tolist()]
            raise DataError(f"features {self.file}: {len(rows)} rows {problem}: {some(named, _SHOWN)}")


class FeatureRows:
    """The rows of one or several tables, found by name.

    `what` they are of is said in messages: `image`, `caption`. Raises DataError where two tables hold one name, or
    are of different widths.
    """

    def __init__(self, tables: Sequence[FeatureTable], what: str) -> None:
        self._tables = tables
        self._what = what
        self._places: dict[str, tuple[int, int]] = {}
        for number, table in enumerate(tables):
            twice = [name for name in table.names if name in self._places]
            if twice:
                first = tables[self._places[twice[0]][0]].file
                raise DataError(f"features {table.file} hold {twice[0]!r} again, which stands in {first}")
            if table.width != self.width:
                raise DataError(
                    f"features {table.file} have {table.width} dimensions, but those of {tables[0].file} "
                    f"{self.width}"
                )
            self._places |= {name: (number, row) for row, name in enumerate(table.names)}

    @property
    def width(self) -> int:
        """D."""
        return self._tables[0].width

    def expect(self, wanted: Set[str], *, surplus: bool) -> None:
        """Raise DataError unless every wanted name has a row and, without `surplus`, every row is wanted."""
        problems = []
        missing = sorted(wanted - self._places.keys())
        if missing:
            problems.append(
                f"{len(missing)} of {len(wanted)} different {self._what}s have no row in {self._files}: "
                f"{some([*map(repr, missing)], _SHOWN)}"
            )
        for table in self._tables:
            beyond = [] if surplus else [name for name in table.names if name not in wanted]
            if beyond:
                problems.append(
                    f"{len(beyond)} of {len(table.names)} rows of {table.file} are of no {self._what} here: "
                    f"{some([*map(repr, beyond)], _SHOWN)} (surplus=true allows it)"
                )
        if problems:
            raise DataError(f"features, found by {self._what}, letter for letter: {'; '.join(problems)}")

    def take(self, names: Sequence[str]) -> NDArray[np.float32]:
        """(N, D) the rows of some names, in their order. Raises DataError for a name without a row."""
        self.expect(set(names), surplus=True)
        owners, rows = np.array([self._places[name] for name in names], dtype=np.int64).reshape(-1, 2).T
        taken = np.empty((len(names), self.width), dtype=np.float32)
        for number, table in enumerate(self._tables):
            taken[owners == number] = table.single(rows[owners == number])
        return taken

    @property
    def _files(self) -> str:
        return some([str(table.file) for table in self._tables], _SHOWN)


class StoredImages(ImageSource):
    """The images of a domain that is made of their features: equal features are equal images."""

    has_pixels: ClassVar[bool] = False

    def __init__(self, features: FeatureTable, names: Sequence[str]) -> None:
        """`names` are those of the domain's images, in their order. Raises DataError if one has no row."""
        self._features = features
        self._names = names

    @cached_property
    def _digests(self) -> list[str]:
        rows = FeatureRows([self._features], "image").take(self._names)
        return [digest([b"features", row.astype("<f4").tobytes()]) for row in rows]

    def digest(self, index: int) -> str:
        """Of the image's row in single precision."""
        return self._digests[index]

    def read(self, index: int) -> NDArray[np.uint8]:
        """Raises DataError: there are no pixels."""
        raise DataError(f"image {self._names[index]!r}: {self._features.file} holds features and no pixels")


def _repeats(names: Iterable[str]) -> Iterator[bool]:
    """Whether each name has stood before."""
    seen: set[str] = set()
    for name in names:
        yield name in seen
        seen.add(name)
