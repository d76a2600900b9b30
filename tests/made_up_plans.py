"""Made-up plans and an executor that only plays: stages are carried out in this process, a word at each wait."""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors.numpy import save_file

from urbancross_bench.execution.listening import Listener
from urbancross_bench.execution.plan import Plan, Run, Score
from urbancross_bench.execution.recording import Recorder
from urbancross_bench.execution.scheduler import Limits, Scheduler
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.status import status_of
from urbancross_bench.execution.store import CURVE, PARAMETERS, MissingError, Store
from urbancross_bench.interfaces import Event, Executor, Options, Task
from urbancross_bench.records import Record, read_record
from urbancross_bench.specs import Grid, Scenario

WAITS = 3000  # a session that waits more often does not end
GRID = Grid.model_construct(name="made up", ranks=1, threads=1, plugins=())
SCENARIO = Scenario(source=("a",), target="b")
# Of the same size: only a hash tells them apart.
_CONTENT = '{"metrics": {}, "failed": {}, "floors": {}, "trial": 0}'
_CHANGED = _CONTENT.replace("0", "1")
FACTS = {"selector": "last", "metrics": [], "code": "1", "test": "t"}  # of a rank, as far as records name them


def make_stage(kind: str, number: int, *inputs: Stage, **more: Any) -> Stage:
    """A stage; the first input of a training is what it starts from."""
    names = ("start", *map(str, range(1, len(inputs))))
    given = dict(zip(names, (one.key for one in inputs), strict=False))
    facts = {"number": number, **more}
    return Stage(kind, facts, given, {"setting": "source_only"}, f"{kind} {number}")  # type: ignore[arg-type]


def make_run(number: int, trainings: Sequence[Stage], ranks: Sequence[Stage]) -> Run:
    """A run of these trainings, with a score of each rank."""
    key = f"{number:032x}"
    scores = tuple(
        Score("last", "classic", "b", "source_only", rank, f"{key}-{n}") for n, rank in enumerate(ranks)
    )
    scenario = {"source": [*SCENARIO.source], "target": SCENARIO.target}
    labels = {"encoder": {"label": "tiny"}, "adaptation": {"label": "dann"}}
    stages = {"adapt": [stage.key for stage in trainings], "pretrain": trainings[0].inputs["start"]}
    spec = {"key": key, "seed": number, "scenario": scenario, **labels, "stages": stages}
    return Run(SCENARIO, "tiny", "dann", number, "", key, spec, tuple(trainings), scores)


def make_plan(stages: Sequence[Stage], runs: Sequence[Run]) -> Plan:
    """A stage stands after its inputs."""
    return Plan(GRID, tuple(runs), {stage.key: stage for stage in stages}, (), ())


def drawn_plan(rng: random.Random) -> Plan:
    """Up to four runs over shared packs, pretrainings, adaptations and embeddings."""
    packs = [make_stage("pack", n) for n in range(rng.randint(1, 2))]
    starts = [make_stage("pretrain", n, rng.choice(packs)) for n in range(rng.randint(1, 2))]
    stages, runs = [*packs, *starts], []
    for number in range(rng.randint(1, 4)):
        start = rng.choice(starts)
        adapts = [make_stage("adapt", rng.randint(0, 2), start) for _ in range(rng.randint(1, 2))]
        embeds = [make_stage("embed", 0, adapt, rng.choice(packs)) for adapt in adapts]
        ranks = [make_stage("rank", n, *embeds, **FACTS) for n in range(rng.randint(1, 2))]
        stages += [*adapts, *embeds, *ranks]
        adapts = list({one.key: one for one in adapts}.values())
        runs.append(make_run(number, adapts, ranks))
    return make_plan(stages, runs)


def publish(store: Store, stage: Stage) -> None:
    """The output of a stage, whatever its kind: what records are made of."""
    with store.writing(stage, {}) as folder:
        for name in (CURVE, PARAMETERS, "score.json", "items.json"):
            (folder / name).write_text(_CONTENT)
        save_file({"zero": np.zeros(1)}, folder / "queries.safetensors")


def damage(store: Store, stage: Stage) -> None:
    """Another content of the same size, so that only a hash can tell."""
    (store.path(stage.kind, stage.key) / CURVE).write_text(_CHANGED)


