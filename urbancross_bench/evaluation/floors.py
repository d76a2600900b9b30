"""What no skill gives: the ranking of a random order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from urbancross_bench.evaluation.ranking import DirectionRanking, Ranking


def chance_ranking(ranking: Ranking) -> Ranking:
    """The ranking of the same queries and gallery by a constant score, ties by expectation.

    Everything ties with everything, so each hit@K is the probability of a hit in a random order: with p right
    answers in a gallery of n, 1 − C(n−p, K) / C(n, K). `top` stays what it was: a metric that reads it has no
    chance level here.
    """
    return replace(ranking, i2t=_all_tied(ranking.i2t), t2i=_all_tied(ranking.t2i), ties="expected")


def _all_tied(side: DirectionRanking) -> DirectionRanking:
    return replace(
        side,
        greater=np.zeros_like(side.greater),
        tied=side.gallery - side.positives,
        tied_positives=side.positives,
        ties="expected",
    )
