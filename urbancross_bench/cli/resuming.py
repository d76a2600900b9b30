"""What is said when a command is interrupted that goes on from there the next time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C inside ends the command with status 130, and a word on how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on from here", file=sys.stderr)
        raise typer.Exit(130) from None
