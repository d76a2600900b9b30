"""What rows were given: where they started, what they might change, in how many steps, in how many trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from urbancross_bench.interfaces.renderer import Cell
from urbancross_bench.leaderboard.rows import Row, extent_of, trials_of

VARIES = "varies"


def spent(rows: Sequence[Row]) -> dict[str, Cell]:
    """Of some rows, a column each: `varies` where it is not the same for all, and for all their seeds."""
    given: dict[str, list[Cell]] = {
        "pre-training": [length(row.run["pretraining"]) for row in rows],
        "parameters trained": [number for row in rows for number in row.trained],
        "steps": [row.run["steps"] for row in rows],
        "trials": [row.trials for row in rows],
    }
    return {name: cells[0] if len(set(cells)) == 1 else VARIES for name, cells in given.items()}


def given(run: Mapping[str, Any]) -> dict[str, str | int]:
    """Of one run what tells it from others with the same names."""
    return {
        "setting": ", ".join(filter(None, [run["shown"]["setting"], extent_of(run)])),
        "pre-training": length(run["pretraining"]),
        "steps": run["steps"],
        "trials": trials_of(run),
    }


def length(recipe: Mapping[str, Any]) -> str:
    """How long a pre-training was, in words."""
    return f"{recipe['steps']} steps" if recipe["epochs"] is None else f"{recipe['epochs']:g} epochs"
