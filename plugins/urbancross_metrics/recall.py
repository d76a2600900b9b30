"""R@K and mR, as the field counts them: hit@K in percent, not the share of positives found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from urbancross_bench.evaluation import Ranking
from urbancross_bench.interfaces import PERCENT, Metric, QueryScores


class Recall(Metric):
    """R@1, R@5, R@10 from images to texts and back; mR is the mean of the six."""

    def score(self, ranking: Ranking) -> Mapping[str, QueryScores]:
        """hit@K of each query, times 100."""
        to_texts = {
            f"i2t_R@{k}": QueryScores("i2t", 100.0 * ranking.i2t.hits(k), bounds=PERCENT) for k in (1, 5, 10)
        }
        to_images = {
            f"t2i_R@{k}": QueryScores("t2i", 100.0 * ranking.t2i.hits(k), bounds=PERCENT) for k in (1, 5, 10)
        }
        return to_texts | to_images

    def averages(self) -> Mapping[str, Sequence[str]]:
        """mR."""
        return {"mR": [f"{name}_R@{k}" for name in ("i2t", "t2i") for k in (1, 5, 10)]}
