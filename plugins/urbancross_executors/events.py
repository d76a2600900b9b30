"""What becomes of a task elsewhere, as lines of a file beside its log: every machine sees the store anyway.

A file outlives whoever wrote it, so what was told before a worker was killed is not lost. Whoever reads it holds a
lock on it, so that what a killed reader left is known, and removed by the next.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from urbancross_bench.interfaces import Event, Task


@contextmanager
def telling(file: str) -> Iterator[Callable[[Event], None]]:
    """For the worker: a function that adds an event, at once and whole."""
    with Path(file).open("ab", buffering=0) as stream:
        yield lambda event: _write(stream.write, event)


def _write(write: Callable[[bytes], int | None], event: Event) -> None:
    try:
        write(json.dumps(asdict(event)).encode() + b"\n")
    except OSError as error:
        if (
            error.errno != errno.ESTALE
        ):  # removed on another machine: the reader was killed, the work is still good
            raise


class Told:
    """For the one who waits: the events of one task, in order, each once. `over` is there after its last."""

    def __init__(self, task: Task) -> None:
        self.key = task.key
        log = Path(task.log)
        log.parent.mkdir(parents=True, exist_ok=True)
        for left in log.parent.glob("*.events"):
            _remove_if_left(left)
        # Several `run`s may hand out one task at a time, and would write to one file.
        self.file = log.with_name(f"{log.stem}.{uuid.uuid4().hex}.events")
        new = self.file.with_suffix(".new")  # locked before anyone can take it for one that was left
        self._lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # a file system without locks: then nothing that was left is removed either
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(self.file)
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
        os.close(self._lock)


def _remove_if_left(file: Path) -> None:
    """Remove a file of events if nobody reads it any more."""
    with suppress(OSError):  # it is read, gone already, or not ours
        lock = os.open(file, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()
        finally:
            os.close(lock)


def _read(line: bytes) -> Event:
    said = json.loads(line)
    return Event(**{**said, "damaged": tuple(said["damaged"])})
