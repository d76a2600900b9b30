"""`export`: what leaves the house: runs as jobs for another engine, a bundle, a model card."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from urbancross_bench.cli import export_bundle, export_jobs, export_model_card

_USUAL = "jobs"


class _Group(TyperGroup):
    """What names no command of the group is a grid, whose runs are wanted as jobs: `export quickstart`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [_USUAL, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Group,
    help="Write runs as jobs for another engine (export GRID), a bundle to repeat a grid by, or a model card.",
    no_args_is_help=True,
)
app.command(_USUAL)(export_jobs.jobs)
app.command("bundle")(export_bundle.bundle)
app.command("model-card")(export_model_card.model_card)
