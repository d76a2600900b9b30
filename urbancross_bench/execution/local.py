"""The local executor: every stage in a fresh process of this machine, so that a crash costs one stage."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

from urbancross_bench.errors import UrbanCrossError
from urbancross_bench.execution.options import LocalOptions
from urbancross_bench.execution.processes import redirect_output, said_exit
from urbancross_bench.execution.worker import execute
from urbancross_bench.interfaces.executor import Event, Executor, Task

MODULES = "URBANCROSS_PRELOAD"  # names the modules to the fork server, which knows nothing but its environment


class LocalExecutor(Executor):
    """Processes forked from a server that has imported what stages need, and has initialised no device."""

    options_type = LocalOptions

    def __init__(self, options: LocalOptions) -> None:
        super().__init__(options)
        self._context = multiprocessing.get_context("forkserver")
        self._running: dict[Connection, tuple[str, BaseProcess]] = {}

    def preload(self, modules: Sequence[str]) -> None:
        """Import the stages' own modules and the plugins' in the server, once for all processes.

        `__main__` too: else every process would import the command line anew, as multiprocessing does by default.
        """
        os.environ[MODULES] = ",".join(modules)
        self._context.set_forkserver_preload(["__main__", "urbancross_bench.execution.preload"])

    def slots(self, device: str, threads: int) -> int:
        """One stage per GPU; on a CPU as many as cores allow."""
        slots = cast(LocalOptions, self.options).slots
        if slots is not None:
            return slots
        if device.startswith("cuda"):
            return 1
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // threads)

    def submit(self, task: Task) -> None:
        """Fork a process for it."""
        here, there = self._context.Pipe(duplex=False)
        alone = task.stage["facts"].get("ranks", 1) == 1  # a daemon may not start the other ranks
        process = self._context.Process(target=_carry_out, args=(task, there), daemon=alone)
        process.start()
        there.close()
        self._running[here] = (task.key, process)

    def wait(self) -> list[Event]:
        """Events of all processes that have something to tell."""
        events = []
        for ready in wait(list(self._running)):
            connection = cast(Connection, ready)
            key, process = self._running[connection]
            try:
                event: Event = connection.recv()
            except (EOFError, OSError):  # it ended before, or amid, its last word
                process.join()
                event = Event(
                    key, "ended", error=f"the process died without a word ({said_exit(process.exitcode)})"
                )
            if event.kind == "ended":
                process.join()
                connection.close()
                del self._running[connection]
            events.append(event)
        return events

    def close(self) -> None:
        """Kill what still runs: nothing half-written is believed, so nothing has to end in order."""
        for _, process in self._running.values():
            process.kill()
            process.join()
        self._running.clear()


def _carry_out(task: Task, connection: Connection) -> None:
    """The life of a process: what it prints goes to the stage's log, what becomes of it through the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    with Path(task.log).open("wb", buffering=0) as log:
        redirect_output(log)
    last = -1.0

    def report(fraction: float) -> None:
        nonlocal last
        if fraction - last >= 0.01:
            last = fraction
            try:
                connection.send(Event(task.key, "progress", fraction))
            except BrokenPipeError:
                os._exit(1)  # the parent is gone, and with it whoever wants the result

    try:
        execute(task, report)
        ended = Event(task.key, "ended", 1.0)
    except UrbanCrossError as error:
        ended = Event(task.key, "ended", error=str(error), traceback=traceback.format_exc())
    except BaseException as error:
        ended = Event(
            task.key, "ended", error=f"{type(error).__name__}: {error}", traceback=traceback.format_exc()
        )
    with contextlib.suppress(BrokenPipeError):
        connection.send(ended)
