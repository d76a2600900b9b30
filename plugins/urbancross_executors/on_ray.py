"""The ray executor: every task a ray task, which reserves its CPUs, GPUs and memory."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from urbancross_bench.errors import UsageError
from urbancross_bench.interfaces import Event, Executor, Task
from urbancross_executors import here
from urbancross_executors.events import Told
from urbancross_executors.options import RayOptions

_LOOKED = 0.2  # seconds between two looks at what was told
_STOPPED = 10.0  # seconds that workers have to stop in
_ANSWERED = 10.0  # seconds that a cluster has to answer in
_HOST = re.compile(r"\[?([^/\[\]]+?)\]?:(\d+)")
_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_QUIET = {"log_to_driver": False, "configure_logging": False}
_OBJECTS = 100 * 2**20  # bytes of ray's own store, through which nothing goes here


class RayExecutor(Executor):
    """Tasks on a ray cluster; those that no node has room for yet wait in ray."""

    options_type = RayOptions

    def __init__(self, options: RayOptions) -> None:
        super().__init__(options)
        self._ray = here.module("ray", "ray")
        self._asked = options
        self._connected = False
        self._modules: tuple[str, ...] = ()
        self._running: dict[Any, Told] = {}  # by ray's reference

    def device(self, name: str) -> str | None:
        """`auto` is `cuda` where a node has a GPU. The machine that `run` stands on need not have one."""
        if name == "auto":
            self._connect()
            return "cuda" if self._ray.cluster_resources().get("GPU") else "cpu"
        return here.named(name)

    def slots(self, device: str, devices: int, threads: int) -> int:
        """As many as all nodes have room for, or as many as the option says."""
        self._connect()
        wanted = self._resources(device, devices, threads)
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        room = sum(
            int(min(node.get(name, 0) / count for name, count in wanted.items() if count)) for node in nodes
        )
        if self._asked.slots is not None:
            return self._asked.slots
        if not room:
            most = ", ".join(f"{max((n.get(name, 0) for n in nodes), default=0):g} {name}" for name in wanted)
            asked = ", ".join(f"{count:g} {name}" for name, count in wanted.items())
            raise UsageError(
                f"executor 'ray': a task takes {asked}, and no node of the cluster has that (at most: {most}); "
                "for a cluster that grows, set slots"
            )
        return room

    def _resources(self, device: str, devices: int, threads: int) -> dict[str, float]:
        """What a task takes, as ray calls it."""
        gpus = (self._asked.gpus_per_task or float(devices)) if device.startswith("cuda") else 0.0
        return {"CPU": float(threads * devices), **({"GPU": gpus} if gpus else {})}

    def _connect(self) -> None:
        if self._connected or self._ray.is_initialized():  # whoever initialised it will shut it down
            return
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        terminating = signal.getsignal(signal.SIGTERM)
        try:
            if self._asked.address is None:
                self._start()
            else:
                self._join(self._asked.address)
        except SystemExit as error:  # of ray's own handler
            raise KeyboardInterrupt from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, terminating)  # ray has put its own in place of it
        self._connected = True

    def _start(self) -> None:
        try:
            with _on_this_machine_alone():
                self._ray.init(
                    address="local",  # else ray would look at RAY_ADDRESS, and for a cluster on this machine
                    num_cpus=self._asked.cpus,
                    num_gpus=self._asked.gpus,
                    include_dashboard=False,
                    object_store_memory=_OBJECTS,
                    _node_ip_address="127.0.0.1",
                    **_QUIET,
                )
        except OSError as error:
            if "AF_UNIX" not in str(error):
                raise
            raise UsageError(
                f"executor 'ray': ray's sockets would lie too deep ({error}); set TMPDIR to a shorter folder"
            ) from error

    def _join(self, address: str) -> None:
        try:
            named = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
            if found := _HOST.fullmatch(named):  # ray itself would try for ever
                socket.create_connection((found[1], int(found[2])), timeout=_ANSWERED).close()
            self._ray.init(address=address, **_QUIET)
        except (OSError, RuntimeError, ValueError, OverflowError) as error:
            raise UsageError(f"executor 'ray': there is no cluster at {address!r} ({error})") from error

    def preload(self, modules: Sequence[str]) -> None:
        """For the processes that workers fork for tasks."""
        self._modules = tuple(modules)

    def submit(self, task: Task) -> None:
        """Hand it to ray, which never tries twice: that is the scheduler's to decide."""
        wanted = self._resources(task.device, task.devices, task.threads)
        gpus = wanted.get("GPU", 0.0)
        memory = self._asked.memory * 2**30 if self._asked.memory else task.memory_limit
        function = self._ray.remote(
            num_cpus=wanted["CPU"],
            num_gpus=gpus,
            memory=int(memory) if memory else None,
            max_retries=0,
            # What a worker forks keeps the GPUs that were the worker's first, so it serves once.
            max_calls=1 if gpus else 0,
        )(here.carry_out)
        told = Told(task)
        reference = function.remote(here.placed(task), self._modules, str(told.file), here.environment())
        self._running[reference] = told

    def wait(self, seconds: float) -> list[Event]:
        """What tasks told, and what ray knows of workers that did not get to the end."""
        give_up = time.monotonic() + seconds
        while True:
            ended = self._ended(min(_LOOKED, max(0.0, give_up - time.monotonic())))
            events: list[Event] = []
            for reference, told in list(self._running.items()):
                events += told.news()  # after ray was asked, so that what ended has told all
                if not told.over and reference in ended:
                    events.append(self._died(reference, told.key))
                    told.over = True
                if told.over:
                    told.forget()
                    del self._running[reference]
            if events or time.monotonic() >= give_up:
                return events

    def _ended(self, seconds: float) -> set[Any]:
        """References of ray tasks that have ended; waits so long for the first."""
        if not self._running:
            time.sleep(seconds)
            return set()
        references = list(self._running)
        ended, _ = self._ray.wait(references, num_returns=1, timeout=seconds)
        if ended:  # there may be more
            ended, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        return set(ended)

    def _died(self, reference: Any, key: str) -> Event:
        errors = self._ray.exceptions
        try:
            self._ray.get(reference)
        except errors.OutOfMemoryError as error:
            return Event(key, "over", outcome="oom", error=f"ray ended the worker for memory: {_first(error)}")
        except errors.RayTaskError as error:  # of the worker: the package is not there, or another version
            return Event(
                key, "over", outcome="failed", error=f"the ray worker failed: {_last(error)}", traceback=str(error)
            )
        except errors.RayError as error:
            said = f"the ray worker died ({type(error).__name__}: {_first(error)})"
            return Event(key, "over", outcome="failed", error=said)
        return Event(key, "over", outcome="failed", error="the ray worker ended without a word")

    def close(self) -> None:
        """Kill what runs; the processes that workers forked end with them."""
        for reference in self._running:
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(reference, force=True)
        if self._running:
            references = list(self._running)
            self._ray.wait(references, num_returns=len(references), timeout=_STOPPED)
        for told in self._running.values():
            told.forget()
        self._running.clear()
        if self._connected:  # ends a cluster that was started here, and leaves any other
            self._ray.shutdown()
            self._connected = False


@contextmanager
def _on_this_machine_alone() -> Iterator[None]:
    """A cluster that is started inside listens on 127.0.0.1, as those on other systems than Linux do: whoever
    reaches its ports may run code. `init` alone would put the machine's address in place of that one.
    """
    constants: Any
    try:
        constants = import_module("ray._private.ray_constants")
    except ImportError:  # a name of ray's own, which a later version may not have
        constants = SimpleNamespace()
    before, said = getattr(constants, "ENABLE_RAY_CLUSTER", True), os.environ.get(_CLUSTER)
    constants.ENABLE_RAY_CLUSTER = False  # what ray made of the variable when it was imported
    os.environ[_CLUSTER] = "0"  # for the processes that it starts
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(_CLUSTER)
        if said is not None:
            os.environ[_CLUSTER] = said


def _first(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _last(error: BaseException) -> str:
    return str(error).strip().rpartition("\n")[2]
