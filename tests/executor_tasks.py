"""Tasks for the tests of executors, and what there is to hear of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.store import Store
from urbancross_bench.interfaces import Event, Executor, Task

PATIENCE = 120.0  # seconds until a test gives up


def maker(folder: Path) -> Callable[..., Task]:
    """Makes tasks of one stage of a kind that nobody knows: they fail as soon as they have begun."""
    store = Store(folder / "store")
    store.create()

    def make(number: int = 0, **changes: Any) -> Task:
        stage = Stage("nothing", {"number": number})  # type: ignore[arg-type]
        log = str(store.log(stage))
        made = Task(stage.key, (stage.to_json(),), str(store.root), str(folder), log, "cpu")
        return replace(made, **changes)

    return make


def heard(executor: Executor, count: int) -> dict[str, list[Event]]:
    """The events of so many tasks, by task, until all are over."""
    events: dict[str, list[Event]] = {}
    give_up = time.monotonic() + PATIENCE
    while sum(event.kind == "over" for told in events.values() for event in told) < count:
        assert time.monotonic() < give_up, events
        for event in executor.wait(1.0):
            events.setdefault(event.key, []).append(event)
    return events


def check_failed_stage(told: list[Event]) -> None:
    """What a task of an unknown kind has to tell, and no more."""
    assert [event.kind for event in told] == ["started", "ended", "over"]
    assert (told[1].outcome, told[2].outcome) == ("failed", "ok")
    assert told[1].error is not None
    assert "nothing" in told[1].error
    assert "KeyError" in (told[1].traceback or "")
    assert told[2].error is None
