"""What a running grid shows: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from urbancross_bench.cli.plan import summary
from urbancross_bench.cli.wording import counts_of, details_of, rate_of, reasons_of, stages_of, time_of
from urbancross_bench.execution.following import Standing, logs_of
from urbancross_bench.execution.journal import Entry, EntryListener, command_line
from urbancross_bench.execution.plan import Run
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.status import Status
from urbancross_bench.interfaces.renderer import Cell, Estimate, Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

_SHOWN = 12  # running stages on the screen
_ENDLESS = 100_000  # columns of a screen that everything fits on


def make_display(out: Path) -> PlainDisplay:
    """The display that fits the standard error stream, of a grid whose output folder is `out`."""
    return LiveDisplay(out) if sys.stderr.isatty() else PlainDisplay(out)


def report_reading(what: str, done: int, total: int) -> None:
    """Say what is being read for the first time: a line, or on a terminal one that counts."""
    if sys.stderr.isatty():
        end = "\n" if done == total else "\r"
        print(f"reading {what}: {done:,} of {total:,} files", end=end, file=sys.stderr, flush=True)
    elif done == 0 and total:
        print(f"reading {what}: {total:,} files", file=sys.stderr, flush=True)


class PlainDisplay(EntryListener):
    """One line per run, with an estimate of the time left, and at the end why runs are not well."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._standing = Standing()
        self._begin = time.monotonic()
        self._lock = threading.Lock()  # of the standing: a live display looks at it from a thread of its own

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def planned(self, status: Status) -> None:
        """Say what is to do, and that nothing is done twice."""
        self._begin = time.monotonic()
        self._total, self._ended = len(status.todo), 0
        super().planned(status)
        for remark in status.plan.remarks:
            self.line(remark)
        self.line(summary(status))
        for reason in sorted({run.skipped for run in status.skipped}):
            self.line(f"skipped: {reason} ({sum(run.skipped == reason for run in status.skipped)} runs)")
        if not status.todo:
            self.line("nothing to do: every run is recorded already")

    def stage_ended(self, stage: Stage, error: str | None) -> None:
        """Say so if it failed."""
        super().stage_ended(stage, error)
        if error:
            self.line(f"FAILED {stage.kind} of {stage.label}: {error}")

    def run_ended(self, run: Run, status: str, error: str | None) -> None:
        """One line."""
        super().run_ended(run, status, error)
        self._ended += 1
        self.line(f"[{self._ended}/{self._total}] {status:6} {run}  {time_of(self._standing, self._now())}")

    def warn(self, message: str) -> None:
        """One line."""
        super().warn(message)
        self.line(f"warning: {message}")

    def finished(self, counts: Mapping[str, int]) -> None:
        """Why runs are not well, each reason once, and how to go on; skipped ones were told of at first."""
        super().finished(counts)
        bad = [run for run in self._standing.runs.values() if not run.well and run.state != "skipped"]
        if bad:
            for line in reasons_of(bad, logs_of(self._out, self._standing)):
                self.line(line)
            self.line(f"all logs: {self._out / 'store' / 'logs'}")
            self.line(f"to try again what is not ok: {command_line()}")

    def take(self, entry: Entry) -> None:
        """Keep the standing up."""
        with self._lock:
            self._standing.take(entry, self._now())

    def line(self, text: str) -> None:
        """Print a line, if it can be: a terminal that goes away costs no run."""
        with contextlib.suppress(OSError, ValueError):
            self._print(text)

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def _now(self) -> float:
        return time.monotonic() - self._begin


class LiveDisplay(PlainDisplay):
    """The same lines above a picture: runs by state, speed, the time left, and the stages that run."""

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        self._live = Live(get_renderable=self.picture, console=console, transient=True, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._live.stop()

    def picture(self) -> RenderableType:
        """The grid as it stands now."""
        with self._lock:  # never held while something is printed, which waits for the picture
            return picture(self._standing, self._now())

    def _print(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)


def picture(standing: Standing, now: float) -> RenderableType:
    """What a terminal shows of a running grid."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table as RichTable
    from rich.text import Text

    def text(content: str) -> Text:
        return Text(content, no_wrap=True, overflow="ellipsis")

    if not standing.runs:
        return text("")
    parts = [counts_of(standing.states()), rate_of(standing, now), time_of(standing, now)]
    over, left = len(standing.done) + len(standing.failed), len(standing.running) + standing.stages_left()
    head = RichTable.grid(padding=(0, 2))
    head.add_row(ProgressBar(total=over + left or 1, completed=over, width=40), text(stages_of(standing)))
    running = RichTable.grid(padding=(0, 2))
    running.add_column(ratio=1)
    for one in list(standing.running.values())[:_SHOWN]:
        bar = ProgressBar(total=1.0, completed=one.fraction, width=20)
        running.add_row(text(f"{one.kind} {one.label}"), bar, *map(text, details_of(one, now)))
    more = len(standing.running) - _SHOWN
    rest = [text(f"and {more} more")] if more > 0 else []
    return Group(text(" · ".join(part for part in parts if part)), head, running, *rest)


def print_table(table: Table) -> None:
    """A table on the screen; what is the same in all its rows, where something is not, stands below it once.

    A single row that is too wide stands on its side.
    """
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text  # a plain string would be searched for markup, and `[option=value]` lost

    columns = list(zip(*[[_text(cell) for cell in row] for row in table.rows], strict=True))
    columns = columns or [()] * len(table.columns)
    alike = [len(table.rows) > 1 and len(set(column)) == 1 for column in columns]
    if all(alike):
        alike = [False] * len(alike)
    parts = [f"{n} {c[0]}" for n, c, same in zip(table.columns, columns, alike, strict=True) if same and c[0]]
    shown = RichTable(title=Text(table.title), title_justify="left")
    for name, same in zip(table.columns, alike, strict=True):
        if not same:
            shown.add_column(Text(name), overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(_text(cell)) for cell, same in zip(row, alike, strict=True) if not same))
    # A pipe has no width of its own; eighty columns would tear the cells apart.
    console = Console(width=None if sys.stdout.isatty() else 220)
    wide = console.measure(shown, options=console.options.update(width=_ENDLESS)).maximum > console.width
    if wide and len(table.rows) == 1:
        shown = RichTable(title=Text(table.title), title_justify="left", show_header=False)
        for name, cell in zip(table.columns, table.rows[0], strict=True):
            shown.add_row(Text(name), Text(_text(cell)))
    console.print(shown)
    if parts:  # not as the table's caption, which would be as narrow as that
        console.print(Text(", ".join(parts)))


def _text(cell: Cell) -> str:
    if isinstance(cell, Estimate):
        rest = "" if cell.low is None or cell.high is None else f" ({_number(cell.low)} to {_number(cell.high)})"
        return f"{_number(cell.value)}{rest}"
    return "–" if cell is None else _number(cell) if isinstance(cell, float) else str(cell)


def _number(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # no −0
