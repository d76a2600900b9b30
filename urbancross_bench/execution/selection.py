"""Which candidate is scored: what a selector is shown of each, and what it says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from urbancross_bench.errors import RunError
from urbancross_bench.execution.items import Orders, candidates_of, diverged_in, lost_in, read_embedded
from urbancross_bench.execution.job import Job
from urbancross_bench.interfaces.selector import Candidate, Features, Selector
from urbancross_bench.modelling.answers import told

_ROUNDING = 1e-12  # of a score


class Choice:
    """The candidates of all trials of a run, and a selector's scores of them.

    Raises RunError where the selector gives no number for each, or a number for none.
    """

    def __init__(self, job: Job) -> None:
        resolved = job.planned("selector", job.work["selector"], job.facts["selector"])
        self._job = job
        self._orders: Orders | None = None
        self._needs = resolved.plugin.registration.needs
        # Test features have no say, unless there is nothing else to see how a trial went.
        self._roles = sorted(
            {"target_val" if need == "target_unpaired" else need for need in self._needs} or {"test"}
        )
        # Where test features are all, a run without a search fails by those of the candidate that is chosen.
        judged = self._roles if self._needs or job.work["trials"] > 1 else []
        diverged = [
            self._diverged(trial, self._roles) or self._lost(trial, judged) for trial in range(job.work["trials"])
        ]
        self._places = [
            (trial, number, said)
            for trial in range(job.work["trials"])
            if not diverged[trial]
            for number, said in enumerate(candidates_of(self._folders(self._roles[0], trial)[0]))
        ]
        selector: Selector = resolved.build()
        self.scores = self._numbers(selector.scores([self._candidate(*place) for place in self._places]))
        finite = [score for score in self.scores if math.isfinite(score)]
        if any(diverged) and not finite:
            raise RunError(next(filter(None, diverged)))
        if len(self.scores) != len(self._places) or not finite:
            raise RunError(
                f"selector {job.work['selector']!r} gave {len(self.scores)} scores for {len(self._places)} "
                f"candidates, {len(finite)} of them numbers"
            )
        # Equal ones may differ by how their sums were rounded.
        least = max(finite) - _ROUNDING * abs(max(finite))
        best = next(place for place, score in enumerate(self.scores) if least <= score < math.inf)
        self.trial, self.number, _ = self._places[best]
        if failed := self._diverged(self.trial, ["test"]) or self._lost(self.trial, ["test"], self.number):
            raise RunError(failed)

    def as_json(self) -> list[dict[str, Any]]:
        """Every candidate with its score, null where the selector passed it over."""
        return [
            {"trial": trial, "step": said["step"], "name": said["name"], "score": s if math.isfinite(s) else None}
            for (trial, _, said), s in zip(self._places, self.scores, strict=True)
        ]

    def _numbers(self, found: Any) -> list[float]:
        """What a selector gave, if it is numbers."""
        must = f"selector {self._job.work['selector']!r} must give one number per candidate, in a list of"
        if not isinstance(found, Iterable):
            raise RunError(f"{must} {len(self._places)}; it gives {told(found)}")
        scores = []
        for number, score in enumerate(found):
            try:
                scores.append(float(score))
            except (TypeError, ValueError) as error:
                said = repr(score) if isinstance(score, str) else told(score)
                raise RunError(
                    f"{must} {len(self._places)}; of candidate {number} (from 0) it gives {said}"
                ) from error
        return scores

    def _folders(self, role: str, trial: int) -> Sequence[Path]:
        folders = self._job.group(role)
        each = len(folders) // self._job.work["trials"]
        return folders[trial * each : (trial + 1) * each]

    def _diverged(self, trial: int, roles: Sequence[str]) -> str:
        """How a trial diverged, as any of what is looked at shows; empty where none does."""
        folders = [folder for role in roles for folder in self._folders(role, trial)]
        return next(filter(None, map(diverged_in, folders)), "")

    def _lost(self, trial: int, roles: Sequence[str], number: int | None = None) -> str:
        """How features of a trial's candidates, or of one of them, were lost; empty where none were."""
        found = [lost_in(folder) for role in roles for folder in self._folders(role, trial)]
        if number is not None:
            found = [[one[number]] for one in found]
        return next(filter(None, itertools.chain(*found)), "")

    def _candidate(self, trial: int, number: int, said: dict[str, Any]) -> Candidate:
        """The validation features that the selector declared to need, and no others."""

        def of(role: str) -> list[Features]:
            return [read_embedded(folder, number).features for folder in self._folders(role, trial)]

        shown: dict[str, Any] = {}
        if "source_val" in self._needs:
            shown["source_val"] = of("source_val")
        if "target_val" in self._needs:
            [shown["target_val"]] = of("target_val")
        if "target_unpaired" in self._needs:
            [features] = of("target_val")
            self._orders = self._orders or Orders.of(features)  # the first candidate's, for all
            shown["target_unpaired"] = self._orders.unpaired(features)
        return Candidate(said["step"], said["name"], trial, said["scale"], **shown)
