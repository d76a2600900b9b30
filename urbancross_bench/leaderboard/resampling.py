"""Scores over resampled images: taken for many scores at once, and kept in a file, so that memory stays flat.

Of a score a leaderboard needs its metric over ten thousand resamples, 80 KB, several times: for its interval, its
difference to the baseline, its mean over scenarios. Scores of one test split share their draws of images, so that
many are one product of matrices; the numbers then lie in a temporary file, which goes with the process.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import DataError
from urbancross_bench.evaluation.significance import TEST_RESAMPLES
from urbancross_bench.evaluation.statistics import divided, resampled_images, resampled_sums
from urbancross_bench.interfaces.renderer import Estimate
from urbancross_bench.records import ScoreRecord

Floats = NDArray[np.float64]
Sizes = tuple[bytes, int]  # queries of each image: in lowest terms, as bytes, and the factor that gives them


class Spool:
    """Arrays in a temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open while there are readers
        self._lock = Lock()

    def add(self, numbers: Floats) -> Kept:
        """Write an array at the end. Raises OSError naming the temporary folder where there is no room for it."""
        try:
            with self._lock:
                place = self._file.seek(0, 2)
                self._file.write(numbers.data)
                self._file.flush()
        except OSError as error:
            error.filename = tempfile.gettempdir()
            raise
        return Kept(self, place)

    def read(self, place: int, into: Floats) -> None:
        """Fill an array with the first numbers of the one that was written at a place."""
        read = os.preadv(self._file.fileno(), [into.data], place)  # several threads may read at once
        if read < into.nbytes:
            raise OSError(f"a temporary file gave {read} of {into.nbytes} bytes")


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

    def resampled(self, metric: str, into: Floats) -> None:
        """Fill (R,), at most TEST_RESAMPLES, with the metric over resampled images; computed once."""
        if metric not in self._kept:
            OfSplit([self]).keep([self], metric, Spool())
        self._kept[metric].spool.read(self._kept[metric].place, into)

    def added(self, metric: str) -> Floats:
        """(N,) what each image adds to the metric, which is their sum."""
        sums, parts = self.score.image_sums(), self.parts(metric)
        of_parts = np.stack([sums[part][:, 0] / sums[part][:, 1].sum() for part in parts])
        found: Floats = np.add.reduce(of_parts) / len(of_parts)
        return found

    def remember(self, metric: str, kept: Kept) -> None:
        """Where the metric lies, over TEST_RESAMPLES."""
        self._kept[metric] = kept

    def parts(self, metric: str) -> list[str]:
        """The metrics whose mean it is; itself where it is none."""
        return self.score.content["metrics"][metric]["parts"] or [metric]


class OfSplit:
    """The sums per image of some scores of one test split: read once, for all that is resampled of them.

    Raises DataError for a record that is damaged.
    """

    def __init__(self, scores: Sequence[SeedScore]) -> None:
        self._lowest: dict[bytes, Floats] = {}  # queries of each image, in lowest terms
        self._sizes: dict[bytes, Sizes] = {}
        self._sums = {score: self._read(score) for score in scores}

    def keep(self, scores: Sequence[SeedScore], metric: str, spool: Spool) -> None:
        """Resample a metric of some of the scores, and keep it."""
        of_each = self.resample([(score, metric) for score in scores], TEST_RESAMPLES)
        for score, means in zip(scores, of_each, strict=True):
            score.remember(metric, spool.add(means))

    def resample(self, wanted: Sequence[tuple[SeedScore, str]], resamples: int) -> list[Floats]:
        """(R,) of each: a metric of one of the scores, over resampled images."""
        columns = [self._columns(score, metric) for score, metric in wanted]
        alike: dict[tuple[Sizes, ...], list[int]] = defaultdict(list)  # sizes → which have these
        for index, of_one in enumerate(columns):
            alike[(*of_one,)].append(index)
        found: dict[int, Floats] = {}
        for sizes, some in alike.items():
            scores, metrics = zip(*(wanted[index] for index in some), strict=True)
            stacked = [self._lowest[lowest] * times for lowest, times in sizes]
            stacked += [column for index in some for column in columns[index].values()]
            whole = np.array([column.sum() for column in stacked])
            plain = whole[len(sizes) :].reshape(len(some), -1) / whole[: len(sizes)]
            facts, means, done = scores[0].score.content, np.empty((len(some), resamples)), 0
            draws = resampled_images(facts["images"], facts["draws"], resamples)
            for totals in resampled_sums(np.stack(stacked), draws):
                numbers, own = np.split(totals, [len(sizes)])
                ratios = own.reshape(len(some), len(sizes), -1)
                for one, number in enumerate(numbers):
                    divided(ratios[:, one], number, plain[:, one])
                those = slice(done, done := done + ratios.shape[2])
                np.add.reduce(ratios, axis=1, out=means[:, those])
            means /= [[len(score.parts(metric))] for score, metric in zip(scores, metrics, strict=True)]
            found |= zip(some, means, strict=True)
        return [found[index] for index in range(len(wanted))]

    def _columns(self, score: SeedScore, metric: str) -> dict[Sizes, Floats]:
        """Sizes → (N,) sums. Parts whose sizes are in proportion are one: the mean of sums is the sum of means."""
        parts: dict[bytes, list[tuple[int, Floats]]] = defaultdict(list)
        for part in score.parts(metric):
            if part not in self._sums[score]:
                raise DataError(f"record {score.score.folder} has no sums of {part}, of which {metric} is made")
            (lowest, times), sums = self._sums[score][part]
            parts[lowest].append((times, sums))
        columns = {}
        for lowest, some in parts.items():
            all_times = math.lcm(*(times for times, _ in some))
            raised = (sums if times == all_times else sums * (all_times // times) for times, sums in some)
            columns[lowest, all_times] = reduce(np.add, raised)
        return columns

    def _read(self, score: SeedScore) -> dict[str, tuple[Sizes, Floats]]:
        found = {}
        for name, pair in score.score.image_sums().items():
            sums, sizes = np.ascontiguousarray(pair.T)
            found[name] = self._sizes_of(sizes), sums
        return found

    def _sizes_of(self, sizes: Floats) -> Sizes:
        if (key := sizes.tobytes()) not in self._sizes:
            whole = sizes.astype(np.int64)
            times = max(1, int(np.gcd.reduce(whole))) if (whole == sizes).all() else 1
            lowest = sizes / times
            self._sizes[key] = lowest.tobytes(), times
            self._lowest[self._sizes[key][0]] = lowest
        return self._sizes[key]
