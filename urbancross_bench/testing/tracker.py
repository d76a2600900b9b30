"""What a tracker promises."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from typing import Any
from unittest import SkipTest

from urbancross_bench.testing.conformance import Conformance, broken
from urbancross_bench.testing.watching import folder


def tiny_run(seed: int) -> dict[str, Any]:
    """The spec of a run, as far as a tracker looks at it."""
    return {
        "key": f"{seed + 1}" * 32,
        "scenario": {"source": ["a"], "target": "b", "kind": "cross-domain"},
        "encoder": {"label": "tiny"},
        "adaptation": {"label": "dann[weight=0.5]", "options": {"weight": 0.5}},
        "seed": seed,
        "stages": {"adapt": [f"adapt {seed}"], "pretrain": "start"},
    }


class TrackerConformance(Conformance):
    """A tracker is told of a grid of two runs, of which one fails, and one that is reused."""

    kind = "tracker"

    def choose(self) -> Mapping[str, Any]:
        """The options. Raises SkipTest where a package is missing that the tracker says it needs."""
        needs = self.registry.find(self.kind, self.plugin).registration.needs
        if missing := [name for name in sorted(needs) if importlib.util.find_spec(name) is None]:
            raise SkipTest(f"needs the package {missing[0]}, which is not installed")
        return self.options

    def work(self) -> Any:
        """Tell it of a grid."""
        self._tell(self.build(), str(folder()))

    @staticmethod
    def _tell(tracker: Any, out: str) -> None:
        runs = [tiny_run(0), tiny_run(1)]
        tracker.on_grid_started(out, "tiny", runs)
        reused = tiny_run(2)
        passes = [{"step": 3.0, "loss": 0.5}]
        tracker.on_run_reused(
            reused, [{"stage": "adapt 2", "key": "adapt 2", "passes": passes}], {"last/classic/b": {"mR": 10.0}}
        )
        for run in runs:
            tracker.on_run_started(run)
            tracker.on_epoch_ended(f"adapt {run['seed']}", {"step": 3.0, "loss": 0.5}, run["stages"]["adapt"][0])
        tracker.on_epoch_ended("adapt 0", {"step": 6.0, "loss": math.nan}, runs[0]["stages"]["adapt"][0])
        tracker.on_run_finished(runs[0], "ok", None, {"last/classic/b": {"mR": 12.5}})
        tracker.on_run_finished(runs[1], "failed", "no <luck> | at\nall", {})
        tracker.on_grid_finished(out, {"ok": 1, "failed": 1})

    def test_it_is_told_twice(self) -> None:
        """A grid may be run again with the same output folder: a second tracker goes on beside the first."""
        self.worked()
        out = str(folder())
        self._tell(self.build(), out)
        try:
            self._tell(self.build(), out)
        except Exception as error:
            broken(f"{type(error).__name__}: {error}")
