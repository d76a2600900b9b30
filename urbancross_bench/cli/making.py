"""The progress of making something for every image of a domain, with an estimate of the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY = 30  # seconds between two lines


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Something to tell `done` and `total` to: a bar on a terminal, a line now and then elsewhere.

    What is done when it is first told was done by an earlier command, and says nothing about speed.
    """
    if not sys.stderr.isatty():
        clock = _Clock()

        def line(done: int, total: int) -> None:
            if clock.due(done, total):
                print(f"{what}: {done:,} of {total:,}{clock.left(done, total)}", file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(what, total=None)
        begun = False

        def move(done: int, total: int) -> None:
            nonlocal begun
            if not begun:
                bars.reset(bar, total=total, completed=done)
                begun = True
            bars.update(bar, completed=done, total=total)

        yield move


class _Clock:
    """When the next line is due, and how long is left at the speed so far."""

    def __init__(self) -> None:
        self._begin: tuple[float, int] | None = None
        self._said = 0.0

    def due(self, done: int, total: int) -> bool:
        """At first, at the end, and every half a minute between."""
        now = time.monotonic()
        first = self._begin is None
        self._begin = self._begin or (now, done)
        if not first and done < total and now - self._said < _EVERY:
            return False
        self._said = now
        return True

    def left(self, done: int, total: int) -> str:
        """`, about 3:10 left`; empty as long as nothing is known."""
        begin, before = self._begin or (0.0, 0)
        if done in (before, total):
            return ""
        seconds = round((time.monotonic() - begin) / (done - before) * (total - done))
        return f", about {seconds // 60}:{seconds % 60:02d} left"
