"""`rescore`: further metrics and tie rules for runs that are there already."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from urbancross_bench.cli.grids import JsonOption
from urbancross_bench.cli.plugins import PluginOption
from urbancross_bench.cli.score import value_lines


def rescore(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS", help="Output folders of grids.")],
    metric: Annotated[list[str] | None, typer.Option(help="A metric plugin; repeatable.")] = None,
    ties: Annotated[str | None, typer.Option(help="expected, optimistic or pessimistic.")] = None,
    json_: JsonOption = False,
    plugin: PluginOption = None,
) -> None:
    """Score recorded runs by other metrics or another tie rule; trains and changes nothing."""
    from urbancross_bench.records import route

    scores = rescored_by(runs, metric or ["recall"], ties, plugin or [])
    if json_:
        print(json.dumps(list(scores), indent=1, ensure_ascii=False, allow_nan=False))
        return
    for score in scores:
        names = ("encoder", "adaptation", "selector", "protocol", "ties")
        print(" · ".join([route(score["scenario"]), *(score[name] for name in names), f"seed {score['seed']}"]))
        lines = value_lines(score, lambda missing: f"null, for records hold no {missing} and their store is gone")
        print("\n".join(f"  {line}" for line in lines))


def rescored_by(
    runs: Sequence[Path], metrics: Sequence[str], ties: str | None, plugins: Sequence[str | Path]
) -> Iterator[dict[str, Any]]:
    """See `execution.rescoring.rescored`; what is named is looked up first. Raises UsageError, DataError."""
    from urbancross_bench.errors import UsageError, did_you_mean
    from urbancross_bench.evaluation.ties import TIES
    from urbancross_bench.execution.rescoring import rescored
    from urbancross_bench.records import read_records
    from urbancross_bench.registry import Registry

    if ties is not None and ties not in TIES:
        raise UsageError(f"unknown tie rule {ties!r}.{did_you_mean(ties, TIES)}")
    registry = Registry.discover(plugins)
    resolved = [registry.resolve("metric", reference) for reference in metrics]
    return rescored(read_records(runs), resolved, ties)
