"""CLIP with segments, after UrbanCross (Zhong et al., ACM MM 2024, arXiv 2404.14241)."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from urbancross_bench.interfaces import DualEncoder
from urbancross_bench.modelling.heads import Around
from urbancross_encoders.clip_model import ClipModel
from urbancross_encoders.fusion import fusion
from urbancross_encoders.openclip import OpenClip
from urbancross_encoders.sam_fused_options import SamFusedOptions


class SamFused(OpenClip):
    """An open_clip model whose images come with segments."""

    options_type = SamFusedOptions

    def load(self) -> DualEncoder:
        """As `openclip`; the fusion's parameters start the same every time."""
        options = cast(SamFusedOptions, self.options)
        return SamFusedModel(cast(ClipModel, super().load()), options.fusion)


class SamFusedModel(Around):
    """The `interfaces.SegmentEncoder` around a model of the CLIP family."""

    def __init__(self, base: ClipModel, fusion_name: str) -> None:
        super().__init__(base)
        self.fusion = fusion(fusion_name, base.width)
        # On two frozen towers there is the fusion to train, if it has anything to learn.
        base.trains = base.trains or any(True for _ in (self.fusion or nn.Identity()).parameters())

    def encode_text(self, tokens: Tensor) -> Tensor:
        """See `interfaces.DualEncoder`."""
        return self.base.encode_text(tokens)

    def encode_segment(self, images: Tensor) -> Tensor:
        """See `interfaces.SegmentEncoder`."""
        return self.base.encode_image(images)

    def encode_image(
        self, images: Tensor, segments: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        """See `interfaces.SegmentEncoder`. Fused embeddings are of unit vectors."""
        features = self.base.encode_image(images)
        if self.fusion is None or segments is None or present is None:
            return features
        own, parts = F.normalize(features.float(), dim=1), F.normalize(segments.float(), dim=2)
        fused: Tensor = self.fusion(own, parts, present)
        return fused
