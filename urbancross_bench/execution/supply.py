"""What a run's stages are given of its data: packs, stored features, towers that never change, segments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from types import NoneType
from typing import Any

from urbancross_bench.errors import DataError, PluginError
from urbancross_bench.execution.domains import Domains, PlannedDomain
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.versions import core, decoders
from urbancross_bench.interfaces.encoder import EncoderOptions, ImageFormat, SegmentUse
from urbancross_bench.interfaces.weights import Weights
from urbancross_bench.registry import Resolved
from urbancross_bench.specs import Grid

TRAINED_TOWER = "trained_tower"  # what an adaptation may need that the harness sees for itself


class PlannedEncoder:
    """An encoder of the grid, and what its options answer. Raises PluginError where they do not."""

    def __init__(self, name: str, resolved: Resolved) -> None:
        if not isinstance(resolved.options, EncoderOptions):
            raise PluginError(f"{resolved.plugin}: its options are not a subclass of EncoderOptions")
        options = resolved.options
        self.name = name
        self.resolved = resolved
        self.reference = str(resolved.reference)
        self.format: ImageFormat | None = self._asked(
            "what images it wants", options.image_format, ImageFormat, NoneType
        )
        self.frozen: frozenset[str] = self._asked("which towers are frozen", options.frozen, frozenset, set)
        self.trains: bool = self._asked("whether it can be trained", options.trains, bool)
        trained = set() if {"image", "text"} <= self.frozen else {TRAINED_TOWER}
        self.provides = resolved.plugin.registration.provides | trained
        self.segments: SegmentUse | None = self._asked(
            "how it uses segments", options.segments, SegmentUse, NoneType
        )
        if self.segments is not None and "segments" not in self.provides:
            raise PluginError(f"{resolved.plugin} uses segments; register it with provides={{'segments'}}")
        self.weights: Weights = self._asked("where its weights come from", options.weights, Weights)
        self.identity: dict[str, Any] = self._asked("what it is", resolved.identity, dict)
        self.towers: dict[str, Any] = self.identity | {
            "options": self._asked("what its towers are", options.tower_identity, dict)
        }
        self._check_items = options.check_items

    @property
    def work(self) -> dict[str, Any]:
        """What a stage has to know to build it: how the grid names it, and what that was when it was planned."""
        return {"encoder": self.reference, "identity": self.identity}

    @property
    def at_retrieval(self) -> bool:
        """An image's embedding is made with its segments."""
        return self.segments is not None and self.segments.at_retrieval

    def pretrains_on_segments(self, segment_weight: float) -> bool:
        """Whether a recipe that gives the segments' loss this weight shows it any."""
        use = self.segments
        return use is not None and use.tower != "pretrained" and (use.at_retrieval or segment_weight > 0)

    def check_items(self, domains: Iterable[PlannedDomain]) -> None:
        """Raise DataError where stored features are missing for a domain of the grid, or surplus.

        Also where two images have one name: features are found by name, and one of the two would get the other's.
        """
        if self.format is not None:
            return
        known: dict[str, tuple[str, str]] = {}
        captions: set[str] = set()
        for domain in domains:
            for split in domain.splits.values():
                captions.update(split.captions)
                for name, member in zip(split.image_names, split.members.tolist(), strict=True):
                    content = domain.domain.images.digest(member)
                    other, place = known.setdefault(name, (content, domain.name))
                    if other != content:
                        raise DataError(
                            f"encoder {self.name!r} finds features by the names of images, and {name!r} of domain "
                            f"{domain.name!r} is another image than that of domain {place!r}; rename one of them"
                        )
        self._check_items(known.keys(), captions)

    def _asked(self, what: str, question: Callable[[], Any], *kinds: type) -> Any:
        """The answer. Raises PluginError naming the plugin where there is none of these kinds."""
        with self.resolved.plugin.blamed(f"to say {what}"):
            answer = question()
        if not isinstance(answer, kinds):
            names = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
            raise PluginError(f"{self.resolved.plugin} says {what} by {answer!r}, which is no {names}")
        return answer


