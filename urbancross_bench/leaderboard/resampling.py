"""Scores over resampled images: taken for many scores at once, and kept in a file, so that memory stays flat.

Of a score a leaderboard needs its metric over ten thousand resamples, 80 KB, several times: for its interval, its
difference to the baseline, its mean over scenarios. Those of one test split share their draws of images, so they are
one product of matrices; the numbers then lie in a temporary file, which has no name and goes with the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.evaluation.significance import TEST_RESAMPLES
from urbancross_bench.evaluation.statistics import resampled_images, resampled_means
from urbancross_bench.interfaces.renderer import Estimate
from urbancross_bench.records import ScoreRecord

Floats = NDArray[np.float64]


class Spool:
    """Arrays in a temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)

    def add(self, numbers: Floats) -> Kept:
        """Write an array at the end."""
        place = self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(numbers).data)
        return Kept(self, place)

    def read(self, place: int, count: int) -> Floats:
        """The first numbers of the array that was written at a place."""
        self._file.seek(place)
        return np.frombuffer(self._file.read(8 * count), dtype=np.float64)


@dataclass(frozen=True)
class Kept:
    """Where an array lies."""

    spool: Spool
    place: int


@dataclass(frozen=True, eq=False)
class SeedScore:
    """One score of one run."""

    run: Mapping[str, Any]
    score: ScoreRecord
    _kept: dict[str, Kept] = field(default_factory=dict)

    def value(self, metric: str) -> float | None:
        """The metric's mean, as recorded."""
        entry = self.score.content["metrics"].get(metric)
        return None if entry is None else float(entry["value"])

    def estimate(self, metric: str) -> Estimate | None:
        """The metric with its interval, as recorded."""
        entry = self.score.content["metrics"].get(metric)
        return None if entry is None else Estimate(float(entry["value"]), entry["low"], entry["high"])

    def resampled(self, metric: str, resamples: int) -> Floats:
        """(R,) the metric over resampled images, of which there are at most TEST_RESAMPLES; computed once."""
        if metric not in self._kept:
            keep([self], metric, Spool())
        kept = self._kept[metric]
        return kept.spool.read(kept.place, resamples)

    def remember(self, metric: str, kept: Kept) -> None:
        """Where the metric lies, over TEST_RESAMPLES."""
        self._kept[metric] = kept

    def image_sums(self, metric: str) -> list[Floats]:
        """Per image, of each part of a metric: see `ScoreRecord.image_sums`."""
        ...

    def parts(self, metric: str) -> list[str]:
        """The metrics whose mean it is; itself where it is none."""
        return self.score.content["metrics"][metric]["parts"] or [metric]


def keep(scores: Sequence[SeedScore], metric: str, spool: Spool) -> None:
    """Resample a metric of some scores of one test split, and keep it."""
    for score, means in zip(scores, resample(scores, metric, TEST_RESAMPLES), strict=True):
        score.remember(metric, spool.add(means))


def resample(scores: Sequence[SeedScore], metric: str, resamples: int) -> Iterator[Floats]:
    """(R,) of each score: a metric of some scores of one test split over resampled images."""
    # Parts over the same queries are one column: the sum of their means is the mean of their sums.
    columns: dict[tuple[int, bytes], Floats] = {}
    for number, score in enumerate(scores):
        for pair in score.image_sums(metric):
            name = number, pair[:, 1].tobytes()
            columns[name] = columns[name] + pair * (1.0, 0.0) if name in columns else pair
    means: list[list[Floats]] = [[] for _ in scores]
    if scores:
        facts = scores[0].score.content
        draws = resampled_images(facts["images"], facts["draws"], resamples)
        for (number, _), mean in resampled_means(columns, draws).items():
            means[number].append(mean)
    for score, of_parts in zip(scores, means, strict=True):
        yield np.add.reduce(of_parts) / len(score.parts(metric))
