"""From records to files."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from urbancross_bench.errors import PluginError, UsageError
from urbancross_bench.interfaces.column import Column
from urbancross_bench.interfaces.renderer import Board, Renderer, Table
from urbancross_bench.kinds import blamed
from urbancross_bench.leaderboard.ablation import ablation_plots
from urbancross_bench.leaderboard.best import marked
from urbancross_bench.leaderboard.boards import VIEW
from urbancross_bench.leaderboard.committed import FORM, read_unbroken
from urbancross_bench.leaderboard.cost import cost_table
from urbancross_bench.leaderboard.evidence import RecordedEvidence
from urbancross_bench.leaderboard.tables import make_tables
from urbancross_bench.leaderboard.view import View, fitted, ranked_oracles, shown
from urbancross_bench.names import NAMES
from urbancross_bench.records import Record, in_words, runs_of
from urbancross_bench.registry import Registry, Resolved


def build(
    places: Sequence[Path],
    out: Path,
    view: View,
    registry: Registry,
    *,
    only: Container[str] | None = None,
) -> list[Table]:
    """Write every table of the view in every format into `out`, and return the tables.

    only: the keys of the runs and scores to show, where a folder holds others too; None shows all. The bytes
    depend on the records, the view and these alone. Raises DataError for a malformed record, and for a committed
    one that is not what was committed; UsageError if `out` cannot be written to.
    """
    board = make_board([*_only(read_unbroken(places), only)], view, columns_of(view, registry))
    write_files(make_files(board, renderers_of(view, registry)), out, [runs_of(place) for place in places])
    return [*board.tables]


def _only(records: Iterable[Record], keys: Container[str] | None) -> Iterator[Record]:
    """The records, and scores of them, with these keys; with all for None."""
    for record in records:
        if keys is None:
            yield record
        elif record.folder.name in keys:
            yield replace(record, scores=tuple(score for score in record.scores if score.folder.name in keys))


def make_board(records: Sequence[Record], view: View, columns: Mapping[str, Column]) -> Board:
    """What a view shows of records, committed ones or those of grids: tables, and the evidence for them.

    columns: what `columns_of` gives. Raises UsageError for oracles that would be ranked, and as `make_tables`.
    """
    view = fitted(view, records)
    records = shown(records, view)
    # Those that stand behind the board: with weights that the view shows.
    kept = [record for record in records if record.spec["encoder"]["weights"]["status"] in view.weights]
    if "ranked_oracle" not in view.allow and (oracles := ranked_oracles(kept, view)):
        raise UsageError(
            f"view {view.title!r} would rank what has seen labels of the target, {in_words(oracles[0].spec)}: "
            "add `oracle` to its `reference_settings`, or allow `ranked_oracle` there"
        )
    tables = [marked(table) for table in make_tables(records, view, columns)]
    if view.cost:
        tables.append(cost_table(kept, view))
    return Board(view.title, tables, view.metric, view.baseline, RecordedEvidence(kept, view))


def renderers_of(view: View, registry: Registry) -> list[Renderer]:
    """The renderers that a view names. Raises UsageError for one that is not there."""
    return [_built(registry.resolve("renderer", name)) for name in view.renderers]


def columns_of(view: View, registry: Registry) -> dict[str, Column]:
    """The column plugins that a view names, as it names them. Raises UsageError for one that is not there."""
    return {name: _built(registry.resolve("column", name)) for name in view.columns}


def _built(resolved: Resolved) -> Any:
    with resolved.plugin.blamed("to be made"):
        return resolved.build()


@dataclass(frozen=True)
class Made:
    """A file to write: its path below the board's folder, its content, and what compares it with another."""

    name: str
    content: bytes
    same: Callable[[bytes, bytes], bool]


def make_files(board: Board, renderers: Sequence[Renderer]) -> Iterator[Made]:
    """The files of a board in every format, and the plots that go with its tables, one by one.

    Raises PluginError for a renderer that fails, or would write elsewhere or what is there already.
    """
    by: dict[str, str] = {}
    for name, plot in ablation_plots(board.tables).items():
        by[name] = "the plot of an ablation"
        yield Made(name, plot.encode(), operator.eq)
    for renderer in renderers:
        title = f"renderer {type(renderer).__name__}"
        for name, content in _rendered(renderer, title, board):
            if not _is_below(name):
                raise PluginError(f"{title} names a file {name!r}, which is no path below")
            name = PurePosixPath(name).as_posix()  # without `./`
            if name == VIEW:
                raise PluginError(f"{title} names a file {name!r}, which is what boards are made from")
            if (other := by.setdefault(name, title)) is not title:  # two may be of one class
                raise PluginError(f"{title} names a file {name!r}, which is that of {other}")
            yield Made(name, content.encode() if isinstance(content, str) else content, renderer.same)


def _rendered(renderer: Renderer, title: str, board: Board) -> Iterator[tuple[str, str | bytes]]:
    with blamed(title, type(renderer).__module__.partition(".")[0], "to make its files"):
        for name, content in renderer.files(board):
            if not (isinstance(name, str) and isinstance(content, str | bytes)):
                raise TypeError(f"it gives {name!r} with {type(content).__name__}, in place of a path and content")
            yield name, content


def _is_below(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _is_of_records(place: Path, folder: Path) -> bool:
    """Whether a place is in a folder of committed runs, or in a run of others: those may lie among tables."""
    if not place.is_relative_to(folder) or place == folder:
        return False
    first = place.relative_to(folder).parts[0]
    return (folder / FORM).exists() or first == NAMES or (folder / first / "run.json").exists()


def write_files(files: Iterable[Made], out: Path, records: Sequence[Path] = ()) -> None:
    """Write them into a folder as they are made. records: folders of runs, into which nothing is written.

    Raises UsageError if that cannot be, PluginError for a renderer that would write among records.
    """
    for folder in records:
        if _is_of_records(out.resolve() / "table", folder.resolve()):
            raise UsageError(f"leaderboard folder {out} is one of records; choose another, beside {folder}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for made in files:
            place = out / made.name
            for folder in records:
                if _is_of_records(place.resolve(), folder.resolve()):
                    raise PluginError(f"a renderer names a file {made.name!r}, which is of records in {folder}")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(made.content)
    except OSError as error:
        raise UsageError(f"leaderboard folder {out} cannot be written to: {error}") from error
