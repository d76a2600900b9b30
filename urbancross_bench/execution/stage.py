"""A stage: one unit of shared work, named by exactly the facts that may change its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from urbancross_bench.identity import key_of

Kind = Literal[
    "items", "pack", "segments", "stored", "towers", "segment_features", "pretrain", "adapt", "embed", "rank"
]


@dataclass(frozen=True, eq=False)
class Stage:
    """`facts` and the keys of the `inputs` make the key. `work` says how to carry it out and counts for nothing.

    Everything is plain JSON, so that a stage can be sent to any process or machine.
    """

    kind: Kind
    facts: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    work: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    @cached_property
    def key(self) -> str:
        """32 hexadecimal digits."""
        return key_of({"kind": self.kind, "facts": self.facts, "inputs": self.inputs})

    def to_json(self) -> dict[str, Any]:
        """All of it, as plain JSON values."""
        return {
            "kind": self.kind,
            "facts": dict(self.facts),
            "inputs": dict(self.inputs),
            "work": dict(self.work),
            "label": self.label,
        }
