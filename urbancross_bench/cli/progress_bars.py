"""How far a `data` command is with what it does for every image: bars, with an estimate of the time left."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from urbancross_bench.cli.amounts import duration

if TYPE_CHECKING:
    from rich.progress import TaskID

    from urbancross_bench.data.index import Report

_EVERY = 30  # seconds between two lines


@contextmanager
def progress() -> Iterator[Report]:
    """Something to tell what is done, and how many of how many: bars on a terminal, now and then a line elsewhere.

    What is done when it is first told was done by an earlier command, and says nothing about speed.
    """
    if not sys.stderr.isatty():
        clocks: defaultdict[str, _Clock] = defaultdict(_Clock)

        def line(what: str, done: int, total: int) -> None:
            clock = clocks[what]
            if clock.due(done, total):
                print(f"{what}: {done:,} of {total:,}{clock.left(done, total)}", file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        bars: dict[str, TaskID] = {}

        def move(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = shown.add_task(what, total=total, completed=done)
            shown.update(bars[what], completed=done, total=total, visible=done < total)

        yield move


class _Clock:
    """When the next line is due, and how long is left at the speed so far."""

    def __init__(self) -> None:
        self._begin: tuple[float, int] | None = None
        self._said = (0.0, -1)

    def due(self, done: int, total: int) -> bool:
        """At first, at the end, and every half a minute between; nothing is said twice."""
        now = time.monotonic()
        waited = self._begin is None or done >= total or now - self._said[0] >= _EVERY
        self._begin = self._begin or (now, done)
        if not waited or done == self._said[1]:
            return False
        self._said = (now, done)
        return True

    def left(self, done: int, total: int) -> str:
        """`, about 3:10 left`; empty as long as nothing is known."""
        begin, before = self._begin or (0.0, 0)
        if done <= before or done >= total:
            return ""
        return f", about {duration((time.monotonic() - begin) / (done - before) * (total - done))} left"
