"""From a ranking to a score: metrics with their intervals, chance, and what is kept per query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import PluginError
from urbancross_bench.evaluation.floors import chance_ranking
from urbancross_bench.evaluation.ranking import DirectionRanking, Ranking
from urbancross_bench.evaluation.statistics import image_sums, interval, resampled_images, resampled_means
from urbancross_bench.interfaces.metric import Metric, QueryScores
from urbancross_bench.registry import Resolved

Arrays = dict[str, NDArray[Any]]

_COUNTS = ("greater", "tied", "tied_positives", "right", "top", "top_tied", "query_row", "gallery_row")


def score_ranking(ranking: Ranking, metrics: Sequence[Resolved], *, draws: int) -> tuple[dict[str, Any], Arrays]:
    """The content of `score.json`, and the arrays of `queries.safetensors`.

    Arrays: `image_of_text` (M,), what `DirectionRanking` holds of each direction, from which `recorded_ranking`
    makes the ranking again, and per metric value `image_sums.NAME` (N, 2) float64, from which any mean over
    resampled images follows. `draws` seeds the resampling; it stands in the score, so that others of the same
    split are paired. Raises PluginError for a metric that gives no number per query.
    """
    values, lacking, sums = metric_values(ranking, metrics, draws=draws)
    arrays: Arrays = {"image_of_text": ranking.image_of_text}
    arrays |= {f"image_sums.{name}": pair for name, pair in sums.items()}
    for name, side in (("i2t", ranking.i2t), ("t2i", ranking.t2i)):
        arrays |= {f"{name}.{field}": getattr(side, field) for field in _COUNTS}
        arrays[f"{name}.top_tied"] = side.top_tied.astype(np.uint8)
        arrays[f"{name}.image_of_query"] = side.image_of_query
    score = {
        "protocol": ranking.protocol,
        "ties": ranking.ties,
        "metrics": values,
        "lacking": lacking,
        "draws": draws,
        "images": ranking.images,
        "queries": {"i2t": len(ranking.i2t.greater), "t2i": len(ranking.t2i.greater)},
        "gallery": {"i2t": ranking.i2t.gallery, "t2i": ranking.t2i.gallery},
    }
    return score, arrays


def recorded_ranking(score: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], ties: str) -> Ranking:
    """The ranking that a score was made from, under any tie rule; without embeddings."""

    def side(name: str) -> DirectionRanking:
        counts = {field: arrays[f"{name}.{field}"] for field in _COUNTS}
        counts["top_tied"] = counts["top_tied"].astype(bool)
        return DirectionRanking(**counts, image_of_query=arrays[f"{name}.image_of_query"], ties=ties, k=(1, 5, 10))

    owner = arrays["image_of_text"]
    return Ranking(side("i2t"), side("t2i"), score["images"], owner, score["protocol"], ties)


def metric_values(
    ranking: Ranking, metrics: Sequence[Resolved], *, draws: int
) -> tuple[dict[str, Any], dict[str, str], dict[str, NDArray[np.float64]]]:
    """Name → value, interval (null where there is none), chance and parts; metric → what it lacks; name → sums."""
    resamples = resampled_images(ranking.images, draws)
    chances = chance_ranking(ranking)
    values: dict[str, Any] = {}
    lacking: dict[str, str] = {}
    kept: dict[str, NDArray[np.float64]] = {}
    for resolved in metrics:
        missing = sorted(resolved.plugin.registration.needs - _there(ranking))
        if missing:
            lacking[str(resolved.reference)] = ", ".join(missing)
            continue
        metric: Metric = resolved.build()
        scores = _scores(metric, ranking)
        sums = {name: _sums(name, one, ranking) for name, one in scores.items()}
        chance = {name: _mean(_sums(name, one, ranking)) for name, one in _scores(metric, chances).items()}
        means = {name: _mean(pair) for name, pair in sums.items()}
        resampled = resampled_means(sums, resamples)
        better = {name: one.higher_is_better for name, one in scores.items()}
        for name, parts in metric.averages().items():
            means[name] = float(np.mean([means[part] for part in parts]))
            chance[name] = float(np.mean([chance[part] for part in parts]))
            resampled[name] = np.mean([resampled[part] for part in parts], axis=0)
            better[name] = all(better[part] for part in parts)
        for name, mean in means.items():
            if name in values:
                raise PluginError(f"two metrics of the grid give a value called {name!r}")
            low, high = interval(resampled[name])
            values[name] = {"value": mean, "low": low, "high": high, "chance": chance[name]}
            values[name] |= {"higher_is_better": better[name], "parts": list(metric.averages().get(name, ()))}
        kept |= sums
    return values, lacking, kept


def _there(ranking: Ranking) -> set[str]:
    """What metrics may need, and is there."""
    inputs = ranking.inputs
    if inputs is None:
        return set()
    there = {"embeddings"} | ({"text_id"} if inputs.text_id is not None else set())
    return there | ({"image_class"} if inputs.image_class is not None else set())


def _scores(metric: Metric, ranking: Ranking) -> Mapping[str, QueryScores]:
    try:
        return metric.score(ranking)
    except Exception as error:
        raise PluginError(f"metric {type(metric).__name__} failed: {error!r}") from error


def _sums(name: str, scores: QueryScores, ranking: Ranking) -> NDArray[np.float64]:
    side = ranking.i2t if scores.direction == "i2t" else ranking.t2i
    if scores.values.shape != side.greater.shape or not np.isfinite(scores.values).all():
        raise PluginError(f"metric value {name!r} is not one finite number per {scores.direction} query")
    query, image = side.image_of_query
    share = 1.0 / np.bincount(query)[query]  # a string of several images counts for each of them in part
    return image_sums(scores.values[query], image, ranking.images, share)


def _mean(pair: NDArray[np.float64]) -> float:
    return float(pair[:, 0].sum() / pair[:, 1].sum())
