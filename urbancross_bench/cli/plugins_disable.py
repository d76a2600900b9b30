"""`plugins disable NAME…`, and `plugins enable`, which takes it back."""

from __future__ import annotations

from typing import Annotated

import typer

Names = Annotated[list[str], typer.Argument(metavar="NAME…", help="Entry points or distributions.")]


def disable(names: Names) -> None:
    """Leave out plugins on this machine from now on, until `plugins enable`."""
    from urbancross_bench.disabling import check_installed, note, noted

    check_installed(names)
    print(f"noted in {note([*noted(), *names])}")


def enable(names: Names) -> None:
    """Take back `plugins disable`."""
    from urbancross_bench.disabling import note, noted
    from urbancross_bench.errors import UsageError, did_you_mean

    before = noted()
    for name in names:
        if name not in before:
            raise UsageError(f"{name!r} was not disabled by `plugins disable`.{did_you_mean(name, before)}")
    print(f"noted in {note(set(before) - set(names))}")
