"""What an executor promises."""

from __future__ import annotations

import importlib.util
import pickle
import time
from contextlib import closing
from typing import Any, ClassVar
from unittest import SkipTest

from urbancross_bench.interfaces import Event, Executor, Task
from urbancross_bench.testing.conformance import Conformance, broken
from urbancross_bench.testing.watching import folder


class ExecutorConformance(Conformance):
    """An executor is handed tasks that fail as soon as they have begun.

    requires: packages without which there is nothing to test here.
    """

    kind = "executor"
    requires: ClassVar[tuple[str, ...]] = ()

    def build(self) -> Executor:
        """Raises SkipTest where a package is missing."""
        if missing := [name for name in self.requires if importlib.util.find_spec(name) is None]:
            raise SkipTest(f"needs the package {missing[0]}, which is not installed")
        executor: Executor = self.resolved.build()
        return executor

    def task(self, number: int) -> Task:
        """A task of two stages of a kind that nobody knows, neither of which builds on the other."""
        from urbancross_bench.execution.stage import Stage
        from urbancross_bench.execution.store import Store

        place = self.once("place", folder)
        store = Store(place / "store")
        store.create()
        stages = [Stage("nothing", {"number": number, "place": at}) for at in (1, 2)]  # type: ignore[arg-type]
        said = tuple(stage.to_json() for stage in stages)
        return Task(stages[1].key, said, str(store.root), str(place), str(store.log(stages[1])), "cpu")

    def work(self) -> Any:
        """Hand out two tasks, and hear of them until both are over."""
        tasks, give_up = [self.task(0), self.task(1)], time.monotonic() + self.patience
        told: dict[str, list[Event]] = {task.key: [] for task in tasks}
        with closing(self.build()) as executor:
            if executor.slots("cpu", 1, 1) < 1:
                broken("it has no slot for a task of one thread")
            waiting = list(tasks)
            while not all(events and events[-1].kind == "over" for events in told.values()):
                running = len(tasks) - len(waiting)
                if waiting and running < executor.slots("cpu", 1, 1) + self._over(told):
                    executor.submit(waiting.pop())
                for event in executor.wait(1.0):
                    told.setdefault(event.key if event.key in told else self._owner(tasks, event), []).append(
                        event
                    )
                if time.monotonic() > give_up:
                    broken(f"after {self.patience:g} seconds its tasks are not over")
            executor.close()
        for task in tasks:
            self._expect_whole(task, told[task.key])
        return None

    @staticmethod
    def _expect_whole(task: Task, events: list[Event]) -> None:
        """Each stage was begun and ended in its turn, and then the task was over."""
        turns = {_key(stage): f" {turn}" for turn, stage in enumerate(task.stages, 1)}
        heard = [event.kind + (turns[event.key] if event.kind != "over" else "") for event in events]
        wanted = ["started 1", "ended 1", "started 2", "ended 2", "over"]
        if heard != wanted:
            broken(
                f"of a task of two stages that fail at once it tells {', '.join(heard)}; it should be "
                f"{', '.join(wanted)}"
            )
        for event in (events[1], events[3]):
            if event.outcome != "failed" or "nothing" not in (event.error or ""):
                broken("it does not tell why a stage failed")

    @staticmethod
    def _over(told: dict[str, list[Event]]) -> int:
        return sum(bool(events) and events[-1].kind == "over" for events in told.values())

    @staticmethod
    def _owner(tasks: list[Task], event: Event) -> str:
        """The task of an event of one of its stages."""
        return next(task.key for task in tasks if any(event.key == _key(stage) for stage in task.stages))

    def test_tasks_can_be_sent(self) -> None:
        """A task is plain data."""
        task = self.task(0)
        if pickle.loads(pickle.dumps(task)) != task:
            broken("a task is not what went into its pickle")

    def test_it_can_be_closed_at_once(self) -> None:
        """It can be closed before it was given anything, and again."""
        self.resolved  # noqa: B018 - a SkipTest first
        executor = self.build()
        executor.close()
        executor.close()


def _key(stage: Any) -> str:
    from urbancross_bench.execution.stage import Stage

    return Stage(**stage).key
