"""What the processes of stages and of makers have in common."""

from __future__ import annotations

import os
import signal
import sys
from typing import BinaryIO


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def redirect_output(file: BinaryIO) -> None:
    """What this process prints goes to a file from now on."""
    os.dup2(file.fileno(), sys.stdout.fileno() if sys.stdout else 1)
    os.dup2(file.fileno(), sys.stderr.fileno() if sys.stderr else 2)


def said_exit(code: int | None) -> str:
    """How a process ended, in words."""
    if code is not None and code < 0:
        return f"signal {-code}, {signal.strsignal(-code) or 'unknown'}"
    return f"exit status {code}"
