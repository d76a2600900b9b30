"""`run GRID`: carry out a grid and build its leaderboard."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from urbancross_bench.cli.grids import GridArgument, OutOption, SetOption, VerifyOption, open_grid
from urbancross_bench.cli.options import DeviceOption, PluginOption

if TYPE_CHECKING:
    from urbancross_bench.execution.plan import Plan
    from urbancross_bench.execution.scheduler import Limits
    from urbancross_bench.interfaces import Table
    from urbancross_bench.registry import Registry


def run(
    grid: GridArgument,
    out: OutOption = None,
    set_: SetOption = None,
    plugin: PluginOption = None,
    verify: VerifyOption = False,
    device: DeviceOption = "auto",
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Only the run whose key begins so, and no tables; repeatable."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="A store that output folders share; by default each has its own, OUT/store."
        ),
    ] = None,
    save_every: Annotated[
        float, typer.Option(min=0, help="Seconds between saves of a training, to go on from when it is cut.")
    ] = 60.0,
    time_limit: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="End a process that takes longer.")
    ] = None,
    memory_limit: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="GIB", help="End a process that takes more. By default 9/10 of the machine's."
        ),
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="Times that a stage is tried again whose process died or passed a limit.")
    ] = 0,
    track: Annotated[
        list[str] | None, typer.Option(metavar="TRACKER", help="Tell a tracker, such as tensorboard; repeatable.")
    ] = None,
    track_patience: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long trackers may take at the end.")
    ] = 5.0,
) -> None:
    """Train, adapt and score every run that is not there yet, then build the leaderboard."""
    from urbancross_bench.cli.progress import print_table
    from urbancross_bench.cli.resuming import resumable
    from urbancross_bench.cli.wording import counts_of
    from urbancross_bench.execution.scheduler import Limits

    plan, registry, folder = open_grid(grid, set_, out, plugins=plugin, verify=verify)
    with resumable():
        counts, tables = run_plan(
            plan,
            registry,
            folder,
            device=device,
            only=only or (),
            store=store,
            limits=Limits.of(save_every, time_limit, memory_limit, retries),
            track=track or (),
            track_patience=track_patience,
        )
    if shown := next((table for table in tables if table.rows), None):  # without a shift, the one of scenarios
        print_table(shown)
    elif tables:
        print(f"no row to show; {folder / 'leaderboard' / 'summary.md'} says how many runs are left out, and why")
    where = f"Records: {folder / 'runs'}" + (f". Tables: {folder / 'leaderboard'}" if tables else "")
    print(f"{counts_of(counts)}. {where}")
    if _not_well(counts):
        raise typer.Exit(1)


def run_plan(
    plan: Plan,
    registry: Registry,
    folder: Path,
    *,
    device: str,
    only: Collection[str],
    store: Path | None,
    limits: Limits,
    track: Sequence[str],
    track_patience: float,
) -> tuple[Counter[str], list[Table]]:
    """Carry out a plan, shown on standard error, and build its tables unless `only` some runs are wanted.

    How many runs have which status, and the tables: none where runs are not well and none can be built. Raises
    UsageError where no run can be run.
    """
    from urbancross_bench.cli.progress import make_display
    from urbancross_bench.errors import UsageError
    from urbancross_bench.execution.guarding import Guarded
    from urbancross_bench.execution.journal import Journal
    from urbancross_bench.execution.listening import Listeners
    from urbancross_bench.execution.run import run_grid
    from urbancross_bench.execution.tracking import trackers

    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):  # whether it is there is seen where runs are carried out
        raise UsageError(f"there is no device {device!r}; known: auto, cpu, cuda, cuda:N")
    if not track_patience >= 0:
        raise UsageError(f"trackers cannot be given {track_patience} seconds: give a number from 0")
    if all(planned.skipped for planned in plan.runs):
        raise UsageError(f"no run of the grid can be run: {', '.join(sorted({p.skipped for p in plan.runs}))}")
    display = make_display(folder)
    seen = Listeners([Journal(folder, display), display])
    tracking = trackers(track, registry, plan.grid.plugins, folder, seen, patience=track_patience)
    listener = Listeners([tracking, seen])  # trackers first: what goes wrong at their end is still shown
    executor = Guarded(registry.resolve("executor", plan.grid.executor), seen.warn)
    with display, closing(executor):
        if store is not None:
            _share_store(folder, store)
        counts = run_grid(plan, folder, executor, listener, device=device, limits=limits, only=only)
    if only:
        return counts, []
    try:
        return counts, _build_tables(plan, folder, registry)
    except UsageError as error:
        if not _not_well(counts):
            raise
        display.line(f"no tables: {error}")  # that runs are not well is the worse news
        return counts, []


def _not_well(counts: Counter[str]) -> bool:
    return bool(set(counts) - {"ok", "reused", "skipped"})


def _share_store(folder: Path, store: Path) -> None:
    """Make OUT/store lead to a store elsewhere: whoever reads the folder later finds it there."""
    from urbancross_bench.errors import UsageError

    place = folder / "store"
    if place.resolve() == store.resolve():
        return
    if place.is_symlink() and not place.exists():  # it led to where results lay before they were moved
        place.unlink(missing_ok=True)
    if place.exists():
        raise UsageError(
            f"--store {store}: {folder} has a store already, {place.resolve()}; "
            "move that there, or choose another --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        store.mkdir(parents=True, exist_ok=True)
        place.symlink_to(store.resolve(), target_is_directory=True)
    except FileExistsError:  # another command was faster
        _share_store(folder, store)
    except OSError as error:
        raise UsageError(f"--store {store} cannot be used: {error}") from error


def _build_tables(plan: Plan, folder: Path, registry: Registry) -> list[Table]:
    """Tables of the grid's own runs and scores: an older form of it may have left others in the folder.

    Tables that it had then and has no more are removed, lest they be taken for its own.
    """
    from urbancross_bench.execution.keeping import name_runs
    from urbancross_bench.files import alone_in
    from urbancross_bench.leaderboard.ablation import keep_view
    from urbancross_bench.leaderboard.build import build
    from urbancross_bench.leaderboard.tables import NAMES, SUFFIXES
    from urbancross_bench.leaderboard.view import DEFAULT, load_view

    keys: Collection[str] = {
        key for planned in plan.runs for key in (planned.key, *(score.key for score in planned.scores))
    }
    with alone_in(folder):
        name_runs(plan, folder)  # another command may have named them otherwise meanwhile
        view = load_view(DEFAULT)
        if plan.ablation is not None:
            view = view.model_copy(update={"ablation": plan.ablation, "records": ("runs",), "out": "leaderboard"})
            keep_view(view, folder / "ablation.yaml")
        tables = build([folder], folder / "leaderboard", view, registry, only=keys)
        for name in NAMES - {table.name for table in tables}:
            for suffix in SUFFIXES:
                (folder / "leaderboard" / f"{name}{suffix}").unlink(missing_ok=True)
        return tables
