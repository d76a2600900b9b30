"""Running a grid: hand out the stages that are ready, write a record as soon as a run is complete."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from urbancross_bench.data.readers import data_folder
from urbancross_bench.errors import UsageError
from urbancross_bench.execution.plan import Plan, Run, Score
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.store import CURVE, Store
from urbancross_bench.files import write_json
from urbancross_bench.interfaces.executor import Event, Executor, Task
from urbancross_bench.records import Record, clear_partial, read_record, write_score, writing_record
from urbancross_bench.registry import Registry


class Display(Protocol):
    """Who is told what a grid is doing."""

    def planned(self, status: Status) -> None:
        """Before the first stage."""

    def stage_started(self, stage: Stage) -> None:
        """A stage was handed to the executor."""

    def stage_progress(self, stage: Stage, fraction: float) -> None:
        """A stage is this far."""

    def stage_ended(self, stage: Stage, error: str | None) -> None:
        """A stage ended, well or with an error."""

    def run_ended(self, run: Run, status: str, error: str | None) -> None:
        """A run's record was written."""

    def warn(self, message: str) -> None:
        """Something went wrong that costs no run."""


@dataclass(frozen=True, eq=False)
class Status:
    """A plan against what is there: which runs are reused, skipped, to do, and which stages those need."""

    plan: Plan
    reused: tuple[Run, ...]
    skipped: tuple[Run, ...]
    todo: tuple[Run, ...]
    stages: tuple[Stage, ...]

    def state(self, run: Run) -> str:
        """`run`, `reused` or `skipped`."""
        return "skipped" if run in self.skipped else "reused" if run in self.reused else "run"


def status_of(plan: Plan, out: Path) -> Status:
    """Compare a plan with the records and the store of an output folder, which need not exist."""
    store = Store(out / "store")
    reused, skipped, todo = [], [], []
    for run in plan.runs:
        if run.skipped:
            skipped.append(run)
        elif _is_complete(run, read_record(out / "runs" / run.key)):
            reused.append(run)
        else:
            todo.append(run)
    wanted = [key for run in todo for key in run.stage_keys()]
    stored = [key for key, stage in plan.stages.items() if store.has(stage)]
    return Status(plan, tuple(reused), tuple(skipped), tuple(todo), tuple(plan.wanted(wanted, stored)))


def run_grid(
    plan: Plan,
    out: Path,
    executor: Executor,
    registry: Registry,
    display: Display,
    *,
    device: str,
    save_seconds: float = 60.0,
) -> Counter[str]:
    """Carry out what a plan still lacks. Returns how many runs have which status, `reused` among them.

    A training saves how far it is every `save_seconds`, and goes on from there when it was cut.

    Raises UsageError if the output folder cannot be written to, another process is running a grid in it, or the
    device is not there.
    """
    store = Store(out / "store")
    store.create()
    lock = FileLock(out / ".lock", blocking=False)
    try:
        with lock, closing(executor):
            store.clear_partial()
            clear_partial(out / "runs")
            status = status_of(plan, out)
            store.clear_saved()
            display.planned(status)
            if status.stages:
                device = checked_device(device)
            counts = Counter({"reused": len(status.reused), "skipped": len(status.skipped)})
            counts += _Scheduler(status, out, store, executor, registry, display, device, save_seconds).run()
    except Timeout:
        raise UsageError(
            f"another process is running a grid in {out}; wait for it or choose another --out"
        ) from None
    for problem in registry.notify("on_grid_finished", out=str(out), counts=dict(counts)):
        display.warn(problem)
    return counts


def checked_device(name: str) -> str:
    """The device stages run on, `auto` resolved; needs torch, so asked only when there is something to run."""
    from urbancross_bench.modelling.runtime import resolve_device

    return str(resolve_device(name))


