"""Metrics and tie rules that were not asked for when a run was scored, from what its record holds."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from urbancross_bench.errors import DataError, UsageError, did_you_mean
from urbancross_bench.evaluation.ranking import Ranking
from urbancross_bench.evaluation.ties import TIES
from urbancross_bench.execution.choosing import named
from urbancross_bench.execution.items import rank_features, read_embedded, read_items
from urbancross_bench.execution.scoring import metric_values, recorded_ranking, resolve_metrics
from urbancross_bench.execution.store import MissingError, Store
from urbancross_bench.leaderboard.committed import CompactScore, read_all
from urbancross_bench.records import Record, ScoreRecord
from urbancross_bench.registry import Registry, Resolved


def rescored(
    places: Sequence[Path],
    metrics: Sequence[str],
    ties: str | None,
    plugins: Sequence[str | Path],
    *,
    warn: Callable[[str], None],
) -> Iterator[tuple[Record, list[dict[str, Any]]]]:
    """Each run in some places, and for each of its scores in turn what it is anew: what was scored, and `metrics`,
    `lacking` and `failed` as in `score.json`.

    ties: another tie rule than the recorded one. The counts of the record are enough for metrics of ranks alone;
    those that need more are given the features of the store beside the records, if they are still there. `warn` is
    told of runs whose features were damaged. Raises UsageError for what is wrong with a metric or a tie rule, and
    for committed records: they lack the top lists, which a metric may look at; DataError as `read_all` does.
    """
    if ties is not None and ties not in TIES:
        raise UsageError(f"unknown tie rule {ties!r}.{did_you_mean(ties, TIES)}")
    resolved = resolve_metrics(Registry.discover(plugins), metrics)
    records = read_all(places)
    for record in records:
        if any(isinstance(score, CompactScore) for score in record.scores):
            raise UsageError(
                f"{record.folder} is a committed record, of a board or a bundle: it holds no top lists, which "
                "metrics may need, so it cannot be scored anew; give the output folder of its grid"
            )
    return _each(records, resolved, ties, warn)


def _each(
    records: Sequence[Record], metrics: Sequence[Resolved], ties: str | None, warn: Callable[[str], None]
) -> Iterator[tuple[Record, list[dict[str, Any]]]]:
    needy = any(metric.plugin.registration.needs for metric in metrics)
    for record in records:
        damaged: dict[str, None] = {}
        anew = []
        for score in record.scores:
            content = score.content
            rule = ties or content["ties"]
            stored = _from_features(score, rule, damaged) if needy else None
            ranking = stored or recorded_ranking(content, score.arrays(), rule)
            found, _ = metric_values(ranking, metrics, draws=content["draws"])
            anew.append(
                {
                    "run": record.folder.name,
                    "score": score.folder.name,
                    "scenario": record.spec["scenario"],
                    "encoder": record.spec["encoder"]["label"],
                    "adaptation": record.spec["adaptation"]["label"],
                    "seed": record.spec["seed"],
                    "domain": content["domain"],
                    "selector": content["selector"],
                    "protocol": content["protocol"],
                    "ties": rule,
                    **found,
                }
            )
        yield record, anew
        if damaged:
            warn(
                f"{named(record)} ({record.folder.name[:12]}): {'; '.join(damaged)}; so it has no values that "
                "need embeddings. Run its grid again with such a metric among its `metrics`, or into another "
                "--out: what is lost is made anew"
            )


def _from_features(score: ScoreRecord, ties: str, damaged: dict[str, None]) -> Ranking | None:
    """The ranking with its embeddings; None where the store beside the record has them no longer, and where what
    was ranked are not the embeddings themselves, but what a test-time method made of them. `damaged` gets a
    sentence for each stage that was set aside, as it is not what was written.
    """
    if score.content["calibration"]:
        return None
    content, store = score.content, Store(score.output / "store")
    try:
        places = store.find_all([content["features"], content["items"]])
    except MissingError as error:
        aside = [f"stored stage {key} was damaged, and set aside" for key in error.keys if _set_aside(store, key)]
        damaged |= dict.fromkeys(aside)
        return None
    try:
        features = read_embedded(places[0], content["number"]).features
        items = read_items(places[1])
    except Exception as error:  # each format raises errors of its own
        raise DataError(f"what record {score.folder} was scored from cannot be read: {error!r}") from error
    try:
        return rank_features(features, items, protocol=content["protocol"], ties=ties)
    except ValueError as error:
        raise DataError(f"record {score.folder}: its stored features cannot be ranked: {error}") from error


def _set_aside(store: Store, key: str) -> bool:
    """Whether the store has kept what became of a damaged stage: also where another command found it."""
    return any(store.root.glob(f".damaged/*-{glob.escape(key)}-*"))
