"""Handing out the stages of a plan that are ready, until none is left: who waits for whom, and what failed."""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from urbancross_bench.data.readers import data_folder
from urbancross_bench.errors import UsageError
from urbancross_bench.execution.devices import checked_device
from urbancross_bench.execution.listening import Listener
from urbancross_bench.execution.plan import Run
from urbancross_bench.execution.recording import Recorder
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.status import Status
from urbancross_bench.execution.store import MissingError, Store
from urbancross_bench.interfaces.executor import Event, Executor, Task

_OWN = frozenset({"adapt", "embed", "rank"})  # what may follow in the process of what it builds on
_TRIES = 3  # of a stage whose inputs are found damaged
_PATIENCE = 0.5  # seconds between two looks at what other processes are computing


@dataclass(frozen=True)
class Limits:
    """What a task may take, and how often one that died, or took more, is tried again.

    What a stage raises is no matter for another try: it would raise it again.
    """

    save_seconds: float = 60.0
    seconds: float | None = None
    memory: int | None = None  # bytes
    retries: int = 0

    @classmethod
    def of(cls, save_seconds: float, seconds: float | None, gib: float | None, retries: int) -> Self:
        """The same with memory in GiB, as users give it. Raises UsageError for what is no such number, and for a
        limit that would be none.
        """
        if not save_seconds >= 0:
            raise UsageError(f"trainings cannot be saved every {save_seconds} seconds: give a number from 0")
        if not 0 <= retries < math.inf or retries != int(retries):
            raise UsageError(f"a stage cannot be tried {retries} times more: give a whole number from 0")
        memory = None if gib is None else gib * 2**30
        for name, given, limit, least in (("time", seconds, seconds, 0), ("memory", gib, memory, 1)):
            if limit is not None and not least < limit < math.inf:
                raise UsageError(f"a {name} limit of {given:g} is none: give a number above 0, or leave it out")
        return cls(save_seconds, seconds, None if memory is None else round(memory), retries)


