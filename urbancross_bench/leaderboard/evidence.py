"""What a board shows besides its tables: the runs, the domains they were tested on, some of their top lists.

Runs come from the records. Cards, captions and pictures come from the store of a grid's output, where that is
there; committed records have none, and pages say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from urbancross_bench.interfaces.evidence import Evidence, ShownDomain, ShownQuery, ShownRun
from urbancross_bench.leaderboard.comparable import seeds_of
from urbancross_bench.leaderboard.gallery import queries_of, samples_of
from urbancross_bench.leaderboard.rows import Row, make_rows
from urbancross_bench.leaderboard.spent import given
from urbancross_bench.leaderboard.stored import Exhibit, Exhibits
from urbancross_bench.leaderboard.view import View
from urbancross_bench.records import Record, ScoreRecord

_PRIVATE = ("host",)


class RecordedEvidence(Evidence):
    """The evidence of some records under a view."""

    def __init__(self, records: Sequence[Record], view: View) -> None:
        self._records, self._view = records, view
        self._exhibits = Exhibits()

    def runs(self) -> Iterator[ShownRun]:
        """The runs in order of their keys, with the scores that count; what stands beside a record is read one by
        one.
        """
        counted = {seed.score.folder for row in self._rows for seed in row.seeds}
        for record in sorted(self._records, key=lambda one: one.folder.name):
            provenance = {
                training: {name: value for name, value in facts.items() if name not in _PRIVATE}
                for training, facts in record.provenance().items()
            }
            yield ShownRun(
                record.spec,
                [score.content for score in record.scores if score.folder in counted],
                record.beside("curve.json"),
                provenance,
                record.beside("failure.json"),
                seeds_of(record.spec),
                given(record.spec),
            )

    def domains(self) -> Iterator[ShownDomain]:
        """The domains that were tested on, by name and content of their test split."""
        for (name, test), scores in self._tested.items():
            record, score = scores[0]
            exhibit = self._exhibit(scores)
            yield ShownDomain(
                name,
                test,
                (score.content["images"], score.content["texts"]),
                record.spec["domains"][name],
                exhibit.card if exhibit else {},
                exhibit.places if exhibit else (),
                _floors(scores),
                samples_of(exhibit) if exhibit and exhibit.shareable else (),
            )

    def queries(self) -> Iterator[ShownQuery]:
        """Some queries of each test split whose domain may be shown."""
        for (name, test), scores in self._tested.items():
            exhibit = self._exhibit(scores)
            if exhibit is not None and exhibit.shareable:
                tested = [row for row in self._rows if (row.score["domain"], row.score["test"]) == (name, test)]
                yield from queries_of(name, test, tested, exhibit, self._view)

    def _exhibit(self, scores: Sequence[tuple[Record, ScoreRecord]]) -> Exhibit | None:
        """Of one test split, from the stores of all its scores that with the largest pictures."""
        found = [exhibit for _, score in scores if (exhibit := self._exhibits.of(score))]
        return max(found, key=lambda one: (one.size, one.pack.name if one.pack else ""), default=None)

    @cached_property
    def _rows(self) -> list[Row]:
        return make_rows(self._records, self._view.weights)

    @cached_property
    def _tested(self) -> Mapping[tuple[str, str], list[tuple[Record, ScoreRecord]]]:
        """Domain and fingerprint of its test split → the scores on it, in order of the keys of runs and scores."""
        found: dict[tuple[str, str], list[tuple[Record, ScoreRecord]]] = {}
        for record in sorted(self._records, key=lambda one: one.folder.name):
            for score in record.scores:
                if score.content["domain"] in record.spec["domains"]:
                    key = (score.content["domain"], score.content["test"])
                    found.setdefault(key, []).append((record, score))
        return dict(sorted(found.items()))


def _floors(scores: Sequence[tuple[Record, ScoreRecord]]) -> dict[str, Any]:
    """Of each protocol and tie rule that the domain was scored under; they do not depend on the method."""
    found = {
        f"{score.content['protocol']}, ties {score.content['ties']}": score.content["floors"]
        for _, score in scores
        if score.content["floors"]
    }
    return dict(sorted(found.items()))
