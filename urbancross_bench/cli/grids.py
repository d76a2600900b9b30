"""What `run` and `plan` have in common: their arguments, and finding a grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from urbancross_bench.execution.plan import Plan
    from urbancross_bench.registry import Registry
    from urbancross_bench.specs import Grid
    from urbancross_bench.specs.reading import Where

_KINDS = {
    "domains": "dataset",
    "encoders": "encoder",
    "adaptations": "adaptation",
    "selectors": "selector",
    "metrics": "metric",
    "executor": "executor",
}

GridArgument = Annotated[str, typer.Argument(metavar="GRID", help="A grid file, or a built-in one: quickstart.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Output folder; by default runs/NAME of the grid.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one value of the grid; repeatable.")
]
VerifyOption = Annotated[bool, typer.Option("--verify", help="Read all data again, whatever the index says.")]


def open_grid(
    grid: str,
    overrides: Sequence[str] | None = None,
    out: Path | None = None,
    *,
    plugins: Sequence[Path] | None = None,
    verify: bool = False,
) -> tuple[Plan, Registry, Path]:
    """The plan of a grid, the plugins there are, and its output folder.

    plugins: files that the grid has besides those that it names. `verify` trusts no index of the data.
    """
    from urbancross_bench.specs import find_grid
    from urbancross_bench.specs.reading import placed_grid

    read, where = placed_grid(find_grid(grid), overrides or (), plugins or ())
    return plan_grid(read, out, verify=verify, where=where)


def plan_grid(
    grid: Grid, out: Path | None, *, verify: bool, where: Where | None = None
) -> tuple[Plan, Registry, Path]:
    """The same of a grid that is read already. where: what an error calls a place in its file, if it has one."""
    from urbancross_bench.cli.progress import report_reading
    from urbancross_bench.data.index import reading
    from urbancross_bench.execution.plan import make_plan
    from urbancross_bench.registry import Registry

    registry = Registry.discover(grid.plugins)
    if where is not None:
        _check_references(grid, registry, where)
    with reading(verify=verify, report=report_reading):
        made = make_plan(grid, registry)
    return made, registry, out or Path("runs") / grid.name


def _check_references(grid: Grid, registry: Registry, where: Where) -> None:
    """Raise the error of a reference that names no plugin or has wrong options, with its place before it."""
    from urbancross_bench.errors import UrbanCrossError

    for key, kind in _KINDS.items():
        if key not in grid.model_fields_set:  # a default has no place in the file
            continue
        written = getattr(grid, key)
        entries = [written] if isinstance(written, str) else written
        for name, text in entries.items() if isinstance(entries, dict) else enumerate(entries):
            try:
                for reference in registry.expand(kind, text):
                    registry.resolve(kind, reference)
            except UrbanCrossError as error:
                raise error.after(f"{where((key, name))}: ") from error
