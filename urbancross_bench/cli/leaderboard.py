"""`leaderboard build | check | add`: tables from records alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from urbancross_bench.cli.options import PluginOption
from urbancross_bench.errors import UsageError

if TYPE_CHECKING:
    from urbancross_bench.leaderboard.boards import Found
    from urbancross_bench.leaderboard.view import View
    from urbancross_bench.registry import Registry

app = typer.Typer(help="Build, check and fill leaderboards.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    # Read when numpy is first imported. Tables share their work out themselves; a product's own threads would wait
    # for each other in a loop, which on cores that have other work costs many times what they bring.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@app.command()
def build(
    places: Annotated[
        list[Path],
        typer.Argument(metavar="BOARD|RUNS", help="View files or folders with them; with --out, grids' outputs."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where the tables of RUNS go; a view says it itself."),
    ] = None,
    view: Annotated[
        Path | None,
        typer.Option("--view", metavar="VIEW.yaml", help="With --out: a view file, if not the default."),
    ] = None,
    format_: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="FORMAT", help="In place of the view's `renderers`, such as html."),
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """Write the tables of views over the records that they name, or of one view over the records in RUNS."""
    from urbancross_bench.leaderboard.build import build as build_leaderboard
    from urbancross_bench.leaderboard.view import DEFAULT, load_view
    from urbancross_bench.registry import Registry

    registry = Registry.discover(plugin or [])
    if out is not None:
        if views := [place for place in places if place.is_file()]:
            raise UsageError(f"{views[0]} is a file: with --out name folders of records, and a view by --view")
        chosen = _in_formats(load_view(view or DEFAULT), format_)
        tables = build_leaderboard(places, out, chosen, registry)
        print(f"{sum(len(table.rows) for table in tables)} rows in {len(tables)} tables written to {out}")
        return
    if view is not None:
        raise UsageError(f"--view needs --out DIR; or give the view itself: leaderboard build {view}")
    from urbancross_bench.leaderboard.boards import find_boards

    _build_boards(find_boards(places), registry, format_)


def _in_formats(view: View, formats: list[str] | None) -> View:
    return view.model_copy(update={"renderers": tuple(dict.fromkeys(formats))}) if formats else view


def _build_boards(found: Found, registry: Registry, formats: list[str] | None) -> None:
    from urbancross_bench.leaderboard.build import build as build_leaderboard
    from urbancross_bench.leaderboard.published import build_published

    for board in found.boards:
        tables = build_leaderboard(board.records, board.out, _in_formats(board.view, formats), registry)
        print(f"{sum(len(table.rows) for table in tables)} rows in {len(tables)} tables written to {board.out}")
    for file in found.published:
        table = build_published(file, registry)
        print(f"{len(table.rows)} published figures written to {file.parent}")


@app.command()
def check(
    places: Annotated[
        list[Path],
        typer.Argument(metavar="BOARD", help="View files, folders with one, or folders of such folders."),
    ],
    plugin: PluginOption = None,
) -> None:
    """See whether boards are what their records give, and records what they were. Exit status 1: one is not."""
    from urbancross_bench.leaderboard.boards import find_boards
    from urbancross_bench.leaderboard.checking import check_board, check_published
    from urbancross_bench.registry import Registry

    found, registry = find_boards(places), Registry.discover(plugin or [])
    problems = [problem for board in found.boards for problem in check_board(board, registry)]
    problems += [problem for file in found.published for problem in check_published(file, registry)]
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise typer.Exit(1)
    print(f"{len(found.boards) + len(found.published)} checked: files and records are as they should be")


@app.command()
def add(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS", help="Output folders of grids, boards, bundles.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The board's folder; begun if it is not there.")],
) -> None:
    """Import records into a board's folder, in a small form. Exit status 1: something speaks against it."""
    from urbancross_bench.leaderboard.importing import add as add_records

    added = add_records(runs, to)
    for reason in added.refused:
        print(f"refused: {reason}", file=sys.stderr)
    if added.refused:
        raise typer.Exit(1)
    said = f"{added.runs} runs and {added.scores} scores added"
    if added.completed:
        said += f", and to {added.completed} scores the values of metrics that had failed"
    print(f"{said}. Now: urbancross-bench leaderboard build {to}")