class Watching(Listener):
    """Holds what a listener may be told against what it was told."""

    def __init__(self) -> None:
        self.ended: dict[Run, tuple[str, str | None]] = {}
        self.running: set[str] = set()
        self.stages: list[tuple[str, str | None]] = []  # ended: label and error
        self.warnings: list[str] = []
        self.on_end: Callable[[Run, str], None] = lambda run, status: None

    def run_started(self, run: Run) -> None:
        assert run not in self.ended

    def stage_started(self, stage: Stage) -> None:
        self.running.add(stage.key)

    def stage_progress(self, stage: Stage, fraction: float, values: Mapping[str, float]) -> None:
        assert stage.key in self.running
        assert 0 <= fraction <= 1

    def stage_ended(self, stage: Stage, error: str | None) -> None:
        self.running.discard(stage.key)
        self.stages.append((stage.label, error))

    def run_ended(self, run: Run, status: str, error: str | None) -> None:
        assert run not in self.ended, "a run ended twice"
        self.ended[run] = status, error
        self.on_end(run, status)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


class Playing(Executor):
    """Tasks take turns: at each `wait` the one that `pick` names says its next word.

    `fate` says what becomes of an attempt at a stage: `ok`, `raise`, `oom`, `die` or `vanish` (the process ends,
    with or without an error, before the stage is published), `die after` (it is published), `damage` (of all its
    inputs), `busy` (another process computes and publishes it), or `busy in vain` (that process dies). Of a whole
    task (None) it may say `unbegun` and `crash late`, when all has been told. Holds the scheduler to its word:
    slots, nothing twice, inputs first.
    """

    def __init__(
        self, store: Store, fate: Callable[[Stage | None], str], pick: Callable[[int], int], slots: int = 2
    ) -> None:
        super().__init__(Options())
        self._store, self._fate, self._pick, self._slots = store, fate, pick, slots
        self._live: list[tuple[Task, Iterator[Event]]] = []
        self._left: defaultdict[str, set[str]] = defaultdict(set)  # by task: what it has not ended
        self._others: list[tuple[Stage, ExitStack, bool]] = []
        self.tasks: list[tuple[str, ...]] = []  # the labels of their stages
        self.attempts: defaultdict[str, list[str]] = defaultdict(list)  # by key: what became of each
        self.lost: Counter[str] = Counter()  # how often what was damaged
        self.waits = self._idle = 0

    def device(self, name: str) -> str:
        return "cpu"

    def slots(self, device: str, devices: int, threads: int) -> int:
        return self._slots

    @property
    def busy(self) -> bool:
        """Whether any task runs."""
        return bool(self._live)

    def submit(self, task: Task) -> None:
        stages = [Stage(**said) for said in task.stages]
        keys = {stage.key for stage in stages}
        assert len(self._live) < self._slots, "more tasks than slots"
        assert not any(keys & left for left in self._left.values()), "a stage in two tasks"
        assert task.key not in self._left, "two tasks of one key"
        # What follows may be stored since: another process computed it. Then it is passed over, see `_attempt`.
        assert not self._store.has(stages[0]), "what is stored is computed again"
        for stage in stages:
            for key in set(stage.inputs.values()) - keys - self.lost.keys():
                assert self._store.entry(key)
        self.tasks.append(tuple(stage.label for stage in stages))
        self._left[task.key] = keys
        self._live.append((task, self._life(task, stages)))

    def wait(self, seconds: float) -> list[Event]:
        self.waits += 1
        assert self.waits < WAITS, "it does not end"
        if self._others and (not self._live or self._pick(4) == 0):
            stage, lock, publishes = self._others.pop(self._pick(len(self._others)))
            if publishes and not self._store.has(stage):
                publish(self._store, stage)
            lock.close()
            return []
        self._idle = 0 if self._live else self._idle + 1
        assert self._idle < 3, "it waits for nothing"
        if not self._live:
            return []
        task, life = self._live[self._pick(len(self._live))]
        event = next(life)
        if event.kind == "over":
            self._live.remove((task, life))
            self._left[task.key] = set()
        return [event]

    def close(self) -> None:
        for _, lock, _ in self._others:
            lock.close()
        self._others = []

    def _life(self, task: Task, stages: Sequence[Stage]) -> Iterator[Event]:
        fate = self._fate(None)
        if fate == "unbegun":
            self.attempts[stages[0].key].append("die")
            yield Event(task.key, "over", outcome="failed", error="no process for it")
            return
        failed: set[str] = set()
        for stage in stages:
            if not failed.isdisjoint(stage.inputs.values()):
                failed.add(stage.key)
                continue
            yield Event(stage.key, "started")
            yield Event(stage.key, "progress", 0.5)
            ended = self._attempt(stage)
            if ended.kind == "over":
                yield Event(task.key, "over", outcome=ended.outcome, error=ended.error)
                return
            if ended.error:
                failed.add(stage.key)
            self._left[task.key].discard(stage.key)
            yield ended
        yield Event(task.key, "over", error="it crashed" if fate == "crash late" else None)

    def _attempt(self, stage: Stage) -> Event:
        """How it ended; `over`: with its process."""
        if self._store.has(stage):  # another process was faster
            return Event(stage.key, "ended", 1.0)
        fate = self._fate(stage)
        if not fate.startswith("busy"):
            if fate == "damage":
                self.damage(stage.inputs.values())
            try:
                self._store.find_all(stage.inputs.values())
            except MissingError as error:
                self.attempts[stage.key].append("damage")
                return Event(stage.key, "ended", outcome="failed", error=str(error), damaged=error.keys)
        fate = "ok" if fate == "damage" else fate  # it has no inputs
        if fate in ("ok", "die after"):
            publish(self._store, stage)
        else:
            self.attempts[stage.key].append(fate)
        if fate in ("die", "die after"):
            return Event("", "over", outcome="timeout", error="it died")
        if fate == "vanish":
            return Event("", "over")
        if fate.startswith("busy"):
            lock = ExitStack()
            assert lock.enter_context(self._store.holding(stage.key, wait=False))
            self._others.append((stage, lock, fate == "busy"))
            return Event(stage.key, "ended", outcome="busy", error="another process computes it")
        outcome: Any = {"ok": "ok", "oom": "oom", "raise": "failed"}[fate]
        return Event(stage.key, "ended", 1.0, outcome=outcome, error=None if fate == "ok" else fate)

    def damage(self, keys: Any) -> None:
        """Stored stages are not any more what they were; nobody has noticed."""
        for key in keys:
            for file in self._store.root.glob(f"[!.]*/{key}"):
                (file / CURVE).write_text(_CHANGED)
                self.lost[key] += 1


