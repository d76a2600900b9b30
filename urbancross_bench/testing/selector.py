"""What a selector promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import SkipTest

import numpy as np

from urbancross_bench.interfaces import Candidate, Features
from urbancross_bench.testing.alike import difference
from urbancross_bench.testing.conformance import PureConformance, broken
from urbancross_bench.testing.fixtures.domains import tiny_features


class SelectorConformance(PureConformance):
    """A selector is shown what it says it needs of a few candidates, and nothing else."""

    kind = "selector"

    def work(self) -> Any:
        """Score four candidates."""
        return self._scores(self.candidates())

    def candidates(self, count: int = 4, images: int = 16, pairing: int = 0) -> list[Candidate]:
        """Candidates that get better; `pairing` changes who belongs to whom in the target, if that is hidden."""
        from urbancross_bench.execution.items import Orders

        needs = self.registry.find(self.kind, self.plugin).registration.needs

        def shown(step: int) -> Candidate:
            source, target = (tiny_features(images, seed=seed, noise=1.5 / (step + 1)) for seed in (1, 2))
            paired = Features(target.images, target.texts, (target.image_of_text + pairing) % images)
            every: dict[str, Any] = {
                "source_val": [source],
                "target_val": paired,
                "target_unpaired": Orders.of(paired).unpaired(paired),
            }
            return Candidate(step, "", 0, 10.0, **{need: every[need] for need in needs})

        return [shown(step) for step in range(1, count + 1)]

    def _scores(self, candidates: Sequence[Candidate]) -> list[float]:
        scores = [float(score) for score in self.build().scores(candidates)]
        if len(scores) != len(candidates):
            broken(f"it gives {len(scores)} scores for {len(candidates)} candidates")
        if not any(np.isfinite(score) for score in scores):
            broken("none of its scores is a number, so nothing can be chosen")
        return scores

    def test_it_changes_no_features(self) -> None:
        """It changes nothing of what it is shown."""
        self.worked()
        shown = self.candidates()
        self.build().scores(shown)
        if found := difference(self.candidates(), shown):
            broken(f"it changes {found}")

    def test_hidden_data_changes_nothing(self) -> None:
        """Who belongs to whom in the target moves no score, unless it is an oracle."""
        first = self.worked().result
        if self.resolved.plugin.registration.setting == "oracle":
            raise SkipTest("it is an oracle, whose rows are marked")
        if found := difference(first, self._scores(self.candidates(pairing=3))):
            broken(f"{found} is another where only the pairs of the target are")

    def test_a_batch_of_one(self) -> None:
        """One candidate, and a validation split of one image, are scored or refused in words."""
        self.worked()
        self.copes_with("one candidate", lambda: self._scores(self.candidates(count=1)))
        self.copes_with("one image", lambda: self._scores(self.candidates(images=1)))
