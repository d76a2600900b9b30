"""What the record of a run says of it: everything that names or explains it, no path and no machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from urbancross_bench.data.views import Shown, shared
from urbancross_bench.execution.domains import Domains
from urbancross_bench.execution.methods import PlannedMethod, setting_of
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.supply import PlannedEncoder
from urbancross_bench.execution.versions import core
from urbancross_bench.interfaces.settings import SETTINGS, union
from urbancross_bench.modelling.origins import Origin, short
from urbancross_bench.registry import Resolved
from urbancross_bench.specs import Budget, Grid, Scenario, as_json

_MEANT = 0.05  # of a split of the target: less may be behind weights that were not meant to see it


@dataclass(frozen=True)
class _Seen:
    """How many images of a target first weights were shown, whether that makes oracles, and which test images."""

    images: int
    too_many: bool
    test: frozenset[str]


class Specification:
    """Says it of any run of a grid."""

    def __init__(self, grid: Grid, domains: Domains) -> None:
        self._grid = grid
        self._domains = domains
        # Of many stages and scores the same is asked.
        self._origin = cache(self._origin_of)
        self._seen_of_target = cache(self._count_seen)

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
            "domains": {name: self._domains[name].facts() for name in scenario.domains},
            **self.images_in_common(scenario, encoder, shown),
            "code": core("modelling"),
            "stages": {
                "adapt": [training.key for training in trainings],
                "pretrain": trainings[0].inputs["start"],
            },
        }

    def origin(
        self, scenario: Scenario, encoder: PlannedEncoder, budget: Budget | None = None, shown: Shown | None = None
    ) -> dict[str, Any]:
        """What weights say of themselves that pre-training leaves: an `Origin` as JSON.

        budget, shown: of a method that goes on from there, and what it sees of the target.
        """
        trains = self._grid.pretraining.trains or (budget is not None and budget.trains)
        sources = tuple(scenario.source) if trains or budget is not None else ()
        pairs = shown is not None and SETTINGS[shown.setting].pairs
        return self._origin(encoder, trains, sources, scenario.target if pairs else None, shown if pairs else None)

    def _origin_of(
        self,
        encoder: PlannedEncoder,
        trains: bool,
        sources: Sequence[str],
        target: str | None,
        shown: Shown | None,
    ) -> dict[str, Any]:
        first = encoder.weights
        seen = {digest for name in sources for digest in self._domains[name].contents["train"]}
        if target is not None and shown is not None:
            split = self._domains[target].splits["train"]
            share = SETTINGS[shown.setting].share
            members = split.members[shared(len(split.members), shown)] if share else split.members
            seen |= {*map(self._domains[target].domain.images.digest, members.tolist())}
        trained, lacked = trains or first.status != "untrained", first.partial or first.was_partial
        return Origin(encoder.identity["options"], trained, lacked, first.images | short(seen)).as_json()

    def remarks(self, encoders: Iterable[PlannedEncoder]) -> Iterator[str]:
        """Of encoders whose first weights have seen what an adaptation is meant not to."""
        for encoder in encoders:
            for scenario in self._domains.scenarios:
                seen = self._seen_of_target(scenario, encoder)
                if seen.images:
                    said = ", so its rows there are oracles, whatever the method" if seen.too_many else ""
                    yield (
                        f"scenario {scenario}: the weights of encoder {encoder.name!r} were trained on "
                        f"{seen.images:,} images of the target that its sources do not train on{said}"
                    )

    def setting(
        self, scenario: Scenario, encoder: PlannedEncoder, method: PlannedMethod, selector: Resolved
    ) -> str:
        """What was seen of the target by method, selector and first weights, together."""
        if self._seen_of_target(scenario, encoder).too_many:
            return "oracle"
        return union(method.setting, setting_of(selector))

    def _count_seen(self, scenario: Scenario, encoder: PlannedEncoder) -> _Seen:
        """Of the target's images, those that first weights were shown with their captions, and that the run's
        sources do not show it anyway.
        """
        if not encoder.weights.images:
            return _Seen(0, False, frozenset())
        known = set[str]().union(*(self._domains[name].contents["train"] for name in scenario.source))
        splits = self._domains[scenario.target].contents
        seen = {
            name: {digest for digest in digests - known if short([digest]) <= encoder.weights.images}
            for name, digests in splits.items()
        }
        too_many = any(some and len(some) >= _MEANT * len(splits[name]) for name, some in seen.items())
        return _Seen(len(set[str]().union(*seen.values())), too_many, frozenset(seen["test"]))

    def segments(self, scenario: Scenario, encoder: PlannedEncoder) -> dict[str, Any] | None:
        """What a record says of the segments: how they are used, and those of each domain that has some."""
        if encoder.segments is None:
            return None
        domains = {name: self._domains[name] for name in scenario.domains}
        having = {name: one for name, one in domains.items() if one.domain.segments is not None}
        return {
            "use": asdict(encoder.segments),
            "domains": {name: domain.segments_facts for name, domain in having.items()},
        }

    def images_in_common(self, scenario: Scenario, encoder: PlannedEncoder, shown: Shown) -> dict[str, int]:
        """How many of the target's images stand, by content, where a reader of the row would not expect them.

        Of its test images: in a training split that the run draws from, behind the first weights, or in a source's
        validation, which selectors see. Of its training images: in a source's. Of all, if any: behind the weights.
        """
        target, sources, chosen_on = self._domains[scenario.target].contents, set[str](), set[str]()
        for name in scenario.source:
            if name != scenario.target:
                sources |= self._domains[name].contents["train"]
                chosen_on |= self._domains[name].contents["val"]
        own = SETTINGS[shown.setting].anything or scenario.target in scenario.source
        training = sources | target["train"] if own else sources
        behind = self._seen_of_target(scenario, encoder)
        return {
            "test_images_in_training": len(target["test"] & (training | chosen_on) | behind.test),
            "target_images_in_sources": len(target["train"] & sources),
        } | ({"target_images_in_weights": behind.images} if behind.images else {})

    def recipe(self, encoder: PlannedEncoder) -> dict[str, Any]:
        """The grid's pre-training as this encoder goes through it: without segments, they have no weight."""
        recipe, use = as_json(self._grid.pretraining), encoder.segments
        return recipe if use and use.tower != "pretrained" else recipe | {"segment_weight": 0.0}
