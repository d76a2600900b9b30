"""Making something of every item with a model, in processes of their own, so that nothing finished is lost.

Items are taken in fixed runs of consecutive ones of a group, the batches. What a finished batch gave is kept in
a file of its own, `FOLDER/.partial/<key>.json`, named by everything it may depend on: what is made and how
(`identity`), and which items, with their content. So results depend neither on kills nor on the number of
processes, and of another identity, or of items that have changed, nothing is believed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from urbancross_bench.errors import RunError, UrbanCrossError, UsageError
from urbancross_bench.execution.crew import Maker, Outcome, Setup, carried_out
from urbancross_bench.files import replacing, write_json
from urbancross_bench.identity import key_of
from urbancross_bench.registry import Registry, Resolved

PARTIAL, _LOG = ".partial", "log"


@dataclass(frozen=True)
class Made:
    """`texts`: one per item, in their order, None where it failed; `failures`: the reason by name.

    `alone`: of those that were made alone, as their batch had failed for no fault of theirs, why it had.
    `kept`: the files of its finished batches.
    """

    texts: list[str | None]
    failures: dict[str, str]
    alone: dict[str, str]
    kept: Sequence[Path] = ()


@dataclass(frozen=True)
class Earlier:
    """What an earlier call of the same identity, batch and threads made: its items with their groups, as they were
    then, and the text of each that did not fail.
    """

    items: Mapping[str, str]
    groups: Mapping[str, str]
    texts: Mapping[str, str]


@contextmanager
def as_planned(registry: Registry, kind: str, reference: str, identity: Mapping[str, Any]) -> Iterator[Resolved]:
    """A plugin to load: before, its code and files are what they were when the command began; after, its files.

    Raises RunError if not.
    """
    yield _planned(registry, kind, reference, identity)
    _planned(registry, kind, reference, identity)


def _planned(registry: Registry, kind: str, reference: str, identity: Mapping[str, Any]) -> Resolved:
    resolved = registry.resolve(kind, reference)
    if resolved.identity() != identity:
        raise RunError(f"{resolved.plugin} or a file of its has changed since the command began; run it again")
    return resolved


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Make the folder and keep other commands out of it. Raises UsageError if one is at work there."""
    try:
        (folder / PARTIAL).mkdir(parents=True, exist_ok=True)
        with FileLock(folder / PARTIAL / "lock", blocking=False):
            yield
    except Timeout:
        raise UsageError(f"another process is at work in {folder}; wait for it or choose another --out") from None
    except OSError as error:
        raise UsageError(f"output folder {folder} cannot be written to: {error}") from error


def forget(folder: Path) -> None:
    """Remove what finished batches left, once nothing of them is needed any more, and the folder if it is bare."""
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def tidy(folder: Path, kept: Iterable[Path] = ()) -> None:
    """Remove some finished batches, and their place if it has no others: those of a call that was killed, say."""
    for file in kept:
        file.unlink(missing_ok=True)
    if not any((folder / PARTIAL).glob("*.json")):
        forget(folder)


def tidy_unless_told(folder: Path, reasons: Iterable[str]) -> None:
    """`tidy`, unless some reason of a failure sends its reader to the log of a process that died."""
    log = str(folder / PARTIAL / _LOG)
    if not any(log in reason for reason in reasons):
        tidy(folder)


def make(
    maker: Maker,
    items: Mapping[str, str],
    folder: Path,
    *,
    identity: Mapping[str, Any],
    batch: int,
    workers: int = 1,
    threads: int = 1,
    device: str = "auto",
    groups: Mapping[str, str] | None = None,
    earlier: Earlier | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Make every item that is not there yet; to be called while `holding` the folder.

    items: name → a hash of what the item's result depends on besides `identity`, an image's digest, say.
    identity: plain JSON values, everything else that may change a result. Batch and threads are added here, the
    latter because they change sums on a CPU.
    workers: processes, each with a model of its own; on several CUDA devices they are spread.
    groups: name → a group. Whole groups may be left to later calls: no batch holds items of two.
    earlier: what need not be made again; of batches that are others now nothing is believed.
    report: told how many items are done, those of earlier calls included, and how many there are.

    A batch that raises is tried again item by item, so that a bad item costs itself. A batch whose process dies is
    tried once more whole, since the fault may lie outside, and then item by item. Failed items are tried again in
    the next call. Raises what `build` raises, RunError if a process dies in it.
    """
    facts = {"identity": dict(identity), "threads": threads}
    place = folder / PARTIAL
    batches = [_Batch(part, facts, place) for part in _parts(items, batch, groups or {})]
    known = _known(earlier, batch, facts, place) if earlier else {}
    results = {b.key: kept for b in batches if (kept := known.get(b.key) or b.kept()) is not None}
    todo = [b for b in batches if b.key not in results]
    done = sum(map(len, results.values()))
    report(done, len(items))
    setup = Setup(maker, device, threads, key_of(facts), str(place / _LOG), dict(os.environ))
    try:
        for number, result in carried_out([b.names for b in todo], setup, min(workers, len(todo))):
            finished = todo[number]
            finished.keep(result)
            results[finished.key] = result
            done += len(result)
            report(done, len(items))
    except UrbanCrossError as error:
        tidy_unless_told(folder, [str(error)])
        raise
    outcomes = {name: out for b in batches for name, out in zip(b.names, results[b.key], strict=True)}
    failures = {name: outcomes[name][1] for name in items if outcomes[name][0] is None}
    alone = {name: why for name, (text, why) in outcomes.items() if text is not None and why}
    return Made([outcomes[name][0] for name in items], failures, alone, [b.file for b in batches])


class _Batch:
    """Consecutive items, and the file that keeps what was made of them."""

    def __init__(self, items: Sequence[tuple[str, str]], facts: Mapping[str, Any], place: Path) -> None:
        self.names = [name for name, _ in items]
        self.key = key_of({**facts, "items": [list(item) for item in items]})
        self.file = place / f"{self.key}.json"

    def kept(self) -> list[Outcome] | None:
        """What an earlier call made of the items; None if nothing whole is there, or one of them failed."""
        try:
            kept = [(text, why) for text, why in json.loads(self.file.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError):
            return None
        whole = len(kept) == len(self.names) and all(isinstance(one, str) for outcome in kept for one in outcome)
        return kept if whole else None

    def keep(self, result: Sequence[Outcome]) -> None:
        """Write the file, whole or not at all; not if an item failed, so that the batch is tried again."""
        if all(text is not None for text, _ in result):
            with replacing(self.file) as unfinished:
                write_json(unfinished, result)


def _parts(items: Mapping[str, str], size: int, groups: Mapping[str, str]) -> list[Sequence[tuple[str, str]]]:
    apart: dict[str, list[tuple[str, str]]] = {}
    for item in items.items():
        apart.setdefault(groups.get(item[0], ""), []).append(item)
    return [some[start : start + size] for some in apart.values() for start in range(0, len(some), size)]


def _known(earlier: Earlier, size: int, facts: Mapping[str, Any], place: Path) -> dict[str, list[Outcome]]:
    """Key → outcomes of the earlier call's batches in which nothing failed."""
    batches = [_Batch(part, facts, place) for part in _parts(earlier.items, size, earlier.groups)]
    whole = [b for b in batches if all(name in earlier.texts for name in b.names)]
    return {b.key: [(earlier.texts[name], "") for name in b.names] for b in whole}
