"""How much memory there is, and how much a process takes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil


def available() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's."""
    total = int(psutil.virtual_memory().total)
    with contextlib.suppress(OSError, ValueError):  # no control group, or no limit in it
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return total


def resident(process: int | None, *, below: bool = False) -> int:
    """Bytes of resident memory of a process, and of those below it if asked for; 0 where there is none.

    Without what is shared where the system tells: mapped files, which it drops when it wants room.
    """
    try:
        top = psutil.Process(process)
        found = [top, *(top.children(recursive=True) if below else ())]
    except psutil.Error:
        return 0
    taken = 0
    for one in found:
        with contextlib.suppress(psutil.Error):
            memory = one.memory_info()
            taken += memory.rss - getattr(memory, "shared", 0)
    return taken
