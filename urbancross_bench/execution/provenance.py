"""What a stage was computed with, and what it took: all that may differ when it is computed again.

Nothing here may be an input of a key or a score. What cannot be known is null.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from urbancross_bench.execution.energy import Energy
from urbancross_bench.interfaces.registration import PROJECT
from urbancross_bench.processes import below, cores

if TYPE_CHECKING:
    import torch

_GIT = "URBANCROSS_GIT"  # the state of the folder that `run` was called in, for processes elsewhere
_DISTRIBUTIONS = (
    "urbancross-bench",
    "torch",
    "torchvision",
    "open_clip_torch",
    "transformers",
    "numpy",
    "safetensors",
    "pillow",
    "pyarrow",
)
_PROC = Path("/proc")
_GIT_SECONDS = 10.0


@contextmanager
def measured(provenance: dict[str, Any], device: torch.device, ranks: int) -> Iterator[None]:
    """Measure the body, a stage, and add what it took and what with to `provenance`, as plain JSON.

    `ranks`: how many processes the stage trains in. With several, what only each of them knows is null here.
    Nothing is added when the body raises.
    """
    import torch

    alone = ranks == 1
    if _uses_cuda():
        torch.cuda.reset_peak_memory_stats(device)
    energy, clock, began = Energy(gpus=device.type == "cuda"), time.monotonic(), time.time()
    cpu, peak_of = _cpu_seconds(), "stage" if _reset_peak() else "process"
    yield
    in_use = device.type == "cuda" and (not alone or _uses_cuda())
    provenance |= {
        "seconds": round(time.monotonic() - clock, 3),
        "cpu_seconds": round(_cpu_seconds() - cpu, 3),
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "device": torch.cuda.get_device_name(device) if in_use else platform.machine(),
        **machine(),
        # Asked for in a process that others are forked from, it would leave those without CUDA.
        "cudnn": torch.backends.cudnn.version() if in_use else None,  # type: ignore[no-untyped-call]
        "gpus": _gpus() if in_use else None,
        "git": git_state(),
        "threads": {
            "torch": torch.get_num_threads(),
            "between_operations": torch.get_num_interop_threads(),
            "cores_allowed": cores(),
        },
        "ranks": ranks,
        "determinism": _determinism() if alone else None,
        "peak_resident_bytes": _peak() if alone else None,
        "peak_resident_of": peak_of if alone else None,
        "energy_joules": energy.used([(device.index or 0) + rank for rank in range(ranks)] if in_use else []),
    }
    if device.type == "cuda":
        provenance["cuda_peak_bytes"] = torch.cuda.max_memory_allocated(device) if in_use and alone else None


@cache
def machine() -> Mapping[str, Any]:
    """Of this machine and its software, what no stage changes: computed once, best before processes are forked.

    Nothing here may ask CUDA's runtime, or processes forked later could not use it.
    """
    import torch

    return {
        "host": platform.node(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "versions": _versions(),
        "plugins": plugin_distributions(),
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "cuda": torch.version.cuda,
        "driver": _driver(),
    }


def _uses_cuda() -> bool:
    """Whether this process has taken a CUDA device into use: asking for more would do so."""
    import torch

    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _versions() -> dict[str, str]:
    found = {}
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def plugin_distributions() -> dict[str, str]:
    """The distributions that offer plugins, with their versions."""
    points = importlib.metadata.entry_points(group=PROJECT)
    return {point.dist.name: point.dist.version for point in points if point.dist}


def _cpu() -> str | None:
    with contextlib.suppress(OSError):
        for line in (_PROC / "cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or None


def _driver() -> str | None:
    """Of NVIDIA's devices: `550.54.14`."""
    with contextlib.suppress(OSError):
        words = (_PROC / "driver/nvidia/version").read_text(encoding="utf-8").split()
        return next((word for word in words if word[0].isdigit() and "." in word), None)
    return None


@cache
def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _determinism() -> dict[str, Any]:
    """What the stage has left this process's switches at."""
    import torch

    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
        "cublas_workspace_config": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


def remember_git() -> None:
    """In the process that runs the grid, before any other starts: what `git_state` says in all of them."""
    os.environ.pop(_GIT, None)
    git_state.cache_clear()
    os.environ[_GIT] = json.dumps(git_state())


@cache
def git_state() -> Mapping[str, Any] | None:
    """Commit of the working folder, and whether tracked files differ from it; null where there is no git."""
    remembered = os.environ.get(_GIT)
    if remembered is not None:
        said: Mapping[str, Any] | None = json.loads(remembered)
        return said
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    """Raises OSError without git, SubprocessError outside a repository."""
    done = subprocess.run(
        ["git", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=_GIT_SECONDS,
        env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},  # looking takes no lock from whoever commits meanwhile
    )
    return done.stdout.strip()


def _cpu_seconds() -> float:
    """Of this process and those below it, ended ones included: ranks are children of a server that lives on."""
    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    for process in below(os.getpid()):
        with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
            stat = (_PROC / str(process) / "stat").read_bytes()
            fields = stat.rpartition(b")")[2].split()  # a command's name may hold spaces
            total += sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return total


def _reset_peak() -> bool:
    """Let the system count the peak of resident memory anew; whether it does."""
    try:
        (_PROC / "self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _peak() -> int:
    """Bytes of resident memory at the peak."""
    with contextlib.suppress(OSError):
        for line in (_PROC / "self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
