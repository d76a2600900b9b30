"""Carrying out one task in this process: what every executor calls in the end."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.store import Store
from urbancross_bench.interfaces.executor import Task


def execute(task: Task, report: Callable[[float], None]) -> None:
    """Carry out a stage and publish its output in the store. Raises whatever the stage raises."""
    import torch

    from urbancross_bench.execution.job import Job
    from urbancross_bench.execution.stages import STAGES
    from urbancross_bench.modelling.runtime import resolve_device
    from urbancross_bench.registry import Registry

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
    with store.writing(stage, provenance) as folder:
        inputs = {name: store.find(key) for name, key in stage.inputs.items()}
        STAGES[stage.kind](Job(stage, inputs, folder, Registry.discover(task.plugins), device, report))
        provenance["seconds"] = round(time.monotonic() - started, 3)
        if device.type == "cuda":
            provenance["cuda_peak_bytes"] = torch.cuda.max_memory_allocated(device)
