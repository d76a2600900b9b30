"""What a metric promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from urbancross_bench.evaluation import evaluate_retrieval
from urbancross_bench.evaluation.ranking import Ranking
from urbancross_bench.testing.alike import difference
from urbancross_bench.testing.conformance import PureConformance, broken
from urbancross_bench.testing.fixtures.domains import tiny_features


def _ranking(needs: frozenset[str], *, images: int = 12, noise: float = 0.8, each: int = 2) -> Ranking:
    """A ranking with what a metric says it needs, and nothing else."""
    features = tiny_features(images, noise=noise, each=each)
    count = len(features.texts)
    ranking = evaluate_retrieval(
        features.images,
        features.texts,
        features.image_of_text,
        text_id=np.arange(count) // 2 if "text_id" in needs else None,
        image_class=np.arange(images) % 3 if "image_class" in needs else None,
    )
    return ranking if needs else replace(ranking, inputs=None)


class MetricConformance(PureConformance):
    """A metric is tried on rankings of a few images."""

    kind = "metric"

    def work(self) -> Any:
        """Score every query, as the harness does it, with means, intervals and chance."""
        return self._scored(self._given())

    def _given(self, **changes: Any) -> Ranking:
        return _ranking(self.resolved.plugin.registration.needs, **changes)

    def _scored(self, ranking: Ranking) -> dict[str, Any]:
        from urbancross_bench.execution.scoring import metric_values

        found, sums = metric_values(ranking, [self.resolved], draws=0)
        for problem in found["failed"].values():
            broken(problem)
        for needed in found["lacking"].values():
            broken(f"it needs {needed}, which no test split has")
        return {"metrics": found["metrics"], "sums": sums}

    def test_it_declares_what_it_needs(self) -> None:
        """It is content with what it says it needs, and changes nothing of the ranking that it is given."""
        self.worked()
        ranking, untouched = self._given(), self._given()
        self.build().score(ranking)
        for name in ("i2t", "t2i"):
            if found := difference(getattr(untouched, name), getattr(ranking, name)):
                broken(f"it changes {found} of the ranking")

    def test_it_tells_good_from_bad(self) -> None:
        """A model that finds everything is better in each of its values than one that finds little."""
        self.worked()
        good = self._scored(self._given(images=24, noise=0.0, each=1))["metrics"]
        bad = self._scored(self._given(images=24, noise=50.0, each=1))["metrics"]
        if all(good[name]["value"] == bad[name]["value"] for name in good):
            broken("a perfect model and a poor one have the same values")
        for name, one in good.items():
            higher = one["value"] > bad[name]["value"]
            if one["value"] != bad[name]["value"] and higher != one["higher_is_better"]:
                broken(
                    f"{name} says higher_is_better={one['higher_is_better']}, and a perfect model has the worse"
                )

    def test_a_batch_of_one(self) -> None:
        """A split of one image is scored too."""
        self.worked()
        self.copes_with("a single image", lambda: self._scored(self._given(images=1, each=1)))
