"""The grids of an output folder as they were last run there: what to run again, and which records are theirs.

OUT/grids/<name>.json    the whole grid, defaults too; the keys of its runs, and of the scores of each
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from urbancross_bench.errors import DataError
from urbancross_bench.execution.plan import Plan
from urbancross_bench.files import alone_in, read_object, replacing, write_json
from urbancross_bench.identity import file_digest
from urbancross_bench.names import are_called_alike, keep_names
from urbancross_bench.records import Record
from urbancross_bench.specs import Grid, as_json

FOLDER = "grids"
_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class KeptGrid:
    """A grid, cells of its ablation among its entries. `runs`: the key of each run → those of its scores.

    files: the plugins and exclusions that it names → their SHA-256 when it was run; empty where older code ran it.
    """

    grid: Grid
    runs: Mapping[str, tuple[str, ...]]
    files: Mapping[str, str]


def keep_grid(plan: Plan, out: Path) -> None:
    """Write the grid of a plan below its output folder, in the place of an older form of that name."""
    runs = {run.key: [score.key for score in run.scores] for run in plan.runs if not run.skipped}
    grid = as_json(plan.grid)
    files = {file: file_digest(Path(file)) for file in (*grid["plugins"], *grid["exclusions"].values())}
    content = {"schema": _SCHEMA, "grid": grid, "runs": runs, "files": files}
    with alone_in(out):
        (out / FOLDER).mkdir(exist_ok=True)
        with replacing(out / FOLDER / f"{plan.grid.name}.json") as fresh:
            write_json(fresh, content)
        name_runs(plan, out)


def name_runs(plan: Plan, out: Path) -> None:
    """Have a plan's runs its names, whatever grid has recorded them. Only for the holder of the folder's lock."""
    called: dict[str, Mapping[str, Any] | None] = {}
    for run in plan.runs:
        if run.spec is not None:
            file = out / "runs" / run.key / "run.json"
            called[run.key] = None
            with suppress(DataError, LookupError, TypeError):  # damaged, and to be written anew with these names
                if file.is_file() and not are_called_alike(read_object(file), run.spec):
                    called[run.key] = run.spec
    keep_names(out / "runs", called)


def kept_grids(out: Path) -> list[KeptGrid]:
    """The grids that were run in a folder, by name. Raises DataError naming a file that cannot be read."""
    return [_kept(file) for file in sorted(out.glob(f"{FOLDER}/[!.]*.json"))]


def asked_for(grids: Sequence[KeptGrid], records: Iterable[Record]) -> list[Record]:
    """The records of the grids' runs, with the scores that the grids ask for: a folder may hold older ones."""
    wanted: dict[str, set[str]] = {}
    for kept in grids:
        for key, scores in kept.runs.items():
            wanted.setdefault(key, set()).update(scores)
    return [
        replace(record, scores=tuple(s for s in record.scores if s.folder.name in wanted[record.folder.name]))
        for record in records
        if record.folder.name in wanted
    ]


def _kept(file: Path) -> KeptGrid:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["schema"] != _SCHEMA:
            raise ValueError(f"it has schema {content['schema']}; this version reads {_SCHEMA}")
        runs = {key: tuple(scores) for key, scores in content["runs"].items()}
        return KeptGrid(Grid.model_validate(content["grid"]), runs, dict(content.get("files", {})))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ValidationError) as error:
        raise DataError(
            f"grid {file} cannot be read: {error}; run the grid again with the same --out, which redoes nothing"
        ) from error
