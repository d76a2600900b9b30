"""What `run` and `plan` have in common: their arguments, and finding a grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from urbancross_bench.execution.plan import Plan
    from urbancross_bench.registry import Registry
    from urbancross_bench.specs import Grid

GridArgument = Annotated[str, typer.Argument(metavar="GRID", help="A grid file, or a built-in one: quickstart.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Output folder; by default runs/NAME of the grid.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one value of the grid; repeatable.")
]
VerifyOption = Annotated[bool, typer.Option("--verify", help="Read all data again, whatever the index says.")]


def open_grid(
    grid: str, overrides: list[str] | None, out: Path | None, *, verify: bool
) -> tuple[Plan, Registry, Path]:
    """The plan of a grid, the plugins there are, and its output folder. `verify` trusts no index of the data."""
    from urbancross_bench.specs import find_grid, load_grid

    return plan_grid(load_grid(find_grid(grid), overrides or []), out, verify=verify)


def plan_grid(grid: Grid, out: Path | None, *, verify: bool) -> tuple[Plan, Registry, Path]:
    """The same of a grid that is read already."""
    from urbancross_bench.cli.progress import report_reading
    from urbancross_bench.data.index import reading
    from urbancross_bench.execution.plan import make_plan
    from urbancross_bench.registry import Registry

    registry = Registry.discover(grid.plugins)
    with reading(verify=verify, report=report_reading):
        made = make_plan(grid, registry)
    return made, registry, out or Path("runs") / grid.name
