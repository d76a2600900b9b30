"""`plan GRID`: what `run` would do, before anything heavy is imported."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from urbancross_bench.cli.grids import GridArgument, JsonOption, OutOption, SetOption, VerifyOption, open_grid

if TYPE_CHECKING:
    from urbancross_bench.execution.status import Status


def plan(
    grid: GridArgument,
    out: OutOption = None,
    set_: SetOption = None,
    verify: VerifyOption = False,
    json_: JsonOption = False,
) -> None:
    """Show which runs are to do, reused and skipped, and which stages they share."""
    from urbancross_bench.execution.status import status_of

    made, _, folder = open_grid(grid, set_, out, verify=verify)
    status = status_of(made, folder)
    print(json.dumps(_as_json(status), indent=1, ensure_ascii=False) if json_ else _as_text(status))


def summary(status: Status) -> str:
    """`45 runs: 30 to do, 9 reused, 6 skipped; 120 stages to do: 9 pack, …`"""
    kinds = Counter(stage.kind for stage in status.stages)
    shared = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return (
        f"{len(status.plan.runs)} runs: {len(status.todo)} to do, {len(status.reused)} reused, "
        f"{len(status.skipped)} skipped; {len(status.stages)} stages to do" + (f": {shared}" if shared else "")
    )


def _as_json(status: Status) -> dict[str, object]:
    runs = [
        {
            "source": list(run.scenario.source),
            "target": run.scenario.target,
            "kind": run.scenario.kind,
            "encoder": run.encoder,
            "adaptation": run.adaptation,
            "seed": run.seed,
            "state": status.state(run),
            "reason": run.skipped or None,
            "key": run.key or None,
            "scores": [score.key for score in run.scores],
        }
        for run in status.plan.runs
    ]
    stages = [{"kind": stage.kind, "key": stage.key, "what": stage.label} for stage in status.stages]
    return {"grid": status.plan.grid.name, "remarks": list(status.plan.remarks), "runs": runs, "stages": stages}


def _as_text(status: Status) -> str:
    """One line per cell of the grid: its seeds share it as long as they share its state."""
    cells: dict[tuple[str, ...], list[int]] = {}
    for run in status.plan.runs:
        cell = (status.state(run), str(run.scenario), run.encoder, run.adaptation, run.skipped)
        cells.setdefault(cell, []).append(run.seed)
    lines = [
        f"{state:8}{scenario} · {encoder} · {adaptation} · "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}{f'  ({reason})' if reason else ''}"
        for (state, scenario, encoder, adaptation, reason), seeds in cells.items()
    ]
    return "\n".join([*lines, "", *status.plan.remarks, summary(status)])
