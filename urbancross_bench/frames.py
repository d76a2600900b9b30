"""Records and tables as pandas has them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from urbancross_bench.errors import DataError
from urbancross_bench.execution.keeping import kept_grids
from urbancross_bench.interfaces import Cell, Estimate, Table
from urbancross_bench.interfaces.renderer import interval_ends
from urbancross_bench.interfaces.scenarios import sources
from urbancross_bench.records import Record, ScoreRecord, runs_of, versions_of


def frame_of_records(found: Iterable[Record], places: Sequence[Path]) -> pd.DataFrame:
    """A row per score of some records, which were read from these places."""
    current = _current(places)
    frame = pd.DataFrame([row for record in found for row in _rows(record, current)])
    return frame.astype({"current": "boolean"}) if len(frame) else frame


def _current(places: Sequence[Path]) -> Callable[[str, str], bool | None]:
    """Whether a run with a score (an empty one stands for none) is asked for by a grid as it was last run."""
    asked: set[tuple[str, str]] = set()
    judged: list[Path] = []  # where the runs lie of folders that know
    for place in places:
        runs = runs_of(place.absolute())
        output = runs.parent if runs_of(runs.parent) == runs else place
        try:
            grids = kept_grids(output)
        except DataError as error:  # of another version: the records can be read all the same
            warnings.warn(f"which records of {place} are current is not known: {error}", stacklevel=4)
            continue
        asked |= {(run, score) for kept in grids for run, scores in kept.runs.items() for score in (*scores, "")}
        judged += [runs] if grids else []

    def current(run: str, score: str) -> bool | None:
        return (run, score) in asked or (False if any((runs / run).is_dir() for runs in judged) else None)

    return current


def _rows(record: Record, current: Callable[[str, str], bool | None]) -> list[dict[str, Any]]:
    spec = record.spec
    of_run = {
        "run": spec["key"],
        "status": spec["status"],
        "current": current(spec["key"], ""),
        **_route(spec["scenario"]),
        "kind": spec["scenario"]["kind"],
        "encoder": spec["encoder"]["label"],
        "weights": spec["encoder"]["weights"]["status"],
        "adaptation": spec["adaptation"]["label"],
        "version": " on ".join(versions_of(spec["adaptation"])),
        "seed": spec["seed"],
        "steps": spec["steps"],
    }
    return [
        of_run | {"current": current(spec["key"], score.content["key"])} | _of_score(score)
        for score in record.scores
    ] or [of_run]


def _of_score(score: ScoreRecord) -> dict[str, Any]:
    content = score.content
    names = ("domain", "setting", "selector", "protocol", "ties", "images", "texts")
    return {"score": content["key"]} | {name: content[name] for name in names} | _of_metrics(content["metrics"])


def _route(scenario: Mapping[str, Any]) -> dict[str, str]:
    return {"source": sources(scenario), "target": scenario["target"]}


def _of_metrics(metrics: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    row: dict[str, float | None] = {}
    for name, entry in metrics.items():
        row |= {name: entry["value"], f"{name} low": _number(entry["low"]), f"{name} high": _number(entry["high"])}
    return row


def frame_of_table(table: Table) -> pd.DataFrame:
    """A table with numbers as they are, unrounded."""
    columns: dict[str, list[Cell]] = {}
    for number, name in enumerate(table.columns):
        cells = [row[number] for row in table.rows]
        if any(isinstance(cell, Estimate) for cell in cells):
            columns[name] = [cell.value if isinstance(cell, Estimate) else cell for cell in cells]
            for end, title in zip(("low", "high"), interval_ends(name, table.columns), strict=True):
                columns[title] = [_number(getattr(cell, end, None)) for cell in cells]
        else:
            columns[name] = cells
    return pd.DataFrame(columns)


def _number(value: float | None) -> float:
    """What is missing as pandas has it, so that a column of nothing else is one of numbers, too."""
    return math.nan if value is None else value
