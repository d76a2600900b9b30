"""How much memory there is, and how much a process takes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from urbancross_bench.processes import below


def available() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's."""
    total = int(psutil.virtual_memory().total)
    with contextlib.suppress(OSError, ValueError):  # no control group, or no limit in it
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return total


def resident(process: int | None) -> int:
    """Bytes of resident memory of a process and those below it; 0 where there is none.

    Without mapped files where the system tells: it drops them when it wants room.
    """
    return sum(map(_resident, [process, *below(process)]))


def _resident(process: int | None) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(process).memory_info().rss)
        return 0
    sizes = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    return 1024 * sum(int(sizes[name][0]) for name in ("RssAnon", "RssShmem") if name in sizes)
