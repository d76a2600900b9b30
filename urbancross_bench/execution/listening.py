"""Who is told what a grid is doing: the screen, the journal, trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from urbancross_bench.execution.plan import Run
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.status import Status


class Listener:
    """Told of everything, in the process that runs the grid and in its time: a method returns at once, and does
    not raise. By default nothing is done.
    """

    def planned(self, status: Status) -> None:
        """Before the first stage."""

    def run_started(self, run: Run) -> None:
        """The first stage that a run does not share by name was handed to the executor."""

    def stage_started(self, stage: Stage) -> None:
        """A process begins with a stage."""

    def stage_progress(self, stage: Stage, fraction: float, values: Mapping[str, float]) -> None:
        """A stage is this far. `values` may hold `cuda_bytes`, the device's memory that its tensors take now."""

    def stage_values(self, stage: Stage, values: Mapping[str, float]) -> None:
        """A pass over the source ended in a stage that trains: its mean losses and whatever else it counts."""

    def stage_ended(self, stage: Stage, error: str | None) -> None:
        """A stage ended, well or with an error."""

    def run_ended(self, run: Run, status: str, error: str | None) -> None:
        """A run's record was written. `error`: why its status is not `ok`."""

    def warn(self, message: str) -> None:
        """Something went wrong that costs no run."""

    def finished(self, counts: Mapping[str, int]) -> None:
        """The last: nothing is left to do, or the grid was interrupted. How many runs have which status."""


class Listeners(Listener):
    """Several as one."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._all = listeners

    def planned(self, status: Status) -> None:
        """Tell all."""
        for one in self._all:
            one.planned(status)

    def run_started(self, run: Run) -> None:
        """Tell all."""
        for one in self._all:
            one.run_started(run)

    def stage_started(self, stage: Stage) -> None:
        """Tell all."""
        for one in self._all:
            one.stage_started(stage)

    def stage_progress(self, stage: Stage, fraction: float, values: Mapping[str, float]) -> None:
        """Tell all."""
        for one in self._all:
            one.stage_progress(stage, fraction, values)

    def stage_values(self, stage: Stage, values: Mapping[str, float]) -> None:
        """Tell all."""
        for one in self._all:
            one.stage_values(stage, values)

    def stage_ended(self, stage: Stage, error: str | None) -> None:
        """Tell all."""
        for one in self._all:
            one.stage_ended(stage, error)

    def run_ended(self, run: Run, status: str, error: str | None) -> None:
        """Tell all."""
        for one in self._all:
            one.run_ended(run, status, error)

    def warn(self, message: str) -> None:
        """Tell all."""
        for one in self._all:
            one.warn(message)

    def finished(self, counts: Mapping[str, int]) -> None:
        """Tell all."""
        for one in self._all:
            one.finished(counts)
