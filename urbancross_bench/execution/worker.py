"""Carrying out a task in this process: what every executor calls in the end."""

from __future__ import annotations

import functools
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from urbancross_bench.disabling import disabled
from urbancross_bench.errors import DiedError, UrbanCrossError
from urbancross_bench.execution.provenance import measured
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.store import MissingError, Store
from urbancross_bench.interfaces.executor import Event, Outcome, Task
from urbancross_bench.interfaces.registration import PROJECT
from urbancross_bench.kinds import beside, place_in

if TYPE_CHECKING:
    import torch

    from urbancross_bench.registry import Registry

Tell = Callable[[Event], None]
_DATA = "URBANCROSS_DATA"
_PLACE = "place_in_plugin"  # of an error that comes from another process
_OTHERS = ".others"  # in a stage's folder while it is made: what its processes write but the first


def carry_out(task: Task, tell: Tell) -> None:
    """Carry out the stages of a task in order, and publish the output of each in the store.

    Tells what becomes of each; a stage that builds on one that failed is not begun. Raises nothing but what `tell`
    raises.
    """
    failed: set[str] = set()
    with _data_in(task.data):
        for said in task.stages:
            stage = Stage(**said)
            if failed.isdisjoint(stage.inputs.values()):
                tell(Event(stage.key, "started"))
                ended = _attempted(task, stage, tell)
                tell(ended)
                if ended.error is None:
                    continue
            failed.add(stage.key)


@contextmanager
def _data_in(folder: str) -> Iterator[None]:
    """Relative paths start there; then again where they did: an executor's own process may carry out a task."""
    before = os.environ.get(_DATA)
    os.environ[_DATA] = folder
    try:
        yield
    finally:
        os.environ.pop(_DATA, None)
        if before is not None:
            os.environ[_DATA] = before


def _attempted(task: Task, stage: Stage, tell: Tell) -> Event:
    """Carry out one stage, unless another process does or did; how it ended."""
    store = Store(Path(task.store))
    try:
        with store.holding(stage.key, wait=False) as free:
            if not free:
                return Event(stage.key, "ended", outcome="busy", error="another process computes it")
            if not store.has(stage):
                _make(task, stage, store, tell)
    except MissingError as error:
        return Event(stage.key, "ended", outcome="failed", error=str(error), damaged=error.keys)
    except BaseException as error:
        return Event(
            stage.key,
            "ended",
            outcome=_outcome(error),
            error=_told(error, task.plugins),
            traceback=traceback.format_exc(),
            damaged=tuple(_gone(stage, store)),
            died=isinstance(error, DiedError),
        )
    return Event(stage.key, "ended", 1.0)


def _told(error: BaseException, files: tuple[str, ...]) -> str:
    """An error in words; what is not meant for users names the last line of a plugin that it came from."""
    if isinstance(error, UrbanCrossError):
        return str(error)
    told = f"{type(error).__name__}: {error}"
    try:
        return told + (getattr(error, _PLACE, "") or _from_plugin(error, files))
    except Exception:  # without memory, say; the error itself is not to be lost
        return told


def _from_plugin(error: BaseException, files: tuple[str, ...]) -> str:
    packages = {plugin.package for plugin in registry(files).plugins}
    packages.discard(PROJECT)  # its executor is the harness
    return place_in(error, packages) + beside(error, files)


def _gone(stage: Stage, store: Store) -> Iterator[str]:
    """Inputs that were removed while the stage read them, as `store gc` may do."""
    for key in stage.inputs.values():
        try:
            store.entry(key)
        except MissingError:
            yield key


def _outcome(error: BaseException) -> Outcome:
    """Whether an error is one of memory: Python's, a CUDA device's, or torch's for the CPU."""
    import torch

    lacks_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
    return "oom" if lacks_memory else "failed"


def _make(task: Task, stage: Stage, store: Store, tell: Tell) -> None:
    """Carry out a stage that is not in the store, on this process's thread or in ranks of its own."""
    import torch

    from urbancross_bench.modelling.distributed import run_ranks
    from urbancross_bench.modelling.runtime import reset, resolve_device, set_threads

    reset()
    device = resolve_device(task.device)
    set_threads(task.threads if device.type == "cpu" else torch.get_num_threads())
    provenance: dict[str, Any] = {"label": stage.label}
    told = _Told(stage.key, tell, device)
    ranks = stage.facts.get("ranks", 1)
    with store.writing(stage, provenance) as folder, measured(provenance, device, ranks):
        if ranks == 1:
            do(device, told, task, stage, folder)
        else:
            run_ranks(ranks, _as_rank, task, stage.to_json(), folder, device=device, report=told)
            shutil.rmtree(folder / _OTHERS)
    store.forget(stage.key)


class _Told:
    """What a stage says of itself, as events: a fraction, at most a hundred times, or the values of a pass."""

    def __init__(self, key: str, tell: Tell, device: torch.device) -> None:
        self._key, self._tell, self._device = key, tell, device
        self._last = -1.0

    def __call__(self, said: float | Mapping[str, float]) -> None:
        if isinstance(said, Mapping):
            self._tell(Event(self._key, "values", values=said))
        elif said - self._last >= 0.01:
            self._last = said
            self._tell(Event(self._key, "progress", said, values=self._memory()))

    def _memory(self) -> dict[str, float]:
        if self._device.type != "cuda":
            return {}
        import torch

        return {"cuda_bytes": float(torch.cuda.memory_allocated(self._device))}


def do(device: torch.device, say: Callable[[Any], None], task: Task, stage: Stage, folder: Path) -> None:
    """Do what a stage is, and leave its output in a folder."""
    from urbancross_bench.execution.job import Job
    from urbancross_bench.execution.stages import STAGES

    store = Store(Path(task.store))
    inputs = dict(zip(stage.inputs, store.find_all(stage.inputs.values()), strict=True))
    plugins = registry(task.plugins)
    job = Job(stage, inputs, folder, plugins, device, say, store.saved(stage.key), task.save_seconds)
    STAGES[stage.kind](job)


def registry(files: tuple[str, ...] = ()) -> Registry:
    """The plugins on Python's path, found once in a process or in the one it was forked from; and in files.

    Found anew where something was installed, removed or disabled since.
    """
    return _registry((tuple(map(_installed, sys.path)), tuple(disabled())), files)


@functools.cache
def _registry(standing: tuple[object, ...], files: tuple[str, ...], /) -> Registry:
    from urbancross_bench.registry import Registry

    return _registry(standing, ()).with_files(files) if files else Registry.discover()


def _installed(folder: str) -> tuple[tuple[str, int], ...]:
    """What `importlib.metadata` looks at there. Not the folder's own time: a grid may write its output there."""
    try:
        with os.scandir(os.path.realpath(folder)) as entries:
            found = [entry for entry in entries if entry.name.endswith((".dist-info", ".egg-info"))]
        return tuple(sorted((entry.path, entry.stat().st_mtime_ns) for entry in found))
    except OSError:  # no folder, or gone meanwhile
        return ()


def _as_rank(
    device: torch.device, say: Callable[[Any], None], task: Task, stage: Mapping[str, Any], folder: Path
) -> None:
    """One of the processes of a training; what any but the first leaves is thrown away."""
    from urbancross_bench.modelling.distributed import Ranks

    ranks = Ranks.current()
    own = folder / _OTHERS / str(ranks.rank)
    own.mkdir(parents=True)
    try:
        do(device, say, task, Stage(**stage), folder if ranks.first else own)
    except Exception as error:  # its traceback does not come along to the process that tells of it
        with suppress(Exception):
            setattr(error, _PLACE, _from_plugin(error, task.plugins))
        raise
