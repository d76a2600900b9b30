"""A stage about to be carried out: what it builds on, where it writes, and whom it tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from urbancross_bench.data.domain import Split, split_of
from urbancross_bench.data.packed import PackedSplit
from urbancross_bench.errors import RunError
from urbancross_bench.execution.domains import read_domain
from urbancross_bench.execution.stage import Stage
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.registry import Registry, Resolved


@dataclass(frozen=True, eq=False)
class Job:
    """A stage about to be carried out. `inputs` are the folders of the stages it builds on.

    say: takes how far the stage is, from 0 to 1, and the values of a pass over the source.
    saved: where a training that may be cut leaves how far it is, every `save_seconds`.
    """

    stage: Stage
    inputs: Mapping[str, Path]
    out: Path
    registry: Registry
    device: torch.device
    say: Callable[[float | Mapping[str, float]], None]
    saved: Path
    save_seconds: float

    @property
    def facts(self) -> Mapping[str, Any]:
        """The stage's facts."""
        return self.stage.facts

    @property
    def work(self) -> Mapping[str, Any]:
        """How the stage is carried out."""
        return self.stage.work

    def group(self, role: str) -> list[Path]:
        """The inputs `role.0`, `role.1`, … in order."""
        names = sorted(
            (n for n in self.inputs if n.startswith(f"{role}.")), key=lambda n: int(n.partition(".")[2])
        )
        return [self.inputs[name] for name in names]

    def packed(self, role: str) -> list[PackedSplit]:
        """The packed splits of a role, with features of frozen towers and segments where the stage has them."""
        folders = self.group(role)
        without: list[Path | None] = [None] * len(folders)
        towers, segments = (self.group(f"{role}_{what}") or without for what in ("towers", "segments"))
        return [PackedSplit.load(*parts) for parts in zip(folders, towers, segments, strict=True)]

    def model(self) -> DualEncoder:
        """The stage's encoder with its first weights, on the stage's device. Raises RunError as `planned` does."""
        from urbancross_bench.modelling.answers import load_model

        model = load_model(self.planned("encoder", self.work["encoder"], self.work["identity"]))
        model.to(self.device)
        return model

    def planned(self, kind: str, reference: str, identity: Mapping[str, Any]) -> Resolved:
        """A plugin, if it still is what the plan named. Raises RunError if its code or options have changed."""
        resolved = self.registry.resolve(kind, reference)
        if resolved.identity() != identity:
            raise RunError(f"{resolved.plugin} has changed since the grid was planned; run the grid again")
        return resolved

    def split(self) -> Split:
        """The split of the stage, read anew. Raises RunError if it is not what the plan saw."""
        resolved = self.registry.resolve("dataset", self.work["dataset"])
        domain, _ = read_domain(resolved, self.work["exclusions"], self.work.get("segments"))
        split = split_of(domain, self.work["split"])
        if "content" in self.facts and split.fingerprint != self.facts["content"]:
            raise RunError(
                f"{self.stage.label} has changed on disk since the grid was planned; run it again. If that does "
                f"not help, {resolved.plugin} reads it in another order each time: let it sort what it lists"
            )
        if "segments" in self.facts and split.segments_fingerprint != self.facts["segments"]:
            raise RunError(
                f"{self.stage.label}: the segments have changed on disk since the grid was planned; run it again"
            )
        return split
