"""What becomes of a task elsewhere, as lines of a file beside its log: every machine sees the store anyway.

A file outlives whoever wrote it, so what was told before a worker was killed is not lost.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from urbancross_bench.interfaces import Event, Task


@contextmanager
def telling(file: str) -> Iterator[Callable[[Event], None]]:
    """For the worker: a function that adds an event, at once and whole."""
    with Path(file).open("ab", buffering=0) as stream:
        yield lambda event: _write(stream.write, event)


def _write(write: Callable[[bytes], int | None], event: Event) -> None:
    write(json.dumps(asdict(event)).encode() + b"\n")


class Told:
    """For the one who waits: the events of one task, in order, each once. `over` is there after its last."""

    def __init__(self, task: Task) -> None:
        self.key = task.key
        log = Path(task.log)
        log.parent.mkdir(parents=True, exist_ok=True)
        # Several `run`s may hand out one task at a time, and would write to one file.
        self.file = log.with_name(f"{log.stem}.{uuid.uuid4().hex}.events")
        self.file.touch()
        self.over = False
        self._read = 0

    def news(self) -> list[Event]:
        """What was told since the last call. Opened anew each time: else a network file system may not look."""
        with self.file.open("rb") as stream:
            stream.seek(self._read)
            whole, newline, _ = stream.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        events = [_read(line) for line in whole.splitlines()]
        self.over = self.over or any(event.kind == "over" for event in events)
        return events

    def forget(self) -> None:
        """Remove the file."""
        self.file.unlink(missing_ok=True)


def _read(line: bytes) -> Event:
    said = json.loads(line)
    return Event(**{**said, "damaged": tuple(said["damaged"])})
