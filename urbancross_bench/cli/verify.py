"""`verify BUNDLE OUT`: whether a rerun gave what a bundle says."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from urbancross_bench.cli.json_output import JsonOption, print_json

if TYPE_CHECKING:
    from urbancross_bench.execution.verifying import Verification


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A zip that `export bundle` made.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The output folder of the rerun.")],
    drift: Annotated[
        float | None,
        typer.Option(
            min=0, max=100, metavar="POINTS", help="Of mR that may differ; by default what the bundle states."
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Compare a rerun with a bundle: the same, within drift, or different and where. Runs nothing."""
    from urbancross_bench.errors import DataError
    from urbancross_bench.execution.bundle import opened_bundle
    from urbancross_bench.execution.verifying import verify as verified
    from urbancross_bench.leaderboard.committed import read_all

    rerun = read_all([out])
    with opened_bundle(bundle) as opened:
        allowed = opened.index["drift"] if drift is None else drift
        try:
            found = verified(opened, rerun, allowed)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"a record of {bundle}, or of {out}, is not whole: {error!r}") from error
    if json_:
        content = {"drift": allowed, "repeated": found.repeated, "counts": _counts(found), **asdict(found)}
        print_json(content)
    else:
        print("\n".join(_lines(found, allowed)))
    if not found.repeated:
        raise typer.Exit(1)


def _counts(found: Verification) -> dict[str, int]:
    from urbancross_bench.execution.verifying import VERDICTS

    return {verdict: sum(one.verdict == verdict for one in found.checked) for verdict in VERDICTS}


def _lines(found: Verification, drift: float) -> list[str]:
    from urbancross_bench.interfaces.renderer import printable

    counts = [f"{count} {verdict}" for verdict, count in _counts(found).items() if count]
    lines = [f"{len(found.checked)} scores: {', '.join(counts)} (drift: {drift:g} points of mR)"]
    apart = (one for one in found.checked if one.verdict != "same")
    for (verdict, run, where), ones in groupby(apart, key=lambda one: (one.verdict, one.run, one.where)):
        said = _named([one.score for one in ones])
        lines += ["", printable(f"{verdict}: {run}{said}"), *(f"  {printable(one)}" for one in where)]
    if found.environment:
        lines += ["", "versions and machines, bundle → rerun:"]
        lines += [f"  {printable(said)}  ({count}×)" for said, count in found.environment.items()]
    if found.surplus:
        lines += ["", f"{found.surplus} runs of the rerun are not in the bundle"]
    return lines


def _named(scores: list[str]) -> str:
    """Which scores of a run are meant; nothing of one that has none."""
    return f" · {scores[0]}" if len(scores) == 1 and scores[0] else f" · {len(scores)} scores" * (len(scores) > 1)
