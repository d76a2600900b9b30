"""Executors: who carries out the stages of a grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from urbancross_bench.interfaces.options import Options

Outcome = Literal["ok", "failed", "timeout", "oom", "busy"]


@dataclass(frozen=True)
class Task:
    """What one process is to do: stages in order, plain JSON, for `execution.worker.carry_out`.

    A stage may build on those before it; no two tasks of a session have the same key. `store` and `data` are
    absolute folders, which every worker sees, and `log` is the file that takes what the task prints: a process
    elsewhere knows neither our folder nor our environment. `device` is `cpu`, `cuda` or `cuda:N`; `devices` of
    them are asked for, and `threads` CPU threads for each. A training saves how far it is every `save_seconds`.
    The executor ends a task one of whose stages takes longer than `time_limit` seconds, or that takes more
    resident memory than `memory_limit` bytes; None: no limit of its own.
    """

    key: str
    stages: tuple[Mapping[str, Any], ...]
    store: str
    data: str
    log: str
    device: str
    devices: int = 1
    threads: int = 1
    plugins: tuple[str, ...] = ()
    save_seconds: float = 60.0
    time_limit: float | None = None
    memory_limit: int | None = None


@dataclass(frozen=True)
class Event:
    """What became of a task, or of one of its stages.

    `started`, `progress` (with a `fraction`), `values` (of a pass over the source, while training) and `ended` are
    of the stage `key`, and come from `carry_out`. `over` is of the task `key`, and is the executor's to tell, once
    for each task, after everything else, with an error where its process did not get to the end.

    damaged: keys of stored stages that are not there, or were found damaged and set aside: they have to be made
    anew. died: whether a process did that the stage had started, so that another try may end otherwise. A stage
    that another process computes has the outcome `busy`.
    """

    key: str
    kind: Literal["started", "progress", "values", "ended", "over"]
    fraction: float = 0.0
    values: Mapping[str, float] = field(default_factory=dict)
    outcome: Outcome = "ok"
    error: str | None = None
    traceback: str | None = None
    damaged: tuple[str, ...] = ()
    died: bool = False

    def __post_init__(self) -> None:
        # An error may name a file whose name is no UTF-8, and every writer of it, here and later, writes UTF-8.
        object.__setattr__(self, "error", _writable(self.error))
        object.__setattr__(self, "traceback", _writable(self.traceback))


def _writable(text: str | None) -> str | None:
    return text and text.encode("utf-8", "backslashreplace").decode()


class Executor(ABC):
    """An executor plugin: takes tasks and reports events."""

    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options) -> None:
        self.options = options

    def device(self, name: str) -> str | None:
        """What `auto`, `cpu`, `cuda` or `cuda:N` is where tasks run; None: what it is on this machine."""
        return None

    @abstractmethod
    def slots(self, device: str, devices: int, threads: int) -> int:
        """How many tasks, of that many devices and of `threads` CPU threads for each, run at once."""

    def preload(self, modules: Sequence[str]) -> None:  # noqa: B027 - optional
        """Called once before the first task: modules that the tasks will import."""

    @abstractmethod
    def submit(self, task: Task) -> None:
        """Start `task`; called only while a slot is free."""

    @abstractmethod
    def wait(self, seconds: float) -> list[Event]:
        """Block until something happened to a submitted task, but no longer than that; in order of happening."""

    @abstractmethod
    def close(self) -> None:
        """Stop whatever still runs, at the end or on the way out; may be called again."""
