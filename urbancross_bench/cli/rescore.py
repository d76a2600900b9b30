"""`rescore`: further metrics and tie rules for runs that are there already."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from urbancross_bench.cli.json_output import JsonOption, print_json
from urbancross_bench.cli.options import PluginOption
from urbancross_bench.cli.score import value_lines


def rescore(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS", help="Output folders of grids.")],
    metric: Annotated[list[str] | None, typer.Option(help="A metric plugin; repeatable.")] = None,
    ties: Annotated[str | None, typer.Option(help="expected, optimistic or pessimistic.")] = None,
    json_: JsonOption = False,
    plugin: PluginOption = None,
) -> None:
    """Score recorded runs by other metrics or another tie rule; trains and changes nothing.

    Exit status 1: a metric failed.
    """
    from urbancross_bench.execution.rescoring import rescored

    found = rescored(
        runs,
        metric or ["recall"],
        ties,
        plugin or [],
        warn=lambda message: print(f"warning: {message}", file=sys.stderr),
    )
    every = []
    for _, scores in found:
        if not json_:
            _print(scores)
        every += scores
    if json_:
        print_json(every)
    if any(score["failed"] for score in every):
        raise typer.Exit(1)


def _print(scores: list[dict[str, Any]]) -> None:
    """The scores of one run."""
    from urbancross_bench.interfaces.renderer import printable
    from urbancross_bench.interfaces.scenarios import route

    names = ["encoder", "adaptation", "selector", "protocol", "ties"]
    if len({score["domain"] for score in scores}) > 1:
        names.insert(2, "domain")
    for score in scores:
        told = {name: score[name] for name in names} | {"domain": f"on {score['domain']}"}
        head = [route(score["scenario"]), *(told[name] for name in names), f"seed {score['seed']}"]
        print(printable(" · ".join(head)))
        print("\n".join(f"  {line}" for line in value_lines(score)))
