"""`data caption DOMAIN`: captions for images, by a model or by rules, as a csv that the readers take."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from urbancross_bench.cli.options import DeviceOption, PluginOption
from urbancross_bench.errors import UsageError, some

if TYPE_CHECKING:
    from urbancross_bench.execution.captioning import Source

_SHOWN = 10


def caption(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The csv; FILE.json beside it says how.")],
    domain: Annotated[
        str | None, typer.Argument(metavar="[DOMAIN]", help="A dataset: urbancross/finland, csv[file=…], …")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="PLACE", help="Instead of a domain: a folder or zip of images without captions."),
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --images: SkyScript's json, for the tags.")
    ] = None,
    captioner: Annotated[str, typer.Option(help="from_tags, instructblip[model=…], …")] = "from_tags",
    seed: Annotated[int, typer.Option(help="Of what is drawn: phrasings, sampled words.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images that are captioned together.")] = 8,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with a model of its own.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each process on a CPU.")] = 1,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
) -> None:
    """Write captions for images from their tags, by rules or with a model. Exit status 1: some have none."""
    from urbancross_bench.cli.progress import report_reading
    from urbancross_bench.cli.progress_bars import progress
    from urbancross_bench.cli.resuming import resumable, warn_of_alone
    from urbancross_bench.data.index import reading
    from urbancross_bench.execution import captioning
    from urbancross_bench.registry import Registry

    source = _source(domain, images, metadata, plugin or [])
    chosen = Registry.discover(source.plugins).resolve("captioner", captioner)
    with resumable(), reading(report=report_reading), progress() as report:
        made = captioning.caption(
            source,
            chosen,
            out,
            seed=seed,
            batch=batch,
            workers=workers,
            threads=threads,
            device=device,
            report=partial(report, "captions"),
        )
    if made.failures:
        said = [reason if name in reason else f"{name}: {reason}" for name, reason in made.failures.items()]
        print(some(said, _SHOWN, "\n"), file=sys.stderr)
    warn_of_alone(made.alone.values(), "captioned", f"{out}.json")
    written = made.images - len(made.failures)
    where = (
        f"nothing to do: all are in {out}" if made.again else f"written to {out}" if made.file else "not written"
    )
    print(f"captions for {written:,} of {made.images:,} images, {made.distinct:,} of them distinct; {where}")
    if made.failures:
        raise typer.Exit(1)


def _source(domain: str | None, images: Path | None, metadata: Path | None, plugins: list[Path]) -> Source:
    """What to caption, by names that hold in other processes. Raises UsageError for none, or for both."""
    from urbancross_bench.execution.captioning import Source
    from urbancross_bench.sources import file_of

    if (domain is None) == (images is None):
        raise UsageError("name a DOMAIN or --images, one of the two")
    if metadata and not images:
        raise UsageError("--metadata goes with --images; readers of domains have an option of their own for it")
    return Source(
        domain,
        str(images.resolve()) if images else None,
        str(metadata.resolve()) if metadata else None,
        tuple(str(file_of(file)) for file in plugins),
    )
