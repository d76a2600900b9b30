"""Selectors that look at the order of the checkpoints or at mR on validation pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from urbancross_bench.errors import RunError
from urbancross_bench.evaluation import evaluate_retrieval
from urbancross_bench.interfaces import Candidate, Features, Selector


class Last(Selector):
    """The last candidate of the options that the grid wrote; of several names the one its method lists last."""

    def scores(self, candidates: Sequence[Candidate]) -> list[float]:
        """No look at any data, so nothing to choose other options by."""
        return [-math.inf if candidate.trial else float(place) for place, candidate in enumerate(candidates)]


class SourceValidation(Selector):
    """The mean mR over the source domains' validation pairs."""

    def scores(self, candidates: Sequence[Candidate]) -> list[float]:
        """In percent, under the classic protocol, ties by expectation."""
        return [float(np.mean([_mr(domain, one) for domain in one.source_val])) for one in candidates]


class TargetOracle(Selector):
    """The mR on the target's validation pairs."""

    def scores(self, candidates: Sequence[Candidate]) -> list[float]:
        """In percent, under the classic protocol, ties by expectation."""
        return [_mr(candidate.target_val, candidate) for candidate in candidates]


def _mr(split: Features, candidate: Candidate) -> float:
    try:
        return evaluate_retrieval(split.images, split.texts, split.image_of_text, top=0).mr
    except ValueError as error:
        raise RunError(f"validation features by the candidate of step {candidate.step}: {error}") from error
