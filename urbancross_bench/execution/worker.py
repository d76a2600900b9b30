"""Carrying out one task in this process: what every executor calls in the end."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.store import Store
from urbancross_bench.interfaces.executor import Task

if TYPE_CHECKING:
    import torch


def execute(task: Task, report: Callable[[float], None]) -> None:
    """Carry out a stage and publish its output in the store. Raises whatever the stage raises."""
    import torch

    from urbancross_bench.modelling.distributed import run_ranks
    from urbancross_bench.modelling.runtime import resolve_device

    started = time.monotonic()
    os.environ["URBANCROSS_DATA"] = task.data
    stage, store = Stage(**task.stage), Store(Path(task.store))
    device = resolve_device(task.device)
    if device.type == "cpu":
        torch.set_num_threads(task.threads)
    provenance: dict[str, Any] = {
        "host": platform.node(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    ranks = stage.facts.get("ranks", 1)
    with store.writing(stage, provenance) as folder:
        if ranks == 1:
            carry_out(device, report, task, folder)
        else:
            run_ranks(ranks, _as_rank, task, folder, device=device, report=report)
        provenance["seconds"] = round(time.monotonic() - started, 3)
        if device.type == "cuda":
            provenance["cuda_peak_bytes"] = torch.cuda.max_memory_allocated(device)
    store.forget(stage.key)


def carry_out(device: torch.device, report: Callable[[float], None], task: Task, folder: Path) -> None:
    """Do what the stage of a task is, and leave its output in a folder."""
    from urbancross_bench.execution.job import Job
    from urbancross_bench.execution.stages import STAGES
    from urbancross_bench.registry import Registry

    stage, store = Stage(**task.stage), Store(Path(task.store))
    inputs = {name: store.find(key) for name, key in stage.inputs.items()}
    registry, saved = Registry.discover(task.plugins), store.saved(stage.key)
    STAGES[stage.kind](Job(stage, inputs, folder, registry, device, report, saved, task.save_seconds))


def _as_rank(device: torch.device, report: Callable[[float], None], task: Task, folder: Path) -> None:
    """One of the processes of a training; what any but the first leaves is thrown away."""
    from urbancross_bench.modelling.distributed import Ranks

    with tempfile.TemporaryDirectory() as elsewhere:
        carry_out(device, report, task, folder if Ranks.current().first else Path(elsewhere))
