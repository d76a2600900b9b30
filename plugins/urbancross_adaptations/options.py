"""Options of the adaptations. No torch."""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveFloat, model_validator

from urbancross_bench.interfaces import Options


class UrbanCrossOptions(Options):
    """The paper variant; `sampler=false`, `adversarial=0`, `triplet=0` and `weighted=false` switch parts off."""

    sampler: bool = Field(default=True, description="train on the source rows nearest to the target batch only")
    first_share: float = Field(default=0.2, gt=0, le=1, description="share kept in the first pass over the target")
    share_step: float = Field(default=0.2, ge=0, le=1, description="what each further pass adds, up to 1")
    weighted: bool = Field(default=True, description="weight rows by similarity to the other side; else equally")
    adversarial: float = Field(default=1.0, ge=0, description="weight of the adversarial loss")
    discriminator_learning_rate: PositiveFloat = 1e-3
    triplet: float = Field(default=1.0, ge=0, description="weight of the triplet loss")
    first_margin: float = Field(default=0.5, ge=0, description="triplet margin in the first pass over the target")
    margin_step: float = Field(default=0.2, ge=0, description="what each further pass adds to the margin")
    last_margin: float = Field(default=1.5, ge=0, description="the largest margin")
    pairs: float = Field(
        default=0.0, ge=0, description="weight of the recipe's supervised loss; the paper has none"
    )

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.adversarial == self.triplet == self.pairs == 0:
            raise ValueError("adversarial, triplet and pairs are all 0, so nothing would be trained")
        return self
