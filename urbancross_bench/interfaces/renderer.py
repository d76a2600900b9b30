"""Renderers: from a table to the text of a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from urbancross_bench.interfaces.options import Options


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; a missing interval is None, never a guess."""

    value: float
    low: float | None = None
    high: float | None = None


Cell = str | int | float | Estimate | None


@dataclass(frozen=True)
class Table:
    """A named table. `name` is fit for a file name; every row has one cell per column."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


class Renderer(ABC):
    """A renderer plugin: a pure function of a table, the same text on every machine."""

    suffix: ClassVar[str]
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options) -> None:
        self.options = options

    @abstractmethod
    def render(self, table: Table) -> str:
        """The content of a file with this renderer's suffix."""
