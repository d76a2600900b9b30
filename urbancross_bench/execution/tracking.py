"""Telling trackers, and plugins that implement hooks, what a grid does, at no cost to it.

Each has a process of its own, so that one that hangs silences no other. What it is to be told waits in a queue
that drops what does not fit: neither a slow nor a stuck tracker makes the grid wait, but for a moment at its end.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import queue
import re
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from urbancross_bench.errors import PluginError
from urbancross_bench.execution.following import FOLDER
from urbancross_bench.execution.hosting import END, Hosted, host
from urbancross_bench.execution.listening import Listener
from urbancross_bench.execution.plan import Run
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.status import Status
from urbancross_bench.processes import said_exit
from urbancross_bench.registry import Plugin, Registry
from urbancross_bench.sources import files_of

_WAITING = 1000  # messages that wait for a tracker at most
_LOOK = 0.05  # seconds between two looks at processes that are about to end
_DYING = 1.0  # seconds that may lie between a process's last word and its end


def trackers(
    references: Sequence[str],
    registry: Registry,
    files: Sequence[str | Path],
    out: Path,
    others: Listener,
    *,
    patience: float,
) -> Listener:
    """A listener that tells the trackers named, and every plugin that implements a hook.

    files: the one-file plugins that `registry` was made with. others: who is told what goes wrong with a tracker.
    patience: seconds that a tracker is waited for at the end of a grid; then it is killed.

    Raises UsageError for a reference that names no tracker, or a wrong option of one; PluginError where a package
    is missing.
    """
    paths = [*map(str, files_of(files))]

    def hosted(
        name: str, location: str, target: str, options_type: str | None, options: Mapping[str, Any] | None
    ) -> Hosted:
        # A plugin in a file may import those named before it; others are spared what those import.
        needed = paths[: paths.index(location) + 1] if location in paths else []
        log = out / FOLDER / (re.sub(r"[^\w.-]+", "-", name) + ".log")
        return Hosted(name, tuple(needed), target, options_type, options, str(log), str(out), patience)

    found = []
    for text in dict.fromkeys(references):
        resolved = registry.resolve("tracker", text)
        plugin, registration = resolved.plugin, resolved.plugin.registration
        _check_packages(plugin)
        written = resolved.reference.options
        name = f"tracker {resolved.reference}"
        found.append(
            hosted(name, plugin.provider.location, registration.target, registration.options, {**written})
        )
    for provider in registry.listening():
        found.append(hosted(f"plugin {provider.name}", provider.location, provider.location, None, None))
    return Tracking(found, out, others, patience=patience) if found else Listener()


def _check_packages(plugin: Plugin) -> None:
    name, distribution = plugin.registration.name, plugin.provider.distribution
    for package in sorted(plugin.registration.needs):
        if importlib.util.find_spec(package) is None:
            extras: Sequence[str] = ()
            if distribution is not None:
                extras = importlib.metadata.metadata(distribution).get_all("Provides-Extra") or ()
            what = f"'{distribution}[{name}]'" if name in extras else package
            raise PluginError(
                f"tracker {name!r} needs the package {package!r}, which is not installed: pip install {what}"
            )


class Tracking(Listener):
    """Tells several side processes, from `planned`, when they are started, to `finished`, when they are ended."""

    def __init__(
        self,
        hosted: Sequence[Hosted],
        out: Path,
        others: Listener,
        *,
        patience: float,
    ) -> None:
        self._sides = [_Side(one, others) for one in hosted]
        self._out = out
        self._others = others
        self._patience = patience

    def planned(self, status: Status) -> None:
        """Start the processes."""
        with contextlib.suppress(OSError):
            (self._out / FOLDER).mkdir(parents=True, exist_ok=True)  # of their logs
        for side in self._sides:
            side.start()
        runs = [run.spec for run in status.todo]
        self._tell("on_grid_started", out=str(self._out), grid=status.plan.grid.name, runs=runs)
        if status.reused:
            todo = {stage.key for stage in status.stages}  # those pass on their values themselves
            trained = {key for run in status.reused for key in run.stage_keys()} - todo
            stages = {key: _called(status.plan.stages[key]) for key in trained}
            self._tell("on_run_reused", runs=[run.spec for run in status.reused], stages=stages)

    def run_started(self, run: Run) -> None:
        """Pass it on."""
        self._tell("on_run_started", run=run.spec)

    def stage_progress(self, stage: Stage, fraction: float, values: Mapping[str, float]) -> None:
        """An occasion to hear of what went wrong."""
        for side in self._sides:
            side.look()

    def stage_values(self, stage: Stage, values: Mapping[str, float]) -> None:
        """Pass it on."""
        self._tell("on_epoch_ended", stage=_called(stage), values=dict(values), key=stage.key)

    def run_ended(self, run: Run, status: str, error: str | None) -> None:
        """Pass it on; the process adds the scores of the record."""
        self._tell("on_run_finished", run=run.spec, status=status, error=error)

    def finished(self, counts: Mapping[str, int]) -> None:
        """Pass it on, wait for the processes to end, kill those that do not."""
        deadline = time.monotonic() + self._patience
        last = [_message("on_grid_finished", out=str(self._out), counts=dict(counts)), END]
        left = {side: [*last] for side in self._sides}
        try:
            while any(side.lives for side in left) and (seconds := deadline - time.monotonic()) > 0:
                for side, messages in left.items():
                    while messages and side.put(messages[0]):
                        del messages[0]
                wait([side.sentinel for side in left if side.lives], timeout=min(seconds, _LOOK))
                for side in left:
                    side.look()
        finally:
            for side in left:
                side.end(self._patience)

    def _tell(self, hook: str, **arguments: Any) -> None:
        message = _message(hook, **arguments)
        for side in self._sides:
            side.look()
            side.tell(message)


class _Side:
    """One side process, a queue of messages to it, and the thread that feeds it."""

    def __init__(self, hosted: Hosted, others: Listener) -> None:
        self._hosted = hosted
        self._others = others
        self._queue: queue.Queue[bytes] = queue.Queue(_WAITING)
        self._process: SpawnProcess | None = None
        self._dropped = 0
        self._last = False  # whether it was told of the end
        self.lives = False

    @property
    def sentinel(self) -> int:
        """What becomes ready when the process, which lives, ends."""
        assert self._process is not None
        return self._process.sentinel

    def start(self) -> None:
        """Start the process and its feeder."""
        # A fork would take over threads and locks in whatever state they are; the fork server has torch in it.
        context = multiprocessing.get_context("spawn")
        self._connection, there = context.Pipe()
        process = context.Process(target=host, args=(self._hosted, there), name=self._hosted.name, daemon=True)
        try:
            process.start()
        except OSError as error:  # no memory, say
            self._warn(f"cannot be started: {error}")
            return
        finally:
            there.close()
        self._process, self.lives = process, True
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        self._feeder.start()

    def put(self, message: bytes) -> bool:
        """Let a message wait for the process; False if there is no room."""
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            return False
        self._last = message == END
        return True

    def tell(self, message: bytes) -> None:
        """Let a message wait for the process, or drop it."""
        if self.lives and not self.put(message):
            self._dropped += 1

    def look(self) -> None:
        """Pass on what went wrong in the process, and whether it ended."""
        if self._process is None or not self.lives:
            return
        self.lives = self._process.exitcode is None
        try:
            while self._connection.poll():
                self._warn(self._connection.recv_bytes().decode())
        except (EOFError, OSError):
            self._process.join(_DYING)
            self.lives = False
        code = self._process.exitcode
        if not self.lives and (code != 0 or not self._last):
            self._warn(f"ended ({said_exit(code)}) before the grid did; it is told nothing more")

    def end(self, patience: float) -> None:
        """Kill the process if it still runs, and say what it was not told."""
        if self.lives:
            self.lives = False
            self._warn(
                f"had not ended {patience:g} seconds after the grid, and was killed; see {self._hosted.log}"
            )
        if self._dropped:
            self._warn(f"did not keep up: {self._dropped} events were dropped")
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self.put(END)  # the feeder goes, if it has not gone with the process
            self._feeder.join(timeout=_LOOK)
            self._connection.close()

    def _feed(self) -> None:
        with contextlib.suppress(OSError):  # the process is gone
            while True:
                message = self._queue.get()
                self._connection.send_bytes(message)
                if message == END:
                    return

    def _warn(self, text: str) -> None:
        self._others.warn(f"{self._hosted.name}: {text}")


def _called(stage: Stage) -> str:
    """A stage as trackers hear of it."""
    return f"{stage.kind} {stage.label}"


def _message(hook: str, **arguments: Any) -> bytes:
    """Plain JSON; numbers of a strange kind as text rather than an error."""
    return json.dumps({"hook": hook, "arguments": arguments}, default=str).encode()
