"""From a ranking to a score: metrics with their intervals, chance, and what is kept per query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import PluginError
from urbancross_bench.evaluation.floors import chance_ranking
from urbancross_bench.evaluation.ranking import Ranking
from urbancross_bench.evaluation.statistics import image_sums, interval, resampled_images, resampled_means
from urbancross_bench.interfaces.metric import Metric

Arrays = dict[str, NDArray[Any]]


def score_ranking(ranking: Ranking, metrics: Sequence[Metric], *, draws: int) -> tuple[dict[str, Any], Arrays]:
    """The content of `score.json`, and the arrays of `queries.safetensors`.

    Arrays: `image_of_text` (M,); per direction `greater`, `tied`, `tied_positives` (Q,) int64, `top` (Q, ≤10)
    int64; per metric value `image_sums.NAME` (N, 2) float64, from which any mean over resampled images follows.
    `draws` seeds the resampling; it stands in the score, so that others of the same split are paired.
    """
    images = len(ranking.i2t.greater)
    resamples = resampled_images(images, draws)
    values: dict[str, Any] = {}
    arrays: Arrays = {"image_of_text": ranking.image_of_text}
    for metric in metrics:
        sums = _sums(metric, ranking)
        chance = {name: _mean(pair) for name, pair in _sums(metric, chance_ranking(ranking)).items()}
        means = {name: _mean(pair) for name, pair in sums.items()}
        resampled = resampled_means(sums, resamples)
        for name, parts in metric.averages().items():
            means[name] = float(np.mean([means[part] for part in parts]))
            chance[name] = float(np.mean([chance[part] for part in parts]))
            resampled[name] = np.mean([resampled[part] for part in parts], axis=0)
        for name, mean in means.items():
            if name in values:
                raise PluginError(f"two metrics of the grid give a value called {name!r}")
            low, high = interval(resampled[name])
            values[name] = {"value": mean, "low": low, "high": high, "chance": chance[name]}
            values[name]["parts"] = list(metric.averages().get(name, ()))
        arrays |= {f"image_sums.{name}": pair for name, pair in sums.items()}
    for name, side in (("i2t", ranking.i2t), ("t2i", ranking.t2i)):
        arrays[f"{name}.greater"] = side.greater
        arrays[f"{name}.tied"] = side.tied
        arrays[f"{name}.tied_positives"] = side.tied_positives
        arrays[f"{name}.top"] = side.top
    score = {
        "protocol": ranking.protocol,
        "ties": ranking.ties,
        "metrics": values,
        "draws": draws,
        "queries": {"i2t": images, "t2i": len(ranking.image_of_text)},
        "gallery": {"i2t": ranking.i2t.gallery, "t2i": ranking.t2i.gallery},
    }
    return score, arrays


def _sums(metric: Metric, ranking: Ranking) -> Mapping[str, NDArray[np.float64]]:
    images = len(ranking.i2t.greater)
    owners = {"i2t": np.arange(images), "t2i": ranking.image_of_text}
    sums = {}
    for name, scores in metric.score(ranking).items():
        if scores.values.shape != owners[scores.direction].shape or not np.isfinite(scores.values).all():
            raise PluginError(f"metric value {name!r} is not one finite number per {scores.direction} query")
        sums[name] = image_sums(scores.values, owners[scores.direction], images)
    return sums


def _mean(pair: NDArray[np.float64]) -> float:
    return float(pair[:, 0].sum() / pair[:, 1].sum())
