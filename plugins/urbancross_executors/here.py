"""A task on the machine that a cluster gave it: as the core's own executor would carry it out there.

So a task has a fresh process, its log, its limits of time and memory, and a crash that is told in words, wherever
it runs. The process ends when the worker that started it does.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from typing import Any

from urbancross_bench.errors import PluginError
from urbancross_bench.execution.local import LocalExecutor
from urbancross_bench.execution.options import LocalOptions
from urbancross_bench.interfaces import Event, Task
from urbancross_executors.events import telling

# Environment variables that count for a task; others are the worker's own.
_PASSED = ("URBANCROSS_", "HF_HUB_OFFLINE")


def module(name: str, executor: str) -> Any:
    """The package that an executor stands on. Raises PluginError if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise PluginError(
            f"executor {executor!r} needs the package {name} ({error}): pip install 'urbancross-bench[{executor}]'"
        ) from error


def environment() -> dict[str, str]:
    """What a worker has to have of this process's environment."""
    return {name: value for name, value in os.environ.items() if name.startswith(_PASSED)}


def named(device: str) -> str | None:
    """What `cpu`, `cuda` or `cuda:N` is on whatever machine a task gets; None for other names."""
    name = device.partition(":")[0]
    return name if name in ("cpu", "cuda") else None


def placed(task: Task) -> Task:
    """The task for whatever CUDA devices it is given: here's `cuda:1` means nothing elsewhere."""
    return replace(task, device=named(task.device) or task.device)


def carry_out(task: Task, modules: Sequence[str], file: str, variables: Mapping[str, str]) -> None:
    """Carry out a task, and tell it all in a file, `over` last. Raises nothing but what stops a process."""
    os.environ.update(variables)
    with telling(file) as tell:
        try:
            with closing(LocalExecutor(LocalOptions())) as executor:
                executor.preload(modules)
                executor.slots(task.device, task.devices, task.threads)  # there it looks for devices
                executor.submit(task)
                over = False
                while not over:
                    for event in executor.wait(1.0):
                        tell(event)
                        over = event.kind == "over"
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            tell(Event(task.key, "over", outcome="failed", error=said, traceback=traceback.format_exc()))
