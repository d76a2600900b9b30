"""Which methods have a mean over scenarios."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from urbancross_bench.interfaces.scenarios import route, sources
from urbancross_bench.leaderboard.rows import Row

_PARTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda scenario: "",
    "source": sources,
    "target": lambda scenario: str(scenario["target"]),
    "kind": lambda scenario: str(scenario["kind"]),
}


def are_whole(groups: Sequence[Sequence[Row]], metric: str, by: str = "") -> list[bool]:
    """Of each of `groups_of` whether one method has a number for every scenario, once: means over fewer are not
    compared.

    by: what the scenarios of a group have in common; see `_scenarios_of`.
    """
    return [
        not missing
        and len({row.scenario for row in group}) == len(group)
        and len({row.content for row in group}) == 1
        and all(row.estimate(metric) for row in group)
        for group, missing in zip(groups, lacking(groups, by), strict=True)
    ]


def lacking(groups: Sequence[Sequence[Row]], by: str = "") -> list[set[str]]:
    """Of each of `groups_of` the scenarios that it lacks and others of its recipe have; by: as in `are_whole`."""
    of_recipe = _scenarios_of([row for group in groups for row in group], by)
    part = _PARTS[by]
    return [
        of_recipe[part(group[0].run["scenario"]), group[0].recipe] - {row.scenario for row in group}
        for group in groups
    ]


def _scenarios_of(rows: Sequence[Row], by: str) -> dict[tuple[str, str], set[str]]:
    """Source, target or kind (`by`; of "" all are alike) and recipe → scenarios: those that any of the rows
    has, and those that a run of the recipe failed in.
    """
    found: dict[tuple[str, str], set[str]] = {}
    failed = {row.recipe: row.failed for row in rows}
    there = [(row.recipe, row.run) for row in rows]
    lacking = [(recipe, run) for recipe, runs in failed.items() for run in runs.values()]
    for recipe, run in (*there, *lacking):
        found.setdefault((_PARTS[by](run["scenario"]), recipe), set()).add(route(run["scenario"]))
    return found
