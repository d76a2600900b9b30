"""Its registration imports torch, so every command waits for that."""

import torch

from urbancross_bench.interfaces import Metric, QueryScores, hookimpl, register


@hookimpl
def register_metrics():
    return [register("heavy_import", "heavy_import:Mine", summary="slow to list")]


class Mine(Metric):
    def score(self, ranking):
        return {"i2t_hit": QueryScores("i2t", torch.from_numpy(ranking.i2t.hits(1)).numpy())}
