"""Trackers: who else is to see what a grid does, such as a dashboard or a notifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from urbancross_bench.interfaces.options import Options

Scores = Mapping[str, Mapping[str, float]]  # `selector/protocol/domain` → metric → value


class Tracker:
    """A tracker plugin, for `run --track NAME`. It lives in a process of its own, from before the first stage.

    Its methods are the hooks of the life of a grid (`hookspecs` describes their arguments), called in order, one
    at a time. What one raises is a warning; one that hangs, ends its process, or raises when the grid starts is
    told nothing more and costs the grid nothing. What it prints goes to a file in the output folder.

    Packages that it imports are named when it is registered, `needs={"tensorboard"}`: where one is missing, `run`
    says so before anything starts.
    """

    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options) -> None:
        self.options = options

    def on_grid_started(self, out: str, grid: str, runs: Sequence[Mapping[str, Any]]) -> None:
        """The grid is planned; `runs` are to do."""

    def on_run_reused(
        self, run: Mapping[str, Any], trainings: Sequence[Mapping[str, Any]], scores: Scores
    ) -> None:
        """A run was recorded before; `trainings` are what `on_epoch_ended` would have been told of its stages."""

    def on_run_started(self, run: Mapping[str, Any]) -> None:
        """A run begins."""

    def on_epoch_ended(self, stage: str, values: Mapping[str, float], key: str) -> None:
        """A pass over the source ended in a stage that trains."""

    def on_run_finished(self, run: Mapping[str, Any], status: str, error: str | None, scores: Scores) -> None:
        """A run's record is written."""

    def on_grid_finished(self, out: str, counts: Mapping[str, int]) -> None:
        """The last."""
