"""From a grid to an ordered list of runs and the graph of stages they share. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from urbancross_bench.data.views import Shown
from urbancross_bench.errors import UsageError
from urbancross_bench.evaluation.protocols import protocol_and_ties
from urbancross_bench.execution.domains import open_domains
from urbancross_bench.execution.skipping import reason_to_skip
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.supply import PlannedEncoder, Supply
from urbancross_bench.execution.versions import core
from urbancross_bench.identity import key_of
from urbancross_bench.interfaces.settings import SETTINGS, union
from urbancross_bench.registry import Registry, Resolved
from urbancross_bench.specs import Grid, Scenario


@dataclass(frozen=True, eq=False)
class Score:
    """One way to score a run: a selector, a protocol, a domain's test split, and the stage that does it.

    The domain is the run's target, or a source, to see what was forgotten of it.
    """

    selector: str
    protocol: str
    domain: str
    stage: Stage
    key: str


@dataclass(frozen=True, eq=False)
class Run:
    """One run of the grid. `spec` is what its record says of it; `skipped` is a reason, or empty."""

    scenario: Scenario
    encoder: str
    adaptation: str
    seed: int
    skipped: str
    key: str = ""
    spec: dict[str, Any] | None = None
    training: Stage | None = None
    scores: tuple[Score, ...] = ()

    def stage_keys(self) -> set[str]:
        """The stages that its record is made of."""
        training = {self.training.key, self.training.inputs["start"]} if self.training else set()
        return training | {score.stage.key for score in self.scores}

    def __str__(self) -> str:
        return f"{self.scenario} · {self.encoder} · {self.adaptation} · seed {self.seed}"


@dataclass(frozen=True, eq=False)
class Plan:
    """The runs in order, and every stage they need by key; a stage stands after its inputs.

    `modules` are those of the plugins it uses, `remarks` what a user has to know of its data.
    """

    grid: Grid
    runs: tuple[Run, ...]
    stages: dict[str, Stage]
    modules: tuple[str, ...]
    remarks: tuple[str, ...]

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
    return _Planner(grid, registry).plan()


class _Planner:
    def __init__(self, grid: Grid, registry: Registry) -> None:
        self._grid = grid
        self._registry = registry
        self._stages: dict[str, Stage] = {}
        self._encoders = {
            name: PlannedEncoder(name, registry.resolve("encoder", ref)) for name, ref in grid.encoders.items()
        }
        self._adaptations = {name: registry.resolve("adaptation", ref) for name, ref in grid.adaptations.items()}
        self._selectors = [registry.resolve("selector", ref) for ref in grid.selectors]
        self._metrics = [registry.resolve("metric", ref) for ref in grid.metrics]
        registry.resolve("executor", grid.executor)
        self._domains = open_domains(grid, registry)
        for encoder in self._encoders.values():
            encoder.check_items(self._domains.by_name.values())
        self._supply = Supply(grid, self._domains, self._add)

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
        encoders = [encoder.resolved for encoder in self._encoders.values()]
        used = [*encoders, *self._adaptations.values(), *self._selectors, *self._metrics]
        modules = tuple(dict.fromkeys(r.plugin.registration.target.partition(":")[0] for r in used))
        remarks = tuple(remark for domain in self._domains.by_name.values() for remark in domain.remarks())
        return Plan(grid, tuple(runs), self._stages, modules, remarks)

    def _run(self, scenario: Scenario, name: str, adaptation: str, seed: int) -> Run:
        encoder, method = self._encoders[name], self._adaptations[adaptation]
        setting = _setting(method)
        access = SETTINGS[setting]
        shown = self._shown(scenario, setting, seed)
        skipped = reason_to_skip(
            scenario,
            encoder,
            method,
            self._domains,
            scored=self._scored(scenario),
            segment_weight=self._grid.pretraining.segment_weight,
        )
        if skipped:
            return Run(scenario, name, adaptation, seed, skipped)
        start = self._pretrain(scenario, encoder, seed)
        segments = "segments" in method.plugin.registration.needs or encoder.at_retrieval
        given = partial(self._supply.inputs, encoder=encoder, seed=seed, segments=segments, pretrained=start.key)
        inputs = {"start": start.key} | given("source", scenario.source, "train")
        if access.anything:
            inputs |= given("target", [scenario.target], "train")
        training = self._add(
            Stage(
                "adapt",
                {
                    "adaptation": method.identity(),
                    "shown": asdict(shown),
                    "budget": _json(self._grid.budget),
                    "loss": self._grid.pretraining.loss,
                    **self._numerics(seed),
                },
                inputs,
                work={"encoder": encoder.reference, "adaptation": str(method.reference)},
                label=f"{adaptation}, {' + '.join(scenario.source)}"
                + (f" → {scenario.target}" if access.anything else "")
                + f", seed {seed}",
            )
        )
        target = self._domains[scenario.target].splits
        # What a record says of its data and content does not tell: a run is recorded anew when it changes.
        said = {name: self._domains[name].said() for name in dict.fromkeys((*scenario.source, scenario.target))}
        content = [target[name].fingerprint for name in ("train", "val")]
        facts: dict[str, Any] = {"training": training.key, "target": content, "said": list(said.values())}
        if used := self._segments(scenario, encoder):  # the same training may be ranked with other segments
            facts |= {"segments": list(used["domains"].values())}
        key = key_of(facts)
        spec = self._spec(scenario, encoder, adaptation, seed, shown, key, training)
        scores = tuple(
            self._score(scenario, encoder, seed, training, selector, protocol, domain, key)
            for domain in self._scored(scenario)
            for selector in self._selectors
            for protocol in self._grid.protocols
        )
        return Run(scenario, name, adaptation, seed, "", key, spec, training, scores)

    def _scored(self, scenario: Scenario) -> tuple[str, ...]:
        """The domains whose test splits a run is scored on."""
        sources = scenario.source if self._grid.score_sources else ()
        return tuple(dict.fromkeys((scenario.target, *sources)))

    def _spec(
        self,
        scenario: Scenario,
        encoder: PlannedEncoder,
        adaptation: str,
        seed: int,
        shown: Shown,
        key: str,
        training: Stage,
    ) -> dict[str, Any]:
        """What the record says of the run: everything that names or explains it, no path and no machine."""
        weights = asdict(encoder.weights)
        if weights["status"] == "untrained" and self._grid.pretraining.steps + self._grid.budget.steps:
            weights["status"] = "trained here"
        domains = dict.fromkeys((*scenario.source, scenario.target))
        return {
            "key": key,
            "grid": self._grid.name,
            "scenario": {"source": list(scenario.source), "target": scenario.target, "kind": scenario.kind},
            "encoder": {"label": encoder.name, **encoder.identity, "weights": weights},
            "adaptation": {"label": adaptation, **self._adaptations[adaptation].identity()},
            "shown": asdict(shown) | ({"share_seed": scenario.share_seed} if scenario.share else {}),
            "segments": self._segments(scenario, encoder),
            "pretraining": self._recipe(encoder),
            "budget": _json(self._grid.budget),
            "seed": seed,
            "precision": self._grid.precision,
            "threads": self._grid.threads,
            "domains": {name: self._domains[name].facts() for name in domains},
            **self._images_in_common(scenario, shown),
            "code": core("modelling"),
            "stages": {"adapt": training.key, "pretrain": training.inputs["start"]},
        }

    def _segments(self, scenario: Scenario, encoder: PlannedEncoder) -> dict[str, Any] | None:
        """What a record says of the segments: how they are used, and those of each domain that has some."""
        if encoder.segments is None:
            return None
        names = dict.fromkeys((*scenario.source, scenario.target))
        having = {name: self._domains[name] for name in names if self._domains[name].domain.segments is not None}
        return {
            "use": asdict(encoder.segments),
            "domains": {name: domain.segments_facts for name, domain in having.items()},
        }

    def _shown(self, scenario: Scenario, setting: str, seed: int) -> Shown:
        access = SETTINGS[setting]
        if access.share and scenario.share is not None:
            return Shown(setting, scenario.share, seed if scenario.share_seed == "run" else scenario.share_seed)
        unpaired = access.images and access.captions and not access.pairs
        return Shown(setting, disjoint_halves=self._grid.disjoint_halves and unpaired)

    def _images_in_common(self, scenario: Scenario, shown: Shown) -> dict[str, int]:
        """How many of the target's images stand, by content, where a reader of the row would not expect them.

        Of its test images: in a training split that the run draws from. Of its training images: in a source's.
        """
        target, sources = self._domains[scenario.target].contents, set[str]()
        for name in scenario.source:
            if name != scenario.target:
                sources |= self._domains[name].contents["train"]
        own = SETTINGS[shown.setting].anything or scenario.target in scenario.source
        training = sources | target["train"] if own else sources
        return {
            "test_images_in_training": len(target["test"] & training),
            "target_images_in_sources": len(target["train"] & sources),
        }

    def _pretrain(self, scenario: Scenario, encoder: PlannedEncoder, seed: int) -> Stage:
        recipe = self._recipe(encoder)
        segments = encoder.pretrains_on_segments(recipe["segment_weight"])
        return self._add(
            Stage(
                "pretrain",
                {"encoder": encoder.identity, "recipe": recipe, **self._numerics(seed)},
                self._supply.inputs("source", scenario.source, "train", encoder, seed, segments=segments),
                work={"encoder": encoder.reference},
                label=f"{encoder.name}, {' + '.join(scenario.source)}, seed {seed}",
            )
        )

    def _recipe(self, encoder: PlannedEncoder) -> dict[str, Any]:
        """The grid's pre-training as this encoder goes through it: without segments, they have no weight."""
        recipe, use = _json(self._grid.pretraining), encoder.segments
        return recipe if use and use.tower != "pretrained" else recipe | {"segment_weight": 0.0}

    def _score(
        self,
        scenario: Scenario,
        encoder: PlannedEncoder,
        seed: int,
        training: Stage,
        selector: Resolved,
        protocol: str,
        domain: str,
        run: str,
    ) -> Score:
        needs = selector.plugin.registration.needs
        setting = _setting(selector)
        method_setting = training.facts["shown"]["setting"]
        embed = partial(self._embed, encoder=encoder, seed=seed, training=training)
        inputs = {"test": embed(domain, "test").key, "items": self._supply.items(domain).key}
        if "source_val" in needs:
            for number, source in enumerate(scenario.source):
                inputs[f"source_val.{number}"] = embed(source, "val").key
        if "target_val" in needs:
            inputs["target_val.0"] = embed(scenario.target, "val").key
        name, named = str(selector.reference), protocol_and_ties(protocol, self._grid.ties)
        stage = self._add(
            Stage(
                "rank",
                {
                    "selector": selector.identity(),
                    "protocol": named[0],
                    "ties": named[1],
                    "metrics": [metric.identity() for metric in self._metrics],
                    "test": self._domains[domain].splits["test"].fingerprint,
                    "code": core("evaluation"),
                },
                inputs,
                work={
                    "selector": name,
                    "setting": union(method_setting, setting),
                    "precision": self._grid.evaluation_precision,
                    "segments": self._segments_of(domain, encoder),
                    "metrics": [str(metric.reference) for metric in self._metrics],
                },
                label=f"{name}, {protocol}, {training.label} on {domain}",
            )
        )
        return Score(name, protocol, domain, stage, key_of({"run": run, "rank": stage.key}))

    def _segments_of(self, domain: str, encoder: PlannedEncoder) -> str:
        """The fingerprint of the segments that a test split is ranked with; empty without any."""
        return self._domains[domain].splits["test"].segments_fingerprint if encoder.at_retrieval else ""

    def _embed(self, domain: str, split: str, encoder: PlannedEncoder, seed: int, training: Stage) -> Stage:
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
                work={"encoder": encoder.reference},
                label=f"{domain} {split}, {training.label}",
            )
        )

    def _numerics(self, seed: int) -> dict[str, Any]:
        return {
            "seed": seed,
            "precision": self._grid.precision,
            "threads": self._grid.threads,
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


def _setting(resolved: Resolved) -> str:
    setting = resolved.plugin.registration.setting
    assert setting is not None, "the registry takes no adaptation or selector without one"
    return setting


def _json(spec: Any) -> dict[str, Any]:
    facts: dict[str, Any] = spec.model_dump(mode="json")
    return facts