@dataclass(eq=False)
class _Scheduler:
    status: Status
    out: Path
    store: Store
    executor: Executor
    registry: Registry
    display: Display
    device: str
    save_seconds: float
    failures: dict[str, Event] = field(default_factory=dict)  # by stage; of a dependent, the cause's event
    unrecorded: dict[Run, None] = field(default_factory=dict)  # in the plan's order
    started: set[Run] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    def run(self) -> Counter[str]:
        """Until every stage has ended: start what is ready while slots are free, then wait."""
        plan = self.status.plan
        waiting = {stage.key: stage for stage in self.status.stages}
        running: dict[str, Stage] = {}
        self.unrecorded.update(dict.fromkeys(self.status.todo))
        slots = self.executor.slots(self.device, plan.grid.threads * plan.grid.ranks)
        self.executor.preload(plan.modules)
        self._record_complete({*waiting})
        while waiting or running:
            blocked = {*waiting, *running}
            ready = [stage for stage in waiting.values() if blocked.isdisjoint(stage.inputs.values())]
            for stage in ready[: slots - len(running)]:
                running[stage.key] = waiting.pop(stage.key)
                self._start(stage)
            for event in self.executor.wait():
                stage = running[event.key]
                if event.kind == "progress":
                    self.display.stage_progress(stage, event.fraction)
                    continue
                del running[event.key]
                self.display.stage_ended(stage, event.error)
                if event.error is not None:
                    self._fail(stage, event, waiting)
                self._record_complete({*waiting, *running})
        return self.counts

    def _start(self, stage: Stage) -> None:
        for run in self.unrecorded:
            if run not in self.started and self._is_part(stage, run):
                self.started.add(run)
                self._notify("on_run_started", run=run.spec)
        self.display.stage_started(stage)
        self.executor.submit(
            Task(
                stage.key,
                stage.to_json(),
                str(self.store.root.resolve()),
                str(data_folder()),
                str(self.store.log(stage).resolve()),
                self.device,
                self.status.plan.grid.threads,
                self.status.plan.grid.plugins,
                self.save_seconds,
            )
        )

    def _is_part(self, stage: Stage, run: Run) -> bool:
        return stage in run.trainings or any(score.stage is stage for score in run.scores)

    def _fail(self, stage: Stage, event: Event, waiting: dict[str, Stage]) -> None:
        """A failed stage takes with it whatever builds on it, and nothing else."""
        self.failures[stage.key] = event
        for dependent in list(waiting.values()):
            if dependent.key in waiting and not self.failures.keys().isdisjoint(dependent.inputs.values()):
                del waiting[dependent.key]
                self.failures[dependent.key] = event

    def _record_complete(self, pending: set[str]) -> None:
        """Write the record of every run whose stages have all ended, or cannot come."""
        for run in list(self.unrecorded):
            keys = run.stage_keys()
            if keys.isdisjoint(pending):
                del self.unrecorded[run]
                self._record(run, {key: self.failures[key] for key in sorted(keys) if key in self.failures})

    def _record(self, run: Run, failures: dict[str, Event]) -> None:
        """A run is well if its training and one score are; a score that failed is tried again next time."""
        assert run.spec is not None
        place, failure = self.out / "runs" / run.key, next(iter(failures.values()), None)
        good = [score for score in run.scores if score.stage.key not in failures]
        present = read_record(place)
        if present is not None and present.ok:  # the run was there; a selector or protocol is new
            self._write_scores(run, good, place)
        else:
            with writing_record(place, run.spec, "ok" if good else "failed") as folder:
                if good:
                    self._write_training(run, folder)
                    self._write_scores(run, good, folder)
                elif failure:
                    self._write_failure(run, failure, folder)
        outcome = "failed" if failure else "ok"
        self.counts[outcome] += 1
        self._notify("on_run_finished", run=run.spec, status=outcome)
        self.display.run_ended(run, outcome, failure.error if failure else None)

    def _write_training(self, run: Run, folder: Path) -> None:
        stages, curves = self._trained(run), {}
        for name, stage in stages.items():
            curve = self.store.path(stage.kind, stage.key) / CURVE
            curves[name] = json.loads(curve.read_text(encoding="utf-8"))
        write_json(folder / CURVE, curves)
        provenance = {name: self.store.provenance(stage) for name, stage in stages.items()}
        provenance["written"] = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        write_json(folder / "provenance.json", provenance)

    def _write_failure(self, run: Run, failure: Event, folder: Path) -> None:
        stage = self.status.plan.stages[failure.key]
        content: dict[str, str | None] = {"stage": stage.kind, "what": stage.label, "key": stage.key}
        write_json(folder / "failure.json", content | {"error": failure.error, "traceback": failure.traceback})
        curves = {}
        for name, trained in self._trained(run).items():
            places = (self.store.path(trained.kind, trained.key), self.store.saved(trained.key))
            for file in (place / CURVE for place in places):
                with contextlib.suppress(OSError, ValueError):
                    curves[name] = json.loads(file.read_text(encoding="utf-8"))
        if curves:
            write_json(folder / CURVE, curves)

    def _trained(self, run: Run) -> dict[str, Stage]:
        """The trainings of a run by name; trials after the first, which is the grid's own, have a number."""
        stages = {"pretrain": self.status.plan.stages[run.trainings[0].inputs["start"]]}
        return stages | {f"adapt {n}" if n else "adapt": stage for n, stage in enumerate(run.trainings)}

    def _write_scores(self, run: Run, scores: Sequence[Score], folder: Path) -> None:
        for score in scores:
            outputs = self.store.path("rank", score.stage.key)
            content: dict[str, Any] = {
                "run": run.key,
                "selector": score.selector,
                "domain": score.domain,
                "setting": score.stage.work["setting"],
                "selected_by": score.stage.facts["selector"],
                "measured_by": {name: score.stage.facts[name] for name in ("metrics", "code")},
                "test": score.stage.facts["test"],
                **json.loads((outputs / "score.json").read_text(encoding="utf-8")),
            }
            if not (folder / "scores" / score.key).exists():
                write_score(folder / "scores" / score.key, content, outputs)

    def _notify(self, hook: str, **arguments: Any) -> None:
        for problem in self.registry.notify(hook, **arguments):
            self.display.warn(problem)


def _is_complete(run: Run, record: Record | None) -> bool:
    if record is None or not record.ok:
        return False
    return {score.key for score in run.scores} <= {score.folder.name for score in record.scores}
