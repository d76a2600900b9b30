"""Scores that stand there once more with further metrics, as a grid leaves them that has got some since."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from urbancross_bench.identity import canonical_json
from urbancross_bench.leaderboard.comparable import (
    averaged_of,
    cell_of,
    comparison_of,
    measures_more,
    without_metrics,
)
from urbancross_bench.leaderboard.resampling import SeedScore

Group = Sequence[SeedScore]


def taken_once(groups: Sequence[Group]) -> Iterator[Group]:
    """The seeds of each row, without rows that others stand in for.

    A row whose seeds all have a score with further metrics is left out, if that goes for all rows that it is
    compared with, or averaged: in a folder of two grids one may lack them, and its rows would lose their baseline.
    """
    alike: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        run, score = group[0].run, without_metrics(group[0].score.content)
        alike[canonical_json([score["domain"], cell_of(comparison_of(run), run, score)])].append(group)
    needed = {
        _averaged(group)
        for several in alike.values()
        for group in several
        if not any(_stands_in(other, group) for other in several)
    }
    return (group for several in alike.values() for group in several if _averaged(group) in needed)


def _averaged(group: Group) -> str:
    return averaged_of(group[0].run, group[0].score.content)


def _stands_in(other: Group, group: Group) -> bool:
    runs = [{one.run["key"] for one in some} for some in (other, group)]
    return measures_more(other[0].score.content, group[0].score.content) and runs[0] >= runs[1]
