"""Options of the methods that train on pairs: all weights, or few. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, PositiveInt

from urbancross_bench.interfaces import Options

_RATE = "learning rate of what is added, as a multiple of the budget's"


class FewShotOptions(Options):
    """How much the two domains count."""

    source: float = Field(default=1.0, ge=0, description="weight of the loss on source pairs")
    target: float = Field(default=1.0, gt=0, description="weight of the loss on the target pairs that are shown")


class PooledOptions(Options):
    """Options of training on several sources."""

    balanced: bool = Field(
        default=False, description="keep as many rows of each domain in a batch; else as they are drawn"
    )


class ProbingThenFineTuningOptions(Options):
    """Options of LP-FT."""

    probing: float = Field(default=0.5, ge=0, le=1, description="share of the steps that train the heads alone")
    rate_factor: PositiveFloat = Field(default=10.0, description=_RATE)


def _different(shares: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(shares)) < len(shares):
        raise ValueError("a share stands twice")
    return shares


Shares = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1), AfterValidator(_different)
]


class InterpolationOptions(Options):
    """Options of WiSE-FT."""

    alphas: Shares = Field(
        default=(0.25, 0.75, 1.0, 0.5),
        description="shares of the trained weights to choose from; the last is the default",
    )


class AdapterOptions(Options):
    """Options of trained heads on a frozen encoder."""

    kind: Literal["linear", "residual"] = Field(
        default="residual", description="an affine map, or two layers with a bottleneck, added to the feature"
    )
    bottleneck: PositiveInt = Field(default=64, description="inner width of kind=residual")
    rate_factor: PositiveFloat = Field(default=10.0, description=_RATE)

    def idle(self) -> Mapping[str, str]:
        """A linear head has no bottleneck."""
        return {"bottleneck": "kind=linear"} if self.kind == "linear" else {}


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Patterns = Annotated[tuple[str, ...], BeforeValidator(_split), Field(min_length=1)]


class LoraOptions(Options):
    """Options of low-rank updates."""

    rank: PositiveInt = 8
    alpha: PositiveFloat = Field(default=16.0, description="the update is multiplied by alpha / rank")
    targets: Patterns = Field(
        default=("*attn*", "*attention*"),
        description="patterns of the matrices that are updated; those that the encoder freezes are not",
    )
    rate_factor: PositiveFloat = Field(default=10.0, description=_RATE)

    def needs(self) -> frozenset[str]:
        """The patterns that are not given are of towers; those that are may be of heads on frozen ones."""
        given = self.targets != type(self).model_fields["targets"].default
        return frozenset() if given else frozenset({"trained_tower"})
