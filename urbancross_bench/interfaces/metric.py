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

PERCENT = (0.0, 100.0)  # bounds of a share in percent


@dataclass(frozen=True, eq=False)
class QueryScores:
    """One value per query; the metric is their mean.

    `values` is (Q,) float64, in order of the queries of `ranking.i2t` or `ranking.t2i` (under the protocol
    `classic` those are the N images and the M texts). `bounds`: the least and the greatest value that a query can
    have, both finite, (0, 100) of a percentage; there intervals are cut. Values beyond them are an error.
    """

    direction: Literal["i2t", "t2i"]
    values: NDArray[np.float64]
    higher_is_better: bool = True
    bounds: tuple[float, float] | None = None


class Metric(ABC):
    """A metric plugin. Means and intervals are the harness's: a metric only scores single queries.

    It sees a ranking and what that was made from, never a model. What it needs beyond counts is said when it is
    registered: `embeddings` (`ranking.inputs` is there), `text_id`, `image_class` (these of its inputs are). Where
    that is missing, its values are null.
    """

    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options) -> None:
        self.options = options

    @abstractmethod
    def score(self, ranking: Ranking) -> Mapping[str, QueryScores]:
        """Named per-query scores."""

    def averages(self) -> Mapping[str, Sequence[str]]:
        """Further names, each the plain mean of some of `score`'s: `{"mR": ("i2t_R@1", …)}`."""
        return {}
