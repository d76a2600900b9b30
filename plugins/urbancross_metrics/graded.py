"""Graded relevance: a caption that stands at several images is right, in part, for each of them."""

from __future__ import annotations

from collections.abc import Mapping

from urbancross_bench.evaluation import Direction, Ranking
from urbancross_bench.evaluation.positions import graded_gains
from urbancross_bench.interfaces import PERCENT, Metric, QueryScores


class Graded(Metric):
    """nDCG@5 and nDCG@10 in both directions; the grade is the share of an image's captions that are the string."""

    def score(self, ranking: Ranking) -> Mapping[str, QueryScores]:
        """nDCG of each query, times 100."""
        directions: tuple[Direction, ...] = ("i2t", "t2i")
        return {
            f"{direction}_nDCG@{k}": QueryScores(direction, 100.0 * gains, bounds=PERCENT)
            for direction in directions
            for k, gains in graded_gains(ranking, direction, (5, 10)).items()
        }
