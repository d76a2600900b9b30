"""mAP@R: how much of the first R places the R right answers fill, and how early."""

from __future__ import annotations

from collections.abc import Mapping

from urbancross_bench.evaluation import Ranking
from urbancross_bench.evaluation.positions import average_precisions
from urbancross_bench.interfaces import PERCENT, Metric, QueryScores


class AveragePrecision(Metric):
    """`i2t_mAP@R` and `t2i_mAP@R`. Of a text with one image it is R@1."""

    def score(self, ranking: Ranking) -> Mapping[str, QueryScores]:
        """AP@R of each query, times 100."""
        return {
            "i2t_mAP@R": QueryScores("i2t", 100.0 * average_precisions(ranking, "i2t"), bounds=PERCENT),
            "t2i_mAP@R": QueryScores("t2i", 100.0 * average_precisions(ranking, "t2i"), bounds=PERCENT),
        }
