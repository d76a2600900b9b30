"""Options of the methods that bring the features of two domains together. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, PositiveFloat, field_validator

from urbancross_bench.interfaces import Options

Side = Literal["image", "text"]


class OneSide(Options):
    """Of a method that is shown the target's images alone."""

    @property
    def sides(self) -> tuple[Side, ...]:
        """Whose features are brought together."""
        return ("image",)


class BothSides(OneSide):
    """Of the same method where captions are shown too. For images alone there is its twin, which sees less."""

    on: Literal["both", "text"] = Field(
        default="both", description="images and texts, or texts alone; for images alone take the method's twin"
    )

    @property
    def sides(self) -> tuple[Side, ...]:
        """Whose features are brought together."""
        return ("image", "text") if self.on == "both" else ("text",)


class CoralImagesOptions(OneSide):
    """`coral_images[weight=3]`."""

    weight: PositiveFloat = Field(
        default=10.0, description="weight of the distance between covariances, which is small beside other losses"
    )


class CoralOptions(BothSides, CoralImagesOptions):
    """`coral[on=text]`."""


class MmdImagesOptions(OneSide):
    """`mmd_images[kernels=1]`."""

    weight: PositiveFloat = Field(default=1.0, description="weight of the discrepancy")
    kernels: int = Field(
        default=5, ge=1, le=101, description="how many Gaussians, an odd number, each twice as wide"
    )

    @field_validator("kernels")
    @classmethod
    def _stand_about_the_median(cls, kernels: int) -> int:
        if kernels % 2 == 0:
            raise ValueError("take an odd number, so that the median distance is the middle width")
        return kernels


class MmdOptions(BothSides, MmdImagesOptions):
    """`mmd[on=text]`."""


class StatisticsImagesOptions(OneSide):
    """`align_statistics_images[whitening=true]`."""

    whitening: bool = Field(
        default=False, description="match covariances too, in closed form; otherwise means alone"
    )
    shrinkage: float = Field(
        default=0.1, ge=0, lt=1, description="of whitening: how far covariances are drawn to multiples of identity"
    )

    def idle(self) -> Mapping[str, str]:
        """Means alone have no covariances to shrink."""
        return {} if self.whitening else {"shrinkage": "whitening=false"}


class StatisticsOptions(BothSides, StatisticsImagesOptions):
    """`align_statistics[on=text]`."""
