"""UrbanCross: curriculum source sampling with weighted adversarial fine-tuning.

Zhong et al., "UrbanCross: Enhancing Satellite Image-Text Retrieval with Cross-Domain Adaptation", ACM MM 2024
(arXiv 2404.14241). This is the `paper` variant, after its figure and text. Where they leave a choice open:

* sampler: z_s = normalised mean of a source item's image and text feature, all features by the frozen
  pre-trained encoder. An item's score is ½ (mean over target images v of ⟨v, z_s⟩ + mean over target texts u of
  ⟨u, z_s⟩). The best share of the drawn batch is kept; the share grows with each pass over the target images.
* weights: a kept source item ∝ its score; a target image ∝ Σ_s ⟨v, z_s⟩ over the kept items, a target text
  likewise with u; min-max scaled and normalised to sum 1 within each stream.
* adversarial: one discriminator for images and texts, weighted binary cross-entropy, gradient reversal with
  the schedule of DANN (Ganin et al. 2016, section 5.2.2).
* triplet: anchor source image, positive its text, negative the nearest target image of the batch.

The target's images and texts are two unpaired streams; no pairing is used (setting `unsupervised`).
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from urbancross_adaptations.options import UrbanCrossOptions
from urbancross_bench.interfaces import Adaptation, Batch, Context, DualEncoder, Progress
from urbancross_bench.modelling.losses import (
    Discriminator,
    normalised_weights,
    reverse_gradient,
    weighted_bce,
    weighted_triplet,
)


class UrbanCross(Adaptation):
    """Each part is an option; see `UrbanCrossOptions`."""

    options_type = UrbanCrossOptions

    def prepare(self, model: DualEncoder, context: Context) -> None:
        """Build the discriminator."""
        self.o = cast(UrbanCrossOptions, self.options)
        self.pair_loss = context.pair_loss
        self.discriminator = Discriminator(context.width).to(context.device)

    def parameter_groups(self, model: DualEncoder, learning_rate: float) -> list[dict[str, Any]]:
        """The encoder at the budget's learning rate, the discriminator at its own."""
        discriminator = {"params": self.discriminator.parameters(), "lr": self.o.discriminator_learning_rate}
        return [*super().parameter_groups(model, learning_rate), discriminator]

    def select(self, source: Batch, target: Batch, progress: Progress) -> Tensor | None:
        """The source rows most similar to the target batch, best first."""
        if not self.o.sampler:
            return None
        scores = self._source_scores(source, target)
        share = min(self.o.first_share + self.o.share_step * progress.target_pass, 1.0)
        return scores.argsort(descending=True, stable=True)[: max(1, round(share * len(scores)))]

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        """λ_adv · adversarial + λ_tri · triplet (+ λ_pairs · supervised) on the kept rows."""
        w_source, w_images, w_texts = self._weights(source, target)
        losses = {}
        if self.o.adversarial:
            strength = 2 / (1 + math.exp(-10 * progress.fraction)) - 1
            images = self._domain_loss(source.image_features, w_source, target.image_features, w_images, strength)
            texts = self._domain_loss(source.text_features, w_source, target.text_features, w_texts, strength)
            losses["adversarial"] = self.o.adversarial * (images + texts)
        if self.o.triplet:
            margin = min(self.o.first_margin + self.o.margin_step * progress.target_pass, self.o.last_margin)
            losses["triplet"] = self.o.triplet * weighted_triplet(
                source.image_features, source.text_features, target.image_features, w_source, margin
            )
        if self.o.pairs:
            losses["pairs"] = self.o.pairs * self.pair_loss(source)
        return losses

    def _domain_loss(self, source: Tensor, w_source: Tensor, target: Tensor, w_target: Tensor, r: float) -> Tensor:
        source_logits = self.discriminator(reverse_gradient(source, r))
        target_logits = self.discriminator(reverse_gradient(target, r))
        return weighted_bce(source_logits, 1.0, w_source) + weighted_bce(target_logits, 0.0, w_target)

    def _weights(self, source: Batch, target: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of the source rows, the target images and the target texts; each sums to 1."""
        images, texts = target.reference_image_features, target.reference_text_features
        z = _joint(source)
        scores = self._source_scores(source, target), (images @ z.T).sum(dim=1), (texts @ z.T).sum(dim=1)
        if not self.o.weighted:
            scores = torch.zeros_like(scores[0]), torch.zeros_like(scores[1]), torch.zeros_like(scores[2])
        return normalised_weights(scores[0]), normalised_weights(scores[1]), normalised_weights(scores[2])

    def _source_scores(self, source: Batch, target: Batch) -> Tensor:
        """(B,) ½ (mean_v ⟨v, z_s⟩ + mean_u ⟨u, z_s⟩)."""
        centre = (target.reference_image_features.mean(dim=0) + target.reference_text_features.mean(dim=0)) / 2
        return _joint(source) @ centre


def _joint(source: Batch) -> Tensor:
    """(B, D) z_s: the normalised mean of a source item's two frozen features."""
    return F.normalize(source.reference_image_features + source.reference_text_features, dim=1)
