"""`plugins new KIND NAME`: a package of one's own, to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="adaptation, dataset, encoder, metric, …")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the plugin, such as mean_matching.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the package's folder is made.", show_default=False)
    ] = Path(),
) -> None:
    """Write a package with a plugin that works, its options and tests, ready to be installed and changed."""
    from urbancross_bench.registry import Registry
    from urbancross_bench.scaffold import write_package

    folder = write_package(kind, name, out, Registry.discover())
    print(f"{folder} is written. Now:")
    print(f'  pip install -e "{folder}[test]" && pytest {folder}')
    print(f"  urbancross-bench show {name.replace('-', '_')}")
