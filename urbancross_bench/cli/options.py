"""Options that verbs have in common, each with its one help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
PluginOption = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE", help="A one-file plugin to load too; repeatable.")
]
