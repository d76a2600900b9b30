"""What a plan still lacks: held against the records and the store of an output folder."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from urbancross_bench.errors import DataError
from urbancross_bench.execution.choosing import chosen_key
from urbancross_bench.execution.plan import Plan, Run
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.store import Store
from urbancross_bench.records import read_whole


@dataclass(frozen=True, eq=False)
class Status:
    """A plan against what is there: which runs are reused, skipped, to do, and which stages those need.

    A score in which a metric failed is to do again, and so is its `rank` stage, though it is stored.
    """

    plan: Plan
    reused: tuple[Run, ...]
    skipped: tuple[Run, ...]
    todo: tuple[Run, ...]
    stages: tuple[Stage, ...]

    def states(self) -> dict[Run, str]:
        """Every run of the plan: `run`, `reused` or `skipped`."""
        states = dict.fromkeys(self.plan.runs, "run")
        return states | dict.fromkeys(self.reused, "reused") | dict.fromkeys(self.skipped, "skipped")


def status_of(plan: Plan, out: Path, only: Collection[str] = ()) -> Status:
    """Compare a plan with the records and the store of an output folder, which need not exist.

    only: how the keys of the runs to look at begin; by default all. Raises UsageError for one that the plan does
    not have, or several do.
    """
    keys = [run.key for run in plan.runs if not run.skipped]
    how = "`plan --json` tells the keys of its runs, which change with the grid, the data and the code"
    chosen = {chosen_key(one, keys, f"grid {plan.grid.name!r} has no run {one}; {how}") for one in sorted(only)}
    store = Store(out / "store")
    reused, skipped, todo = [], [], []
    for run in plan.runs:
        if only and run.key not in chosen:
            continue
        if run.skipped:
            skipped.append(run)
        elif _is_complete(run, out / "runs" / run.key):
            reused.append(run)
        else:
            todo.append(run)
    wanted = [key for run in todo for key in run.stage_keys()]
    again = {score.stage.key for run in todo for score in run.scores if lacks_a_metric(store, score.stage)}
    stored = [key for key, stage in plan.stages.items() if store.has(stage) and key not in again]
    return Status(plan, tuple(reused), tuple(skipped), tuple(todo), tuple(plan.wanted(wanted, stored)))


def _is_complete(run: Run, place: Path) -> bool:
    """Whether there is a record that is well and has every score of the run, in none of which a metric failed."""
    try:
        record = read_whole(place)
    except DataError:  # said, and mended, by whoever writes it anew
        return False
    if record is None or not record.ok:
        return False
    well = {score.folder.name for score in record.scores if not score.content["failed"]}
    return {score.key for score in run.scores} <= well


def lacks_a_metric(store: Store, stage: Stage) -> bool:
    """Whether a stored `rank` stage holds a score in which a metric failed."""
    try:
        content = (store.path(stage.kind, stage.key) / "score.json").read_text(encoding="utf-8")
        return bool(json.loads(content).get("failed"))
    except (OSError, ValueError, AttributeError):  # not there, or damaged, which its reader finds
        return False
