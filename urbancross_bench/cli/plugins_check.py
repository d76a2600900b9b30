"""`plugins check DIST|FILE`: whether plugins keep their promises."""

from __future__ import annotations

from typing import Annotated

import typer

from urbancross_bench.cli.json_output import JsonOption, print_json


def check(
    what: Annotated[str, typer.Argument(metavar="DIST|FILE", help="A distribution, an entry point, a .py file.")],
    references: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME[OPTION=VALUE]]…", help="How to try a plugin that needs options."),
    ] = None,
    patience: Annotated[float, typer.Option(min=0.1, help="Seconds that one thing may take a plugin.")] = 60.0,
    json_: JsonOption = False,
) -> None:
    """Try the promises of every plugin of a distribution or a file, and print a report card.

    Exit status: 0 all kept or skipped with a reason, 1 some broken.
    """
    from urbancross_bench.testing.report import as_json, card, lines, subjects

    cards = []
    broken = 0
    for subject, kept in card(subjects(what, references or []), patience):
        broken += sum(one.outcome == "broken" for one in kept)
        cards.append(as_json(subject, kept))
        if not json_:
            print("\n".join(lines(subject, kept)), flush=True)
    if json_:
        print_json(cards)
    elif broken:
        print(f"{broken} promises are broken")
    if broken:
        raise typer.Exit(1)
