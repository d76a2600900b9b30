"""Heatmaps of transfer: a table of sources and targets for each method, coloured by what it scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from urbancross_bench.interfaces import Cell, Estimate, Table
from urbancross_renderers.html.tables import labels

MOST = 60  # methods
_SHADES = 9
_ARROW = " → "
_SCENARIO, _METHOD = "scenario", "adaptation"


@dataclass(frozen=True)
class Heat:
    """A cell: what is scored there, None where nothing is, and its shade from 0 to 8."""

    value: float | None
    shade: int


@dataclass(frozen=True)
class Heatmap:
    """A method's scores for the template `heatmap.html`: `rows` has a source with a cell for each target."""

    method: str
    targets: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Heat]]]


@dataclass(frozen=True)
class Heatmaps:
    """Those of all methods on one scale, and how many were left out."""

    low: float
    high: float
    shades: Sequence[int]
    maps: Sequence[Heatmap]
    left_out: int


def heatmaps(table: Table, metric: str, baseline: str) -> Heatmaps | None:
    """Of a table with a row per scenario and method, the baseline's first.

    None where no method was scored on two scenarios. A method with two rows for one scenario that no label tells
    apart has no map.
    """
    if any(name not in table.columns for name in (_SCENARIO, _METHOD, metric)):
        return None
    at = {name: table.columns.index(name) for name in (_SCENARIO, _METHOD, metric)}
    rows = sorted(table.rows, key=lambda row: row[at[_METHOD]] != baseline)
    scored: dict[str, dict[tuple[str, str], list[float]]] = {}
    for row, method in zip(rows, labels(table, rows, within=_SCENARIO), strict=True):
        cell: Cell = row[at[metric]]
        source, arrow, target = str(row[at[_SCENARIO]]).rpartition(_ARROW)
        if isinstance(cell, Estimate) and arrow:
            scored.setdefault(method, {}).setdefault((source, target), []).append(cell.value)
    usable = {
        method: {pair: values[0] for pair, values in found.items()}
        for method, found in scored.items()
        if len(found) > 1 and all(len(values) == 1 for values in found.values())
    }
    if not usable:
        return None
    everything = [value for found in usable.values() for value in found.values()]
    low, high = min(everything), max(everything)
    maps = [_map(method, found, low, high) for method, found in [*usable.items()][:MOST]]
    return Heatmaps(low, high, range(_SHADES), maps, len(usable) - len(maps))


def _map(method: str, found: dict[tuple[str, str], float], low: float, high: float) -> Heatmap:
    sources, targets = (sorted({pair[side] for pair in found}) for side in (0, 1))
    rows = [(source, [_heat(found.get((source, target)), low, high) for target in targets]) for source in sources]
    return Heatmap(method, targets, rows)


def _heat(value: float | None, low: float, high: float) -> Heat:
    if value is None:
        return Heat(None, 0)
    share = (value - low) / (high - low) if high > low else 0.5
    return Heat(value, min(_SHADES - 1, int(share * _SHADES)))
