"""Who is told what a grid is doing: the screen, the journal, trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

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
    """Several as one: whatever is told, all are told, in order."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        for name in vars(Listener):
            if not name.startswith("_"):
                setattr(self, name, partial(_tell, [getattr(one, name) for one in listeners]))


def _tell(all_: Sequence[Callable[..., None]], *told: Any) -> None:
    for one in all_:
        one(*told)
