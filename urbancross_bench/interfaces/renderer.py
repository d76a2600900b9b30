"""Renderers: from a table to the content of a file."""

from __future__ import annotations

import math
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from urbancross_bench.interfaces.evidence import Evidence
from urbancross_bench.interfaces.options import Options

_HIDDEN = ("Cc", "Cf", "Cs")  # control, format (the marks that turn a text's direction are here), lone surrogates
_JOINERS = "\u200c\u200d"  # of format, but needed to spell some languages


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; a missing interval is None, never a guess."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, both of them ticks, as all multiples of `step` between them are."""

    low: float
    high: float
    step: float

    @classmethod
    def over(cls, values: Sequence[float], steps: int) -> Scale:
        """One that holds all values, and whose round steps go into their span at least so many times."""
        low, high = min(values), max(values)
        step = _round_step((high - low) / steps)
        low, high = step * math.floor(low / step), step * math.ceil(high / step)
        return cls(low, high if high > low else low + step, step)

    @property
    def ticks(self) -> list[float]:
        """Round numbers, from end to end."""
        return [n * self.step for n in range(round(self.low / self.step), round(self.high / self.step) + 1)]

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one."""
        return (value - self.low) / (self.high - self.low)


def ends_of(estimates: Sequence[Estimate]) -> list[float]:
    """All numbers that a plot of estimates has to hold."""
    return [end for one in estimates for end in (one.value, one.low, one.high) if end is not None]


def _round_step(most: float) -> float:
    if most <= 0:
        return 0.25
    power = 10.0 ** math.floor(math.log10(most))
    return power * max(factor for factor in (1, 2, 5) if power * factor <= most * (1 + 1e-9))


Cell = str | int | float | Estimate | None


_LARGEST = 2**63  # of an int that a file of columns holds


def no_cell(value: object) -> str:
    """What keeps a value from being a cell that can be shown; empty where nothing does."""
    if value is not None and not isinstance(value, str | int | float | Estimate):
        kind = type(value).__name__
        return f"a {kind}, which is no cell; give a text, an int, a float, an Estimate or None"
    numbers = [value.value, value.low, value.high] if isinstance(value, Estimate) else [value]
    if isinstance(value, Estimate) and not all(isinstance(number, int | float | None) for number in numbers):
        return f"{value}, whose value and ends are no numbers"
    if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
        return f"{value}; a value that is missing is None"
    if any(abs(number) >= _LARGEST for number in numbers if isinstance(number, int)):
        return f"{value}, of more digits than tables hold; give a float"
    return ""


@dataclass(frozen=True)
class Table:
    """A named table. `name` is fit for a file name; every row has one cell per column.

    Columns, rows and notes are tuples, whatever they were given as: many renderers are shown the same table.

    `best` and `tied` are cells, as (row, column): the highest of those that may be ranked among each other, and
    what cannot be told apart from it. Both are empty where the table has no test that says so.

    `behind`: for each row the name of its runs, `ShownRun.row`; empty where rows stand for more than one method in
    one scenario.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    best: frozenset[tuple[int, int]] = frozenset()
    tied: frozenset[tuple[int, int]] = frozenset()
    behind: Sequence[str] = ()

    @classmethod
    def of_lines(
        cls, name: str, title: str, lines: Sequence[Mapping[str, Cell]], notes: Sequence[str] = ()
    ) -> Table:
        """A table of lines that all have the same columns; the first says their order."""
        columns = list(lines[0]) if lines else ["nothing to show"]
        return cls(name, title, columns, [[line[column] for column in columns] for line in lines], notes)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(map(tuple, self.rows)))
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "notes", tuple(self.notes))
        object.__setattr__(self, "behind", tuple(self.behind))


@dataclass(frozen=True, eq=False)
class Board:
    """All that one view shows: its tables, the first the one to look at, and what they are made from.

    `metric`, `baseline`: what rows are ordered and compared by, and to.
    """

    title: str
    tables: Sequence[Table]
    metric: str = "mR"
    baseline: str = "source_only"
    evidence: Evidence = field(default_factory=Evidence)


class Renderer(ABC):
    """A renderer plugin: a pure function of a board, the same content on every machine.

    Texts come from plugins, grids and data sets: a renderer escapes what its format would take as markup, and
    passes every text through `printable` first.
    """

    suffix: ClassVar[str]
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options) -> None:
        self.options = options

    @abstractmethod
    def render(self, table: Table) -> str | bytes:
        """The content of a file with this renderer's suffix; text is written as UTF-8."""

    def files(self, board: Board) -> Iterator[tuple[str, str | bytes]]:
        """The files of a board, one by one: a path below its folder, with `/`, and the content.

        By default one for each table, named after it. A format that shows more overrides this.
        """
        for table in board.tables:
            yield f"{table.name}{self.suffix}", self.render(table)

    def same(self, written: bytes, made: bytes) -> bool:
        """Whether two files say the same: `leaderboard check` asks. By default, whether they are the same bytes.

        A format whose bytes depend on the version of a library compares contents instead.
        """
        return written == made


def interval_ends(column: str, columns: Sequence[str]) -> tuple[str, str]:
    """What columns of the ends of an estimate's interval are called: `mR low` and `mR high`, or as no other column
    of the table is, such as that of a domain `urban low`.
    """
    low, high, left, right = f"{column} low", f"{column} high", " [", "]"
    while {low, high} & {*columns}:
        low, high = f"{column}{left}low{right}", f"{column}{left}high{right}"
        left, right = f"{left}[", f"{right}]"
    return low, high


# A spreadsheet would run a cell that starts like a formula; those of some languages take wide signs, too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def harmless(text: str) -> str:
    """A cell of a csv that no spreadsheet runs as a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def printable(text: str) -> str:
    """The text in one line, and with nothing in it that does not show.

    Runs of white space, line ends among them, become one space; a control or format character, such as a mark
    that turns the direction of what follows, becomes its number: `[U+202E]`.
    """
    return "".join(
        f"[U+{ord(char):04X}]" if unicodedata.category(char) in _HIDDEN and char not in _JOINERS else char
        for char in " ".join(text.split())
    )
