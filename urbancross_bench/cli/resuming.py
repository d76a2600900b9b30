"""What commands say that make something of many images, and go on the next time where they were interrupted."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer


def warn_of_alone(reasons: Collection[str], made: str, file: Path | str) -> None:
    """Warn of images that were made alone since their batches failed, if there are any; `file` names them."""
    if reasons:
        why = next(iter(reasons))
        told = f"{len(reasons)} images were {made} alone, since their batches failed ({why})"
        print(f"warning: {told}; {file} names them", file=sys.stderr)


@contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C inside ends the command with status 130, and a word on how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on from here", file=sys.stderr)
        raise typer.Exit(130) from None
