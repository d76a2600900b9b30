"""The supervised loss of a pre-training recipe, and pre-training itself as a method like any other."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from urbancross_bench.interfaces.adaptation import Adaptation, Batch, Progress
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.interfaces.options import Options
from urbancross_bench.modelling.batches import EncodedBatch
from urbancross_bench.modelling.losses import hinge, info_nce, refuse_single, soft_info_nce


class Supervised(Adaptation):
    """Training on pairs of the source: what pre-training is. Of segments: L(image, text) + λ L(segments, text)."""

    def __init__(self, pair_loss: PairLoss, segment_weight: float) -> None:
        super().__init__(Options())
        self._pair_loss = pair_loss
        self._segment_weight = segment_weight

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        """The recipe's loss on the source batch."""
        losses = {"pairs": self._pair_loss(source)}
        if self._segment_weight:
            losses["segments"] = self._segment_weight * self._pair_loss.of_segments(source)
        return losses


class PairLoss:
    """The supervised loss that a pre-training recipe names, on a paired batch; a scalar. RunError for one pair."""

    def __init__(self, name: str, model: DualEncoder) -> None:
        self._name = name
        self._model = model

    def __call__(self, batch: Batch) -> Tensor:
        """Of images and texts."""
        refuse_single(batch.image_rows)
        return self._of(batch.image_features, batch, slice(None))

    def of_segments(self, batch: Batch) -> Tensor:
        """Of the mean of an image's segments and its text, over the images that have any; 0 where none has."""
        features, rows = batch.segment_features, cast(EncodedBatch, batch).with_segments
        return self._of(features[rows], batch, rows) if len(rows) else features.sum() * 0

    def _of(self, features: Tensor, batch: Batch, rows: Tensor | slice) -> Tensor:
        texts = batch.text_features[rows]
        if self._name in ("hinge", "hardest_hinge"):
            return hinge(features, texts, hardest=self._name == "hardest_hinge")
        scale = self._model.logit_scale.exp()
        if self._name == "soft_info_nce":
            return soft_info_nce(features, texts, scale, batch.caption_similarity[rows][:, rows], 0.3)
        return info_nce(features, texts, scale)
