"""Which methods have a mean over scenarios."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from urbancross_bench.leaderboard.rows import Row


def are_whole(
    groups: Sequence[Sequence[Row]], metric: str, within: Callable[[Row], str] = lambda row: ""
) -> list[bool]:
    """Of each of `groups_of` whether one method has a number for every scenario, once: means over fewer are not
    compared.

    Every: of those that any group has of the same recipe and the same `within`.
    """
    scenarios: dict[tuple[str, str], set[str]] = {}
    for group in groups:
        for row in group:
            scenarios.setdefault((within(row), row.recipe), set()).add(row.scenario)
    return [
        sorted(row.scenario for row in group) == sorted(scenarios[within(group[0]), group[0].recipe])
        and len({row.content for row in group}) == 1
        and all(row.estimate(metric) for row in group)
        for group in groups
    ]
