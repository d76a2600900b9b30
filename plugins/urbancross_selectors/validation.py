"""Selectors that look at the last step or at mR on validation pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from urbancross_bench.evaluation import evaluate_retrieval
from urbancross_bench.interfaces import Candidate, Selector


class Last(Selector):
    """The last candidate."""

    def choose(self, candidates: Sequence[Candidate]) -> int:
        """No look at any data."""
        return len(candidates) - 1


class SourceValidation(Selector):
    """The best mean mR over the source domains' validation splits; the earliest of equals."""

    split: ClassVar[str] = "source_val"

    def choose(self, candidates: Sequence[Candidate]) -> int:
        """mR under the classic protocol, ties by expectation."""
        return int(np.argmax([self._score(candidate) for candidate in candidates]))

    def _score(self, candidate: Candidate) -> float:
        splits = candidate.validation[self.split]
        return float(np.mean([evaluate_retrieval(s.images, s.texts, s.image_of_text, top=0).mr for s in splits]))


class TargetValidation(SourceValidation):
    """The same on the target's validation split."""

    split = "target_val"
