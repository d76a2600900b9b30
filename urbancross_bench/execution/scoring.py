"""From a ranking to a score: metrics with their intervals, chance, and what is kept per query."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import PluginError, UsageError
from urbancross_bench.evaluation.floors import chance_ranking
from urbancross_bench.evaluation.ranking import DirectionRanking, Ranking
from urbancross_bench.evaluation.statistics import (
    Bounds,
    Counts,
    image_sums,
    interval,
    mean_bounds,
    mean_of,
    resampled_images,
    resampled_means,
)
from urbancross_bench.identity import DISTRIBUTION
from urbancross_bench.interfaces.metric import Metric, QueryScores
from urbancross_bench.registry import Registry, Resolved

Arrays = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]

# Of each of the project's own metrics, what its values are called beside their direction; mR is recall's, too.
_OURS = {
    "recall": ("R@1", "R@5", "R@10"),
    "rank": ("MRR", "mean_rank"),
    "map": ("mAP@R",),
    "graded": ("nDCG@5", "nDCG@10"),
    "scenes": ("scene@1", "scene@5", "scene@10"),
}
_TAKEN = {"mR": "recall"} | {f"{d}_{one}": of for of, own in _OURS.items() for one in own for d in ("i2t", "t2i")}
_COUNTS = ("greater", "tied", "tied_positives", "right", "top", "top_tied", "query_row", "gallery_row")


def resolve_metrics(registry: Registry, references: Sequence[str]) -> list[Resolved]:
    """The metrics of a command line. Raises UsageError as `Registry.resolve`, and for one that is named twice."""
    found: list[Resolved] = []
    for reference in references:
        resolved = registry.resolve("metric", reference)
        twins = [one.reference for one in found if one.identity() == resolved.identity()]
        if twins:
            raise UsageError(f"metric {reference!r} is named twice, first as {str(twins[0])!r}; name it once")
        found.append(resolved)
    return found


def score_ranking(ranking: Ranking, metrics: Sequence[Resolved], *, draws: int) -> tuple[dict[str, Any], Arrays]:
    """The content of `score.json`, and the arrays of `queries.safetensors`.

    Arrays: `image_of_text` (M,), what `DirectionRanking` holds of each direction, from which `recorded_ranking`
    makes the ranking again, and per metric value `image_sums.NAME` (N, 2) float64, from which any mean over
    resampled images follows. `draws` seeds the resampling; it stands in the score, so that others of the same
    split are paired.
    """
    found, sums = metric_values(ranking, metrics, draws=draws)
    arrays: Arrays = {"image_of_text": ranking.image_of_text}
    arrays |= {f"image_sums.{name}": pair for name, pair in sums.items()}
    for name, side in (("i2t", ranking.i2t), ("t2i", ranking.t2i)):
        arrays |= {f"{name}.{field}": getattr(side, field) for field in _COUNTS}
        arrays[f"{name}.top_tied"] = side.top_tied.astype(np.uint8)
        arrays[f"{name}.image_of_query"] = side.image_of_query
    score = {
        "protocol": ranking.protocol,
        "ties": ranking.ties,
        **found,
        "draws": draws,
        "images": ranking.images,
        "texts": len(ranking.image_of_text),
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
) -> tuple[dict[str, dict[str, Any]], dict[str, Floats]]:
    """What metrics say of a ranking, and the sums per image that intervals are made of.

    `metrics`: name → value, interval (null where there is none), chance and parts. `lacking`: metric → what it
    needs and is not there. `failed`: metric → what went wrong; it costs that metric's values only. A metric that
    needs nothing is shown no `inputs`, as it would be of a record. The project's own metrics come first, and the
    names of their values are theirs whether they are asked or not: tables print what is called mR as that.
    """
    resamples = resampled_images(ranking.images, draws)
    found: dict[str, dict[str, Any]] = {"metrics": {}, "lacking": {}, "failed": {}}
    kept: dict[str, Floats] = {}
    for resolved in sorted(metrics, key=lambda metric: metric.plugin.provider.distribution != DISTRIBUTION):
        name = str(resolved.reference)
        needs = resolved.plugin.registration.needs
        missing = sorted(needs - _there(ranking))
        if missing:
            found["lacking"][name] = ", ".join(missing)
            continue
        try:
            metric: Metric = resolved.build()
            values, sums = _values(metric, ranking if needs else replace(ranking, inputs=None), resamples)
            if resolved.plugin.provider.distribution != DISTRIBUTION and (ours := sorted(values.keys() & _TAKEN)):
                raise PluginError(
                    f"value {ours[0]!r} is called as one of metric {_TAKEN[ours[0]]!r}, which comes along; call "
                    "it by another name"
                )
            if taken := sorted(values.keys() & found["metrics"].keys()):
                raise PluginError(f"another metric gives a value called {taken[0]!r}, too")
        except (Exception, SystemExit) as error:
            said = str(error) if isinstance(error, PluginError) else repr(error)
            found["failed"][name] = said if needs else said + _undeclared(error)
            continue
        found["metrics"] |= values
        kept |= sums
    return found, kept


def _undeclared(error: BaseException) -> str:
    """What to do, if a metric that is registered as needing nothing may have failed for want of `inputs`."""
    of_none = isinstance(error, AttributeError | TypeError) and "NoneType" in str(error)
    if of_none or "needs the embeddings" in str(error):  # the latter of `Ranking.with_inputs`
        return "; if it looks at ranking.inputs, register it with needs={'embeddings'}"
    return ""


def _values(metric: Metric, ranking: Ranking, resamples: Counts) -> tuple[dict[str, Any], dict[str, Floats]]:
    """The entries of one metric, and the sums behind them. Raises PluginError for what is no metric's answer."""
    scores = _checked(metric.score(ranking), ranking)
    chances = _checked(metric.score(chance_ranking(ranking)), ranking)
    averages = {name: list(parts) for name, parts in metric.averages().items()}
    for name, parts in averages.items():
        strange = [part for part in parts if part not in scores]
        if not parts or strange or name in scores:
            raise PluginError(f"average {name!r} is not of values that the metric gives: {parts}")
    if chances.keys() != scores.keys():
        raise PluginError("its values have other names for another ranking of the same queries")
    sums = {name: _sums(one, ranking) for name, one in scores.items()}
    means = {name: mean_of(pair) for name, pair in sums.items()}
    chance = {name: mean_of(_sums(one, ranking)) for name, one in chances.items()}
    resampled = resampled_means(sums, resamples)
    better = {name: bool(one.higher_is_better) for name, one in scores.items()}
    bounds = {name: one.bounds for name, one in scores.items()}
    for name, parts in averages.items():
        means[name] = float(np.mean([means[part] for part in parts]))
        chance[name] = float(np.mean([chance[part] for part in parts]))
        resampled[name] = np.mean([resampled[part] for part in parts], axis=0)
        better[name] = all(better[part] for part in parts)
        bounds[name] = mean_bounds([bounds[part] for part in parts])
    entries: dict[str, Any] = {}
    for name, mean in means.items():
        low, high = interval(resampled[name])
        entries[name] = {"value": mean, "low": low, "high": high, "chance": chance[name]}
        entries[name] |= {"higher_is_better": better[name], "parts": averages.get(name, [])}
        entries[name] |= {"bounds": bounds[name]}
    return entries, sums


