"""`data segment DOMAIN`: cut a domain's images into segments, and keep them in a store."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from urbancross_bench.cli.options import DeviceOption, PluginOption
from urbancross_bench.errors import some

if TYPE_CHECKING:
    from urbancross_bench.data.segments import SegmentStore
    from urbancross_bench.interfaces.dataset import Domain

_SHOWN = 10  # failures; the store has them all


def segment(
    domain: Annotated[
        str, typer.Argument(metavar="DOMAIN", help="A dataset: urbancross/finland, rsicd[folder=…], …")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The segment store.")],
    segmenter: Annotated[
        str, typer.Option(help="What cuts: sam[checkpoint=…], segment_anything[checkpoint=…].")
    ] = "sam",
    chooser: Annotated[
        str, typer.Option(help="Which masks are kept: area, quality, diversity or caption.")
    ] = "area",
    encoder: Annotated[
        str | None,
        typer.Option(help="What compares masks with captions, for --chooser caption: openclip[…]."),
    ] = None,
    count: Annotated[int, typer.Option(help="Segments of an image, at most.")] = 10,
    min_area: Annotated[
        float, typer.Option(help="Smaller masks are dropped: pixels, or below 1 a share of the image.")
    ] = 0.0,
    split: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Images of these splits only: train,val.")
    ] = None,
    jpg: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the segments as UrbanCross's archives have them, too."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 4,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with a model of its own.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of a process.")] = 1,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
) -> None:
    """Cut every image into segments. Exit status 1: some image failed; the same command tries those again."""
    from urbancross_bench.cli.progress import report_reading
    from urbancross_bench.cli.progress_bars import progress
    from urbancross_bench.cli.resuming import resumable
    from urbancross_bench.data.index import reading
    from urbancross_bench.data.segments import check_archive
    from urbancross_bench.execution.domains import read_domain
    from urbancross_bench.execution.segmenting import Choice, Sizing
    from urbancross_bench.execution.segmenting import segment as fill
    from urbancross_bench.registry import Registry
    from urbancross_bench.sources import file_of

    registry = Registry.discover(plugin or [])
    resolved = registry.resolve("dataset", domain)
    choice = Choice(chooser, count, min_area, encoder)
    splits = [name.strip() for name in split.split(",")] if split is not None else []
    with resumable(), reading(report=report_reading), progress() as report:
        read, _ = read_domain(resolved)
        if jpg:
            check_archive(jpg, read.image_names)
        store = fill(
            read,
            str(resolved.reference),
            segmenter,
            registry,
            out,
            plugins=[str(file_of(file)) for file in plugin or []],
            choice=choice,
            sizing=Sizing(batch, threads, workers, device),
            splits=splits,
            report=partial(report, "segmenting"),
        )
        if jpg:
            _write_jpgs(jpg, out, read, partial(report, "writing JPEGs"))
    _say(store, out)
    if store.failures:
        raise typer.Exit(1)


def _write_jpgs(place: Path, store: Path, domain: Domain, report: Callable[[int, int], None]) -> None:
    from urbancross_bench.data.segments import open_segments, write_archive

    segments = open_segments(store, domain)
    for written in write_archive(place, domain, segments):
        report(written, len(segments.image_of_segment))


def _say(store: SegmentStore, out: Path) -> None:
    from urbancross_bench.cli.resuming import warn_of_alone

    weights = store.making["weights"]
    if (weights["status"], weights["source"]) == ("untrained", "random"):
        print("warning: the segmenter's weights are random, so its masks are: name a checkpoint", file=sys.stderr)
    if store.making.get("encoder_weights", {}).get("status") == "untrained":
        said = "the encoder's weights are random, so its choice of segments is: name weights"
        print(f"warning: {said}", file=sys.stderr)
    failures = store.failures
    warn_of_alone([row["alone"] for row in store.rows if "alone" in row], "segmented", out / "masks.jsonl")
    if {len(row["regions"]) for row in store.rows if "regions" in row} == {0}:
        print("warning: no image has a segment: are the segmenter's thresholds too strict?", file=sys.stderr)
    if failures:
        said = some([f"FAILED {name}: {reason}" for name, reason in failures.items()], _SHOWN, "\n")
        print(said + (f"; {out} has them all" if len(failures) > _SHOWN else ""), file=sys.stderr)
    bare = sum(not row["regions"] for row in store.rows if "regions" in row)
    print(
        f"{store.segments:,} segments of {len(store.rows) - len(failures):,} images, {bare:,} of which have none; "
        f"{len(failures):,} images failed. Store: {out}"
    )
