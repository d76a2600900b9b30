"""From records to files."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

from urbancross_bench.errors import UsageError
from urbancross_bench.interfaces.renderer import Renderer, Table
from urbancross_bench.leaderboard.tables import make_tables
from urbancross_bench.leaderboard.view import View
from urbancross_bench.records import read_records
from urbancross_bench.registry import Registry


def build(
    places: Sequence[Path], out: Path, view: View, registry: Registry, *, only: Container[str] | None = None
) -> list[Table]:
    """Write every table of the view in every format into `out`, and return the tables.

    only: the keys of the runs and scores to show, where a folder holds others too; None shows all. The bytes
    depend on the records and the view alone. Raises DataError for a malformed record, UsageError if `out` cannot
    be written to.
    """
    renderers: list[Renderer] = [registry.resolve("renderer", name).build() for name in view.renderers]
    tables = make_tables(read_records(places), view, only)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for table in tables:
            for renderer in renderers:
                (out / f"{table.name}{renderer.suffix}").write_text(
                    renderer.render(table), encoding="utf-8", newline="\n"
                )
    except OSError as error:
        raise UsageError(f"leaderboard folder {out} cannot be written to: {error}") from error
    return tables
