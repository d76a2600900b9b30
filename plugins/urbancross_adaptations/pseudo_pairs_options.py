"""Options of the methods that learn from the unpaired target by guessing what belongs together. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from urbancross_bench.interfaces import Options


class OptimalTransportOptions(Options):
    """Options of pseudo-pairs by entropic transport."""

    plan: Literal["batch", "bank"] = Field(
        default="batch",
        description="batch: at each step, by present features; bank: once, of all the target, by the start's",
    )
    epsilon: float = Field(
        default=0.05,
        ge=1e-4,  # below it no sum comes out in single precision
        description="the greater, the more texts share an image; 1 / scale is as sharp as the model",
    )
    iterations: PositiveInt = Field(default=50, description="of Sinkhorn's algorithm")
    weight: float = Field(default=1.0, gt=0, description="of the loss on the target")

    def needs(self) -> frozenset[str]:
        """The bank is made of features of the start."""
        return frozenset({"reference"}) if self.plan == "bank" else frozenset()


class MutualNearestOptions(Options):
    """Options of pseudo-pairs by mutual nearest neighbours."""

    features: Literal["current", "reference"] = Field(
        default="current", description="what finds neighbours: the encoder as it is, or as it started"
    )
    weight: float = Field(default=1.0, gt=0, description="of the loss on the target")

    def needs(self) -> frozenset[str]:
        """What finds neighbours."""
        return frozenset({"reference"}) if self.features == "reference" else frozenset()


class MeanTeacherOptions(Options):
    """Options of learning from an average of one's own weights."""

    decay: float = Field(default=0.99, ge=0, lt=1, description="what the teacher keeps of itself at each step")
    weight: float = Field(
        default=1.0, gt=0, description="of the loss on the target, once it is at its full height"
    )
    ramp: float = Field(default=0.2, ge=0, le=1, description="share of the steps in which that loss rises")
    score: Literal["teacher", "student"] = Field(default="teacher", description="whose weights are scored")
