"""From stored stages to records: what a run left is copied out of the store as soon as its stages have ended."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from urbancross_bench.errors import DataError, RunError
from urbancross_bench.execution.plan import Plan, Run, Score
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.store import CURVE, PARAMETERS, Store
from urbancross_bench.files import alone_in, write_json
from urbancross_bench.interfaces.executor import Event
from urbancross_bench.names import names_in
from urbancross_bench.records import (
    Record,
    clear_partial,
    failed_metrics,
    read_whole,
    trainings_of,
    write_score,
    writing_record,
)


class Recorder:
    """Writes the records of a plan's runs below an output folder. Several processes may write there."""

    def __init__(self, plan: Plan, out: Path, store: Store, warn: Callable[[str], None]) -> None:
        self._plan, self._out, self._store, self._warn = plan, out, store, warn

    def clean(self) -> None:
        """Remove what killed processes left half-written."""
        with alone_in(self._out):
            clear_partial(self._out / "runs")

    def record(self, run: Run, failures: Mapping[str, Event]) -> list[str]:
        """Write the record of a run whose stages have all ended. `failures`: those that failed, by key.

        A run is well if its training and one score are; a score that failed, or a metric in one, is tried again
        next time. Returns which metrics failed, and why, in what is written. Raises
        MissingError for a stage that the store holds no longer, or damaged; RunError if nothing can be written.
        """
        place, failure = self._place(run), next(iter(failures.values()), None)
        good = [score for score in run.scores if score.stage.key not in failures]
        with self._writing(place):
            present = self._present(place)
            if present is not None and present.ok:  # a selector or protocol is new, or another process was faster
                return self._write_scores(run, good, place, present)
            if any(stage.key in failures for stage in self._trained(run).values()):
                good = []  # scores of an earlier session, of a training that was lost since and cannot be made
            assert run.spec is not None
            status = "ok" if good or failure is None else failure.outcome
            with writing_record(place, run.spec, status) as folder:
                if good:
                    self._write_training(run, folder)
                    return self._write_scores(run, good, folder)
                if failure:
                    self._write_failure(run, failure, folder)
        return []

    def interrupt(self, run: Run) -> None:
        """Write that a run was begun, and not ended; nothing where it has a record."""
        with self._writing(self._place(run)):
            if self._present(self._place(run)) is None:
                assert run.spec is not None
                with writing_record(self._place(run), run.spec, "interrupted"):
                    pass

    def _present(self, place: Path) -> Record | None:
        """The record that is there. One that cannot be read is set aside."""
        try:
            return read_whole(place)
        except DataError as error:
            aside = place.with_name(f".damaged-{place.name}-{time.time_ns()}")
            place.rename(aside)
            self._warn(f"{error}; it was moved to {aside}, and is written anew")
            return None

    def _place(self, run: Run) -> Path:
        return self._out / "runs" / run.key

    @contextmanager
    def _writing(self, place: Path) -> Iterator[None]:
        try:
            with alone_in(self._out):
                yield
        except OSError as error:
            raise RunError(f"record {place} cannot be written: {error}; nothing finished is lost") from error

    def _write_training(self, run: Run, folder: Path) -> None:
        stages = self._trained(run)
        curves = {name: self._read(stage, CURVE) for name, stage in stages.items()}
        provenance = {name: self._read(stage, "provenance.json") for name, stage in stages.items()}
        provenance["written"] = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        write_json(folder / CURVE, curves)
        write_json(folder / "provenance.json", provenance)

    def _read(self, stage: Stage, name: str) -> Any:
        return json.loads(self._store.read(stage.key, name))

    def _write_failure(self, run: Run, failure: Event, folder: Path) -> None:
        stage = self._plan.stages[failure.key]
        content: dict[str, str | None] = {"stage": stage.kind, "what": stage.label, "key": stage.key}
        write_json(folder / "failure.json", content | {"error": failure.error, "traceback": failure.traceback})
        curves = {}
        for name, trained in self._trained(run).items():
            places = (self._store.path(trained.kind, trained.key), self._store.saved(trained.key))
            for file in (place / CURVE for place in places):
                with contextlib.suppress(OSError, ValueError):
                    curves[name] = json.loads(file.read_text(encoding="utf-8"))
        if curves:
            write_json(folder / CURVE, curves)

    def _trained(self, run: Run) -> dict[str, Stage]:
        assert run.spec is not None
        return {name: self._plan.stages[key] for name, key in trainings_of(run.spec).items()}

    def _write_scores(
        self, run: Run, scores: Sequence[Score], folder: Path, present: Record | None = None
    ) -> list[str]:
        """Those that are not among the `present` ones, or that have failed metrics there. Returns as `record`."""
        there = {score.folder.name: score.content["failed"] for score in (present.scores if present else ())}
        named = _named(run, present)
        found = []
        for score in scores:
            if there.get(score.key) == {}:
                continue
            outputs = self._store.find(score.stage.key)
            measured = json.loads((outputs / "score.json").read_text(encoding="utf-8"))
            found.append(measured)
            if score.key in there and not measured["failed"].keys() <= there[score.key].keys():
                continue  # what is there has a value that this has not
            content: dict[str, Any] = {
                "run": run.key,
                "selector": score.selector,
                "domain": named[score.domain],
                "setting": score.setting,
                "selected_by": score.stage.facts["selector"],
                "measured_by": {name: score.stage.facts[name] for name in ("metrics", "code")},
                "test": score.stage.facts["test"],
                **measured,
                "parameters": self._read(run.trainings[measured["trial"]], PARAMETERS),
            }
            write_score(folder / "scores" / score.key, content, outputs)
        return failed_metrics(found)


def _named(run: Run, present: Record | None) -> dict[str, str]:
    """What a record calls the domains of its run: a grid may call them otherwise than the one that wrote it."""
    own = {"source": run.scenario.source, "target": run.scenario.target}
    return names_in(own, present.spec["scenario"] if present else own)
