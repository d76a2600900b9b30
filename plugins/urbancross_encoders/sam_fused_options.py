"""Options of the SAM-fused encoder. No torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from urbancross_bench.interfaces import SegmentUse
from urbancross_encoders.options import OpenClipOptions


class SamFusedOptions(OpenClipOptions):
    """`sam_fused[architecture=ViT-B-16,pretrained=laion2b_s34b_b88k,fusion=attention]`."""

    most: int = Field(default=10, ge=1, description="segments of an image that are used; the largest")
    tower: Literal["start", "pretrained", "shared"] = Field(
        default="start",
        description="what encodes segments: the image tower as first loaded, as pre-training left it, or as it is",
    )
    fusion: Literal["none", "mean", "gated", "attention"] = Field(
        default="none", description="how segments enter an image's embedding; none: they have a part in training"
    )
    caption_aware: bool = Field(
        default=False, description="use segments at retrieval that may have been chosen by the caption"
    )

    def segments(self) -> SegmentUse:
        """As the options say."""
        return SegmentUse(self.most, self.tower, self.fusion != "none", self.caption_aware)

    def identity(self) -> dict[str, Any]:
        """That of the model, and how segments are used; `caption_aware` is a permission and moves nothing."""
        return super().identity() | {"most": self.most, "tower": self.tower, "fusion": self.fusion}
