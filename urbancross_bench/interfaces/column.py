"""Columns: what else a leaderboard says of a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from urbancross_bench.interfaces.options import Options
from urbancross_bench.interfaces.renderer import Cell


class Column(ABC):
    """A column plugin: a pure function of what is on record, which a view names under `columns`.

    It stands last in the table of scenarios, headed as the view names it, and changes nothing of the others: no
    order, no mean, no verdict.
    """

    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options) -> None:
        self.options = options

    @abstractmethod
    def cell(self, run: Mapping[str, Any], scores: Sequence[Mapping[str, Any]]) -> Cell:
        """The cell of one row: a text, a number, an `Estimate`, or None where there is nothing to say.

        run: the content of `run.json`, of the row's first seed; all but what names the run is the same in the
        others. scores: the content of `score.json` of each seed, in order of the seeds. Neither may be changed.
        """
