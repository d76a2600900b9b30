"""What the record of a run says of it: everything that names or explains it, no path and no machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from urbancross_bench.data.views import Shown
from urbancross_bench.execution.domains import Domains
from urbancross_bench.execution.methods import PlannedMethod, setting_of
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.supply import PlannedEncoder
from urbancross_bench.execution.versions import core
from urbancross_bench.interfaces.settings import SETTINGS, union
from urbancross_bench.modelling.origins import Origin, short
from urbancross_bench.registry import Resolved
from urbancross_bench.specs import Budget, Grid, Scenario, as_json

_BY_ACCIDENT = 0.05  # of a target's images: no more are behind weights that were not meant to see it


class Specification:
    """Says it of any run of a grid."""

    def __init__(self, grid: Grid, domains: Domains) -> None:
        self._grid = grid
        self._domains = domains
        # Of many stages and scores the same is asked.
        self._origin = cache(self._origin_of)
        self.images_in_weights = cache(self._images_in_weights)

    def spec(
        self,
        scenario: Scenario,
        encoder: PlannedEncoder,
        method: PlannedMethod,
        seed: int,
        shown: Shown,
        key: str,
        trainings: Sequence[Stage],
    ) -> dict[str, Any]:
        """What the record says of the run: everything that names or explains it, no path and no machine."""
        weights = encoder.weights.said()
        steps = [trainings[0].facts["budget"]["steps"], self._grid.pretraining.trains]
        if weights["status"] == "untrained" and any(steps):
            weights["status"] = "trained here"
        domains = dict.fromkeys((*scenario.source, scenario.target))
        return {
            "key": key,
            "grid": self._grid.name,
            "scenario": {"source": list(scenario.source), "target": scenario.target, "kind": scenario.kind},
            "encoder": {"label": encoder.name, **encoder.identity, "weights": weights},
            "adaptation": {"label": method.name, **method.identity()},
            "shown": asdict(shown) | ({"share_seed": scenario.share_seed} if scenario.share else {}),
            "segments": self.segments(scenario, encoder),
            "pretraining": self.recipe(encoder),
            "budget": as_json(self._grid.budget),
            "steps": steps[0],
            "search": method.search(self._grid),
            "seed": seed,
            "precision": self._grid.precision,
            "threads": self._grid.threads,
            "ranks": self._grid.ranks,
            "domains": {name: self._domains[name].facts() for name in domains},
            **self.images_in_common(scenario, encoder, shown),
            "code": core("modelling"),
            "stages": {
                "adapt": [training.key for training in trainings],
                "pretrain": trainings[0].inputs["start"],
            },
        }

    def origin(
        self, scenario: Scenario, encoder: PlannedEncoder, budget: Budget | None = None, *, pairs: bool = False
    ) -> dict[str, Any]:
        """What weights say of themselves that pre-training leaves, with a budget a method: an `Origin` as JSON.

        pairs: whether the method is shown any of the target's.
        """
        trains = self._grid.pretraining.trains or (budget is not None and budget.trains)
        names = (*scenario.source, *((scenario.target,) if pairs else ()))
        return self._origin(encoder, names if trains or budget is not None else (), trains)

    def _origin_of(self, encoder: PlannedEncoder, names: Sequence[str], trains: bool) -> dict[str, Any]:
        first = encoder.weights
        seen = short(digest for name in names for digest in self._domains[name].contents["train"])
        trained = trains or first.status != "untrained"
        return Origin(encoder.identity["options"], trained, first.partial, first.images | seen).as_json()

    def remarks(self, encoders: Iterable[PlannedEncoder]) -> Iterator[str]:
        """Of encoders whose first weights have seen what an adaptation is meant not to."""
        for encoder in encoders:
            for scenario in self._domains.scenarios:
                if count := self.images_in_weights(scenario, encoder):
                    seen = self._have_seen_target(scenario, encoder)
                    said = ", so its rows there are oracles, whatever the method" if seen else ""
                    yield (
                        f"scenario {scenario}: the weights of encoder {encoder.name!r} were trained on {count:,} "
                        f"images of the target{said}"
                    )

    def setting(
        self, scenario: Scenario, encoder: PlannedEncoder, method: PlannedMethod, selector: Resolved
    ) -> str:
        """What was seen of the target by method, selector and first weights, together."""
        if self._have_seen_target(scenario, encoder):
            return "oracle"
        return union(method.setting, setting_of(selector))

    def _have_seen_target(self, scenario: Scenario, encoder: PlannedEncoder) -> bool:
        images = self._domains[scenario.target].contents.values()
        return self.images_in_weights(scenario, encoder) > _BY_ACCIDENT * len(set[str]().union(*images))

    def _images_in_weights(self, scenario: Scenario, encoder: PlannedEncoder) -> int:
        """How many images of the target the first weights were trained on with their captions, where it is none of
        the sources, and these do not have them.
        """
        if scenario.target in scenario.source or not encoder.weights.images:
            return 0
        known = set[str]().union(*(self._domains[name].contents["train"] for name in scenario.source))
        others = set[str]().union(*self._domains[scenario.target].contents.values()) - known
        return len(short(others) & encoder.weights.images)

    def segments(self, scenario: Scenario, encoder: PlannedEncoder) -> dict[str, Any] | None:
        """What a record says of the segments: how they are used, and those of each domain that has some."""
        if encoder.segments is None:
            return None
        names = dict.fromkeys((*scenario.source, scenario.target))
        having = {name: self._domains[name] for name in names if self._domains[name].domain.segments is not None}
        return {
            "use": asdict(encoder.segments),
            "domains": {name: domain.segments_facts for name, domain in having.items()},
        }

    def images_in_common(self, scenario: Scenario, encoder: PlannedEncoder, shown: Shown) -> dict[str, int]:
        """How many of the target's images stand, by content, where a reader of the row would not expect them.

        Of its test images: in a training split that the run draws from, or a source's validation, which selectors
        see. Of its training images: in a source's. Of all of them, if any: behind the first weights.
        """
        target, sources, chosen_on = self._domains[scenario.target].contents, set[str](), set[str]()
        for name in scenario.source:
            if name != scenario.target:
                sources |= self._domains[name].contents["train"]
                chosen_on |= self._domains[name].contents["val"]
        own = SETTINGS[shown.setting].anything or scenario.target in scenario.source
        training = sources | target["train"] if own else sources
        behind = self.images_in_weights(scenario, encoder)
        return {
            "test_images_in_training": len(target["test"] & (training | chosen_on)),
            "target_images_in_sources": len(target["train"] & sources),
        } | ({"target_images_in_weights": behind} if behind else {})

    def recipe(self, encoder: PlannedEncoder) -> dict[str, Any]:
        """The grid's pre-training as this encoder goes through it: without segments, they have no weight."""
        recipe, use = as_json(self._grid.pretraining), encoder.segments
        return recipe if use and use.tower != "pretrained" else recipe | {"segment_weight": 0.0}
