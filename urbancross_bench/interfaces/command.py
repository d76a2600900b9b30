"""Commands: verbs that plugins add to the command line.

A target is a function whose parameters typer reads (https://typer.tiangolo.com); the errors of
`urbancross_bench.errors` that it raises are told in a line, and end the command with status 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# The command line's own, which come before those of plugins.
VERBS = frozenset(
    {"run", "plan", "explain", "export", "status", "score", "rescore", "compare", "verify", "search", "distance"}
    | {"plugins", "show", "data", "store", "leaderboard"}
)


def verb(name: str, summary: str, function: Callable[..., Any]) -> Any:
    """The click command that typer makes of a function. Raises what typer makes of parameters it cannot read."""
    import typer  # not for those who plan

    one = typer.Typer(add_completion=False, rich_markup_mode=None)
    one.command(name, help=summary)(function)
    return typer.main.get_command(one)
