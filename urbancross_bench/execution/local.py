"""The local executor: every task in a fresh process of this machine, so that a crash costs one stage."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar, cast

import psutil

from urbancross_bench.errors import UsageError
from urbancross_bench.execution.devices import VISIBLE, checked_device, cuda_devices
from urbancross_bench.execution.memory import available, resident
from urbancross_bench.execution.options import LocalOptions
from urbancross_bench.execution.worker import carry_out
from urbancross_bench.identity import DISTRIBUTION
from urbancross_bench.interfaces.executor import Event, Executor, Outcome, Task
from urbancross_bench.processes import (
    cores,
    end_with,
    kill_below,
    kill_whole,
    redirect_output,
    said_exit,
    servers_environment,
    start_forked,
    take_environment,
)
from urbancross_bench.sources import code_version, providers

PRELOAD = "URBANCROSS_PRELOAD"  # Python's path and the modules, for the fork server: it knows but its environment
_WATCHED = 0.2  # seconds between two looks at the limits

# By top package of what the server was told to import of plugins: the version of that code.
_imported: dict[str, str] = {}

T = TypeVar("T")


@dataclass(eq=False)
class _Running:
    """A task in its process, on these devices (of `VISIBLE`; none on a CPU)."""

    task: Task
    process: BaseProcess
    devices: tuple[str, ...]
    memory: float  # bytes that it may take
    ends: float = math.inf  # by the monotonic clock

    def begin(self) -> None:
        """Another stage begins: the time limit is each stage's."""
        if self.task.time_limit is not None:
            self.ends = time.monotonic() + self.task.time_limit

    def exceeded(self) -> tuple[Outcome, str] | None:
        """Which limit it has passed, and that in words."""
        if time.monotonic() > self.ends:
            return "timeout", f"took longer than {self.task.time_limit:g} s, the time limit"
        if (taken := resident(self.process.pid)) > self.memory:
            gib = [f"{size / 2**30:.1f} GiB" for size in (taken, self.memory)]
            return "oom", f"took {gib[0]} of memory; the limit is {gib[1]}"
        return None


