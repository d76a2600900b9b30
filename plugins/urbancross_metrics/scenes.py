"""Scene-level retrieval, as AMFMN and SWAN report it beside mR."""

from __future__ import annotations

from collections.abc import Mapping

from urbancross_bench.evaluation import Ranking
from urbancross_bench.evaluation.scenes import scene_precisions
from urbancross_bench.interfaces import PERCENT, Metric, QueryScores


class Scenes(Metric):
    """The share of the first 1, 5 and 10 items that show the query's kind of scene."""

    def score(self, ranking: Ranking) -> Mapping[str, QueryScores]:
        """Precision by scene class of each query, times 100."""
        cuts = (1, 5, 10)
        to_texts = {
            f"i2t_scene@{r}": QueryScores("i2t", 100.0 * scene_precisions(ranking, "i2t", r), bounds=PERCENT)
            for r in cuts
        }
        to_images = {
            f"t2i_scene@{r}": QueryScores("t2i", 100.0 * scene_precisions(ranking, "t2i", r), bounds=PERCENT)
            for r in cuts
        }
        return to_texts | to_images
