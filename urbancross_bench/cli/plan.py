"""`plan GRID`: what `run` would do, before anything heavy is imported."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from urbancross_bench.cli.grids import GridArgument, OutOption, SetOption, VerifyOption, open_grid
from urbancross_bench.cli.json_output import JsonOption, print_json
from urbancross_bench.cli.options import PluginOption

if TYPE_CHECKING:
    from urbancross_bench.execution.estimates import Estimate
    from urbancross_bench.execution.plan import Plan
    from urbancross_bench.execution.stage import Stage
    from urbancross_bench.execution.status import Status


def plan(
    grid: GridArgument,
    out: OutOption = None,
    set_: SetOption = None,
    plugin: PluginOption = None,
    verify: VerifyOption = False,
    mermaid: Annotated[
        bool, typer.Option("--mermaid", help="Print the stages as a flowchart for Mermaid.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Show which runs are to do, reused and skipped, which stages they share, and what these may take."""
    from urbancross_bench.errors import UsageError
    from urbancross_bench.execution.estimates import estimate
    from urbancross_bench.execution.picture import flowchart
    from urbancross_bench.execution.status import status_of
    from urbancross_bench.execution.store import Store

    made, registry, folder = open_grid(grid, set_, out, plugins=plugin, verify=verify)
    status, store = status_of(made, folder), Store(folder / "store")
    if mermaid and json_:
        raise UsageError("--mermaid and --json are two ways to show a plan; choose one")
    if mermaid:
        stored = {key for key, stage in made.stages.items() if store.has(stage)}
        print(flowchart(made.stages, stored, {stage.key for stage in status.stages}))
        return
    guessed = estimate(made, status.stages, store, registry)
    if json_:
        print_json(_as_json(status, guessed))
        return
    stages = _stage_table(status, guessed)
    print("\n".join([_run_table(status), "", *stages, *made.remarks, summary(status), *_costs(guessed)]))


def summary(status: Status) -> str:
    """`45 runs: 30 to do, 9 reused, 6 skipped; 120 stages to do: 9 pack, …`"""
    kinds = Counter(stage.kind for stage in status.stages)
    shared = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return (
        f"{len(status.plan.runs)} runs: {len(status.todo)} to do, {len(status.reused)} reused, "
        f"{len(status.skipped)} skipped; {len(status.stages)} stages to do" + (f": {shared}" if shared else "")
    )


def _as_json(status: Status, guessed: Estimate) -> dict[str, object]:
    states = status.states()
    runs = [
        {
            "source": list(run.scenario.source),
            "target": run.scenario.target,
            "kind": run.scenario.kind,
            "encoder": run.encoder,
            "adaptation": run.adaptation,
            "seed": run.seed,
            "state": states[run],
            "reason": run.skipped or None,
            "key": run.key or None,
            "scores": [score.key for score in run.scores],
        }
        for run in status.plan.runs
    ]
    stages = [{"kind": stage.kind, "key": stage.key, "what": stage.label} for stage in status.stages]
    return {
        "grid": status.plan.grid.name,
        "remarks": list(status.plan.remarks),
        "runs": runs,
        "stages": stages,
        "shared": {kind: {"stages": count, "runs": runs} for kind, (count, runs) in _shared(status.plan).items()},
        "estimate": guessed.to_json(),
    }


def _run_table(status: Status) -> str:
    """One line per cell of the grid: its seeds share it as long as they share its state."""
    from shutil import get_terminal_size

    from tabulate import tabulate

    cells: dict[tuple[str, ...], list[int]] = {}
    for run, state in status.states().items():
        cell = (state, str(run.scenario), run.encoder, run.adaptation, run.skipped)
        cells.setdefault(cell, []).append(run.seed)
    headers = ["state", "scenario", "encoder", "adaptation", "seeds", "reason"]
    rows = [[*cell[:4], ", ".join(map(str, seeds)), cell[4]] for cell, seeds in cells.items()]
    if not status.skipped:
        headers, rows = headers[:5], [row[:5] for row in rows]
    widths = None
    if sys.stdout.isatty() and status.skipped:
        taken = sum(max(len(line[column]) for line in (headers, *rows)) + 2 for column in range(5))
        widths = [None] * 5 + [max(24, get_terminal_size().columns - taken)]
    return tabulate(rows, headers, disable_numparse=True, maxcolwidths=widths)


def _shared(plan: Plan) -> dict[str, tuple[int, int]]:
    """Kind of stage → how many there are, and how many runs need one of them."""
    reached: dict[str, frozenset[str]] = {}
    for key, stage in plan.stages.items():  # a stage stands after its inputs
        reached[key] = frozenset({stage.kind}).union(*(reached[above] for above in stage.inputs.values()))
    runs = Counter(
        kind
        for run in plan.runs
        if not run.skipped
        for kind in frozenset[str]().union(*(reached[key] for key in run.stage_keys()))
    )
    stages = Counter(stage.kind for stage in plan.stages.values())
    return {kind: (count, runs[kind]) for kind, count in stages.items()}


def _stage_table(status: Status, guessed: Estimate) -> list[str]:
    """One line per kind of stage."""
    from tabulate import tabulate

    from urbancross_bench.cli.amounts import about, size_text

    todo: dict[str, list[Stage]] = {}
    for stage in status.stages:
        todo.setdefault(stage.kind, []).append(stage)
    rows = []
    for kind, (count, runs) in _shared(status.plan).items():
        cost = guessed.of(todo.get(kind, []))
        known = cost["known"] > 0
        at_least = "at least " if 0 < cost["known"] < cost["stages"] else ""
        time = at_least + about(cost["seconds"]) if known else ""
        size = f"{at_least}about {size_text(cost['bytes'], 2)}" if known else ""
        rows.append((kind, count, runs, cost["stages"] or "", time, size, cost["by"] or ""))
    headers = ("stage", "stages", "for runs", "to do", "time of these", "disk", "judged by")
    used = 7 if guessed.guesses else 4
    align = ("left", "right", "right", "right", "left", "left", "left")[:used]
    table = tabulate([row[:used] for row in rows], headers[:used], disable_numparse=True, colalign=align)
    return [table, ""] if rows else []


def _costs(guessed: Estimate) -> list[str]:
    """What all that is to do may take, and what of it nobody can tell."""
    from urbancross_bench.cli.amounts import about, size_text

    unknown = ", ".join(guessed.unknown)
    lines = [f"no estimate: nothing of kind {unknown} was run here yet"] if unknown else []
    if guessed.guesses:
        at_least = "at least " if lines else ""
        slots = f", {about(guessed.span)} with {guessed.slots} at once" if (guessed.slots or 1) > 1 else ""
        lines.append(
            f"to do: {at_least}{about(guessed.seconds)} one stage at a time{slots}; "
            f"{at_least}about {size_text(guessed.size, 2)} of disk"
        )
    return lines
