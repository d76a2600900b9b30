"""The journal: everything a grid's process was told, one JSON object a line, for whoever looks on or looks back.

    OUT/journal/<UTC time>-<host>-<pid>.jsonl   one session: one `run` command
                                      .lock     held while its process lives

The first entry says what was to do and by which command. `time` is the wall clock's, for people; `elapsed` counts
seconds since the session began, whatever anybody does to the clock.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import sys
import time
from abc import abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from urbancross_bench import __version__
from urbancross_bench.execution.following import FOLDER
from urbancross_bench.execution.listening import Listener
from urbancross_bench.execution.plan import Run
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.status import Status

_EVERY = 1.0  # seconds between two entries of how far a stage is

Entry = dict[str, Any]


def command_line() -> str:
    """What to type in a shell to start this process again."""
    first, *rest = sys.argv
    if Path(first).name == "__main__.py":  # as `python -m` leaves it
        return shlex.join([sys.executable, "-m", Path(first).parent.name, *rest])
    script = [sys.executable] if Path(first).suffix == ".py" else []
    return shlex.join([*script, first, *rest])


class EntryListener(Listener):
    """Turns what it is told into entries, plain JSON values that the journal and the screen both go by."""

    @abstractmethod
    def take(self, entry: Entry) -> None:
        """One entry: `event`, and its values."""

    def planned(self, status: Status) -> None:
        """All runs, those reused and skipped too, and the stages to do with which of them each waits for."""
        todo = {stage.key for stage in status.stages}
        states = (("to do", status.todo), ("reused", status.reused), ("skipped", status.skipped))
        self.take(
            {
                "event": "planned",
                "grid": status.plan.grid.name,
                "runs": [
                    {"key": run.key, "name": str(run), "state": state, "reason": run.skipped}
                    for state, runs in states
                    for run in runs
                ],
                "stages": [
                    {
                        "key": stage.key,
                        "kind": stage.kind,
                        "label": stage.label,
                        "inputs": sorted(todo & set(stage.inputs.values())),
                    }
                    for stage in status.stages
                ],
            }
        )

    def run_started(self, run: Run) -> None:
        """By its key."""
        self.take({"event": "run_started", "run": run.key})

    def stage_started(self, stage: Stage) -> None:
        """With kind and label: it may not have been planned, if its stored output was found damaged."""
        self.take({"event": "stage_started", "stage": stage.key, "kind": stage.kind, "label": stage.label})

    def stage_progress(self, stage: Stage, fraction: float, values: Mapping[str, float]) -> None:
        """By its key."""
        entry = {"event": "stage_progress", "stage": stage.key, "fraction": fraction}
        self.take(entry | {"values": _plain(values)})

    def stage_values(self, stage: Stage, values: Mapping[str, float]) -> None:
        """By its key."""
        self.take({"event": "stage_values", "stage": stage.key, "values": _plain(values)})

    def stage_ended(self, stage: Stage, error: str | None) -> None:
        """By its key."""
        self.take({"event": "stage_ended", "stage": stage.key, "error": error})

    def run_ended(self, run: Run, status: str, error: str | None) -> None:
        """By its key."""
        self.take({"event": "run_ended", "run": run.key, "status": status, "error": error})

    def warn(self, message: str) -> None:
        """As it is."""
        self.take({"event": "warn", "message": message})

    def finished(self, counts: Mapping[str, int]) -> None:
        """The last entry."""
        self.take({"event": "finished", "counts": dict(counts)})


class Journal(EntryListener):
    """Writes the journal of this process's session below an output folder, from `planned` to `finished`.

    It never costs a run: what cannot be written is said once, to `others`, and left.
    """

    def __init__(self, out: Path, others: Listener) -> None:
        self._out = out
        self._others = others
        self._command = command_line()
        self._file: BinaryIO | None = None
        self._lock: FileLock | None = None
        self._written: dict[str, float] = {}  # when a stage's progress was last written

    def planned(self, status: Status) -> None:
        """Begin the session."""
        self._begin = time.monotonic()
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{platform.node() or 'host'}-{os.getpid()}"
        try:
            (self._out / FOLDER).mkdir(parents=True, exist_ok=True)
            place = _unused(self._out / FOLDER, name)
            self._lock = FileLock(place.with_suffix(".lock"), blocking=False)
            self._lock.acquire()  # before there is an entry, so that no reader takes the session for a killed one
            self._file = place.open("ab", buffering=0)
        except Exception as error:  # OSError, Timeout, and whatever a file system without locks raises
            self._give_up(error)
        super().planned(status)

    def stage_progress(self, stage: Stage, fraction: float, values: Mapping[str, float]) -> None:
        """At most once a second for each stage."""
        now = time.monotonic()
        if now - self._written.get(stage.key, -math.inf) >= _EVERY:
            self._written[stage.key] = now
            super().stage_progress(stage, fraction, values)

    def stage_ended(self, stage: Stage, error: str | None) -> None:
        """Whatever it comes to next is written at once."""
        self._written.pop(stage.key, None)
        super().stage_ended(stage, error)

    def finished(self, counts: Mapping[str, int]) -> None:
        """End the session."""
        super().finished(counts)
        self._close()

    def take(self, entry: Entry) -> None:
        """Write a line, in one go."""
        if self._file is None:
            return
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
        head = {"time": now, "elapsed": round(time.monotonic() - self._begin, 3)}
        if entry["event"] == "planned":
            entry = entry | {
                "command": self._command,
                "folder": str(Path.cwd()),
                "host": platform.node(),
                "pid": os.getpid(),
                "version": __version__,
            }
        line = json.dumps(head | entry, ensure_ascii=False).encode(errors="replace") + b"\n"
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes were taken")
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._close()
        self._others.warn(f"the journal below {self._out / FOLDER} is not written any more: {error}")

    def _close(self) -> None:
        file, self._file = self._file, None
        lock, self._lock = self._lock, None
        try:
            if file is not None:
                file.close()
            if lock is not None:
                lock.release()
                Path(lock.lock_file).unlink(missing_ok=True)
        except OSError:
            pass  # a full disk may say so once more


def _unused(folder: Path, name: str) -> Path:
    """A process may begin several sessions within a second."""
    number, place = 1, folder / f"{name}.jsonl"
    while place.exists():
        number += 1
        place = folder / f"{name}-{number}.jsonl"
    return place


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers that JSON knows; a plugin may have counted in any kind of number, or in none."""
    plain: dict[str, float | None] = {}
    for name, value in values.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        plain[name] = number if math.isfinite(number) else None
    return plain
