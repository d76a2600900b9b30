"""Trackio: a local project in the output folder. Nothing leaves the machine."""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from urbancross_bench.interfaces import Options, Scores, Tracker
from urbancross_trackers.folders import writable
from urbancross_trackers.naming import facts, numbers, run_title, scored, training_title

# With one of these Trackio would send what it is told elsewhere.
_ELSEWHERE = (
    "TRACKIO_SPACE_ID",
    "TRACKIO_SERVER_URL",
    "TRACKIO_DATASET_ID",
    "TRACKIO_BUCKET_ID",
    "TRACKIO_WEBHOOK_URL",
)


class TrackioOptions(Options):
    """Options of the tracker `trackio`."""

    project: str | None = Field(default=None, description="Trackio's project; by default the grid's name")
    folder: str | None = Field(
        default=None, description="where it lies; by default `trackio` in the output folder"
    )


class Trackio(Tracker):
    """A Trackio run for each training, with a point per pass, and one for each run, with its scores."""

    options_type = TrackioOptions

    def on_grid_started(self, out: str, grid: str, runs: Sequence[Mapping[str, Any]]) -> None:
        """Settle folder and project."""
        options = cast(TrackioOptions, self.options)
        self._folder = str(writable(Path(options.folder or Path(out) / "trackio")).resolve())
        for name in _ELSEWHERE:
            os.environ.pop(name, None)
        self._project = re.sub(r"[^\w-]+", "-", options.project or grid)
        self._current: tuple[str, Any] | None = None
        self._known: set[str] | None = None

    def on_run_reused(
        self, run: Mapping[str, Any], trainings: Sequence[Mapping[str, Any]], scores: Scores
    ) -> None:
        """The same, of whatever the project has nothing of yet."""
        for training in trainings:
            if self._is_new(training_title(training["stage"], training["key"])):
                for values in training["passes"]:
                    self.on_epoch_ended(training["stage"], values, training["key"])
        if self._is_new(run_title(run)):
            self.on_run_finished(run, "ok", None, scores)

    def on_epoch_ended(self, stage: str, values: Mapping[str, float], key: str) -> None:
        """A point of each curve, at the step that the pass ended with."""
        point = {f"train/{name}": value for name, value in numbers(values).items()}
        with self._library():
            run = self._run(training_title(stage, key), {"training": key}, "trainings")
            run.log(point, step=int(values["step"]))

    def on_run_finished(self, run: Mapping[str, Any], status: str, error: str | None, scores: Scores) -> None:
        """The scores, and what the run is and how it ended."""
        said = {**facts(run), "status": status} | ({"error": error} if error else {})
        with self._library():
            self._run(run_title(run), said, "runs").log({"ok": float(status == "ok"), **scored(scores)}, step=0)

    def on_grid_finished(self, out: str, counts: Mapping[str, int]) -> None:
        """Write what waits to be written."""
        if self._current is not None:
            with self._library():
                self._current[1].finish()

    def _is_new(self, title: str) -> bool:
        """Whether the project had no run of this name, and was not asked for it before."""
        if self._known is None:
            with self._library() as trackio:
                try:
                    self._known = {run.name for run in trackio.Api().runs(self._project)}
                except ValueError:  # there is no such project
                    self._known = set()
        known = title in self._known
        self._known.add(title)
        return not known

    @contextmanager
    def _library(self) -> Iterator[Any]:
        """Trackio, which is told its folder by the environment, prints, and draws names: of that nothing stays."""
        random_state, before = random.getstate(), os.environ.get("TRACKIO_DIR")
        os.environ["TRACKIO_DIR"] = self._folder
        try:
            with redirect_stdout(sys.stderr):
                import trackio

                yield trackio
        finally:
            random.setstate(random_state)
            if before is None:
                del os.environ["TRACKIO_DIR"]
            else:
                os.environ["TRACKIO_DIR"] = before

    def _run(self, title: str, config: Mapping[str, str], group: str) -> Any:
        """Trackio's run of this name, as it was left: trainings take turns, and it knows one current run alone."""
        import trackio

        if self._current is None or self._current[0] != title:
            run = trackio.init(
                project=self._project,
                name=title,
                group=group,
                config=dict(config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )  # ends the run before it
            self._current = (title, run)
        return self._current[1]
