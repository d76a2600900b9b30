"""What is known of files already read, so that planning reads no pixels and checks can be resumed.

One SQLite file in the cache folder (`URBANCROSS_HOME`). An entry holds as long as its signature does: for a file
its size and times. It is a cache and nothing more: damaged, it is set aside; unwritable, it is done without.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from urbancross_bench.files import named_folder
from urbancross_bench.processes import cores

Report = Callable[[str, int, int], None]  # what is being read, how many of how many
_SETTLED = 2 * 10**9  # ns; a younger file could change again without its times telling
_BATCH = 256
_PATIENCE = 5  # seconds that another process may hold the file; then it is done without
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Reading:
    verify: bool = False
    report: Report | None = None


_reading: ContextVar[_Reading] = ContextVar("reading", default=_Reading())  # noqa: B039 - frozen


def verifying() -> bool:
    """Whether nothing that was kept of files is to be trusted."""
    return _reading.get().verify


@contextlib.contextmanager
def reading(*, verify: bool = False, report: Report | None = None) -> Iterator[None]:
    """How files are indexed in this context: `verify` trusts no entry, `report` is told what is being read."""
    token = _reading.set(_Reading(verify, report))
    try:
        yield
    finally:
        _reading.reset(token)


def home() -> Path:
    """The cache folder. Raises UsageError where `URBANCROSS_HOME` names none."""
    import platformdirs

    return named_folder("URBANCROSS_HOME", platformdirs.user_cache_dir("urbancross-bench", False))


def signature(path: Path) -> str:
    """Size and times of a file; empty while it is too young to be sure of, or where there is none."""
    try:
        stat = path.stat()
    except (OSError, ValueError):  # whoever reads it is told
        return ""
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) < _SETTLED:
        return ""
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


class Index:
    """Entries `(place, name) → value`, each with the signature under which it holds."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._connection = _open(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def values(
        self, place: str, wanted: Sequence[tuple[str, str]], compute: Callable[[int], str], *, what: str = ""
    ) -> list[str]:
        """The value of each wanted (name, signature): as kept, or computed (by position) in threads and kept.

        A value whose signature is empty is computed each time, and an empty value is not kept. What `compute`
        raises is raised, after what was computed before has been kept.
        """
        reading = _reading.get()
        found = [None if reading.verify else self._get(place, *entry) for entry in wanted]
        todo = [position for position, value in enumerate(found) if value is None]
        report = reading.report or (lambda what, done, total: None)
        with ThreadPoolExecutor(min(8, 2 * cores())) as threads:
            for start in range(0, len(todo), _BATCH):
                report(what or place, start, len(todo))
                batch = todo[start : start + _BATCH]
                computed = {}
                try:
                    for position, value in zip(batch, threads.map(compute, batch), strict=True):
                        found[position] = computed[position] = value
                finally:
                    self._keep(place, ((*wanted[position], value) for position, value in computed.items()))
        if todo:
            report(what or place, len(todo), len(todo))
        return [value for value in found if value is not None]

    def _get(self, place: str, name: str, signature: str) -> str | None:
        if not signature:
            return None
        query = "SELECT value FROM entries WHERE place = ? AND name = ? AND signature = ?"
        key = (_storable(place), _storable(name), signature)
        row = self._do(lambda connection: connection.execute(query, key).fetchone())
        return None if row is None else str(row[0])

    def _keep(self, place: str, rows: Iterable[tuple[str, str, str]]) -> None:
        command = "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)"
        kept = [(_storable(place), _storable(name), sign, value) for name, sign, value in rows if sign and value]
        self._do(lambda connection: connection.executemany(command, kept))

    def _do(self, work: Callable[[sqlite3.Connection], _T]) -> _T | None:
        """What `work` returns; None if it cannot be done, on a full disk, say: nothing is lost but time."""
        for _ in range(2):
            if self._connection is None:
                return None
            try:
                with self._connection:
                    return work(self._connection)
            except sqlite3.Error as error:
                if not _is_damage(error):
                    self.close()
                    return None
                self.close()
                _set_aside(self._file)
                self._connection = _open(self._file)
        return None


def open_index() -> Index:
    """The index of this user."""
    return Index(home() / "index.sqlite")


def _open(file: Path) -> sqlite3.Connection | None:
    for _ in range(2):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(file, timeout=_PATIENCE)
            with connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS entries (place TEXT, name TEXT, signature TEXT, value TEXT, "
                    "PRIMARY KEY (place, name)) WITHOUT ROWID"
                )
            return connection
        except OSError:
            return None
        except sqlite3.Error as error:
            if not _is_damage(error):
                return None
            _set_aside(file)
    return None


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is no database, or no longer one; to be locked, full or read-only is a class below."""
    return type(error) is sqlite3.DatabaseError


def _set_aside(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.replace(file.with_suffix(".damaged"))


def _storable(text: str) -> str | bytes:
    """Names that are not UTF-8 on disk hold bytes that SQLite takes for no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text