class LocalExecutor(Executor):
    """Processes forked from a server that has imported what stages need, and has initialised no device."""

    options_type = LocalOptions

    def __init__(self, options: LocalOptions) -> None:
        super().__init__(options)
        self._context = multiprocessing.get_context("forkserver")
        self._running: dict[Connection, _Running] = {}
        self._devices: tuple[str, ...] = ()
        self._memory = 0.9 * available()
        self._looked = 0.0

    def preload(self, modules: Sequence[str]) -> None:
        """Import the stages' own modules and the plugins' in the server, once for all processes.

        `__main__` too: else every process would import the command line anew, as multiprocessing does by default.
        """
        # Older Pythons forget to tell the server where `__main__` is: what the command's imports, by name.
        command = sys.modules.keys() & {"urbancross_bench.cli.app"}
        os.environ[PRELOAD] = json.dumps([sys.path, *modules, *command])
        self._context.set_forkserver_preload(["__main__", "urbancross_bench.execution.preload"])
        server = cast(Any, forkserver)._forkserver
        # The server imports all that are installed, to know the plugins.
        every = dict.fromkeys(module.partition(".")[0] for module in modules) | providers()
        here = {name: code_version(name, by) for name, by in every.items() if by != DISTRIBUTION}
        if any(_imported.get(name, version) != version for name, version in here.items()):
            _leave(server)  # its processes would run what was there before a notebook's user edited it
        before = server._forkserver_pid
        try:
            with servers_environment():
                forkserver.ensure_running()
        except OSError as error:
            if "AF_UNIX" not in str(error):
                raise
            folder = tempfile.gettempdir()
            raise UsageError(
                f"the path of {folder} is too long for a socket; set TMPDIR to a shorter one"
            ) from error
        if server._forkserver_pid != before:
            _imported.clear()
            _imported.update(here)

    def device(self, name: str) -> str:
        """Asked of a process of the server, which has torch: to import it here takes seconds and 600 MB."""
        return name if name == "cpu" else self._asked(checked_device, name)

    def slots(self, device: str, devices: int, threads: int) -> int:
        """One task per GPU, or as many as the option says; on a CPU as many as cores allow."""
        slots = cast(LocalOptions, self.options).slots
        if device.startswith("cuda"):
            self._devices = self._asked(cuda_devices, device)
            if devices > len(self._devices):
                raise UsageError(
                    f"ranks: {devices} processes take a CUDA device each; {device!r} is {len(self._devices)} here"
                )
            return len(self._devices) // devices * (slots or 1)
        return slots or max(1, cores() // (threads * devices))

    def submit(self, task: Task) -> None:
        """Fork a process for it, on the devices that have the least to do."""
        here, there = self._context.Pipe()
        devices = self._least_busy(task.devices)
        placed = replace(task, device="cuda") if devices else task
        # A daemon may not start other processes, as the ranks of a training are.
        alone = all(stage["facts"].get("ranks", 1) == 1 for stage in task.stages)
        process = self._started(_live, placed, dict(os.environ), there, devices, daemon=alone)
        there.close()
        self._running[here] = _Running(task, process, devices, task.memory_limit or self._memory)
        self._running[here].begin()

    def _asked(self, look: Callable[[str], T], device: str) -> T:
        """What a look at a device says in a process of the server; here, where that ends without a word."""
        here, there = self._context.Pipe()
        try:
            process = self._started(_answer, look, device, dict(os.environ), there, daemon=True)
            there.close()
            try:
                found = here.recv()
            finally:
                process.join()
        except (EOFError, ConnectionError):
            return look(device)  # which says what is wrong with torch
        finally:
            here.close()
        if isinstance(found, UsageError):
            raise found
        return cast(T, found)

    def _started(self, life: Callable[..., None], *arguments: Any, daemon: bool) -> BaseProcess:
        """A process of the server; where that died, as it does of a plugin's module that crashes when imported, of
        a server that imports none of them: then it costs the cells of that plugin alone.
        """
        process = self._context.Process(target=life, args=arguments, daemon=daemon)
        start_forked(process, partial(self.preload, ()))
        return process

    def _least_busy(self, count: int) -> tuple[str, ...]:
        load = Counter(device for running in self._running.values() for device in running.devices)
        return tuple(sorted(self._devices, key=lambda device: load[device])[:count])

    def wait(self, seconds: float) -> list[Event]:
        """Events of all processes that have something to tell, or that have passed a limit."""
        give_up = time.monotonic() + seconds
        while True:
            left = max(0.0, give_up - time.monotonic())
            events = []
            for ready in wait(list(self._running), timeout=min(left, _WATCHED)):
                connection = cast(Connection, ready)
                event = _heard(connection)
                if event is None:  # it ended, well or amid its last word
                    events += self._over(connection)
                    continue
                if event.kind == "started":
                    self._running[connection].begin()
                events.append(event)
            events += self._watched()
            if events or not left:
                return events

    def _watched(self) -> list[Event]:
        """End what has passed a limit; looks now and then."""
        if time.monotonic() - self._looked < _WATCHED:
            return []
        self._looked = time.monotonic()
        events = []
        for connection, running in list(self._running.items()):
            if exceeded := running.exceeded():
                kill_whole(running.process)
                events += self._over(connection, *exceeded)
        return events

    def _over(
        self, connection: Connection, outcome: Outcome | None = None, error: str | None = None
    ) -> list[Event]:
        """The last that a process had to tell, and that it ended."""
        running = self._running.pop(connection)
        running.process.join()
        last = list(iter(lambda: _heard(connection), None))
        connection.close()
        code = running.process.exitcode
        if outcome is None and code != 0:
            outcome, error = "failed", f"the process died without a word ({said_exit(code)})"
        return [*last, Event(running.task.key, "over", outcome=outcome or "ok", error=error)]

    def close(self) -> None:
        """Kill what still runs: nothing half-written is believed, so nothing has to end in order."""
        for running in self._running.values():
            kill_whole(running.process)
        for running in self._running.values():
            running.process.join()
        self._running.clear()


def _leave(server: Any) -> None:
    """Have the next process started by another server. This one ends after the last of those it has started.

    There is no public way. `_stop` would wait for them, with the lock that others need who start a process.
    """
    with server._lock:
        pid, alive, address = server._forkserver_pid, server._forkserver_alive_fd, server._forkserver_address
        server._forkserver_pid = server._forkserver_alive_fd = server._forkserver_address = None
    if pid is not None:
        threading.Thread(target=_end, args=(pid, alive, address), daemon=True).start()


def _end(server: int, alive: int, address: str) -> None:
    """End a server that nobody asks any more, once it has told how its processes ended."""
    with contextlib.suppress(psutil.Error):
        psutil.wait_procs(psutil.Process(server).children())
    os.close(alive)
    with contextlib.suppress(OSError):
        Path(address).unlink()
        os.waitpid(server, 0)  # else it would stay a zombie


def _heard(connection: Connection) -> Event | None:
    """The next event of a process; None where there will be none."""
    try:
        event: Event = connection.recv()
    except (EOFError, OSError):
        return None
    return event


def _answer(
    look: Callable[[str], object], device: str, environment: Mapping[str, str], connection: Connection
) -> None:
    """The life of a process that looks at a device, of those that the parent sees."""
    take_environment(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    end_with(connection)
    seen: object
    try:
        seen = look(device)
    except UsageError as error:
        seen = error
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        connection.send(seen)


def _live(task: Task, environment: Mapping[str, str], connection: Connection, devices: tuple[str, ...]) -> None:
    """The life of a process: what it prints goes to the task's log, what becomes of it through the pipe."""
    take_environment(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with(connection, kill_below)
    if devices:  # read when CUDA is first used, which is later
        os.environ[VISIBLE] = ",".join(devices)
    Path(task.log).parent.mkdir(
        parents=True, exist_ok=True
    )  # else a store that was removed meanwhile is not told of
    with Path(task.log).open("ab", buffering=0) as log:  # what was printed before it was tried again stays
        redirect_output(log)

    def tell(event: Event) -> None:
        try:
            connection.send(event)
        except BrokenPipeError:
            os._exit(1)  # the parent is gone, and with it whoever wants the result

    carry_out(task, tell)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # as where a notebook's server was started without any
            stream.flush()
    kill_below()  # what a plugin left would outlive the grid, and hold its files open
    os._exit(0)  # a thread that a plugin left would keep the process, and its slot
