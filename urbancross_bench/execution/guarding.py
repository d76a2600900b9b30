"""An executor whose errors name it, and whose answers are held to what `interfaces.Executor` says."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import suppress

from urbancross_bench.errors import PluginError, UrbanCrossError
from urbancross_bench.execution.stage import Stage
from urbancross_bench.interfaces.executor import Event, Executor, Task
from urbancross_bench.registry import Resolved


class Guarded(Executor):
    """Another executor; what it raises and no user is meant to read is a PluginError that names it.

    warn: told where it cannot be closed, which costs no run.
    """

    def __init__(self, resolved: Resolved, warn: Callable[[str], None]) -> None:
        self._plugin = resolved.plugin
        self._warn = warn
        self._running: set[str] = set()  # the keys of its tasks
        self._stages: set[str] = set()  # of all that it was ever given
        with self._plugin.blamed("to be made"):
            self._executor: Executor = resolved.build()
        super().__init__(resolved.options)

    def device(self, name: str) -> str | None:
        """As it says."""
        with self._plugin.blamed("to say what a device is"):
            return self._executor.device(name)

    def slots(self, device: str, devices: int, threads: int) -> int:
        """As it says. Raises PluginError for less than one: nothing would ever run."""
        with self._plugin.blamed("to say how many tasks run at once"):
            slots = self._executor.slots(device, devices, threads)
        with suppress(TypeError):
            if (number := operator.index(slots)) >= 1:
                return number
        raise PluginError(f"{self._plugin} says that {slots!r} tasks run at once; slots() gives 1 or more")

    def preload(self, modules: Sequence[str]) -> None:
        """As it does."""
        with self._plugin.blamed("to load modules ahead"):
            self._executor.preload(modules)

    def submit(self, task: Task) -> None:
        """As it does."""
        with self._plugin.blamed(f"to take task {task.key}"):
            self._executor.submit(task)
        self._running.add(task.key)
        self._stages |= {Stage(**stage).key for stage in task.stages}

    def wait(self, seconds: float) -> list[Event]:
        """As it tells. Raises PluginError for what is no event, or of no task that runs."""
        with self._plugin.blamed("to wait for its tasks"):
            events = [*self._executor.wait(seconds)]
        for event in events:
            if not isinstance(event, Event):
                raise PluginError(f"{self._plugin} tells {event!r}, which is no Event")
            over = event.kind == "over"
            if event.key not in (self._running if over else self._stages):
                what = "task that runs" if over else "stage that it was given"
                raise PluginError(f"{self._plugin} tells {event.kind!r} of {event.key!r}, which is no {what}")
            if over:
                self._running.remove(event.key)
        return events

    def close(self) -> None:
        """As it does; where it cannot, that is told."""
        try:
            with self._plugin.blamed("to stop what still runs"):
                self._executor.close()
        except UrbanCrossError as error:
            self._warn(str(error))
