"""Options of the methods with a domain discriminator. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from urbancross_adaptations.alignment_options import BothSides, OneSide


class DannImagesOptions(OneSide):
    """`dann_images[weight=0.1,schedule=constant]`."""

    weight: PositiveFloat = Field(default=1.0, description="weight of the adversarial loss")
    schedule: Literal["ramp", "constant"] = Field(
        default="ramp", description="strength of gradient reversal: from 0 to 1 as in the paper, or always 1"
    )
    discriminator_learning_rate: PositiveFloat = 1e-3


class DannOptions(BothSides, DannImagesOptions):
    """`dann[on=text]`."""


class CdanOptions(DannOptions):
    """`cdan[entropy=false]`."""

    entropy: bool = Field(default=True, description="rows whose prediction is certain weigh up to twice as much")
    random_width: PositiveInt = Field(
        default=1024, description="width of the randomised map, where the exact one has more than 4096 columns"
    )
