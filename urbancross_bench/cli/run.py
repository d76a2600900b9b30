"""`run GRID`: carry out a grid and build its leaderboard."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from urbancross_bench.cli.grids import GridArgument, OutOption, SetOption, VerifyOption, open_grid


def run(
    grid: GridArgument,
    out: OutOption = None,
    set_: SetOption = None,
    verify: VerifyOption = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    save_every: Annotated[
        float, typer.Option(min=0, help="Seconds between saves of a training, to go on from when it is cut.")
    ] = 60.0,
) -> None:
    """Train, adapt and score every run that is not there yet, then build the leaderboard."""
    from urbancross_bench.cli.progress import make_display, print_table
    from urbancross_bench.errors import UsageError
    from urbancross_bench.execution.run import run_grid
    from urbancross_bench.leaderboard.build import build
    from urbancross_bench.leaderboard.view import DEFAULT, load_view

    plan, registry, folder = open_grid(grid, set_, out, verify=verify)
    if all(planned.skipped for planned in plan.runs):
        raise UsageError(f"no run of the grid can be run: {', '.join(sorted({p.skipped for p in plan.runs}))}")
    executor = registry.resolve("executor", plan.grid.executor).build()
    try:
        with make_display() as display:
            counts = run_grid(plan, folder, executor, registry, display, device=device, save_seconds=save_every)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on from here", file=sys.stderr)
        raise typer.Exit(130) from None
    # An older form of the grid may have left other runs and scores in the folder.
    keys = {key for planned in plan.runs for key in (planned.key, *(score.key for score in planned.scores))}
    tables = build([folder], folder / "leaderboard", load_view(DEFAULT), registry, only=keys)
    print_table(tables[0])
    parts = [f"{counts[status]} {status}" for status in ("ok", "failed", "reused", "skipped") if counts[status]]
    print(f"{', '.join(parts)}. Tables: {folder / 'leaderboard'}. Records: {folder / 'runs'}")
    if counts["failed"]:
        raise typer.Exit(1)
