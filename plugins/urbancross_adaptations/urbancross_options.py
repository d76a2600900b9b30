"""Options of UrbanCross, and what each of its variants makes of them. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from urbancross_bench.interfaces import Options

# What the released code has in common, and differs in from the paper (whose values are the defaults below).
_RELEASED: dict[str, Any] = {
    "features": "live",
    "similarity": "text",
    "restart": 5,
    "source_weights": "target",
    "weighted": "adversarial",
    "domains_of": "image",
    "reversal": "none",
    "discriminator_learning_rate": "budget",
}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "april_2024": {
        **_RELEASED,
        "share_step": 0.0,
        "sums": "slice",
        "triplet": 0.0,
        "pairs": 1.0,
        "pairs_scale": 1.0,
    },
    "october_2024": {**_RELEASED, "sums": "nearest"},
}


class UrbanCrossOptions(Options):
    """A variant sets all other options; each that is given overrides it. The defaults shown are the paper's."""

    variant: Literal["paper", "april_2024", "october_2024"] = Field(
        default="paper", description="the paper, or one of the two versions of its released code"
    )
    order: Literal["nearest", "random", "reversed", "none"] = Field(
        default="nearest",
        description="which source rows are kept: nearest to the target batch, any, farthest; none: no sampler",
    )
    first_share: float = Field(default=0.2, gt=0, le=1, description="share kept in the first pass over the target")
    share_step: float = Field(default=0.2, ge=0, le=1, description="what each further pass adds, up to 1")
    restart: int = Field(
        default=0, ge=0, description="share and margin start over after so many passes over the target; 0: never"
    )
    features: Literal["frozen", "live"] = Field(
        default="frozen", description="compare rows by the starting encoder, or by the one being trained"
    )
    similarity: Literal["both", "text"] = Field(
        default="both", description="what of source and target batch is compared: images and texts, or texts"
    )
    weighted: Literal["both", "adversarial", "triplet", "none"] = Field(
        default="both",
        description="the losses whose rows weigh by similarity; in the other all rows weigh the same",
    )
    sums: Literal["kept", "nearest", "slice"] = Field(
        default="kept",
        description="a target row's weight sums its similarities to the kept source rows, to as many of all drawn "
        "that are nearest to it, or in each pass to as many next ones",
    )
    source_weights: Literal["own", "target"] = Field(
        default="own", description="a kept source row weighs by its own similarity, or has a target row's weight"
    )
    adversarial: float = Field(default=1.0, ge=0, description="weight of the adversarial loss")
    domains_of: Literal["both", "image", "text"] = Field(
        default="both", description="what the discriminator tells domains by"
    )
    reversal: Literal["schedule", "constant", "none"] = Field(
        default="schedule",
        description="strength of gradient reversal: as in DANN, 1, or no reversal and two sigmoid outputs",
    )
    discriminator_learning_rate: PositiveFloat | Literal["budget"] = 1e-3
    triplet: float = Field(default=1.0, ge=0, description="weight of the triplet loss")
    negatives: Literal["target", "source"] = Field(
        default="target",
        description="the triplet's negative is the nearest image of the target batch, or of others kept",
    )
    first_margin: float = Field(default=0.5, ge=0, description="triplet margin in the first pass over the target")
    margin_step: float = Field(default=0.2, ge=0, description="what each further pass adds to the margin")
    last_margin: float = Field(default=1.5, ge=0, description="the largest margin")
    pairs: float = Field(default=0.0, ge=0, description="weight of a supervised loss; the paper has none")
    pairs_scale: PositiveFloat | Literal["recipe"] = Field(
        default="recipe", description="that loss: pre-training's, or InfoNCE with this fixed factor"
    )

    @model_validator(mode="before")
    @classmethod
    def _variant_sets_the_others(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {**VARIANTS.get(str(given.get("variant")), {}), **given}

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.adversarial == self.triplet == self.pairs == 0:
            raise ValueError("adversarial, triplet and pairs are all 0, so nothing would be trained")
        return self

    @property
    def compares(self) -> bool:
        """Whether source and target rows are compared at all: to choose some, or to weigh them."""
        return bool(self._weighed) or self.order in ("nearest", "reversed")

    @property
    def _weighed(self) -> list[str]:
        """The losses whose rows weigh by similarity."""
        return [
            loss for loss in ("adversarial", "triplet") if getattr(self, loss) and self.weighted in ("both", loss)
        ]

    def needs(self) -> frozenset[str]:
        """Features of the start, where rows are compared by them."""
        return frozenset({"reference"}) if self.compares and self.features == "frozen" else frozenset()

    def idle(self) -> Mapping[str, str]:
        """What belongs to a part that is switched off: to the sampler, a loss, or the weights of rows."""
        weighed = self._weighed
        targets_weighed = "adversarial" in weighed or (weighed and self.source_weights == "target")
        same_weights = {"none": "weighted=none", "both": "adversarial=0 and triplet=0"}.get(
            self.weighted, f"weighted={self.weighted} and {self.weighted}=0"
        )
        grows = self.order != "none" and self.share_step and self.first_share < 1
        widens = self.triplet and self.margin_step and self.first_margin < self.last_margin
        passes = grows or widens or (targets_weighed and self.sums == "slice")
        parts: list[tuple[Any, str, tuple[str, ...]]] = [
            (self.order != "none", "order=none", ("first_share", "share_step")),
            (passes, "share and margin that do not grow", ("restart",)),
            (self.compares, f"order={self.order} and {same_weights}", ("similarity", "features")),
            (self.adversarial or self.triplet, "adversarial=0 and triplet=0", ("weighted",)),
            (targets_weighed, "source_weights=own and weights of the triplet alone", ("sums",)),
            (weighed, same_weights, ("sums", "source_weights")),
            (self.adversarial, "adversarial=0", ("domains_of", "reversal", "discriminator_learning_rate")),
            (self.triplet, "triplet=0", ("negatives", "first_margin", "margin_step", "last_margin")),
            (self.pairs, "pairs=0", ("pairs_scale",)),
        ]
        return {name: why for on, why, names in parts if not on for name in names}

    def identity(self) -> dict[str, Any]:
        """The options without the variant: a variant and the same options spelled out are one run."""
        return {name: value for name, value in super().identity().items() if name != "variant"}
