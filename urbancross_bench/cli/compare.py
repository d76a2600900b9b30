"""`compare A B`: two methods, or two sets of records, against each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from urbancross_bench.cli.json_output import JsonOption, print_json

if TYPE_CHECKING:
    from urbancross_bench.leaderboard.comparing import Comparison


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A method (label, or ENCODER/LABEL), or a folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another; of two folders equal rows are compared.")],
    places: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PLACE", help="Output folders or boards to look in; by default outputs below runs."
        ),
    ] = None,
    metric: Annotated[str, typer.Option(help="What to compare by: mR, i2t_R@1, …")] = "mR",
    protocol: Annotated[str | None, typer.Option(help="Only scores of this protocol.")] = None,
    selector: Annotated[str | None, typer.Option(help="Only scores of this selector.")] = None,
    scenario: Annotated[
        list[str] | None, typer.Option(metavar="'A -> B'", help="Only this scenario; repeatable.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="How many of the queries won and lost most to show.")] = 10,
    queries: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write the ranks of all queries there.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw ranks under A against ranks under B there.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Compare two methods or two sets of records: a paired test per scenario, and the queries won and lost."""
    from urbancross_bench.leaderboard import comparing
    from urbancross_bench.leaderboard.pairing import Wanted, sides_of

    _check_places(queries, plot)
    wanted = Wanted(metric, protocol, selector, tuple(scenario or ()))
    found = comparing.compare(sides_of(a, b, places or [], wanted), a, b, wanted)
    said = _written(found, queries, plot)
    if json_:
        print_json(comparing.as_json(found, top))
        return
    _show(found, top)
    print("\n".join(said))


def _check_places(queries: Path | None, plot: Path | None) -> None:
    """Raise UsageError for a place where another file stands, and for a picture that is not to be SVG."""
    from urbancross_bench.errors import UsageError
    from urbancross_bench.files import keep_others
    from urbancross_bench.leaderboard.queries import is_csv
    from urbancross_bench.leaderboard.scatter import is_drawing

    if plot is not None and plot.suffix.lower() != ".svg":
        raise UsageError(f"--plot {plot}: name a picture (.svg)")
    if queries is not None:
        keep_others(queries, is_csv)
    if plot is not None:
        keep_others(plot, is_drawing)


def _written(found: Comparison, queries: Path | None, plot: Path | None) -> list[str]:
    """Write the files that are asked for; a line for each. Raises UsageError if one cannot be written."""
    from urbancross_bench.errors import UsageError
    from urbancross_bench.leaderboard.queries import write_csv
    from urbancross_bench.leaderboard.scatter import draw

    said = []
    try:
        if queries:
            with queries.open("w", encoding="utf-8", newline="") as file:
                said.append(f"{write_csv(found.pairs, file):,} queries written to {queries}")
        if plot:
            plot.write_text(draw(found), encoding="utf-8", newline="\n")
            said.append(f"ranks drawn in {plot}")
    except OSError as error:
        raise UsageError(f"what was found cannot be written: {error}") from error
    return said


def _show(found: Comparison, top: int) -> None:
    from urbancross_bench.cli.progress import print_table
    from urbancross_bench.leaderboard.comparing import table_of, table_of_queries

    table = table_of(found, to_read=True)
    print_table(table)
    print("\n".join(f"- {note}" for note in table.notes))
    if found.refused:
        print("Not compared:\n" + "\n".join(f"  {reason}" for reason in found.refused))
    for word, asked in zip(("won", "lost"), found.farthest(top), strict=True):
        if asked:
            print()
            print_table(table_of_queries(found, asked, f"Queries that A {word} by the largest ratio of ranks"))
