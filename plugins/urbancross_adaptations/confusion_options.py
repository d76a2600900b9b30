"""Options of the methods that make predictions on the target more certain. No torch."""

from __future__ import annotations

from pydantic import Field, PositiveFloat

from urbancross_bench.interfaces import Options


class MccOptions(Options):
    """`mcc[temperature=1]`."""

    weight: PositiveFloat = Field(default=1.0, description="weight of the confusion")
    temperature: PositiveFloat = Field(default=2.5, description="by which logits are divided, as in the paper")


class InformationMaximisationOptions(Options):
    """`information_maximisation[diversity=0]` is entropy minimisation."""

    weight: PositiveFloat = Field(default=1.0, description="weight of the mean entropy of predictions")
    diversity: float = Field(default=1.0, ge=0, description="weight of the divergence of their mean from uniform")
