"""`export bundle OUT FILE.zip`: all that somebody else needs to repeat a grid, and to check that they did."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def bundle(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The output folder of a grid, such as runs/quickstart.")
    ],
    file: Annotated[
        Path, typer.Argument(metavar="FILE.zip", help="What is written; an older bundle is replaced.")
    ],
    drift: Annotated[
        float,
        typer.Option(min=0, max=100, metavar="POINTS", help="Of mR that a rerun may be off by; stated inside."),
    ] = 0.5,
) -> None:
    """Bundle grids, records, environment and data fingerprints; `verify` holds a rerun against it."""
    from urbancross_bench.errors import UsageError
    from urbancross_bench.execution.bundling import write_bundle
    from urbancross_bench.identity import file_digest

    if file.suffix.lower() != ".zip":
        raise UsageError(f"{file}: a bundle is a zip; name it so")
    bundled = write_bundle(out, file, drift)
    for remark in bundled.remarks:
        print(f"note: {remark}", file=sys.stderr)
    print(f"{bundled.runs} runs with {bundled.scores} scores written to {file}")
    print(f"sha256 {file_digest(file)}")
