"""MRR and mean rank of the first right answer."""

from __future__ import annotations

from collections.abc import Mapping

from urbancross_bench.evaluation import Ranking
from urbancross_bench.interfaces import PERCENT, Metric, QueryScores


class Rank(Metric):
    """`i2t_MRR` and `t2i_MRR` in percent; `i2t_mean_rank` and `t2i_mean_rank`, 1 being the best."""

    def score(self, ranking: Ranking) -> Mapping[str, QueryScores]:
        """Ranks and reciprocal ranks under the ranking's tie rule."""
        return {
            "i2t_MRR": QueryScores("i2t", 100.0 * ranking.i2t.reciprocal_ranks, bounds=PERCENT),
            "t2i_MRR": QueryScores("t2i", 100.0 * ranking.t2i.reciprocal_ranks, bounds=PERCENT),
            "i2t_mean_rank": QueryScores("i2t", ranking.i2t.ranks, higher_is_better=False),
            "t2i_mean_rank": QueryScores("t2i", ranking.t2i.ranks, higher_is_better=False),
        }
