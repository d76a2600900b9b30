"""Which rows a row may be compared with, and the paired differences to the one that is the baseline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from urbancross_bench.evaluation.statistics import SeedMeans
from urbancross_bench.leaderboard.rows import Row, stand_twice, trials_of


class Peers:
    """Rows by what they may be compared with, to find a baseline among them."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
        for row in rows:
            for key in ("label", "name"):
                self._rows[row.peers, key, row.run["adaptation"][key]].append(row)

    def baseline(self, row: Row, adaptation: str) -> Row | None:
        """The row of the baseline method that a row is compared with: same comparison, selector and measure.

        The method is found by the grid's label for it, else by its plugin's name where only one row has that. Of
        several, it is the one that was tried as often, then the one that was searched as often: `last` tries none.
        """
        for key in ("label", "name"):
            found = self._rows.get((row.peers, key, adaptation), [])
            if len(found) > 1:
                found = [other for other in found if other.trials == row.trials]
            if len(found) > 1:
                found = [other for other in found if trials_of(other.run) == trials_of(row.run)]
            if len(found) == 1:
                return found[0]
        return None


def paired_differences(group: Sequence[Row], peers: Peers, baseline: str, metric: str) -> SeedMeans | None:
    """The mean over some rows of paired differences to the baseline; None where `pairs_of` has none."""
    pairs = pairs_of(group, peers, baseline, metric)
    if pairs is None:
        return None
    return SeedMeans.average(found for row, base in pairs if (found := row.difference(base, metric)))


def pairs_of(group: Sequence[Row], peers: Peers, baseline: str, metric: str) -> list[tuple[Row, Row]] | None:
    """Each row with its baseline; None where there are none, where one has none or no difference to it, and where
    one test split stands twice.
    """
    if stand_twice(group) or len({row.numbers for row in group}) != 1:
        return None
    pairs = [(row, base) for row in group if (base := peers.baseline(row, baseline)) and base is not row]
    whole = len(pairs) == len(group) and all(row.is_paired(base, metric) for row, base in pairs)
    return pairs if whole else None
