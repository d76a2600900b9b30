"""From records to files."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from urbancross_bench.errors import UsageError
from urbancross_bench.interfaces.renderer import Renderer, Table
from urbancross_bench.leaderboard.ablation import ablation_plots
from urbancross_bench.leaderboard.committed import read_all
from urbancross_bench.leaderboard.cost import cost_table
from urbancross_bench.leaderboard.marking import marked
from urbancross_bench.leaderboard.tables import make_tables
from urbancross_bench.leaderboard.view import View, shown
from urbancross_bench.records import Record
from urbancross_bench.registry import Registry


def build(
    places: Sequence[Path], out: Path, view: View, registry: Registry, *, only: Container[str] | None = None
) -> list[Table]:
    """Write every table of the view in every format into `out`, and return the tables.

    only: the keys of the runs and scores to show, where a folder holds others too; None shows all. The bytes
    depend on the records and the view alone. Raises DataError for a malformed record, UsageError if `out` cannot
    be written to.
    """
    tables = board_tables(read_all(places), view, only)
    write_files(make_files(tables, renderers_of(view, registry)), out)
    return tables


def board_tables(records: Sequence[Record], view: View, only: Container[str] | None = None) -> list[Table]:
    """The tables of a view over records, committed ones or those of grids; `only` as in `build`."""
    records = shown(records, view)
    tables = [marked(table) for table in make_tables(records, view, only)]
    if view.cost:
        tables.append(cost_table([r for r in records if only is None or r.folder.name in only], view))
    return tables


def renderers_of(view: View, registry: Registry) -> list[Renderer]:
    """The renderers that a view names. Raises UsageError for one that is not there."""
    return [registry.resolve("renderer", name).build() for name in view.renderers]


def make_files(tables: Sequence[Table], renderers: Sequence[Renderer]) -> dict[str, bytes]:
    """Name → content of every table in every format, and of the plots that go with them."""
    made = {name: plot.encode() for name, plot in ablation_plots(tables).items()}
    for table in tables:
        for renderer in renderers:
            content = renderer.render(table)
            made[f"{table.name}{renderer.suffix}"] = content.encode() if isinstance(content, str) else content
    return made


def write_files(files: Mapping[str, bytes], out: Path) -> None:
    """Write them into a folder. Raises UsageError if that cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (out / name).write_bytes(content)
    except OSError as error:
        raise UsageError(f"leaderboard folder {out} cannot be written to: {error}") from error
