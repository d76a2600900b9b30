"""What a running grid shows: live bars with estimates on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Self

from urbancross_bench.cli.plan import summary
from urbancross_bench.execution.plan import Run
from urbancross_bench.execution.listening import Listener
from urbancross_bench.execution.status import Status
from urbancross_bench.execution.stage import Stage
from urbancross_bench.interfaces.renderer import Cell, Estimate, Table

if TYPE_CHECKING:
    from rich.progress import TaskID


def make_display() -> PlainDisplay:
    """The display that fits the standard error stream."""
    return LiveDisplay() if sys.stderr.isatty() else PlainDisplay()


def report_reading(what: str, done: int, total: int) -> None:
    """Say what is being read for the first time: a line, or on a terminal one that counts."""
    if sys.stderr.isatty():
        end = "\n" if done == total else "\r"
        print(f"reading {what}: {done:,} of {total:,} files", end=end, file=sys.stderr, flush=True)
    elif done == 0 and total:
        print(f"reading {what}: {total:,} files", file=sys.stderr, flush=True)


class PlainDisplay(Listener):
    """One line per run, with an estimate of the time left."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def planned(self, status: Status) -> None:
        """Say what is to do, and that nothing is done twice."""
        self._clock = Clock(status.stages)
        self._total, self._done = len(status.todo), 0
        for remark in status.plan.remarks:
            self.line(remark)
        self.line(summary(status))
        for reason in sorted({run.skipped for run in status.skipped}):
            self.line(f"skipped: {reason} ({sum(run.skipped == reason for run in status.skipped)} runs)")
        if not status.todo:
            self.line("nothing to do: every run is recorded already")

    def stage_started(self, stage: Stage) -> None:
        """Start its clock."""
        self._clock.started(stage)

    def stage_progress(self, stage: Stage, fraction: float, values: object = None) -> None:
        """Nothing in plain lines."""

    def stage_ended(self, stage: Stage, error: str | None) -> None:
        """Stop its clock; say so if it failed."""
        self._clock.ended(stage)
        if error:
            self.line(f"FAILED {stage.kind} of {stage.label}: {error}")

    def run_ended(self, run: Run, status: str, error: str | None) -> None:
        """One line."""
        self._done += 1
        self.line(f"[{self._done}/{self._total}] {status:6} {run}  {self._clock}")

    def warn(self, message: str) -> None:
        """One line."""
        self.line(f"warning: {message}")

    def line(self, text: str) -> None:
        """Print a line."""
        print(text, file=sys.stderr, flush=True)


class LiveDisplay(PlainDisplay):
    """The same lines above a bar for the grid and one for each running stage."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        name, left = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[left]}"))
        console = Console(stderr=True)
        self._progress = Progress(name, BarColumn(), TaskProgressColumn(), left, console=console, transient=True)
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def planned(self, status: Status) -> None:
        """Add the grid's bar."""
        super().planned(status)
        self._grid = self._progress.add_task("grid", total=len(status.stages), left="")

    def stage_started(self, stage: Stage) -> None:
        """Add its bar."""
        super().stage_started(stage)
        self._bars[stage.key] = self._progress.add_task(f"{stage.kind} {stage.label}", total=1.0, left="")

    def stage_progress(self, stage: Stage, fraction: float, values: object = None) -> None:
        """Move its bar."""
        left = self._clock.left_of(stage, fraction)
        self._progress.update(self._bars[stage.key], completed=fraction, left=left)
        self._progress.update(self._grid, left=str(self._clock))

    def stage_ended(self, stage: Stage, error: str | None) -> None:
        """Remove its bar, move the grid's."""
        super().stage_ended(stage, error)
        self._progress.remove_task(self._bars.pop(stage.key))
        self._progress.update(self._grid, advance=1, left=str(self._clock))

    def line(self, text: str) -> None:
        """Print above the bars."""
        self._progress.console.print(text, markup=False, highlight=False)


class Clock:
    """Estimates the time left from the stages that have ended: per kind, their mean duration."""

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        self._open = {stage.key: stage.kind for stage in stages}
        self._starts: dict[str, float] = {}
        self._durations: dict[str, list[float]] = defaultdict(list)
        self._begin = time.monotonic()

    def started(self, stage: Stage) -> None:
        """A stage began now."""
        self._starts[stage.key] = time.monotonic()

    def ended(self, stage: Stage) -> None:
        """A stage ended now."""
        self._durations[stage.kind].append(time.monotonic() - self._starts.pop(stage.key))
        self._open.pop(stage.key, None)

    def left_of(self, stage: Stage, fraction: float) -> str:
        """The time left of a running stage."""
        elapsed = time.monotonic() - self._starts[stage.key]
        return _duration(elapsed / fraction - elapsed) if fraction > 0 else ""

    def __str__(self) -> str:
        """`0:42 so far, about 3:10 left`."""
        elapsed = time.monotonic() - self._begin
        means = {kind: sum(d) / len(d) for kind, d in self._durations.items()}
        if not self._open:
            return f"{_duration(elapsed)} so far"
        if any(kind not in means for kind in self._open.values()):
            return f"{_duration(elapsed)} so far"
        work_done = sum(sum(d) for d in self._durations.values())
        work_left = sum(means[kind] for kind in self._open.values())
        return f"{_duration(elapsed)} so far, about {_duration(elapsed * work_left / work_done)} left"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def print_table(table: Table) -> None:
    """A table on the screen; what is the same in all its rows stands above it once."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text  # a plain string would be searched for markup, and `[option=value]` lost

    columns = list(zip(*[[_text(cell) for cell in row] for row in table.rows], strict=True))
    columns = columns or [()] * len(table.columns)
    alike = [len(table.rows) > 1 and len(set(column)) == 1 for column in columns]
    parts = [f"{n} {c[0]}" for n, c, same in zip(table.columns, columns, alike, strict=True) if same and c[0]]
    shared = ", ".join(parts)
    shown = RichTable(title=Text(table.title), caption=Text(shared), title_justify="left", caption_justify="left")
    for name, same in zip(table.columns, alike, strict=True):
        if not same:
            shown.add_column(Text(name))
    for row in table.rows:
        shown.add_row(*(Text(_text(cell)) for cell, same in zip(row, alike, strict=True) if not same))
    # A pipe has no width of its own; eighty columns would tear the cells apart.
    Console(width=None if sys.stdout.isatty() else 140).print(shown)


def _text(cell: Cell) -> str:
    if isinstance(cell, Estimate):
        rest = "" if cell.low is None or cell.high is None else f" ({cell.low:.1f} to {cell.high:.1f})"
        return f"{cell.value:.1f}{rest}"
    return "–" if cell is None else f"{cell:.1f}" if isinstance(cell, float) else str(cell)
