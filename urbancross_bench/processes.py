"""Processes: those below one, those that end with another, the server that they are forked from."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import BinaryIO

import psutil

_ENDS, _ENDING = 10.0, 0.1  # seconds until a server that ends is known to have ended, and between two tries


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def below(process: int | None) -> list[int]:
    """The processes below one; none where it has ended."""
    found: list[int] = []
    if process is None:
        return found
    try:
        for task in Path(f"/proc/{process}/task").iterdir():
            children = [int(number) for number in (task / "children").read_text(encoding="ascii").split()]
            found += [*children, *(lower for child in children for lower in below(child))]
    except OSError:  # it has ended, or the system does not tell; to look at all processes takes longer
        with contextlib.suppress(psutil.Error):
            found = [child.pid for child in psutil.Process(process).children(recursive=True)]
    return found


def kill(processes: Iterable[int]) -> None:
    """Kill those that have not ended."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def kill_below() -> None:
    """Kill the processes below this one."""
    kill(below(os.getpid()))


def kill_whole(process: BaseProcess) -> None:
    """Kill a process, and those below it, whose end it is not to tell of."""
    lower = below(process.pid)
    process.kill()
    kill(lower)


def end_with(connection: Connection, last: Callable[[], object] = bool) -> None:
    """End this process as soon as the other end of a connection is closed: whoever holds it may be killed.

    Its locks are then free, and its memory and devices are others'. last: called before it ends.
    """
    threading.Thread(target=_wait, args=(connection, last), daemon=True).start()


def _wait(connection: Connection, last: Callable[[], object]) -> None:
    with contextlib.suppress(EOFError, OSError):
        connection.recv()
    try:
        last()
    finally:
        os._exit(1)


@contextlib.contextmanager
def servers_environment() -> Iterator[None]:
    """The environment in which to start a server that others are forked from.

    Libraries ask torch whether there is a CUDA device when they are imported: it leaves CUDA to the forks, then.
    Memory lies in pages of 2 MB where the system has them: each fork copies the table of its pages, each end takes
    one apart, and of half a gigabyte of libraries that was 80 ms for each process. And numpy has the threads that
    are asked for, none by itself: one per core in each process, and they wait in loops for their first work. It
    finds the modules that this process finds, and looks for none in the current folder besides. Forks have another
    environment, by `take_environment`.
    """
    ours = {"OPENBLAS_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    ours |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(python_path())}
    if "GLIBC_TUNABLES" not in os.environ:
        ours["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def start_forked(process: BaseProcess, bare: Callable[[], object]) -> None:
    """Start a process of the fork server; where that died, as it does of a module that crashes when imported, of
    another one that `bare` has told to import nothing. Raises EOFError or ConnectionError where that dies, too.
    """
    give_up = math.inf
    while True:
        try:
            with servers_environment():  # for a new one
                return process.start()
        except (EOFError, ConnectionError):
            if time.monotonic() > give_up:
                raise
            give_up = min(give_up, time.monotonic() + _ENDS)
            time.sleep(_ENDING)
            bare()


def take_environment(environment: Mapping[str, str]) -> None:
    """Have this process the environment of who started it, where its server's is older; but for the threads of
    numpy, which libraries that are imported later would start.
    """
    os.environ.clear()
    os.environ.update({"OPENBLAS_NUM_THREADS": "1", **environment})
    time.tzset()


def python_path() -> list[str]:
    """Where modules are, whatever the folder of who looks for them."""
    return [str(Path(entry).resolve()) for entry in sys.path]


def redirect_output(file: BinaryIO) -> None:
    """What this process prints goes to a file from now on."""
    os.dup2(file.fileno(), sys.stdout.fileno() if sys.stdout else 1)
    os.dup2(file.fileno(), sys.stderr.fileno() if sys.stderr else 2)


def said_exit(code: int | None) -> str:
    """How a process ended, in words."""
    if code is not None and code < 0:
        return f"signal {-code}, {signal.strsignal(-code) or 'unknown'}"
    return f"exit status {code}"
