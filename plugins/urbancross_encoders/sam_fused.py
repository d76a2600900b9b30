"""CLIP with segments, after UrbanCross (Zhong et al., ACM MM 2024, arXiv 2404.14241)."""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from urbancross_bench.interfaces import DualEncoder
from urbancross_bench.modelling.checkpoints import ReadCheckpoint, fitting
from urbancross_bench.modelling.heads import Around
from urbancross_encoders.clip_model import ClipModel
from urbancross_encoders.fusion import fusion
from urbancross_encoders.openclip import OpenClip
from urbancross_encoders.sam_fused_options import SEGMENT_TOWER, SamFusedOptions, no_segment_tower

_IMAGE_TOWER = "visual."


class SamFused(OpenClip):
    """An open_clip model whose images come with segments."""

    options_type = SamFusedOptions
    _segment_tower: SegmentTower | None = None

    def load(self) -> DualEncoder:
        """As `openclip`; the fusion's parameters start the same every time."""
        options = cast(SamFusedOptions, self.options)
        return SamFusedModel(cast(ClipModel, super().load()), options.fusion, self._segment_tower)

    def take_segment_tower(self, clip: nn.Module, read: ReadCheckpoint) -> None:
        """Keep it where `tower=checkpoint`, as strictly as the rest. Raises UsageError where there is none."""
        options = cast(SamFusedOptions, self.options)
        if options.tower != "checkpoint":
            super().take_segment_tower(clip, read)
            return
        [file] = options.weight_files
        if read.segment_state is None:
            raise no_segment_tower(file)
        state = {SEGMENT_TOWER + name: value for name, value in read.segment_state.items()}
        # The released code copies the whole model and removes the text tower's blocks; what that leaves of it
        # has no part in segments.
        others = [name for name in clip.state_dict() if not name.startswith(_IMAGE_TOWER)]
        text = {SEGMENT_TOWER + name for other in others for name in (other, other.removeprefix("text."))}
        tower = copy.deepcopy(cast(nn.Module, clip.visual))
        prefix = SEGMENT_TOWER + _IMAGE_TOWER
        fitted = fitting(
            {name: value for name, value in state.items() if name not in text},
            {prefix + name: value for name, value in tower.state_dict().items()},
            f"encoder 'sam_fused' cannot take its segment tower from {file}",
            allow_missing=options.allow_missing,
            allow_surplus=options.allow_surplus,
        )
        tower.load_state_dict({name.removeprefix(prefix): value for name, value in fitted.items()}, strict=False)
        self._segment_tower = SegmentTower(tower)


class SegmentTower:
    """A frozen tower that is no part of the model's state: no candidate saves again what a file has.

    Called with images, it gives features; it follows them to their device when it is first called.
    """

    def __init__(self, tower: nn.Module) -> None:
        self._tower = tower.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def __call__(self, images: Tensor) -> Tensor:
        features: Tensor = self._tower.to(images.device)(images)
        return features

    def __deepcopy__(self, memo: object) -> SegmentTower:
        return self


class SamFusedModel(Around):
    """The `interfaces.SegmentEncoder` around a model of the CLIP family."""

    def __init__(self, base: ClipModel, fusion_name: str, segment_tower: SegmentTower | None) -> None:
        super().__init__(base)
        self.fusion = fusion(fusion_name, base.width)
        self._segment_tower = segment_tower
        # On two frozen towers there is the fusion to train, if it has anything to learn.
        base.trains = base.trains or any(True for _ in (self.fusion or nn.Identity()).parameters())

    def encode_text(self, tokens: Tensor) -> Tensor:
        """See `interfaces.DualEncoder`."""
        return self.base.encode_text(tokens)

    def encode_segment(self, images: Tensor) -> Tensor:
        """See `interfaces.SegmentEncoder`."""
        if self._segment_tower is None:
            return self.base.encode_image(images)
        return cast(ClipModel, self.base).oriented(self._segment_tower, images)

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
