"""What the tables of a leaderboard are made from, as a renderer may show it: runs, domains, top lists.

Everything is plain values, texts as plugins, grids and data sets wrote them: a renderer escapes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, eq=False)
class ShownRun:
    """A run: the content of its `run.json`, of the `score.json` of each score, and of what stands beside them.

    `curves`: training → a mapping of values per pass, `provenance`: training → facts, `failure`: what went wrong.
    Each is empty where the record has none. `row` names the runs of one row of `scenarios`, of all its seeds;
    `given`: what tells it from rows of the same names, as in tables: a name → a cell.
    """

    spec: Mapping[str, Any]
    scores: Sequence[Mapping[str, Any]]
    curves: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    provenance: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    failure: Mapping[str, Any] = field(default_factory=dict)
    row: str = ""
    given: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Item:
    """An image or a caption. `text` and `thumbnail` (a JPEG) are None where there is none to show."""

    name: str
    kind: Literal["image", "text"]
    text: str | None = None
    thumbnail: bytes | None = None


@dataclass(frozen=True, eq=False)
class ShownDomain:
    """A domain by one content of its test split, whose fingerprint is `test`.

    `tested`: how many images and captions of it were ranked. `facts`: what records say of it. `card`: as
    `data show` prints it, `places`: split, latitude and longitude of images, beyond 180 degrees where the domain
    crosses the antimeridian; both empty where the runs' own output is not there. `floors`: a name of protocol and
    tie rule → floors and ceilings, each metric → percent. `samples`: images with a caption each, of domains that
    may be shown.
    """

    name: str
    test: str
    tested: tuple[int, int]
    facts: Mapping[str, Any]
    card: Mapping[str, Any] = field(default_factory=dict)
    places: Sequence[tuple[str, float, float]] = ()
    floors: Mapping[str, Mapping[str, Mapping[str, float] | None]] = field(default_factory=dict)
    samples: Sequence[tuple[Item, Item]] = ()


@dataclass(frozen=True, eq=False)
class Hit:
    """An entry of a top list. `right`: a right answer under the protocol. `copy_of_right`: it is not, and yet is
    the same image, or says the same, as one that is. `repeats`: the same stands further up in the list.
    """

    item: Item
    right: bool
    copy_of_right: bool
    repeats: bool


@dataclass(frozen=True, eq=False)
class TopList:
    """The best of the gallery for a query. `rank`: of the first right answer, 1 the best, ties at their mean."""

    method: str
    rank: float
    hits: Sequence[Hit]


@dataclass(frozen=True, eq=False)
class ShownQuery:
    """A query with the top lists of several methods, the baseline's first where there is one."""

    domain: str
    test: str
    protocol: str
    query: Item
    lists: Sequence[TopList]


class Evidence:
    """What is known besides the tables; here, nothing. Each call reads anew what it gives, in an order of its own
    that depends on content alone.
    """

    def runs(self) -> Iterator[ShownRun]:
        """The runs in order of their keys."""
        return iter(())

    def domains(self) -> Iterator[ShownDomain]:
        """The domains that were tested on, in order of their names and test splits."""
        return iter(())

    def queries(self) -> Iterator[ShownQuery]:
        """Some queries of each test split whose domain may be shown, both ways, one split after the other."""
        return iter(())