def _there(ranking: Ranking) -> set[str]:
    """What metrics may need, and is there."""
    inputs = ranking.inputs
    if inputs is None:
        return set()
    there = {"embeddings"} | ({"text_id"} if inputs.text_id is not None else set())
    return there | ({"image_class"} if inputs.image_class is not None else set())


def _checked(scores: Any, ranking: Ranking) -> dict[str, QueryScores]:
    """What a metric gave, if it is a finite number per query under each name."""
    if not isinstance(scores, Mapping) or not scores:
        raise PluginError("it gives no mapping of names to QueryScores, or an empty one")
    checked = {}
    for name, one in scores.items():
        if not isinstance(name, str) or not isinstance(one, QueryScores) or one.direction not in ("i2t", "t2i"):
            raise PluginError(f"value {name!r} is no QueryScores of direction i2t or t2i")
        values = np.asarray(one.values)
        queries = (ranking.i2t if one.direction == "i2t" else ranking.t2i).greater.shape
        if values.shape != queries or values.dtype.kind not in "fiub":
            raise PluginError(
                f"value {name!r} is not one finite number for each of {queries[0]} queries of {one.direction}: "
                f"it has the shape {values.shape}, of {values.dtype}"
            )
        if len(bad := np.flatnonzero(~np.isfinite(values))):
            raise PluginError(
                f"value {name!r} is {values[bad[0]]} for query {bad[0]} of {one.direction} (from 0); of its "
                f"{queries[0]} values {len(bad)} are no finite number"
            )
        values = values.astype(np.float64)
        checked[name] = replace(one, values=values, bounds=_bounds(name, one.bounds, values))
    return checked


def _bounds(name: str, said: Any, values: Floats) -> Bounds:
    if said is None:
        return None
    try:
        low, high = (float(end) for end in said)
    except (TypeError, ValueError):
        raise PluginError(f"value {name!r} has the bounds {said!r}, not two numbers") from None
    slack = 1e-9 * (high - low)  # of rounding
    if not (math.isfinite(slack) and low < high and low - slack <= values.min() and values.max() <= high + slack):
        raise PluginError(
            f"value {name!r} has the bounds {low:g} and {high:g}, which must be finite and in order, and goes "
            f"from {values.min():g} to {values.max():g}"
        )
    return low, high


def _sums(scores: QueryScores, ranking: Ranking) -> Floats:
    query, image = (ranking.i2t if scores.direction == "i2t" else ranking.t2i).image_of_query
    return image_sums(scores.values, query, image, ranking.images)
