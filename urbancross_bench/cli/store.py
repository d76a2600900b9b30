"""`store ls OUT` and `store gc OUT`: what a store holds, and making room in it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from urbancross_bench.cli.json_output import JsonOption, print_json
from urbancross_bench.cli.options import PluginOption

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from urbancross_bench.execution.collecting import Collection, Held, Rubbish
    from urbancross_bench.execution.store import Store

app = typer.Typer(help="See what a store holds, and make room in it.", no_args_is_help=True)

PlaceArgument = Annotated[Path, typer.Argument(metavar="OUT", help="An output folder, or the store in it.")]


@app.command("ls")
def ls(
    out: PlaceArgument,
    stages: Annotated[bool, typer.Option("--stages", help="List each stage, not each kind.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show what a store holds: how many stages of which kind, their size, when they were used."""
    from urbancross_bench.execution.collecting import holdings, store_in

    store = store_in(out)
    held = holdings(store)
    if json_:
        content: dict[str, Any] = {"store": str(store.root), "kinds": _by_kind(held), "other": _other(store)}
        if stages:
            content["stages"] = [_stage(one) for one in held]
        print_json(content)
        return
    print(_stage_table(held) if stages else _kind_table(held))
    print("\nbeside them: " + ", ".join(f"{count} {name}" for name, count in _other(store).items()))


@app.command("gc")
def gc(
    out: PlaceArgument,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="GRID", help="Keep every stage that this grid needs; repeatable."),
    ] = None,
    plugin: PluginOption = None,
    keep_kind: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="Keep all stages of a kind; repeatable.")
    ] = None,
    unused_for: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Remove only what was not used for so long.")
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Remove the least recently used until the rest fits: 20GB."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json_: JsonOption = False,
) -> None:
    """Remove stages, and what is damaged or half-written; without any option only the latter."""
    import time

    from urbancross_bench.cli.amounts import read_size
    from urbancross_bench.errors import UsageError
    from urbancross_bench.execution.collecting import Rule, collect, store_in

    try:
        most = None if limit is None else read_size(limit)
    except ValueError as error:
        raise UsageError(f"--limit: {error}") from None
    store = store_in(out)
    rule = Rule(
        keep=_needed(keep, store, plugin) if keep else None,
        keep_kinds=_checked_kinds(keep_kind or []),
        unused_for=None if unused_for is None else unused_for * 86400,
        limit=most,
    )
    found = collect(store, rule, now=time.time(), dry_run=dry_run)
    missed = most is not None and found.size > most
    if json_:
        print_json(_as_json(found, dry_run, missed))
    else:
        print(_collected_text(found, dry_run, limit, missed))
    if missed:
        raise typer.Exit(1)


def _needed(grids: Sequence[str], store: Store, plugins: Sequence[Path] | None) -> frozenset[str]:
    """The keys of all stages of some grids, each with these plugins besides its own.

    Warns of a grid that needs none of those that are stored.
    """
    from urbancross_bench.cli.grids import open_grid

    stored, needed = {entry.key for entry in store.entries()}, set[str]()
    for grid in grids:
        stages = open_grid(grid, plugins=plugins)[0].stages
        if stored and stored.isdisjoint(stages):
            print(f"warning: grid {grid} needs none of the stages here", file=sys.stderr)
        needed |= stages.keys()
    return frozenset(needed)


def _checked_kinds(kinds: Sequence[str]) -> frozenset[str]:
    from typing import get_args

    from urbancross_bench.errors import UsageError, did_you_mean
    from urbancross_bench.execution.stage import Kind

    for kind in kinds:
        if kind not in get_args(Kind):
            raise UsageError(f"--keep-kind: there is no kind {kind!r}.{did_you_mean(kind, get_args(Kind))}")
    return frozenset(kinds)


def _by_kind(held: Iterable[Held]) -> dict[str, dict[str, Any]]:
    kinds: dict[str, list[Held]] = {}
    for one in held:
        kinds.setdefault(one.entry.kind, []).append(one)
    return {
        kind: {
            "stages": len(ones),
            "bytes": sum(one.size for one in ones),
            "oldest_use": min(one.used for one in ones),
            "newest_use": max(one.used for one in ones),
        }
        for kind, ones in kinds.items()
    }