def scripted(script: Mapping[Stage | None, Sequence[str]]) -> Callable[[Stage | None], str]:
    """A fate as written: for each stage what becomes of one attempt after the other; then all goes well."""
    left = {stage and stage.key: list(fates) for stage, fates in script.items()}

    def fate(stage: Stage | None) -> str:
        fates = left.get(stage and stage.key)
        return fates.pop(0) if fates else "ok"

    return fate


class Session:
    """A pass of the scheduler over what a plan lacks in a folder, and all there is to see of it."""

    def __init__(
        self,
        plan: Plan,
        out: Path,
        fate: Callable[[Stage | None], str] = lambda stage: "ok",
        pick: Callable[[int], int] = lambda count: 0,
        *,
        slots: int = 2,
        retries: int = 0,
    ) -> None:
        self.plan, self.out = plan, out
        self.store = Store(out / "store")
        self.store.create()
        self.executor = Playing(self.store, fate, pick, slots)
        self.told = Watching()
        self.status = status_of(plan, out)
        self.recorder = Recorder(plan, out, self.store, self.told.warn)
        limits = Limits(retries=retries)
        self.scheduler = Scheduler(self.status, self.store, self.executor, self.recorder, self.told, "cpu", limits)

    def run(self) -> dict[int, str]:
        """To the end; each run's status, which its record has to have too."""
        try:
            self.scheduler.run()
        finally:
            self.executor.close()
        assert set(self.told.ended) == set(self.status.todo)
        assert self.scheduler.counts == Counter(status for status, _ in self.told.ended.values())
        return {run.seed: status for run, (status, _) in self.told.ended.items()}

    def record(self, run: Run) -> Record:
        """What stands of it."""
        found = read_record(self.out / "runs" / run.key)
        assert found is not None
        return found

    def failure(self, run: Run) -> dict[str, Any]:
        """Why it failed, by its record."""
        text = (self.out / "runs" / run.key / "failure.json").read_text()
        return cast(dict[str, Any], json.loads(text))


def limit_of_tries(attempts: Sequence[str], retries: int) -> float:
    """After how many attempts a stage has failed for good; infinity: it has not."""
    dead = damaged = 0
    for number, attempt in enumerate(attempts, 1):
        dead += attempt in ("die", "vanish", "oom")
        damaged += attempt == "damage"
        if attempt == "raise" or dead > retries or damaged > 2:
            return number
    return math.inf
