"""`--json`: what a command found, for programs; all else that is printed goes to standard error meanwhile."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, TextIO

import typer

_answers: list[TextIO] = []  # where JSON goes, while a command that was asked for it runs


@contextmanager
def _rest_aside() -> Iterator[None]:
    """Inside, a plugin that prints spoils no JSON."""
    _answers.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _answers.pop()


def _asked(context: typer.Context, json_: bool) -> bool:
    if json_:
        context.with_resource(_rest_aside())
    return json_


JsonOption = Annotated[
    bool, typer.Option("--json", callback=_asked, is_eager=True, help="Print JSON for programs.")
]


def print_json(value: object) -> None:
    """Print the answer of a command that was asked for JSON; numbers that JSON does not know are errors."""
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False), file=_answers[-1])
