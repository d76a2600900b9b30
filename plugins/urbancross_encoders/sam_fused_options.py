"""Options of the SAM-fused encoder. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from urbancross_bench.errors import UsageError
from urbancross_bench.interfaces import SegmentUse
from urbancross_bench.modelling.formats import kind_of, names_in
from urbancross_encoders.options import OpenClipOptions

SEGMENT_TOWER = "clip_img_seg."  # before the names of the segment tower in checkpoints of UrbanCross's code


def no_segment_tower(file: Path) -> UsageError:
    """The error of a checkpoint without the tower that it is to lend."""
    return UsageError(
        f"encoder 'sam_fused' cannot take its segment tower from {file}: it holds none, no tensor whose name "
        f"starts with {SEGMENT_TOWER}; take tower=start, pretrained or shared"
    )


class SamFusedOptions(OpenClipOptions):
    """`sam_fused[architecture=ViT-B-16,pretrained=laion2b_s34b_b88k,fusion=attention]`."""

    most: int = Field(default=10, ge=1, description="segments of an image that are used; the largest")
    tower: Literal["start", "checkpoint", "pretrained", "shared"] = Field(
        default="start",
        description="what encodes segments: the image tower as first loaded, the checkpoint's own segment tower, "
        "or the image tower as pre-training left it or as it is",
    )
    fusion: Literal["none", "mean", "gated", "attention"] = Field(
        default="none", description="how segments enter an image's embedding; none: they have a part in training"
    )
    caption_aware: bool = Field(
        default=False, description="use segments at retrieval that may have been chosen by the caption"
    )

    @model_validator(mode="after")
    def _a_tower_has_a_file(self) -> Self:
        if self.tower == "checkpoint" and not self.checkpoint:
            raise ValueError("tower=checkpoint takes the segment tower from a file; name it with checkpoint")
        return self

    def check_files(self) -> None:
        """Also for one that is to lend its segment tower and has none, where that is seen without torch."""
        super().check_files()
        for path in self.weight_files if self.tower == "checkpoint" else ():
            named = kind_of(path, unsafe_pickle=self.unsafe_pickle) == "safetensors"
            if named and not any(SEGMENT_TOWER in name for name in names_in(path)):
                raise no_segment_tower(path)

    def trains(self) -> bool:
        """Or a fusion that has something to learn."""
        return super().trains() or self.fusion in ("gated", "attention")

    def segments(self) -> SegmentUse:
        """As the options say."""
        return SegmentUse(self.most, self.tower, self.fusion != "none", self.caption_aware)

    def identity(self) -> dict[str, Any]:
        """That of the model, and how segments are used; `caption_aware` is a permission and moves nothing."""
        return super().identity() | {"most": self.most, "tower": self.tower, "fusion": self.fusion}

    def tower_identity(self) -> dict[str, Any]:
        """Features of a segment tower of its own are none of the image tower's."""
        own = {"segment_tower": self.tower} if self.tower == "checkpoint" else {}
        return super().tower_identity() | own
