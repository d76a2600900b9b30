"""From a grid to an ordered list of runs and the graph of stages they share. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from urbancross_bench.data.views import Shown
from urbancross_bench.errors import UsageError
from urbancross_bench.evaluation.protocols import protocol_and_ties
from urbancross_bench.execution.ablating import Ablating, with_ablation
from urbancross_bench.execution.domains import open_domains
from urbancross_bench.execution.methods import (
    PlannedMethod,
    Trial,
    refuse_alike,
    refuse_idle,
    refuse_idle_search,
)
from urbancross_bench.execution.remarks import remarks
from urbancross_bench.execution.skipping import reason_to_skip
from urbancross_bench.execution.specification import Specification
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.supply import PlannedEncoder, Supply
from urbancross_bench.execution.versions import core
from urbancross_bench.identity import canonical_json, key_of
from urbancross_bench.interfaces.dataset import SPLITS
from urbancross_bench.interfaces.settings import SETTINGS
from urbancross_bench.registry import Registry, Resolved
from urbancross_bench.specs import AblationView, Grid, Scenario, as_json, row_key


@dataclass(frozen=True, eq=False)
class Score:
    """One way to score a run: a selector, a protocol, a domain's test split, and the stage that does it.

    The domain is the run's target, or a source, to see what was forgotten of it. `setting`: what was seen for it.
    """

    selector: str
    protocol: str
    domain: str
    setting: str
    stage: Stage
    key: str


@dataclass(frozen=True, eq=False)
class Run:
    """One run of the grid. `spec` is what its record says of it; `skipped` is a reason, or empty.

    `trainings`: one, or one per trial of a search.
    """

    scenario: Scenario
    encoder: str
    adaptation: str
    seed: int
    skipped: str
    key: str = ""
    spec: dict[str, Any] | None = None
    trainings: tuple[Stage, ...] = ()
    scores: tuple[Score, ...] = ()

    def stage_keys(self) -> set[str]:
        """The stages that its record is made of."""
        trainings = {key for stage in self.trainings for key in (stage.key, stage.inputs["start"])}
        return trainings | {score.stage.key for score in self.scores}

    def __str__(self) -> str:
        return f"{self.scenario} · {self.encoder} · {self.adaptation} · seed {self.seed}"


@dataclass(frozen=True, eq=False)
class Plan:
    """The runs in order, and every stage they need by key; a stage stands after its inputs.

    `modules` are those of the installed plugins it uses, `remarks` what a user has to know of it. `grid` has the
    cells of its ablation among its entries; `ablation` is what a leaderboard has to know of them.
    """

    grid: Grid
    runs: tuple[Run, ...]
    stages: dict[str, Stage]
    modules: tuple[str, ...]
    remarks: tuple[str, ...]
    ablation: AblationView | None = None

    def wanted(self, keys: Iterable[str], stored: Iterable[str]) -> list[Stage]:
        """The stages still to do for `keys`, given those stored: nothing below a stored stage is wanted."""
        have, need, open_ = set(stored), set(), list(keys)
        while open_:
            key = open_.pop()
            if key not in have and key not in need:
                need.add(key)
                open_.extend(self.stages[key].inputs.values())
        return [stage for key, stage in self.stages.items() if key in need]


def make_plan(grid: Grid, registry: Registry) -> Plan:
    """Resolve every plugin, read every domain's captions and splits, and lay out the stages.

    Raises UsageError or DataError naming what is wrong. Reads no pixels beyond hashing files not seen before.
    """
    return _Planner(with_ablation(grid, registry), registry).plan()


class _Planner:
    def __init__(self, ablating: Ablating, registry: Registry) -> None:
        self._ablating = ablating
        self._grid = grid = ablating.grid
        self._registry = registry
        self._stages: dict[str, Stage] = {}
        self._encoders = {
            name: PlannedEncoder(name, registry.resolve("encoder", ref)) for name, ref in grid.encoders.items()
        }
        self._methods = {name: PlannedMethod(name, grid, registry) for name in grid.adaptations}
        self._selectors = [registry.resolve("selector", ref) for ref in grid.selectors]
        refuse_idle_search(self._methods, grid, ablating.adaptations)
        if grid.search and not any(selector.plugin.registration.needs for selector in self._selectors):
            raise UsageError(
                f"search: {', '.join(grid.selectors)} looks at no features, and so takes the first trial; add a "
                "selector that can choose, such as source_val"
            )
        metrics = [registry.resolve("metric", ref) for ref in grid.metrics]
        self._metrics = sorted(metrics, key=lambda metric: canonical_json(metric.identity()))  # order moves no key
        registry.resolve("executor", grid.executor)
        for alike in (self._selectors, metrics):
            refuse_alike(alike)
        for resolved in (*(one.resolved for one in self._encoders.values()), *self._selectors, *metrics):
            refuse_idle(resolved)
        self._domains = open_domains(grid, registry)
        if grid.pretraining.trains and not any(encoder.trains for encoder in self._encoders.values()):
            raise UsageError(
                f"encoders: {', '.join(self._encoders)}: there is nothing that pre-training could change; "
                "take head=linear or head=residual, or pretraining: {steps: 0}"
            )
        for encoder in self._encoders.values():
            encoder.check_items(self._domains.by_name.values())
        self._supply = Supply(grid, self._domains, self._add)
        self._said = Specification(grid, self._domains)

    def plan(self) -> Plan:
        """Runs in the order seed-last, so that the cells of a table fill one after the other."""
        grid = self._grid
        runs = [
            self._run(scenario, encoder, adaptation, seed)
            for scenario in self._domains.scenarios
            for encoder in grid.encoders
            for adaptation in grid.adaptations
            for seed in grid.seeds
        ]
        self._refuse_twins(runs)
        methods = [part for method in self._methods.values() for part in (method.resolved, method.trained)]
        encoders = [encoder.resolved for encoder in self._encoders.values()]
        used = [one.plugin for one in (*encoders, *methods, *self._selectors, *self._metrics)]
        installed = [one.registration.target for one in used if one.provider.distribution is not None]
        modules = tuple(dict.fromkeys(target.partition(":")[0] for target in installed))
        ablation = self._ablating.view(
            {
                "adaptation": {
                    name: row_key(method.identity(), method.search(grid)) for name, method in self._methods.items()
                },
                "encoder": {name: row_key(encoder.identity) for name, encoder in self._encoders.items()},
            }
        )
        searched = self._methods.keys() & (grid.search.space if grid.search else ())
        trials = {name: len(self._methods[name].trials) for name in grid.adaptations if name in searched}
        trained = [run for run in runs if run.trainings and self._methods[run.adaptation].trains]
        oracles = {r.scenario for r in trained if self._methods[r.adaptation].trained_setting == "oracle"}
        told = [*remarks(grid, self._domains, trials, {run.scenario for run in trained}, oracles)]
        told += self._said.remarks(self._encoders.values())
        return Plan(grid, tuple(runs), self._stages, modules, tuple(told), ablation)

    def _run(self, scenario: Scenario, name: str, adaptation: str, seed: int) -> Run:
        encoder, method = self._encoders[name], self._methods[adaptation]
        skipped = reason_to_skip(
            scenario,
            encoder,
            method,
            self._domains,
            scored=self._scored(scenario),
            pretraining=self._grid.pretraining,
        )
        if skipped:
            return Run(scenario, name, adaptation, seed, skipped)
        shown = self._shown(scenario, method.trained_setting, seed)
        trainings = tuple(self._adapt(scenario, encoder, method, trial, shown, seed) for trial in method.trials)
        # What a record says of its data and content does not tell: a run is recorded anew when it changes.
        domains = {name: self._domains[name] for name in scenario.domains}
        splits = {name: domain.splits for name, domain in domains.items()}
        facts: dict[str, Any] = {
            "training": [training.key for training in trainings],
            "adaptation": method.identity(),
            "target": [splits[scenario.target][name].fingerprint for name in SPLITS],
            "source_val": [splits[name]["val"].fingerprint for name in scenario.source],
            "said": [domain.said() for domain in domains.values()],
            "in_common": self._said.images_in_common(scenario, encoder, shown),
        }
        if used := self._said.segments(scenario, encoder):  # the same training may be ranked with other segments
            facts |= {"segments": list(used["domains"].values())}
        key = key_of(facts)
        spec = self._said.spec(scenario, encoder, method, seed, shown, key, trainings)
        scores = tuple(
            self._score(scenario, encoder, method, seed, trainings, selector, protocol, domain, key)
            for domain in self._scored(scenario)
            for selector in self._selectors
            for protocol in self._grid.protocols
        )
        return Run(scenario, name, adaptation, seed, "", key, spec, trainings, scores)

    def _adapt(
        self,
        scenario: Scenario,
        encoder: PlannedEncoder,
        method: PlannedMethod,
        trial: Trial,
        shown: Shown,
        seed: int,
    ) -> Stage:
        """One training of a method."""
        start = self._pretrain(scenario, encoder, seed)
        segments = "segments" in method.needs or encoder.at_retrieval
        given = partial(self._supply.inputs, encoder=encoder, seed=seed, segments=segments, pretrained=start.key)
        inputs = {"start": start.key} | given("source", scenario.source, "train")
        if method.access.anything:
            inputs |= given("target", [scenario.target], "train")
        origin = self._said.origin(scenario, encoder, trial.budget, shown)
        return self._add(
            Stage(
                "adapt",
                {
                    "adaptation": trial.resolved.identity(),
                    "shown": asdict(shown),
                    "budget": as_json(self._domains.in_steps(trial.budget, scenario)),
                    "loss": self._grid.pretraining.loss,
                    **self._numerics(seed, trains=trial.budget.trains),
                },
                inputs,
                work={**encoder.work, "adaptation": str(trial.resolved.reference), "origin": origin},
                label=f"{trial.resolved.reference}, {' + '.join(scenario.source)}"
                + (f" → {scenario.target}" if method.access.anything else "")
                + f", seed {seed}",
            )
        )

    def _scored(self, scenario: Scenario) -> tuple[str, ...]:
        """The domains whose test splits a run is scored on."""
        sources = scenario.source if self._grid.score_sources else ()
        return tuple(dict.fromkeys((scenario.target, *sources)))

    def _shown(self, scenario: Scenario, setting: str, seed: int) -> Shown:
        access = SETTINGS[setting]
        if access.share and scenario.share is not None:
            return Shown(setting, scenario.share, seed if scenario.share_seed == "run" else scenario.share_seed)
        unpaired = access.images and access.captions and not access.pairs
        return Shown(setting, disjoint_halves=self._grid.disjoint_halves and unpaired)

    def _pretrain(self, scenario: Scenario, encoder: PlannedEncoder, seed: int) -> Stage:
        recipe = self._said.recipe(encoder)
        segments = encoder.pretrains_on_segments(recipe["segment_weight"])
        return self._add(
            Stage(
                "pretrain",
                {
                    "encoder": encoder.identity,
                    "recipe": recipe | self._domains.in_steps(self._grid.pretraining, scenario).length(),
                    **self._numerics(seed, trains=self._grid.pretraining.trains),
                },
                self._supply.inputs("source", scenario.source, "train", encoder, seed, segments=segments),
                work=encoder.work | {"origin": self._said.origin(scenario, encoder)},
                label=f"{encoder.name}, {' + '.join(scenario.source)}, seed {seed}",
            )
        )

    def _score(
        self,
        scenario: Scenario,
        encoder: PlannedEncoder,
        method: PlannedMethod,
        seed: int,
        trainings: Sequence[Stage],
        selector: Resolved,
        protocol: str,
        domain: str,
        run: str,
    ) -> Score:
        wanted = {"test": [(domain, "test")]}
        if "source_val" in selector.plugin.registration.needs:
            wanted["source_val"] = [(source, "val") for source in scenario.source]
        if selector.plugin.registration.needs & {"target_val", "target_unpaired"}:
            wanted["target_val"] = [(scenario.target, "val")]
        inputs = {"items": self._supply.items(domain).key}
        for role, splits in wanted.items():
            stages = [
                self._embed(*split, encoder=encoder, seed=seed, training=training)
                for training in trainings
                for split in splits
            ]
            inputs |= {f"{role}.{number}": stage.key for number, stage in enumerate(stages)}
        name, named = str(selector.reference), protocol_and_ties(protocol, self._grid.ties)
        test = self._domains[domain].splits["test"]
        facts: dict[str, Any] = {
            "selector": selector.identity(),
            "protocol": named[0],
            "ties": named[1],
            "metrics": [metric.identity() for metric in self._metrics],
            "test": test.fingerprint,
            "code": core("evaluation"),
        }
        if method.calibrates:
            facts["calibration"] = method.resolved.identity()
        stage = self._add(
            Stage(
                "rank",
                facts,
                inputs,
                work={
                    "selector": name,
                    "calibration": str(method.resolved.reference),
                    "trials": len(trainings),
                    "precision": self._grid.evaluation_precision,
                    "segments": test.segments_fingerprint if encoder.at_retrieval else "",
                    "metrics": [str(metric.reference) for metric in self._metrics],
                },
                label=f"{name}, {protocol}, {method.name} on {domain}, seed {seed}",
            )
        )
        setting = self._said.setting(scenario, encoder, method, selector)
        return Score(name, protocol, domain, setting, stage, key_of({"run": run, "rank": stage.key}))

    def _embed(
        self,
        domain: str,
        split: str,
        encoder: PlannedEncoder,
        seed: int,
        training: Stage,
    ) -> Stage:
        given = self._supply.inputs(
            "split",
            [domain],
            split,
            encoder,
            seed,
            segments=encoder.at_retrieval,
            pretrained=training.inputs["start"],
        )
        return self._add(
            Stage(
                "embed",
                {
                    "precision": self._grid.evaluation_precision,
                    "drift": split == "test",
                    "code": core("modelling"),
                },
                {"model": training.key, **given},
                work={
                    **encoder.work,
                    "adaptation": training.work["adaptation"],
                    "method": training.facts["adaptation"],
                },
                label=f"{domain} {split}, {training.label}",
            )
        )

    def _numerics(self, seed: int, *, trains: bool) -> dict[str, Any]:
        return {
            "seed": seed,
            "precision": self._grid.precision,
            "threads": self._grid.threads,
            "ranks": self._grid.ranks if trains else 1,  # without steps there is nothing to share out
            "code": core("modelling"),
        }

    def _add(self, stage: Stage) -> Stage:
        return self._stages.setdefault(stage.key, stage)

    @staticmethod
    def _refuse_twins(runs: Sequence[Run]) -> None:
        seen: dict[str, Run] = {}
        for run in runs:
            twin = seen.setdefault(run.key or str(run), run)
            if twin is not run:
                raise UsageError(f"two runs of the grid are the same: {twin} and {run}; remove one of them")
