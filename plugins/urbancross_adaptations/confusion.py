"""Predictions on the target made more certain. The classes are what a batch shows of the other side.

With v_i the target images and u_j the target texts of a batch, which are no pairs, and s the model's factor,
logits are s · ⟨v_i, u_j⟩. The factor gets no gradient from them: certainty is to come from the features.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from urbancross_adaptations.confusion_options import InformationMaximisationOptions, MccOptions
from urbancross_bench.interfaces import Adaptation, Batch, Context, DualEncoder, Progress
from urbancross_bench.modelling.losses import class_confusion, concentration, entropies, refuse_single


class _Prediction(Adaptation):
    def prepare(self, model: DualEncoder, context: Context) -> None:
        """Keep the recipe's loss and the model, for its factor."""
        self._pair_loss, self.model = context.pair_loss, model

    def _logits(self, target: Batch) -> Tensor:
        """(B, B') of images and texts."""
        images, texts = target.image_features, target.text_features
        refuse_single(images, texts)
        with torch.autocast(images.device.type, enabled=False):  # certainty lies in small differences
            return self.model.logit_scale.detach().exp() * images @ texts.T


class MinimumClassConfusion(_Prediction):
    """Jin et al., "Minimum Class Confusion for Versatile Domain Adaptation", ECCV 2020 (arXiv 1912.03699).

    L(source pairs) + weight · confusion of the target images among the target texts.
    """

    options_type = MccOptions

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        """The supervised loss and the confusion."""
        o = cast(MccOptions, self.options)
        confusion = class_confusion(self._logits(target) / o.temperature)
        return {"source_pairs": self._pair_loss(source), "confusion": o.weight * confusion}


class InformationMaximisation(_Prediction):
    """Liang et al., "Do We Really Need to Access the Source Data?", ICML 2020 (arXiv 2002.08546), eq. 3 and 4.

    L(source pairs) + weight · mean of H(p_i) + diversity · KL(mean of p_i ‖ uniform), p_i the softmax of a row of
    logits, the latter two the means of both directions: images among texts, texts among images.
    """

    options_type = InformationMaximisationOptions

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        """The supervised loss, the entropy, and the divergence of the mean."""
        o = cast(InformationMaximisationOptions, self.options)
        logits = self._logits(target)
        losses = {
            "source_pairs": self._pair_loss(source),
            "entropy": o.weight * (entropies(logits).mean() + entropies(logits.T).mean()) / 2,
        }
        if o.diversity:
            losses["diversity"] = o.diversity * (concentration(logits) + concentration(logits.T)) / 2
        return losses
