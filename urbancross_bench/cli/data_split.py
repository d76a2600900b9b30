"""`data split DOMAIN`: draw a partition, and write it as split lists."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from urbancross_bench.cli.options import PluginOption


def split(
    domain: Annotated[str, typer.Argument(metavar="DOMAIN", help="A dataset: urbancross/finland, csv[file=…], …")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the lists go.")],
    seed: Annotated[int, typer.Option(help="What is drawn with.")] = 0,
    blocks: Annotated[
        float | None, typer.Option(metavar="KM", help="Cut along geographic blocks with edges this long.")
    ] = None,
    distance: Annotated[
        float | None,
        typer.Option(metavar="KM", help="Least distance between images of two splits; with --blocks: 1."),
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """Write split lists: 70/10/20 and 20/10/70 by drawn images, or 70/10/20 by geographic blocks."""
    from urbancross_bench.data.card import in_no_split
    from urbancross_bench.data.splits import SCHEMES, blocked, drawn, write_lists
    from urbancross_bench.execution.domains import read_domain
    from urbancross_bench.registry import Registry

    resolved = Registry.discover(plugin or []).resolve("dataset", domain)
    apart = _distance(blocks, distance)
    read, _ = read_domain(resolved)
    facts: dict[str, Any] = {"domain": str(resolved.reference), "images": len(read.image_names), "seed": seed}
    if blocks is None:
        schemes = {scheme: drawn(read, seed, scheme) for scheme in SCHEMES}
    else:
        schemes = {"partition": blocked(read, seed, blocks, apart)}
        facts |= {"block_km": blocks, "distance_km": apart}
    facts["in_no_split"] = in_no_split(schemes["partition"])
    record = write_lists(out, schemes, facts)
    for name, written in record["lists"].items():
        print(f"{name + '.txt':22}{written['images']:>9,} images")
    print(f"{facts['in_no_split']:,} of {facts['images']:,} images are in no split")
    for scheme, partition in record["partitions"].items():
        print(f"{scheme}: {partition}")
    print(f"written to {out}")


def _distance(blocks: float | None, distance: float | None) -> float:
    """Kilometres between the splits of geographic blocks. Raises UsageError if the options do not go together."""
    from urbancross_bench.errors import UsageError

    if blocks is None and distance is not None:
        raise UsageError("--distance goes with --blocks")
    apart = 1.0 if distance is None else distance
    if blocks is not None and not 0 <= apart < blocks < math.inf:
        raise UsageError(
            f"--distance {apart:g} must be at least 0 and smaller than --blocks {blocks:g}, "
            "or no image is left between two blocks"
        )
    return apart
