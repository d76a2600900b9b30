"""`export GRID`, in full `export jobs GRID`: the runs still to do as commands for another engine."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from urbancross_bench.cli.grids import GridArgument, OutOption, SetOption, open_grid
from urbancross_bench.cli.options import PluginOption


class Format(StrEnum):
    """How the commands are written."""

    COMMANDS = "commands"
    SLURM = "slurm"


def jobs(
    grid: GridArgument,
    format_: Annotated[
        Format, typer.Option("--format", help="commands: one a line. slurm: an array script for sbatch.")
    ] = Format.COMMANDS,
    out: OutOption = None,
    set_: SetOption = None,
    plugin: PluginOption = None,
    per_job: Annotated[int, typer.Option(min=1, help="Runs a command.")] = 1,
    time: Annotated[str | None, typer.Option(help="slurm: of a job, as in 04:00:00.")] = None,
    mem: Annotated[str | None, typer.Option(help="slurm: of a job, as in 16G.")] = None,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="slurm: of a job; by default the grid's threads × ranks.")
    ] = None,
    gres: Annotated[str | None, typer.Option(help="slurm: of a job, as in gpu:1.")] = None,
    partition: Annotated[str | None, typer.Option(help="slurm: where jobs go.")] = None,
    account: Annotated[str | None, typer.Option(help="slurm: who pays.")] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="slurm: jobs at once.")] = None,
) -> None:
    """Print a command for every run that is not there yet; any machine with the folder may take any of them."""
    from urbancross_bench.errors import UsageError
    from urbancross_bench.execution.exporting import LARGEST_ARRAY, Jobs
    from urbancross_bench.execution.status import status_of

    plan, _, folder = open_grid(grid, set_, out, plugins=plugin)
    todo = Jobs.of(status_of(plan, folder), grid, folder, set_ or [], plugin or [], per_job)
    named = {"time": time, "mem": mem, "gres": gres, "partition": partition, "account": account}
    given = [(option, value) for option, value in named.items() if value is not None]
    if format_ is Format.COMMANDS:
        if given or cpus or parallel:
            raise UsageError("--time, --mem, --cpus and the like belong to --format slurm")
        print(todo.commands())
        return
    if len(todo.keys) > LARGEST_ARRAY:
        print(
            f"warning: {len(todo.keys)} jobs; many clusters take no more than {LARGEST_ARRAY} in an array: "
            f"--per-job {-(-per_job * len(todo.keys) // LARGEST_ARRAY)} makes fewer of them",
            file=sys.stderr,
        )
    print(todo.slurm(plan.grid.name, cpus or plan.grid.threads * plan.grid.ranks, given, parallel))
