"""`leaderboard add`: records of grids into a folder of committed ones, refusing what a board should not show."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from urbancross_bench.errors import UsageError, plural, some
from urbancross_bench.files import alone_in, replacing
from urbancross_bench.identity import digest
from urbancross_bench.leaderboard.boards import VIEW
from urbancross_bench.leaderboard.committed import (
    completes,
    content_of,
    expect_unbroken,
    read_all,
    seal,
    settle,
    write_committed,
)
from urbancross_bench.leaderboard.rows import make_rows
from urbancross_bench.leaderboard.view import DEFAULT, View, load_view, ranked_oracles, shown
from urbancross_bench.names import domains_of
from urbancross_bench.records import Record, ScoreRecord, called_as, in_words

RECORDS = "records"
_NAMED = 3  # runs named under one reason


@dataclass(frozen=True)
class Added:
    """How many runs and scores were new, and how many scores that were there got values of metrics which had
    failed; or why nothing was taken: one sentence a reason.
    """

    runs: int = 0
    scores: int = 0
    completed: int = 0
    refused: tuple[str, ...] = ()


def add(places: Sequence[Path], folder: Path) -> Added:
    """Import what the folder's view shows of some records; all of it, or nothing where a reason speaks against it.

    A folder without a view gets the default one. Raises DataError for malformed records, and committed ones that
    were edited, and UsageError for a view that is not made from the records beside it.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--to {folder} is no folder")
    file = folder / VIEW
    view = load_view(file if file.is_file() else DEFAULT)
    target = folder / RECORDS
    if RECORDS not in view.records:
        raise UsageError(f"view {file} is not made from {target}: add {RECORDS!r} to its `records`")
    # Else what another adds meanwhile would not be held against this. Not in the board, which is committed.
    locks = Path(tempfile.gettempdir()) / f"urbancross-{os.getuid()}" / digest([str(folder.resolve()).encode()])
    locks.mkdir(parents=True, exist_ok=True)
    with alone_in(locks):
        return _add(places, target, file, view)


def _add(places: Sequence[Path], target: Path, file: Path, view: View) -> Added:
    was_killed = settle(target)
    expect_unbroken([*places, target], whole=False)  # what is taken is hashed anew
    if was_killed:
        seal(target)
    there = read_all([target]) if _has_records(target) else []
    known = {record.folder.name: record for record in there}
    called = {key: record.spec for key, record in known.items()}

    def as_there(records: Sequence[Record]) -> list[Record]:
        return shown([called_as(one, called.get(one.folder.name, one.spec)) for one in records], view)

    records = as_there(read_all(places))
    together = as_there(read_all([*places, target])) if there else records
    refused = [*_refused(records, there, view), *_missing_seeds(together, view)]
    for place in places:  # by itself: together, runs have the names of one of them
        refused += _renamed(read_all([place]), called)
    if refused:
        return Added(refused=tuple(refused))
    better = {score.folder for _, score, twin in _twins(records, there) if completes(score, twin)}
    new = [r for r in records if not _is_in(r, known) or any(score.folder in better for score in r.scores)]
    target.parent.mkdir(parents=True, exist_ok=True)
    if not file.is_file():
        with replacing(file) as unfinished:
            shutil.copyfile(DEFAULT, unfinished)
    write_committed(new, target)
    added = read_all([target])
    scores = sum(len(r.scores) for r in added) - sum(len(r.scores) for r in there)
    return Added(len(added) - len(there), scores, len(better))


def _has_records(place: Path) -> bool:
    return any(place.glob("*/run.json"))


def _is_in(record: Record, known: dict[str, Record]) -> bool:
    twin = known.get(record.folder.name)
    if twin is None or twin.ok != record.ok:
        return False
    return {s.folder.name for s in record.scores} <= {s.folder.name for s in twin.scores}


