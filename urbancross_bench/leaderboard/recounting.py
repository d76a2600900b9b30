"""Whether the numbers of scores follow from what their records hold.

Counts per query give chance, and the values of metrics that are read off ranks; values their sums per image; sums
every mean and interval. Each number is compared with what stands one step before it, so that a fault is named
where it is. Sums of other metrics are taken as they are, as are floors that need captions or scene classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.evaluation.statistics import image_sums, interval, mean_of, resampled_images, resampled_means
from urbancross_bench.evaluation.ties import TIES, TieRule
from urbancross_bench.records import Record, ScoreRecord

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Figure = tuple[str, Any, float | None]  # what it is called, what the record says, and what that must be

_COUNTED = ("greater", "tied", "tied_positives")  # of each query, in this order
_ROUNDING = 1e-6  # points between a number and what it follows from
_RECALL = tuple((way, f"R@{k}") for way in ("i2t", "t2i") for k in (1, 5, 10))
_RANK = tuple((way, kind) for way in ("i2t", "t2i") for kind in ("MRR", "mean_rank"))
_READ_OFF = {"recall": _RECALL, "rank": _RANK}  # metric plugin → what it reads off counts


def moved(records: Sequence[Record]) -> Iterator[str]:
    """The numbers of scores that are not what their records give, one sentence each, naming the file."""
    scores = [score for record in records for score in record.scores]
    for score in sorted(scores, key=lambda one: int(one.content["draws"])):  # so each draw of images is made once
        for fault in _faults(score):
            yield f"record {score.folder / 'score.json'}: {fault}"


def _faults(score: ScoreRecord) -> Iterator[str]:
    sums = score.image_sums()
    try:
        counted, figures = _of_counts(score)
    except (LookupError, TypeError, ValueError) as error:
        yield f"the counts beside it cannot be used: {error!r}"
        counted, figures = {}, []
    for name, pair in counted.items():
        yield from _moved_sums(name, sums.setdefault(name, pair), pair)
    figures += [*_of_sums(score.content, sums), *_of_parts(score.content)]
    for name, said, found in figures:
        if not _same(said, found):
            yield f"{name} {_written(said)}, its queries give {_written(found)}"


def _values(counts: Ints, gallery: int, kind: str, ties: str) -> Floats:
    """(Q,) what a metric reads off (3, Q) counts over a gallery; where they cannot be, NaN, which is told."""
    # In floating point no sum runs over. Looked at first: a tie rule takes as long as its counts are large.
    can_be = (counts >= [[0], [0], [1]]).all(axis=0) & (counts.sum(axis=0, dtype=np.float64) <= gallery)
    values = np.full(len(can_be), np.nan)
    values[can_be] = _read_off(counts[:, can_be], kind, TIES[ties])
    return values


def _read_off(counts: Ints, kind: str, rule: TieRule) -> Floats:
    greater, tied, tied_positives = counts
    if kind == "mean_rank":
        return rule.ranks(greater, tied, tied_positives)
    if kind == "MRR":
        return 100.0 * rule.reciprocals(greater, tied, tied_positives)
    return 100.0 * rule.hits(greater, tied, tied_positives, int(kind.removeprefix("R@")))


def _of_counts(score: ScoreRecord) -> tuple[dict[str, Floats], list[Figure]]:
    """Metric → its sums per image, and its chance, of those read off ranks; the random floor.

    Raises LookupError, TypeError or ValueError for arrays that are not what a score has.
    """
    content, metrics = score.content, score.content["metrics"]
    plugins = {metric["name"] for metric in content["measured_by"]["metrics"]}
    read = [one for plugin, some in _READ_OFF.items() if plugin in plugins for one in some]
    read = [(way, kind) for way, kind in read if f"{way}_{kind}" in metrics]
    floor = _floors(content).get("random", {})
    if not read and not floor:
        return {}, []
    arrays = score.arrays()
    right = {way: arrays[f"{way}.right"].astype(np.int64).tobytes() for way in ("i2t", "t2i")}
    gallery = {way: len(arrays[f"{way}.gallery_row"]) for way in right}
    if not content["images"] <= len(arrays["image_of_text"]):
        raise ValueError(f"{len(arrays['image_of_text'])} texts are fewer than {content['images']} images")
    sums: dict[str, Floats] = {}
    figures: list[Figure] = []
    for way, kind in read:
        counts = np.stack([arrays[f"{way}.{name}"] for name in _COUNTED])
        query, image = arrays[f"{way}.image_of_query"]
        _expect_rows(f"{way}.image_of_query", query, counts.shape[1])
        _expect_rows(f"{way}.image_of_query", image, content["images"])
        name, values = f"{way}_{kind}", _values(counts, gallery[way], kind, content["ties"])
        sums[name] = image_sums(values, query, image, content["images"])
        chance = _of_random_order(right[way], gallery[way], kind, "expected")
        figures.append((f"{name} moved: it says chance", metrics[name].get("chance"), chance))
    ties = content["ties"] if content["protocol"] == "classic" else "expected"
    for way, kind in _RECALL if floor else ():
        name, found = f"{way}_{kind}", _of_random_order(right[way], gallery[way], kind, ties)
        figures.append((f"{name} moved: it says random order", floor.get(name), found))
    return sums, figures


def _expect_rows(name: str, rows: Ints, number: int) -> None:
    """Raise ValueError for others than so many: sums by row take memory up to the last one."""
    if rows.min() < 0 or rows.max() >= number:
        raise ValueError(f"{name} must lie in [0, {number}), got {rows.min()} to {rows.max()}")


@lru_cache(maxsize=64)
def _of_random_order(right: bytes, gallery: int, kind: str, ties: str) -> float:
    """The mean of what is read off the counts of a constant score; many scores are of one test split.

    right: (Q,) int64, the right answers that each query has in the gallery.
    """
    answers = np.frombuffer(right, dtype=np.int64)
    counts = np.stack([np.zeros_like(answers), gallery - answers, answers])
    return float(_values(counts, gallery, kind, ties).mean())


def _moved_sums(name: str, said: Floats, found: Floats) -> Iterator[str]:
    if said.shape != found.shape:
        yield f"{name} moved: it has sums of {len(said)} images, its queries are of {len(found)}"
        return
    bad = np.flatnonzero(~(np.abs(said - found) <= _ROUNDING).all(axis=1))
    if len(bad):
        (a, m), (b, n) = said[bad[0]], found[bad[0]]
        yield (
            f"{name} moved: the sums of {len(bad)} images are not what its queries give, first of image {bad[0]} "
            f"(from 0): {_written(a)} of {m:g} queries → {_written(b)} of {n:g}"
        )


def _of_sums(content: Mapping[str, Any], sums: Mapping[str, Floats]) -> Iterator[Figure]:
    """The value and the interval of each metric whose sums are there."""
    if not sums:
        return
    resampled = resampled_means(sums, resampled_images(content["images"], content["draws"]))
    means = {name: mean_of(pair) for name, pair in sums.items()}
    for name, entry in content["metrics"].items():
        parts = entry["parts"] or [name]
        if means.keys() >= set(parts):
            drawn = [resampled[part] for part in parts]
            low, high = interval(np.mean(drawn, axis=0) if len(drawn) > 1 else drawn[0])
            value = float(np.mean([means[part] for part in parts]))
            for which, found in (("value", value), ("low", low), ("high", high)):
                yield f"{name} moved: it says {which}", entry.get(which), found


def _of_parts(content: Mapping[str, Any]) -> Iterator[Figure]:
    """Chance of each mean of metrics, and mR of each floor, from their parts' own."""
    metrics = content["metrics"]
    for name, entry in metrics.items():
        if entry["parts"] and metrics.keys() >= set(entry["parts"]):
            found = float(np.mean([metrics[part]["chance"] for part in entry["parts"]]))
            yield f"{name} moved: it says chance", entry.get("chance"), found
    for floor, figures in _floors(content).items():
        found = float(np.mean([figures[f"{way}_{kind}"] for way, kind in _RECALL]))
        yield f"mR moved: it says {floor}", figures.get("mR"), found


def _floors(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Those floors of a score that have every recall."""
    recalls = {f"{way}_{kind}" for way, kind in _RECALL}
    floors = content["floors"].items()
    return {name: figures for name, figures in floors if figures and figures.keys() >= recalls}


def _same(said: Any, found: float | None) -> bool:
    if said is None or found is None:
        return said is found
    return isinstance(said, int | float) and math.isclose(said, found, rel_tol=1e-9, abs_tol=_ROUNDING)


def _written(number: Any) -> str:
    return f"{number:.7g}" if isinstance(number, int | float) else "nothing"
