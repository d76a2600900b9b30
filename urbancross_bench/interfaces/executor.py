"""Executors: who carries out the stages of a grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from urbancross_bench.interfaces.options import Options


@dataclass(frozen=True)
class Task:
    """One stage to carry out: plain JSON, so that any engine can run it with `execution.worker.execute`.

    `store` and `data` are absolute folders: a process elsewhere knows neither our folder nor our environment.
    A training saves how far it is every `save_seconds`.
    """

    key: str
    stage: Mapping[str, Any]
    store: str
    data: str
    log: str
    device: str
    threads: int
    plugins: tuple[str, ...] = ()
    save_seconds: float = 60.0


@dataclass(frozen=True)
class Event:
    """What became of a task. `progress` events carry a fraction; `ended` comes exactly once per task."""

    key: str
    kind: Literal["progress", "ended"]
    fraction: float = 0.0
    error: str | None = None
    traceback: str | None = None


class Executor(ABC):
    """An executor plugin: takes tasks and reports events."""

    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options) -> None:
        self.options = options

    @abstractmethod
    def slots(self, device: str, threads: int) -> int:
        """How many tasks of `threads` CPU threads run at once on `device`."""

    def preload(self, modules: Sequence[str]) -> None:  # noqa: B027 - optional
        """Called once before the first task: modules that the tasks will import."""

    @abstractmethod
    def submit(self, task: Task) -> None:
        """Start `task`; called only while a slot is free."""

    @abstractmethod
    def wait(self) -> list[Event]:
        """Block until something happened to a submitted task."""

    @abstractmethod
    def close(self) -> None:
        """Stop whatever still runs; called once, at the end or on the way out."""