class Supply:
    """Lays out the stages that come before any training, and names them as inputs of those that follow."""

    def __init__(self, grid: Grid, domains: Domains, add: Callable[[Stage], Stage]) -> None:
        self._grid = grid
        self._domains = domains
        self._add = add

    def inputs(
        self,
        role: str,
        domains: Sequence[str],
        split: str,
        encoder: PlannedEncoder,
        seed: int,
        *,
        segments: bool,
        pretrained: str | None = None,
    ) -> dict[str, str]:
        """`role.i` → the key of the stage that has the split of domain i; beside it, where the encoder takes them,
        `role_towers.i` with features of its frozen towers and `role_segments.i` with segments.

        pretrained: the key of the pre-training, for a segment tower that is a copy of what that leaves.
        """
        inputs = {}
        for number, name in enumerate(domains):
            pack = self._pack(name, split, encoder)
            inputs[f"{role}.{number}"] = pack.key
            if encoder.format and encoder.frozen:
                inputs[f"{role}_towers.{number}"] = self._towers(pack, encoder, seed).key
            if segments and encoder.segments:
                packed = self._segments(name, split, encoder.format, encoder.segments.most)
                stage = self._segment_features(packed, encoder, seed, pretrained)
                inputs[f"{role}_segments.{number}"] = stage.key
        return inputs

    def items(self, domain: str) -> Stage:
        """What ranking has to know of a test split."""
        planned = self._domains[domain]
        test = planned.splits["test"]
        facts = {
            "content": test.fingerprint,
            "classes": test.image_class_key,
            "reader": planned.reader,
            "code": core("evaluation"),
        }
        return self._add(Stage("items", facts, work=planned.work("test"), label=f"{domain} test"))

    def _pack(self, domain: str, split: str, encoder: PlannedEncoder) -> Stage:
        planned = self._domains[domain]
        facts: dict[str, Any] = {
            "content": planned.splits[split].fingerprint,
            "reader": planned.reader,
            "code": core("data"),
        }
        work, label = planned.work(split), f"{domain} {split}"
        if encoder.format is None:
            facts |= {"encoder": encoder.identity}
            work |= encoder.work
            return self._add(Stage("stored", facts, work=work, label=f"{encoder.name}, {label}"))
        facts |= {"format": asdict(encoder.format), "decoders": decoders()}
        return self._add(Stage("pack", facts, work=work, label=label))

    def _towers(self, pack: Stage, encoder: PlannedEncoder, seed: int) -> Stage:
        facts = {"towers": sorted(encoder.frozen), **self._first_weights(encoder, seed)}
        label = f"{encoder.name}, {pack.label}"
        return self._add(Stage("towers", facts, {"split.0": pack.key}, encoder.work, label))

    def _segments(self, domain: str, split: str, image_format: ImageFormat | None, most: int) -> Stage:
        assert image_format is not None, "an encoder that uses segments takes pixels"
        planned = self._domains[domain]
        facts = {
            "segments": planned.splits[split].segments_fingerprint,
            "most": most,
            "format": asdict(image_format),
            "reader": planned.reader,
            "decoders": decoders(),
            "code": core("data"),
        }
        work = planned.work(split) | {"segments": planned.segments}
        return self._add(Stage("segments", facts, work=work, label=f"{domain} {split}"))

    def _segment_features(
        self, packed: Stage, encoder: PlannedEncoder, seed: int, pretrained: str | None
    ) -> Stage:
        use = encoder.segments
        assert use is not None
        if use.tower == "shared":
            return packed
        inputs = {"split.0": packed.key}
        if use.tower == "pretrained":
            assert pretrained is not None, "what pre-training leaves is used after it alone"
            inputs["start"] = pretrained
        facts, label = self._first_weights(encoder, seed), f"{encoder.name}, segments of {packed.label}"
        return self._add(Stage("segment_features", facts, inputs, encoder.work, label))

    def _first_weights(self, encoder: PlannedEncoder, seed: int) -> Mapping[str, Any]:
        """What the features of a tower depend on, always in float32; the seed only where it draws weights.

        What stands on a tower, a head or a fusion, is no part of it: encoders that differ in it alone share them.
        """
        weights = encoder.weights
        drawn = (weights.status == "untrained" and weights.sha256 is None) or weights.partial
        return {
            "encoder": encoder.towers,
            "seed": seed if drawn else 0,
            "threads": self._grid.threads,
            "code": core("modelling"),
        }
