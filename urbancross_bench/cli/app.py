"""`urbancross-bench`: its streams, what goes for all verbs, and what happens to errors.

Exit status: 0 all is well, 1 some run failed, 2 the command, grid or data is wrong, 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from urbancross_bench import __version__
from urbancross_bench.cli.verbs import Verbs
from urbancross_bench.errors import UrbanCrossError

app = typer.Typer(
    name="urbancross-bench",
    cls=Verbs,
    help="Benchmark cross-domain remote-sensing image-text retrieval.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich help pages cost more time than everything else at start-up
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"urbancross-bench {__version__}")
        raise typer.Exit


def _disable(names: list[str] | None) -> None:
    if names:
        from urbancross_bench.disabling import disable_here

        disable_here(names)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    disable_plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            callback=_disable,
            is_eager=True,  # before a verb is looked for, which may be a plugin's
            help="Leave out an entry point or a distribution; repeatable.",
        ),
    ] = None,
) -> None:
    pass


def _open_streams() -> None:
    """Give streams that are closed, as by `>&-`, to the null device, here and in processes that are started: else
    their numbers would be those of the next files that are opened.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def main() -> None:
    """The console script."""
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an arrow must not be an error on a terminal without one
    try:
        app()
    except UrbanCrossError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
