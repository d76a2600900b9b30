"""The store: the output of every stage, in a folder named by its key, whole or not there at all."""

from __future__ import annotations

import glob
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from urbancross_bench.errors import RunError, UsageError
from urbancross_bench.execution.stage import Stage
from urbancross_bench.files import publish, write_json

_MANIFEST = "stage.json"
_KEPT = 14 * 24 * 3600.0  # seconds
CURVE = "curve.json"  # what a stage that trains says of its steps


class Store:
    """`ROOT/<kind>/<key>/`: what a stage wrote, and `stage.json` with its facts and inputs."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self) -> None:
        """Make the folder. Raises UsageError naming it if it cannot be written to."""
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
            (self.root / "logs").mkdir(exist_ok=True)
            probe = self._partial / f"probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UsageError(f"output folder {self.root} cannot be written to: {error}") from error

    def clear_partial(self) -> None:
        """Remove what killed processes left half-written. Only for the holder of the output folder's lock."""
        for leftover in self._partial.iterdir():
            # Renamed first: should its process still live, it then finds nothing to publish.
            trash = leftover.rename(leftover.with_name(f"trash-{leftover.name}"))
            shutil.rmtree(trash, ignore_errors=True)

    def saved(self, key: str) -> Path:
        """Where a stage that trains leaves how far it is, for a process that takes over."""
        return self.root / ".saved" / key

    def forget(self, key: str) -> None:
        """Remove what `saved` names: the stage is stored."""
        shutil.rmtree(self.saved(key), ignore_errors=True)

    def clear_saved(self) -> None:
        """Remove what nobody has gone on with for two weeks. Only for the holder of the output folder's lock."""
        for folder in self.root.glob(".saved/*"):
            if time.time() - folder.stat().st_mtime > _KEPT:
                self.forget(folder.name)

    def path(self, kind: str, key: str) -> Path:
        """Where the output of a stage lies, once it exists."""
        return self.root / kind / key

    def has(self, stage: Stage) -> bool:
        """Whether the stage's output is there."""
        return (self.path(stage.kind, stage.key) / _MANIFEST).is_file()

    def find(self, key: str) -> Path:
        """The folder of a stored stage of any kind. Raises RunError if it is not there."""
        for place in self.root.glob(f"*/{glob.escape(key)}/{_MANIFEST}"):
            return place.parent
        raise RunError(f"stage {key} is not in the store {self.root}")

    def log(self, stage: Stage) -> Path:
        """The file that takes what the stage prints."""
        return self.root / "logs" / f"{stage.kind}-{stage.key}.log"

    def provenance(self, stage: Stage) -> dict[str, Any]:
        """Time, machine and versions of a stored stage."""
        file = self.path(stage.kind, stage.key) / "provenance.json"
        provenance: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return provenance

    @contextmanager
    def writing(self, stage: Stage, provenance: dict[str, Any]) -> Iterator[Path]:
        """A folder to write the stage's output into; published under its key if the body succeeds.

        `provenance` is written along as it stands when the body ends.
        """
        folder = self._partial / f"{stage.key}-{os.getpid()}"
        folder.mkdir(parents=True)
        try:
            yield folder
            manifest = {"kind": stage.kind, "facts": stage.facts, "inputs": stage.inputs}
            write_json(folder / "provenance.json", provenance)
            write_json(folder / _MANIFEST, manifest)
            publish(folder, self.path(stage.kind, stage.key))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def _partial(self) -> Path:
        return self.root / ".partial"
