"""The adaptations of a grid: what is trained for them, in which trials of a search, and what is calibrated."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from urbancross_bench.errors import OptionError, PluginError, UsageError
from urbancross_bench.identity import canonical_json, derive_seed
from urbancross_bench.interfaces.options import CalibrationOptions
from urbancross_bench.interfaces.settings import SETTINGS, union
from urbancross_bench.references import Reference
from urbancross_bench.registry import Registry, Resolved
from urbancross_bench.specs import Budget, Grid, Range, Search

_BETWEEN = 0.6180339887  # a share of a range at which there is hardly ever a whole number
_INSIDE = 1e-6  # a share so near to an end that what lies nearer is hardly ever drawn
_OF_RANGES = "; a range gives real numbers: list the values of an option that takes others"

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
        self.needs = self.trained.plugin.registration.needs | self.trained.options.needs()
        self.trials = self._trials(grid, registry)
        if self.trained is not self.resolved:
            refuse_idle(self.resolved)
        refuse_idle(self.trained, [trial.resolved for trial in self.trials])

    @property
    def trains(self) -> bool:
        """It takes optimiser steps."""
        return self.trials[0].budget.trains

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
        self._check_values(space, grid, budget, registry)
        trials = {self._key(trial): trial for trial in [Trial(self.trained, budget)]}
        # Drawn anew where it was drawn before, so that trials are as many trainings; a small space may have fewer.
        seen, size = set[str](), _size(space)
        for number in range(1, 100 * grid.search.trials):
            if len(trials) == grid.search.trials or len(seen) == size:
                break
            drawn = _drawn(space, number, grid.search)
            if (said := canonical_json(drawn)) not in seen:
                seen.add(said)
                trial = self._tried(drawn, number, grid, budget, registry)
                trials.setdefault(self._key(trial), trial)
        return tuple(trials.values())

    def _tried(
        self, drawn: Mapping[str, Any], number: int, grid: Grid, budget: Budget, registry: Registry
    ) -> Trial:
        try:
            return self._trial(drawn, budget, registry)
        except UsageError as error:
            told = ", ".join(f"{option}={value!r}" for option, value in drawn.items())
            raise UsageError(
                f"grid {grid.name!r}: search.space: {self.name}: trial {number + 1} draws {told}: {error}"
            ) from error

    def _check_values(self, space: Mapping[str, Any], grid: Grid, budget: Budget, registry: Registry) -> None:
        """Raise UsageError for the values that an option does not take, whether any trial draws them or not.

        Whether options fit together is seen when they are drawn, unless there is but one.
        """
        single = len(space.keys() - {RATE}) == 1

        def refusal(option: str, value: Any) -> UsageError | None:
            try:
                self._trial({option: value}, budget, registry)
            except UsageError as error:
                if single or not isinstance(error, OptionError) or error.option == option:
                    return error
            return None

        problems: dict[str, str] = {}
        for option, values in space.items():
            for value, drawn, hint in _listed(values):
                error = refusal(option, value)
                if error and (drawn == value or refusal(option, drawn)):
                    problems.setdefault(f"{error}{hint}", f"{option}={value!r}")
                    if isinstance(values, Range):  # another of its values says no more
                        break
        if problems:
            said = "; ".join(f"{value}: {why}" for why, value in problems.items())
            raise UsageError(f"grid {grid.name!r}: search.space: {self.name}: {said}")

    def _trial(self, changes: Mapping[str, Any], budget: Budget, registry: Registry) -> Trial:
        """The method as written with other options, and another learning rate where that is among them."""
        written, options = self.trained.reference, {**changes}
        if RATE in options:
            rate = options.pop(RATE)
            try:
                budget = Budget.model_validate(budget.model_dump() | {RATE: rate})
            except ValidationError as error:
                problem = error.errors()[0]
                raise OptionError(RATE, f"{RATE} of the budget: {problem['msg']} (got {rate!r})") from None
        reference = Reference(written.name, written.member, {**written.options, **options})
        return Trial(registry.resolve("adaptation", str(reference)), budget)

    @staticmethod
    def _key(trial: Trial) -> str:
        return canonical_json([trial.resolved.identity(), trial.budget.learning_rate])


def refuse_idle_search(methods: Mapping[str, PlannedMethod], grid: Grid, cells: Collection[str]) -> None:
    """Raise UsageError for options of a grid's search that do nothing in any of its trials.

    cells: adaptations that are cells of an ablation. They have one search, whatever part some of them take out.
    """
    for name, space in (grid.search.space if grid.search else {}).items():
        alike = [methods[cell] for cell in cells] if name in cells else [methods[name]]
        for option, why in _idle_in_all([trial.resolved for method in alike for trial in method.trials]).items():
            if option in space:
                where = f"grid {grid.name!r}: search.space: {name}"
                raise UsageError(f"{where}: {option} does nothing with {why}; leave it out")


def refuse_alike(several: Sequence[Resolved]) -> None:
    """Raise UsageError where two that are written otherwise are the same: one would take the other's place."""
    seen: dict[str, Resolved] = {}
    for resolved in several:
        twin = seen.setdefault(canonical_json(resolved.identity()), resolved)
        if twin is not resolved:
            kind, names = resolved.plugin.kind, f"'{twin.reference}' and '{resolved.reference}'"
            raise UsageError(f"{kind}s {names} are the same; remove one of them")


def refuse_idle(resolved: Resolved, trials: Sequence[Resolved] = ()) -> None:
    """Raise UsageError where an option is given that does nothing as the others stand, but for what it is anyway.

    trials: those of a search, of which it may do something in one.
    """
    plugin, given = resolved.plugin, resolved.reference.options
    for name, why in _idle_in_all([resolved, *trials]).items():
        if name not in plugin.options_type.model_fields:
            raise PluginError(f"{plugin}: idle() of its options names {name!r}, which is none of them")
        if name not in given:
            continue
        others = {option: value for option, value in given.items() if option != name}
        anyway = plugin.options_type.model_validate(others)  # a variant sets others than the defaults
        if getattr(resolved.options, name) != getattr(anyway, name):
            raise UsageError(f"{plugin.kind} '{resolved.reference}': {name} does nothing with {why}; leave it out")


def _idle_in_all(several: Sequence[Resolved]) -> dict[str, str]:
    idle = [one.options.idle() for one in several]
    return {name: why for name, why in idle[0].items() if all(name in one for one in idle)}


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


def _size(space: Mapping[str, Any]) -> float:
    """How many different sets of options there are."""
    return math.prod(
        math.inf if isinstance(values, Range) else len({canonical_json(value) for value in values})
        for values in space.values()
    )


def _listed(values: Any) -> list[tuple[Any, Any, str]]:
    """The values of a list, or both ends of a range and one between, each with one that is drawn like it, and what
    a problem with it hints at. An end itself is hardly ever drawn.
    """
    if not isinstance(values, Range):
        return [(value, value, "") for value in values]
    between = _within(values, _BETWEEN)
    ends = (values.low, _within(values, _INSIDE), ""), (values.high, _within(values, 1 - _INSIDE), "")
    return [*ends, (between, between, _OF_RANGES)]


def _within(values: Range, share: float) -> float:
    if values.log:
        return float(values.low * math.pow(values.high / values.low, share))
    return values.low + share * (values.high - values.low)
