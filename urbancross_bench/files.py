"""Files: written so that a reader finds them whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from urbancross_bench.errors import DataError, UsageError

_SILENT = 5.0  # seconds of waiting for a folder until that is told


def write_json(path: Path, content: Any) -> None:
    """Write plain JSON values, readably and in one way only."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_object(file: Path) -> dict[str, Any]:
    """What a JSON file of a record holds. Raises DataError naming one that cannot be read, or holds no object."""
    try:
        content = json.loads(file.read_bytes(), parse_constant=_refused)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"record {file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"record {file} is no JSON object")
    return content


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")


def named_folder(variable: str, default: str) -> Path:
    """The folder that an environment variable names, where it is set.

    Raises UsageError where it starts with `~` and the name of no user.
    """
    given = os.environ.get(variable)
    try:
        return Path(given).expanduser() if given else Path(default)
    except RuntimeError as error:
        raise UsageError(f"{variable} {given!r}: {error}") from error


def keep_others(place: Path, ours: Callable[[Path], bool]) -> None:
    """Raise UsageError for a file or folder that is there and is not `ours` to replace.

    `ours` may raise OSError or ValueError. What is neither, such as /dev/stdout, may be written to.
    """
    if not place.is_dir():
        try:
            if not place.is_file() or ours(place):
                return
        except (OSError, ValueError):
            pass
    raise UsageError(f"{place} is there already, and this command has not written it; remove it or name another")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from writing records and tables in a folder meanwhile: for moments."""
    from filelock import FileLock, Timeout  # not for those who read

    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=_SILENT)
    except Timeout:  # large tables take a while, and a process may be stopped
        with contextlib.suppress(OSError, ValueError):  # of a terminal that went away
            print(f"waiting for another process to leave {lock.lock_file}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def publish(folder: Path, place: Path) -> None:
    """Move a finished folder, or file, to its place in one step, durably.

    A folder that is there already stays; a file that is there is replaced.
    """
    for path in (folder, *folder.rglob("*")):
        if path.is_file():
            _sync(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.rename(place)
    except OSError:
        if not (folder.is_dir() and place.is_dir()):
            raise
    _sync(place.parent)


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A place to write to, which takes that of `file` when the body ends well: whole or not at all, durably."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield beside
        publish(beside, file)
    except OSError as error:  # that of a full disk names no file
        if error.errno is not None and error.filename is None:
            error.filename = str(file)
        raise
    finally:
        beside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
