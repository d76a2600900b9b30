"""Metrics: what is read off a ranking."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.evaluation.ranking import Ranking
from urbancross_bench.interfaces.options import Options


@dataclass(frozen=True, eq=False)
class QueryScores:
    """One value per query, higher is better; the metric is their mean.

    `values` is (N,) float64 for direction `i2t` (a query per image) and (M,) for `t2i` (a query per text).
    """

    direction: Literal["i2t", "t2i"]
    values: NDArray[np.float64]


class Metric(ABC):
    """A metric plugin. Means and intervals are the harness's: a metric only scores single queries."""

    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options) -> None:
        self.options = options

    @abstractmethod
    def score(self, ranking: Ranking) -> Mapping[str, QueryScores]:
        """Named per-query scores."""

    def averages(self) -> Mapping[str, Sequence[str]]:
        """Further names, each the plain mean of some of `score`'s: `{"mR": ("i2t_R@1", …)}`."""
        return {}
