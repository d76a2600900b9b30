"""The adaptations of a grid: what is trained for them, in which trials of a search, and what is calibrated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from urbancross_bench.errors import UsageError
from urbancross_bench.identity import canonical_json, derive_seed
from urbancross_bench.interfaces.options import CalibrationOptions
from urbancross_bench.interfaces.settings import SETTINGS, union
from urbancross_bench.references import Reference
from urbancross_bench.registry import Registry, Resolved
from urbancross_bench.specs import Budget, Grid, Range, Search

RATE = "learning_rate"  # in a search's space: of the budget, not of the adaptation


@dataclass(frozen=True, eq=False)
class Trial:
    """One training of an adaptation: with these options, for this budget."""

    resolved: Resolved
    budget: Budget


class PlannedMethod:
    """An adaptation of the grid. Raises UsageError for a base or a search that makes no sense."""

    def __init__(self, name: str, grid: Grid, registry: Registry) -> None:
        self.name = name
        self.resolved = registry.resolve("adaptation", grid.adaptations[name])
        options = self.resolved.options
        base = options.base if isinstance(options, CalibrationOptions) else None
        try:
            self.trained = registry.resolve("adaptation", base) if base else self.resolved
        except UsageError as error:
            raise UsageError(f"base of adaptation {name!r}: {error}") from error
        if base and isinstance(self.trained.options, CalibrationOptions):
            raise UsageError(f"adaptation {name!r}: its base {base!r} is a calibration too; name one that trains")
        self.calibrates = setting_of(self.resolved) == "test_time"
        self.trained_setting = setting_of(self.trained)
        self.setting = union(setting_of(self.resolved), self.trained_setting)
        self.access = SETTINGS[self.trained_setting]
        self.needs = self.trained.plugin.registration.needs
        self.trials = self._trials(grid, registry)

    def identity(self) -> dict[str, Any]:
        """What the method is, with what is trained for it."""
        own = self.resolved.identity()
        return own if self.trained is self.resolved else own | {"base": self.trained.identity()}

    def search(self, grid: Grid) -> dict[str, Any] | None:
        """What a record says of the search: its space, and what each trial had; None where there was none."""
        if len(self.trials) == 1:
            return None
        assert grid.search is not None
        drawn = [{**trial.resolved.reference.options, RATE: trial.budget.learning_rate} for trial in self.trials]
        return {"space": grid.search.model_dump(mode="json")["space"][self.name], "trials": drawn}

    def _trials(self, grid: Grid, registry: Registry) -> tuple[Trial, ...]:
        # A method without gradients takes no step: what it makes of the start is scored.
        still = {} if "gradients" in self.needs else {"steps": 0, "epochs": None, "decay_every": None}
        budget = grid.budget.model_copy(update=still)
        space = grid.search.space.get(self.name) if grid.search else None
        if not space:
            return (Trial(self.trained, budget),)
        if self.trained is not self.resolved:
            raise UsageError(f"search.space: adaptation {self.name!r} only calibrates; search its base instead")
        if still:
            raise UsageError(f"search.space: adaptation {self.name!r} is not trained; nothing can be searched")
        assert grid.search is not None
        trials = {self._key(trial): trial for trial in [Trial(self.trained, budget)]}
        # Drawn anew where it was drawn before, so that trials are as many trainings; a small space may have fewer.
        for number in range(1, 100 * grid.search.trials):
            if len(trials) == grid.search.trials:
                break
            trial = self._drawn(space, number, grid, budget, registry)
            trials.setdefault(self._key(trial), trial)
        return tuple(trials.values())

    def _drawn(
        self, space: Mapping[str, Any], number: int, grid: Grid, budget: Budget, registry: Registry
    ) -> Trial:
        assert grid.search is not None
        drawn, written = _drawn(space, number, grid.search), self.trained.reference
        rate = drawn.pop(RATE, budget.learning_rate)
        try:
            budget = Budget.model_validate(budget.model_dump() | {RATE: rate})
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise UsageError(f"search.space: {self.name}: {RATE} {rate!r}: {problem}") from None
        reference = Reference(written.name, written.member, {**written.options, **drawn})
        try:
            return Trial(registry.resolve("adaptation", str(reference)), budget)
        except UsageError as error:
            told = ", ".join(f"{option}={value!r}" for option, value in drawn.items())
            ranges = any(isinstance(values, Range) for values in space.values())
            hint = "; a range gives real numbers: list the values of an option that takes others" if ranges else ""
            raise UsageError(
                f"search.space: {self.name}: trial {number + 1} draws {told}: {error}{hint}"
            ) from error

    @staticmethod
    def _key(trial: Trial) -> str:
        return canonical_json([trial.resolved.identity(), trial.budget.learning_rate])


def setting_of(resolved: Resolved) -> str:
    """The setting that an adaptation or a selector was registered with."""
    setting = resolved.plugin.registration.setting
    assert setting is not None, "the registry takes no adaptation or selector without one"
    return setting


def _drawn(space: Mapping[str, Any], trial: int, search: Search) -> dict[str, Any]:
    """One set of options. Each is drawn by its name, so that another option or trial moves none."""
    found = {}
    for option, values in space.items():
        seed = derive_seed("search", search.seed, option, trial)
        share = float(np.random.Generator(np.random.PCG64(seed)).random())
        found[option] = _within(values, share) if isinstance(values, Range) else values[int(share * len(values))]
    return found


def _within(values: Range, share: float) -> float:
    if values.log:
        return float(values.low * math.pow(values.high / values.low, share))
    return values.low + share * (values.high - values.low)