class Scheduler:
    """One pass over the stages of a status. Stages that another process is computing are waited for."""

    def __init__(
        self,
        status: Status,
        store: Store,
        executor: Executor,
        recorder: Recorder,
        listener: Listener,
        device: str,
        limits: Limits,
    ) -> None:
        self._status, self._store, self._executor = status, store, executor
        self._recorder, self._listener = recorder, listener
        self._device, self._limits = device, limits
        self._place = {key: number for number, key in enumerate(status.plan.stages)}
        self._lacks: dict[str, set[str]] = {}  # every stage that is not done: what it still waits for
        self._dependents: defaultdict[str, list[str]] = defaultdict(list)
        self._ready: list[tuple[int, str]] = []  # a heap, in the plan's order
        self._elsewhere: set[str] = set()  # ready, but being computed by another process
        self._tasks: dict[str, list[str]] = {}  # of a task that runs, its stages that have not ended, in order
        self._submitted = 0
        self._started: set[str] = set()  # begun, and not ended for good
        self._running: set[str] = set()  # begun by the task that holds it, and not ended there
        self._tries: Counter[str] = Counter()  # by stage: how often it died, or had too little memory
        self._remade: Counter[str] = Counter()  # how often its inputs, or itself for a record, had to be made anew
        self._failures: dict[str, Event] = {}  # by stage; of a dependent, the cause's event
        self._pending: dict[Run, set[str]] = {}  # runs without their record: what they still wait for
        self._runs_of: defaultdict[str, list[Run]] = defaultdict(list)
        self._begun: set[Run] = set()
        self.counts: Counter[str] = Counter()  # how many runs ended with which status

    def run(self) -> None:
        """Until every stage has ended and every run has its record."""
        grid = self._status.plan.grid
        self._await(self._status.stages)
        for run in self._status.todo:
            self._pending[run] = run.stage_keys() & self._lacks.keys()
            for key in run.stage_keys():
                self._runs_of[key].append(run)
        for run in list(self._pending):
            self._record_if_complete(run)
        if self._lacks:
            self._executor.preload(self._status.plan.modules)
            self._device = self._executor.device(self._device) or checked_device(self._device)
            slots = self._executor.slots(self._device, grid.ranks, grid.threads)
        waiting = False
        while self._lacks:
            self._look_elsewhere()
            self._hand_out(slots)
            if waiting != (waiting := bool(self._elsewhere and not self._tasks)) and waiting:
                self._listener.warn(f"waiting for another process, which computes {len(self._elsewhere)} stages")
            for event in self._executor.wait(_PATIENCE):
                self._on(event)

    def interrupt(self) -> None:
        """Leave word of the runs that were begun."""
        for run in self._begun & self._pending.keys():
            self._recorder.interrupt(run)
            self._ended(run, "interrupted", None)

    def _await(self, stages: Iterable[Stage]) -> None:
        """Have these stages done, besides those that are awaited already; in the plan's order."""
        new = [stage for stage in stages if stage.key not in self._lacks]
        self._lacks |= {stage.key: set() for stage in new}
        for stage in new:
            self._failures.pop(stage.key, None)  # it may do better this time
        for stage in new:
            self._lacks[stage.key] |= set(stage.inputs.values()) & self._lacks.keys()
            for key in self._lacks[stage.key]:
                self._dependents[key].append(stage.key)
            if not self._lacks[stage.key]:
                heapq.heappush(self._ready, (self._place[stage.key], stage.key))

    def _look_elsewhere(self) -> None:
        """Take up what another process was computing, and is not any more."""
        for key in sorted(self._elsewhere, key=self._place.__getitem__):
            if not self._store.busy(key):
                self._elsewhere.remove(key)
                heapq.heappush(self._ready, (self._place[key], key))

    def _hand_out(self, slots: int) -> None:
        """Start what is ready while slots are free."""
        while self._ready and len(self._tasks) < slots:
            _, key = heapq.heappop(self._ready)
            # Since it was put there, it may have failed, been made to wait, or been handed out.
            if key not in self._lacks or self._lacks[key] or self._is_given(key):
                continue
            stage = self._status.plan.stages[key]
            if self._store.has(stage):  # another process was faster
                self._listener.stage_ended(stage, None)
                self._done(key)
            elif self._store.busy(key):
                self._elsewhere.add(key)
            else:
                # What can be done at once is spread first: a chain is for when all slots have work.
                alone = len(self._ready) < slots - len(self._tasks) - 1
                self._submit([stage] if alone else self._chain(stage))

    def _chain(self, head: Stage) -> list[Stage]:
        """A stage and what can follow it in the same process: what waits for nothing else."""
        keys, chain = {head.key}, [head]
        for stage in chain:
            for key in self._dependents[stage.key] if head.kind in _OWN else ():
                follower = self._status.plan.stages[key]
                if key not in self._lacks or key in keys or follower.kind not in _OWN:
                    continue
                if "calibration" in follower.facts:  # of another method than trained here, or than others here
                    continue
                if self._lacks[key] <= keys and not self._is_given(key):
                    keys.add(key)
                    chain.append(follower)
        return chain

    def _submit(self, stages: Sequence[Stage]) -> None:
        grid = self._status.plan.grid
        for stage in stages:
            for run in self._runs_of[stage.key]:
                if run in self._pending and run not in self._begun and stage.kind in _OWN:
                    self._begun.add(run)
                    self._listener.run_started(run)
        self._submitted += 1
        task = f"{stages[0].key}-{self._submitted}"
        self._tasks[task] = [stage.key for stage in stages]
        self._executor.submit(
            Task(
                task,
                tuple(stage.to_json() for stage in stages),
                str(self._store.root.resolve()),
                str(data_folder()),
                str(self._store.log(stages[0]).resolve()),
                self._device,
                max(stage.facts.get("ranks", 1) for stage in stages),
                grid.threads,
                grid.plugins,
                self._limits.save_seconds,
                self._limits.seconds,
                self._limits.memory,
            )
        )

    def _on(self, event: Event) -> None:
        if event.kind == "over":
            self._over(event)
            return
        stage = self._status.plan.stages[event.key]
        if event.kind == "started":
            self._started.add(event.key)
            self._running.add(event.key)
            self._listener.stage_started(stage)
        elif event.kind == "progress":
            self._listener.stage_progress(stage, event.fraction, event.values)
        elif event.kind == "values":
            self._listener.stage_values(stage, event.values)
        else:
            for keys in self._tasks.values():
                if event.key in keys:
                    keys.remove(event.key)
            self._running.discard(event.key)
            self._stage_ended(event, died=event.died)

    def _over(self, event: Event) -> None:
        """A process ended: what it had begun has failed, what it had not begun is still to do."""
        left, keys = [], self._tasks.pop(event.key)
        running = self._running.intersection(keys)
        self._running -= running
        for key in keys:
            if key in self._lacks and key in running and self._store.has(self._status.plan.stages[key]):
                self._stage_ended(Event(key, "ended", 1.0))  # it died between the last deed and the word of it
            elif key in self._lacks:
                left.append(key)
        blamed = [key for key in left if key in running]
        if event.error and not blamed:  # it did not come as far as to begin with its first
            blamed = [key for key in left[:1] if event.key.startswith(key)]
        for key in left:
            if key not in blamed and not self._lacks[key]:
                heapq.heappush(self._ready, (self._place[key], key))
        for key in blamed:
            outcome = event.outcome if event.outcome != "ok" else "failed"
            error = event.error or "its process ended before it did"
            self._stage_ended(Event(key, "ended", outcome=outcome, error=error), died=True)

    def _stage_ended(self, event: Event, *, died: bool = False) -> None:
        """A stage is done, or tried again, or failed."""
        key, stage = event.key, self._status.plan.stages[event.key]
        if key not in self._lacks:
            return
        if event.error is None:
            self._started.discard(key)
            self._listener.stage_ended(stage, None)
            self._done(key)
            return
        if event.outcome == "busy":
            self._elsewhere.add(key)
            return
        if event.damaged:
            self._remade[key] += 1
            again = self._remade[key] < _TRIES
        else:
            dead = died or event.outcome == "oom"
            self._tries[key] += dead
            again = dead and self._tries[key] <= self._limits.retries
        if not again:
            self._started.add(key)
            self._fail(event)
            return
        if event.damaged:
            self._listener.warn(f"{event.error}; it is made anew")
            self._make_anew(event.damaged)
        else:
            self._listener.warn(f"{stage.kind} of {stage.label} is tried again: {event.error}")
        self._again(key)

    def _again(self, key: str) -> None:
        if not self._lacks[key]:
            heapq.heappush(self._ready, (self._place[key], key))

    def _make_anew(self, damaged: Iterable[str]) -> None:
        """Wait for stages that were there and are no longer, and for what they need themselves."""
        plan = self._status.plan
        lost = [key for key in damaged if key not in self._lacks]
        stored = [stage.key for stage in plan.wanted(lost, ()) if self._store.has(stage)]
        wanted = plan.wanted(lost, stored)
        self._await(wanted)
        new = {stage.key for stage in wanted}
        for key, lacks in self._lacks.items():
            for needed in new & set(plan.stages[key].inputs.values()) - lacks:
                lacks.add(needed)
                self._dependents[needed].append(key)
        for run, pending in self._pending.items():
            pending |= new & run.stage_keys()

    def _done(self, key: str) -> None:
        del self._lacks[key]
        for dependent in self._dependents.pop(key, ()):
            if dependent in self._lacks:
                self._lacks[dependent].discard(key)
                if not self._lacks[dependent] and not self._is_given(dependent):
                    heapq.heappush(self._ready, (self._place[dependent], dependent))
        self._settle(key)

    def _is_given(self, key: str) -> bool:
        """Whether a running task holds the stage."""
        return any(key in keys for keys in self._tasks.values())

    def _fail(self, event: Event) -> None:
        """A failed stage takes with it whatever builds on it, and nothing else."""
        lost = [event.key]
        for key in lost:
            self._failures[key] = event
            del self._lacks[key]
            lost += [one for one in self._dependents.pop(key, ()) if one in self._lacks and one not in lost]
        for key in lost:
            if key in self._started:  # or begun once, and then waiting for what could not be made anew
                self._started.remove(key)
                self._listener.stage_ended(self._status.plan.stages[key], event.error)
            self._settle(key)

    def _settle(self, key: str) -> None:
        """A stage is done or cannot come: runs may be complete by it."""
        for run in self._runs_of[key]:
            if run in self._pending and key not in self._lacks:  # else lost as one of them ended, and awaited anew
                self._pending[run].discard(key)
                self._record_if_complete(run)

    def _record_if_complete(self, run: Run) -> None:
        if self._pending[run]:
            return
        failures = {key: self._failures[key] for key in sorted(run.stage_keys()) if key in self._failures}
        try:
            metrics = self._recorder.record(run, failures)
        except MissingError as error:
            lost = error.keys[0]
            self._remade[lost] += 1
            if self._remade[lost] < _TRIES:
                self._listener.warn(f"{error}; it is made anew")
                self._make_anew(error.keys)
            else:
                self._failures[lost] = Event(lost, "ended", outcome="failed", error=str(error))
            self._record_if_complete(run)
            return
        failure = next(iter(failures.values()), None)
        if failure:
            if metrics:
                self._listener.warn(f"{run}: {'; '.join(metrics)}")
            self._ended(run, failure.outcome, failure.error)
        else:
            self._ended(run, "failed" if metrics else "ok", "; ".join(metrics) or None)

    def _ended(self, run: Run, status: str, error: str | None) -> None:
        del self._pending[run]
        self.counts[status] += 1
        self._listener.run_ended(run, status, error)