def _other(store: Store) -> dict[str, int]:
    places = {"damaged": ".damaged", "half-written": ".partial", "saved trainings": ".saved", "logs": "logs"}
    return {name: sum(1 for _ in store.root.glob(f"{place}/*")) for name, place in places.items()}


def _stage(one: Held) -> dict[str, Any]:
    """What is known of a stage; null where its provenance does not say."""
    try:
        provenance = one.entry.provenance()
    except (OSError, ValueError):
        provenance = {}
    return {
        "kind": one.entry.kind,
        "key": one.entry.key,
        "bytes": one.size,
        "seconds": provenance.get("seconds"),
        "used": one.used,
        "label": provenance.get("label"),
    }


def _kind_table(held: Sequence[Held]) -> str:
    from tabulate import tabulate

    from urbancross_bench.cli.amounts import moment, size_text

    kinds = _by_kind(held)
    rows = [
        (kind, of["stages"], size_text(of["bytes"]), moment(of["oldest_use"]), moment(of["newest_use"]))
        for kind, of in kinds.items()
    ]
    rows.append(("all", len(held), size_text(sum(one.size for one in held)), "", ""))
    headers = ("kind", "stages", "size", "oldest use (UTC)", "newest use (UTC)")
    align = ("left", "right", "right", "left", "left")
    return tabulate(rows, headers, disable_numparse=True, colalign=align)


def _stage_table(held: Sequence[Held]) -> str:
    from tabulate import tabulate

    from urbancross_bench.cli.amounts import moment, size_text

    rows = []
    for one in held:
        of = _stage(one)
        took = "" if of["seconds"] is None else f"{of['seconds']:.1f}"
        rows.append((of["kind"], of["key"], size_text(one.size), took, moment(one.used), of["label"] or ""))
    headers = ("kind", "key", "size", "seconds", "last used (UTC)", "what")
    if not rows:
        return "no stages"
    return tabulate(
        rows, headers, disable_numparse=True, colalign=("left", "left", "right", "right", "left", "left")
    )


def _as_json(found: Collection, dry_run: bool, missed: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "removed": [_short(one) for one in found.removed],
        "busy": [_short(one) for one in found.busy],
        "rubbish": [{"sort": piece.sort, "path": str(piece.path), "bytes": piece.size} for piece in found.rubbish],
        "freed_bytes": found.freed,
        "left": {"stages": len(found.left), "bytes": found.size},
        "limit_missed": missed,
    }


def _short(one: Held) -> dict[str, Any]:
    return {"kind": one.entry.kind, "key": one.entry.key, "bytes": one.size}


def _collected_text(found: Collection, dry_run: bool, limit: str | None, missed: bool) -> str:
    from urbancross_bench.cli.amounts import size_text

    goes = "would remove" if dry_run else "removed"
    lines = [
        f"{goes} {of['stages']} {kind}, {size_text(of['bytes'])}" for kind, of in _by_kind(found.removed).items()
    ]
    lines += [f"{goes} {what}" for what in _sorts(found.rubbish)]
    if found.busy:
        lines.append(f"left alone, in use at this moment: {', '.join(one.entry.key for one in found.busy)}")
    freed = f"{size_text(found.freed)} {'would be ' if dry_run else ''}freed"
    stay = "would be left" if dry_run else "are left"
    lines.append(f"{freed}; {len(found.left)} stages with {size_text(found.size)} {stay}")
    if missed:
        lines.append(f"--limit {limit} is not reached: the rest is kept, or in use")
    return "\n".join(lines)


def _sorts(rubbish: Iterable[Rubbish]) -> list[str]:
    from collections import Counter

    words = {"saved": "old saved trainings", "log": "old logs"}
    counts = Counter(piece.sort for piece in rubbish)
    return [f"{count} {words.get(sort, sort)}" for sort, count in counts.items()]