def _refused(records: Sequence[Record], there: Sequence[Record], view: View) -> Iterator[str]:
    """The reasons against an import, each with what to do."""
    failed = [record for record in records if not record.ok]
    if "failed_runs" not in view.allow:
        yield from _said(
            [f"{in_words(r.spec)}, {r.spec['status']}" for r in failed],
            "did not end well",
            "run the grid again, or leave them out with the view's filters, or allow `failed_runs` there",
        )
    for status in sorted({r.spec["encoder"]["weights"]["status"] for r in records} - {*view.weights}):
        yield from _said(
            [in_words(r.spec) for r in records if r.spec["encoder"]["weights"]["status"] == status],
            f"use weights that are {status}",
            f"train or download weights, or add {status!r} to the view's `weights`",
        )
    if "ranked_oracle" not in view.allow:
        yield from _said(
            [in_words(record.spec) for record in ranked_oracles(records, view)],
            "have seen labels of the target, by method, selector or first weights, and the view would rank them",
            "add `oracle` to the view's `reference_settings`, or allow `ranked_oracle` there",
        )
    if "test_images_in_training" not in view.allow:
        yield from _said(
            [in_words(r.spec) for r in records if r.spec["test_images_in_training"]],
            "were trained, or may have been chosen, on images of their test split",
            "leave those out (`data check` writes a list), take weights that have not seen them, or allow "
            "`test_images_in_training` in the view; the tables mark such rows",
        )
    yield from _other_content(records, there)


def _renamed(records: Sequence[Record], called: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Runs of a folder that the board calls otherwise, where new ones have the same other names in a part."""
    new = {name for record in records if record.folder.name not in called for name in _names(record.spec)}
    yield from _said(
        [
            f"{in_words(record.spec)}, there {in_words(there)}"
            for record in records
            if (there := called.get(record.folder.name)) is not None
            if new & {own for own, other in zip(_names(record.spec), _names(there), strict=True) if own != other}
        ],
        "are called otherwise on the board, and runs that are new to it would have these names",
        "name them in the grid as they are called there, and run it again; or add all to a new board",
    )


def _names(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """All that a run calls by a name: its domains, in order, its encoder and its method."""
    domains = [("domain", name) for name in domains_of(spec["scenario"])]
    return [*domains, *((part, spec[part]["label"]) for part in ("encoder", "adaptation"))]


def _missing_seeds(records: Sequence[Record], view: View) -> Iterator[str]:
    if "missing_seeds" in view.allow:
        return
    lacking = [
        f"{row.method[1]} on {row.method[0]}, {row.scenario}, {row.method[2]}, only "
        f"{plural(len(row.numbers), 'seed')} {', '.join(map(str, row.numbers))}"
        for row in make_rows(records, view.weights)
        if not row.complete
    ]
    yield from _said(
        [*dict.fromkeys(lacking)],  # a source's test split, or another protocol, lacks the same seed
        "lack a seed that other rows of their comparison have",
        "run the missing ones and add all at once, or allow `missing_seeds` in the view: such rows show no number",
        "row",
    )


def _other_content(records: Sequence[Record], there: Sequence[Record]) -> Iterator[str]:
    moved = [
        f"{score.folder.name} of {in_words(record.spec)}"
        for record, score, twin in _twins(records, there)
        if content_of(twin) != content_of(score) and not completes(score, twin)
    ]
    yield from _said(
        moved,
        "stand there already with other numbers, and scores are never changed",
        "find out why they moved; to replace them, delete their runs' folders first",
        "score",
    )


def _twins(
    records: Sequence[Record], there: Sequence[Record]
) -> Iterator[tuple[Record, ScoreRecord, ScoreRecord]]:
    """Each score of some records that is there already, with its record and what is there of it."""
    stored = {(r.folder.name, s.folder.name): s for r in there for s in r.scores}
    for record in records:
        for score in record.scores:
            if (twin := stored.get((record.folder.name, score.folder.name))) is not None:
                yield record, score, twin


def _said(names: Sequence[str], reason: str, remedy: str, noun: str = "run") -> Iterator[str]:
    if not names:
        return
    yield f"{len(names)} {plural(len(names), noun)} ({some(names, _NAMED, '; ')}) {reason}: {remedy}"
