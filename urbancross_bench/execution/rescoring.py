"""Metrics and tie rules that were not asked for when a run was scored, from what its record holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from urbancross_bench.errors import DataError
from urbancross_bench.evaluation.ranking import Ranking
from urbancross_bench.execution.items import rank_features, read_embedded, read_items
from urbancross_bench.execution.scoring import metric_values, recorded_ranking
from urbancross_bench.execution.store import MissingError, Store
from urbancross_bench.records import Record, ScoreRecord
from urbancross_bench.registry import Resolved


def rescored(records: Sequence[Record], metrics: Sequence[Resolved], ties: str | None) -> Iterator[dict[str, Any]]:
    """Each score of each run anew: what was scored, and `metrics`, `lacking` and `failed` as in `score.json`.

    ties: another tie rule than the recorded one. The counts of the record are enough for metrics of ranks alone;
    those that need more are given the features of the store beside the records, if they are still there.
    """
    needy = any(metric.plugin.registration.needs for metric in metrics)
    for record in records:
        for score in record.scores:
            content = score.content
            rule = ties or content["ties"]
            stored = _from_features(score, rule) if needy else None
            ranking = stored or recorded_ranking(content, score.arrays(), rule)
            found, _ = metric_values(ranking, metrics, draws=content["draws"])
            yield {
                "run": record.folder.name,
                "score": score.folder.name,
                "scenario": record.spec["scenario"],
                "encoder": record.spec["encoder"]["label"],
                "adaptation": record.spec["adaptation"]["label"],
                "seed": record.spec["seed"],
                "selector": content["selector"],
                "protocol": content["protocol"],
                "ties": rule,
                **found,
            }


def _from_features(score: ScoreRecord, ties: str) -> Ranking | None:
    """The ranking with its embeddings; None where the store beside the record has them no longer, and where what
    was ranked are not the embeddings themselves, but what a test-time method made of them.
    """
    if score.content["calibration"]:
        return None
    content, store = score.content, Store(_output_folder(score.folder) / "store")
    try:
        for key in (content["features"], content["items"]):
            store.entry(key)
    except MissingError:
        return None
    try:
        features = read_embedded(store.find(content["features"]), content["number"]).features
        items = read_items(store.find(content["items"]))
    except Exception as error:  # each format raises errors of its own
        raise DataError(f"what record {score.folder} was scored from cannot be read: {error!r}") from error
    try:
        return rank_features(features, items, protocol=content["protocol"], ties=ties)
    except ValueError as error:
        raise DataError(f"record {score.folder}: its stored features cannot be ranked: {error}") from error


def _output_folder(score: Path) -> Path:
    """OUT of OUT/runs/RUN/scores/SCORE."""
    return score.resolve().parents[3]
