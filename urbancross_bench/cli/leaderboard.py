"""`leaderboard build RUNS`: tables from records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Build leaderboards.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def build(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS", help="Output folders of grids.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the tables go.")],
    view: Annotated[
        Path | None, typer.Option("--view", metavar="VIEW.yaml", help="A view file; without one, a default.")
    ] = None,
) -> None:
    """Write the tables of a view over the records in RUNS."""
    from urbancross_bench.leaderboard.build import build as build_leaderboard
    from urbancross_bench.leaderboard.view import DEFAULT, load_view
    from urbancross_bench.registry import Registry

    tables = build_leaderboard(runs, out, load_view(view or DEFAULT), Registry.discover())
    print(f"{sum(len(table.rows) for table in tables)} rows in {len(tables)} tables written to {out}")
