"""The store: the output of every stage, in a folder named by its key, whole or not there at all.

    STORE/<kind>/<key>/     what the stage wrote; `stage.json`: its facts and inputs, and hashes of its files;
                            `provenance.json`: time, machine and versions
          .locks/<key>      held by whoever computes the stage: any process of any machine that sees the folder
          .partial/         what is being written
          .saved/<key>/     how far a training is, for a process that takes over
          .damaged/         stages that were found not to be what was written
          logs/             what stages print

Folders are published by renaming, so several processes and machines can share a store.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from urbancross_bench.errors import RunError, UsageError
from urbancross_bench.execution.stage import Stage
from urbancross_bench.files import publish, write_json
from urbancross_bench.identity import file_digest, key_of

_MANIFEST = "stage.json"
KEPT = 14 * 24 * 3600.0  # seconds that trainings which were cut, and logs of stages that failed, stay
CURVE = "curve.json"  # what a stage that trains says of its steps
PARAMETERS = "parameters.json"  # and of how many numbers it trains


class MissingError(RunError):
    """Stages are not in the store, or not any more: they were damaged, and set aside. `keys` says which."""

    def __init__(self, keys: Sequence[str], message: str) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


@dataclass(frozen=True)
class Entry:
    """A stored stage."""

    kind: str
    key: str
    folder: Path

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    @property
    def used(self) -> float:
        """When it was last written or read, in seconds since 1970."""
        return (self.folder / _MANIFEST).stat().st_mtime

    def manifest(self) -> dict[str, Any]:
        """`kind`, `facts`, `inputs` (name → key) and `files` (name → SHA-256). Raises ValueError, OSError."""
        content: dict[str, Any] = json.loads((self.folder / _MANIFEST).read_text(encoding="utf-8"))
        return content

    def provenance(self) -> dict[str, Any]:
        """Time, machine and versions. Raises ValueError, OSError."""
        content: dict[str, Any] = json.loads((self.folder / "provenance.json").read_text(encoding="utf-8"))
        return content


class Store:
    """The store in a folder, which need not be there yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self) -> None:
        """Make the folder. Raises UsageError naming it if it cannot be written to."""
        try:
            for name in (".partial", ".locks", "logs"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            probe = self.root / ".partial" / f"probe-{os.getpid()}"
            probe.touch()
            probe.unlink(missing_ok=True)
        except OSError as error:
            if self.root.is_symlink() and not self.root.exists():
                leads = f"{self.root} leads to {self.root.readlink()}, which is not there"
                raise UsageError(f"{leads}; bring it back, or remove the link and make everything anew") from error
            raise UsageError(f"output folder {self.root} cannot be written to: {error}") from error

    @contextmanager
    def holding(self, key: str, *, wait: bool = True) -> Iterator[bool]:
        """Keep others from computing a stage, or removing it, meanwhile. Yields whether it could be had.

        The lock goes with its process, however that ends.
        """
        lock = FileLock(self.root / ".locks" / key, blocking=wait)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def busy(self, key: str) -> bool:
        """Whether some process is computing the stage now."""
        with self.holding(key, wait=False) as free:
            return not free

    def clean(self) -> None:
        """Remove what killed processes left half-written, and how far trainings were.

        The latter of a training that is stored by now (it was killed as it ended), and of one that nobody has gone
        on with for two weeks.
        """
        for leftover in self.root.glob(".partial/*-*"):
            self._clear(leftover.name.partition("-")[0])
        for folder in self.root.glob(".saved/*"):
            with contextlib.suppress(FileNotFoundError), self.holding(folder.name, wait=False) as free:
                if free and (self._holds(folder.name) or time.time() - folder.stat().st_mtime > KEPT):
                    self.forget(folder.name)

    def _holds(self, key: str) -> bool:
        return any(self.root.glob(f"[!.]*/{glob.escape(key)}/{_MANIFEST}"))

    def _clear(self, key: str) -> None:
        with self.holding(key, wait=False) as free:
            for leftover in self.root.glob(f".partial/{key}-*") if free else ():
                shutil.rmtree(leftover, ignore_errors=True)

    def saved(self, key: str) -> Path:
        """Where a stage that trains leaves how far it is, for a process that takes over."""
        return self.root / ".saved" / key

    def forget(self, key: str) -> None:
        """Remove what `saved` names: the stage is stored."""
        shutil.rmtree(self.saved(key), ignore_errors=True)

    def path(self, kind: str, key: str) -> Path:
        """Where the output of a stage lies, once it exists."""
        return self.root / kind / key

    def has(self, stage: Stage) -> bool:
        """Whether the stage's output is there."""
        return (self.path(stage.kind, stage.key) / _MANIFEST).is_file()

    def entries(self) -> Iterator[Entry]:
        """All stored stages, by kind and key."""
        for manifest in sorted(self.root.glob(f"[!.]*/*/{_MANIFEST}")):
            yield Entry(manifest.parts[-3], manifest.parts[-2], manifest.parent)

    def entry(self, key: str) -> Entry:
        """The stored stage of this key, of any kind. Raises MissingError if it is not there."""
        for manifest in self.root.glob(f"[!.]*/{glob.escape(key)}/{_MANIFEST}"):
            return Entry(manifest.parts[-3], key, manifest.parent)
        raise MissingError([key], f"stage {key} is not in the store {self.root}")

    def read(self, key: str, name: str) -> bytes:
        """One file of a stored stage. Raises as `find` does, where it is not what was written."""
        entry = self.entry(key)
        try:
            content = (entry.folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() == entry.manifest()["files"][name]:
                return content
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self.find(key)
        raise MissingError([key], f"stage {key} has no file {name}")

    def find(self, key: str) -> Path:
        """The folder of a stored stage, each file of which is what was written.

        Raises MissingError if there is none, or one that has changed since; then it has been set aside.
        """
        entry = self.entry(key)
        if _problem(entry):
            with self.holding(key):  # another process may have made it anew
                entry = self.entry(key)
                if problem := _problem(entry):
                    place = self._set_aside(entry)
                    raise MissingError([key], f"stored {entry.kind} {key} is damaged: {problem}; moved to {place}")
        with contextlib.suppress(OSError):  # not ours to write to
            os.utime(entry.folder / _MANIFEST)
        return entry.folder

    def _set_aside(self, entry: Entry) -> Path:
        place = self.root / ".damaged" / f"{entry.kind}-{entry.key}-{time.time_ns()}"
        place.parent.mkdir(exist_ok=True)
        entry.folder.rename(place)
        return place

    def find_all(self, keys: Iterable[str]) -> list[Path]:
        """The folders of several stored stages. Raises MissingError with all that are not there."""
        found, missing = [], list[MissingError]()
        for key in keys:
            try:
                found.append(self.find(key))
            except MissingError as error:
                missing.append(error)
        if missing:
            raise MissingError([key for error in missing for key in error.keys], "; ".join(map(str, missing)))
        return found

    def remove(self, entry: Entry) -> None:
        """Remove a stored stage; a reader finds all of it or nothing."""
        trash = self.root / ".partial" / f"{entry.key}-removed-{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            entry.folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)

    def log(self, stage: Stage) -> Path:
        """The file that takes what the stage prints, and those that follow it in its process."""
        return self.root / "logs" / f"{stage.kind}-{stage.key}.log"

    @contextmanager
    def writing(self, stage: Stage, provenance: dict[str, Any]) -> Iterator[Path]:
        """A folder to write the stage's output into; published under its key if the body succeeds.

        For the holder of its lock. `provenance` is written along as it stands when the body ends.
        """
        for leftover in self.root.glob(f".partial/{stage.key}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        folder = self.root / ".partial" / f"{stage.key}-{os.getpid()}"
        folder.mkdir(parents=True)
        try:
            yield folder
            write_json(folder / "provenance.json", provenance)
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            hashes = {file.relative_to(folder).as_posix(): file_digest(file) for file in files}
            manifest = {"kind": stage.kind, "facts": stage.facts, "inputs": stage.inputs, "files": hashes}
            write_json(folder / _MANIFEST, manifest)
            for file in files:  # safetensors lets nobody else read its files, whatever the umask
                shutil.copymode(folder / _MANIFEST, file)
            place = self.path(stage.kind, stage.key)
            if not self.has(stage):  # what is left of one that has lost its manifest would be in the way
                shutil.rmtree(place, ignore_errors=True)
                place.unlink(missing_ok=True)  # of a file that somebody put there
            publish(folder, place)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _problem(entry: Entry) -> str:
    """What of a stored stage is not as it was written; empty if all is well.

    Raises RunError for what is there and cannot be read now, which says nothing of what is in it.
    """
    try:
        manifest = entry.manifest()
        facts = {name: manifest[name] for name in ("kind", "facts", "inputs")}
        files: dict[str, str] = manifest["files"]
        if key_of(facts) != entry.key:
            return f"{_MANIFEST} does not fit its folder"
        for name, written in files.items():
            if file_digest(entry.folder / name) != written:
                return f"{name} has changed"
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        return str(error)
    except OSError as error:
        raise RunError(f"stored {entry.kind} {entry.key} cannot be read, and stays as it is: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{error or type(error).__name__}"
    return ""
