"""Executors of others that raise, or answer what is no answer: the error names them, and nothing hangs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Result, write_domains, write_grid

from urbancross_bench.errors import PluginError
from urbancross_bench.execution.guarding import Guarded
from urbancross_bench.execution.stage import Stage
from urbancross_bench.interfaces import Event, Task
from urbancross_bench.registry import Registry

STAGE = Stage("pack", {})
TASK = Task("task", (STAGE.to_json(),), "", "", "", "cpu")
SOURCE = """
from urbancross_bench.execution.worker import carry_out
from urbancross_bench.interfaces import Event, Executor, Options, hookimpl, register


@hookimpl
def register_executors():
    return [register("moody", "moody:Moody", options="moody:MoodyOptions", summary="Fails on demand.")]


class MoodyOptions(Options):
    mood: str = ""
    answer: str = "None"


class Moody(Executor):
    options_type = MoodyOptions

    def __init__(self, options):
        super().__init__(options)
        self.told = []
        self.answered("__init__")

    def answered(self, method, usual=None):
        if self.options.mood != method:
            return usual
        return eval(self.options.answer)

    def device(self, name):
        return self.answered("device")

    def slots(self, device, devices, threads):
        return self.answered("slots", 1)

    def preload(self, modules):
        self.answered("preload")

    def submit(self, task):
        self.answered("submit")
        carry_out(task, self.told.append)
        self.told.append(Event(task.key, "over"))

    def wait(self, seconds):
        told, self.told = self.told, []
        return self.answered("wait", told)

    def close(self):
        self.answered("close")
"""


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = tmp_path_factory.mktemp("executor") / "moody.py"
    file.write_text(SOURCE, encoding="utf-8")
    yield file
    sys.modules.pop("moody", None)  # a process that steals the rest of these tests writes the file elsewhere


@pytest.fixture
def guarded(moody: Path) -> Iterator[Callable[..., Guarded]]:
    """One that answers so where it is asked by that method; what is warned of is in `heard`."""
    registry = Registry.discover([moody])

    def make(mood: str, answer: str, heard: list[str] | None = None) -> Guarded:
        reference = f"moody[mood={mood},answer={answer!r}]"
        return Guarded(registry.resolve("executor", reference), [].append if heard is None else heard.append)

    return make  # type: ignore[return-value]


def asked(executor: Guarded, method: str) -> Any:
    arguments: dict[str, tuple[Any, ...]] = {
        "device": ("auto",),
        "slots": ("cpu", 1, 1),
        "preload": ([],),
        "submit": (TASK,),
        "wait": (0.0,),
    }
    return getattr(executor, method)(*arguments[method])


@pytest.mark.parametrize("method", ["__init__", "device", "slots", "preload", "submit", "wait"])
def test_what_an_executor_raises_names_it_and_its_line(guarded: Callable[..., Guarded], method: str) -> None:
    says = r"executor 'moody' of .*moody\.py.* failed to .*: ZeroDivisionError: .* \(<string>:1 in <module>\)"
    with pytest.raises(PluginError, match=says):
        asked(guarded(method, "1 // 0"), method)


@pytest.mark.parametrize(
    ("method", "answer", "says"),
    [
        ("slots", "0", "0 tasks run at once"),
        ("slots", "-1", "-1 tasks run at once"),
        ("slots", "None", "None tasks run at once"),
        ("slots", '"two"', "'two' tasks run at once"),
        ("wait", "None", "failed to wait for its tasks: TypeError"),
        ("wait", '["hello"]', "tells 'hello', which is no Event"),
        ("wait", '[Event("x", "over")]', "tells 'over' of 'x', which is no task that runs"),
        ("wait", '[Event("x", "ended")]', "tells 'ended' of 'x', which is no stage that it was given"),
    ],
)
def test_what_is_no_answer_is_told(guarded: Callable[..., Guarded], method: str, answer: str, says: str) -> None:
    with pytest.raises(PluginError, match="executor 'moody' of") as caught:
        asked(guarded(method, answer), method)
    assert says in str(caught.value)


def test_a_task_is_over_once(guarded: Callable[..., Guarded], monkeypatch: pytest.MonkeyPatch) -> None:
    executor = guarded("none", "None")
    monkeypatch.setattr(executor._executor, "submit", lambda task: None)
    executor.submit(TASK)
    over = Event("task", "over")
    for told, refused in (([Event(STAGE.key, "started"), over], False), ([over], True)):
        monkeypatch.setattr(executor._executor, "wait", lambda seconds, told=told: told)
        if refused:
            with pytest.raises(PluginError, match="'over' of 'task', which is no task that runs"):
                executor.wait(0.0)
        else:
            assert executor.wait(0.0) == told


def test_whatever_keeps_one_from_being_closed_is_but_told(guarded: Callable[..., Guarded]) -> None:
    heard: list[str] = []
    for answer in ("[][0]", 'open("/nowhere")', "(_ for _ in ()).throw(MemoryError())"):
        guarded("close", answer, heard).close()
    assert len(heard) == 3
    assert "failed to stop what still runs: MemoryError" in heard[-1]


def test_one_that_cannot_be_closed_costs_nothing(moody: Path, tmp_path: Path, cli: Callable[..., Result]) -> None:
    file = write_grid(
        tmp_path,
        write_domains(tmp_path),
        plugins=[str(moody)],
        executor="moody[mood=close,answer='1 // 0']",
        scenarios=[{"source": "plain", "target": "dark"}],
        adaptations=["source_only"],
    )
    done = cli("run", file, "--out", tmp_path / "out")
    assert done.status == 0, done.err
    assert "failed to stop what still runs: ZeroDivisionError" in done.err
    assert (tmp_path / "out" / "leaderboard" / "summary.csv").is_file()
