"""Which candidate is scored: what a selector is shown of each, and what it says."""

from __future__ import annotations

import math
from typing import Any

from urbancross_bench.errors import RunError
from urbancross_bench.execution.items import candidates_of, diverged_in, read_embedded, unpaired
from urbancross_bench.execution.job import Job
from urbancross_bench.interfaces.selector import Candidate, Features, Selector


class Choice:
    """The candidates of all trials of a run, and a selector's scores of them.

    Raises RunError where the selector gives no number for each, or a number for none.
    """

    def __init__(self, job: Job) -> None:
        resolved = job.planned("selector", job.work["selector"], job.facts["selector"])
        self._job = job
        self._needs = resolved.plugin.registration.needs
        self._places = [
            (trial, number, said)
            for trial, folder in enumerate(job.group("test"))
            for number, said in enumerate(candidates_of(folder))
        ]
        selector: Selector = resolved.build()
        self.scores = [
            float(score) for score in selector.scores([self._candidate(*place) for place in self._places])
        ]
        finite = [score for score in self.scores if math.isfinite(score)]
        diverged = [problem for folder in job.group("test") if (problem := diverged_in(folder))]
        if diverged and not finite:
            raise RunError(diverged[0])
        if len(self.scores) != len(self._places) or not finite:
            raise RunError(
                f"selector {job.work['selector']!r} gave {len(self.scores)} scores for {len(self._places)} "
                f"candidates, {len(finite)} of them numbers"
            )
        best = self.scores.index(max(finite))
        self.trial, self.number, _ = self._places[best]

    def as_json(self) -> list[dict[str, Any]]:
        """Every candidate with its score, null where the selector passed it over."""
        return [
            {"trial": trial, "step": said["step"], "name": said["name"], "score": s if math.isfinite(s) else None}
            for (trial, _, said), s in zip(self._places, self.scores, strict=True)
        ]

    def _candidate(self, trial: int, number: int, said: dict[str, Any]) -> Candidate:
        """The validation features that the selector declared to need, and no others."""

        def of(role: str) -> list[Features]:
            folders = self._job.group(role)
            each = len(folders) // self._job.work["trials"]
            return [
                read_embedded(folder, number).features for folder in folders[trial * each : (trial + 1) * each]
            ]

        shown: dict[str, Any] = {}
        if "source_val" in self._needs:
            shown["source_val"] = of("source_val")
        if "target_val" in self._needs:
            [shown["target_val"]] = of("target_val")
        if "target_unpaired" in self._needs:
            shown["target_unpaired"] = unpaired(*of("target_val"))
        return Candidate(said["step"], said["name"], trial, said["scale"], **shown)
