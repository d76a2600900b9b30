"""UrbanCross: curriculum source sampling with weighted adversarial fine-tuning.

Zhong et al., "UrbanCross: Enhancing Satellite Image-Text Retrieval with Cross-Domain Adaptation", ACM MM 2024
(arXiv 2404.14241). The `paper` variant follows its figure and text. Where they leave a choice open:

* sampler: z_s = normalised mean of a source item's image and text feature, all features by the frozen
  pre-trained encoder. An item's score is ½ (mean over target images v of ⟨v, z_s⟩ + mean over target texts u of
  ⟨u, z_s⟩). The best share of the drawn batch is kept; the share grows with each pass over the target images.
* weights: a kept source item ∝ its score; a target image ∝ Σ_s ⟨v, z_s⟩ over the kept items, a target text
  likewise with u; min-max scaled and normalised to sum 1 within each stream.
* adversarial: one discriminator for images and texts, weighted binary cross-entropy, gradient reversal with
  the schedule of DANN (Ganin et al. 2016, section 5.2.2).
* triplet: anchor source image, positive its text, negative the nearest target image of the batch.

The target's images and texts are two unpaired streams; no pairing is used (setting `unsupervised`).

The variants `april_2024` and `october_2024` are the two public versions of the released curriculum fine-tuning.
Both keep these faults, which make them the methods they are:

* nothing is adversarial: without reversal, encoder and discriminator minimise one loss at one learning rate, the
  mean over rows and two sigmoid outputs of the weighted cross-entropy, of images alone;
* rows are compared by the encoder that is trained, source texts with target texts only;
* a kept source row has the weight of whatever target row stands at its place;
* gradients are clipped before there are any. That is the grid's to repeat: `clip_norm: 1.0e+9`.

Repaired is what the code stops at: weights are cut to the kept rows, or taken over again where there are fewer,
and the discriminator is as wide as the features. In the code a target image has the weight of its own caption,
which is not known here: its own similarity to the source texts takes that place. Weights get no gradient.

`april_2024` keeps a fifth of the source batch in every pass; the passes only move the slice of similarities that
weights sum. For supervision it has InfoNCE with factor 1. `october_2024` lets the share grow and has the triplet
instead, whose rows weigh the same.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from urbancross_adaptations.curriculum import curriculum
from urbancross_adaptations.urbancross_options import UrbanCrossOptions
from urbancross_bench.interfaces import Adaptation, Batch, Context, DualEncoder, Progress
from urbancross_bench.modelling.losses import (
    Discriminator,
    dann_strength,
    info_nce,
    reverse_gradient,
    weighted_bce,
    weighted_triplet,
)


class UrbanCross(Adaptation):
    """Each part is an option; see `UrbanCrossOptions`."""

    options_type = UrbanCrossOptions

    def prepare(self, model: DualEncoder, context: Context) -> None:
        """Build the discriminator, where there is anything for it to do."""
        self.o = cast(UrbanCrossOptions, self.options)
        self._pair_loss, self._log = context.pair_loss, context.log
        self.discriminator = nn.Module()
        if self.o.adversarial:
            made = _TwoOutputs if self.o.reversal == "none" else Discriminator
            self.discriminator = made(context.width).to(context.device)

    def parameter_groups(self, model: DualEncoder, learning_rate: float) -> list[dict[str, Any]]:
        """The encoder at the budget's learning rate, the discriminator at its own unless that is the budget's."""
        own = self.o.discriminator_learning_rate
        rate = learning_rate if own == "budget" else own
        discriminator = {"params": list(self.discriminator.parameters()), "lr": rate}
        return [*super().parameter_groups(model, learning_rate), discriminator]

    def select(self, source: Batch, target: Batch, progress: Progress) -> Tensor | None:
        """The source rows most similar to the target batch, best first."""
        self._found = curriculum(source, target, progress, self.o)
        return None if self.o.order == "none" else self._found.kept

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        """λ_adv · adversarial + λ_tri · triplet + λ_pairs · supervised, on the rows `select` has just kept."""
        losses = {}
        if self.o.adversarial:
            losses["adversarial"] = self.o.adversarial * self._adversarial(source, target, progress)
        if self.o.triplet:
            losses["triplet"] = self.o.triplet * self._triplet(source, target)
        if self.o.pairs:
            losses["pairs"] = self.o.pairs * self._pairs(source)
        return losses

    def _adversarial(self, source: Batch, target: Batch, progress: Progress) -> Tensor:
        found, weighted = self._found, self.o.weighted in ("both", "adversarial")
        # The released code has a mean over rows. Its source rows have weights that sum to 1 over B' target rows;
        # of weights that sum to 1 over the source rows themselves that is 1 / B' of the sum, too.
        mean = self.o.reversal == "none"
        rows = _rows(found.source_weights(), weighted)
        self._log("effective_source_rows", 1 / rows.square().sum())
        losses, told = [], []
        for side, similarity in (("image", found.images), ("text", found.texts)):
            if self.o.domains_of in ("both", side):
                ours, theirs = (getattr(batch, f"{side}_features") for batch in (source, target))
                domains = (ours, 1.0, rows), (theirs, 0.0, _rows(found.target_weights(similarity), weighted))
                for features, label, weights in domains:
                    logits = self._logits(features, progress)
                    losses.append(_cross_entropy(logits, label, weights) / (len(theirs) if mean else 1))
                    told.append(((logits.detach() > 0).float() == label).float().mean())
        self._log("discriminator_accuracy", torch.stack(told).mean())
        return torch.stack(losses).sum()

    def _logits(self, features: Tensor, progress: Progress) -> Tensor:
        if self.o.reversal != "none":
            strength = dann_strength(progress.fraction) if self.o.reversal == "schedule" else 1.0
            features = reverse_gradient(features, strength)
        logits: Tensor = self.discriminator(features)
        return logits

    def _triplet(self, source: Batch, target: Batch) -> Tensor:
        margin = min(self.o.first_margin + self.o.margin_step * self._found.cycle, self.o.last_margin)
        weights = _rows(self._found.source_weights(), self.o.weighted in ("both", "triplet"))
        negatives = target.image_features if self.o.negatives == "target" else None
        return weighted_triplet(source.image_features, source.text_features, negatives, weights, margin)

    def _pairs(self, source: Batch) -> Tensor:
        if len(source.image_features) < 2:  # the sampler keeps one as yet: there is nothing to compare it with
            return source.image_features.sum() * 0
        if self.o.pairs_scale == "recipe":
            return self._pair_loss(source)
        scale = source.image_features.new_tensor(self.o.pairs_scale)
        return info_nce(source.image_features, source.text_features, scale)


class _TwoOutputs(nn.Sequential):
    """The released discriminator: (B, width) to two logits, each of which is to say whether it is the source."""

    def __init__(self, width: int) -> None:
        super().__init__(*list(Discriminator(width))[:-2], nn.Linear(width, 2))


def _cross_entropy(logits: Tensor, label: float, weights: Tensor) -> Tensor:
    """Σ_i w_i BCE_i; of two outputs the mean."""
    if logits.ndim == 1:
        return weighted_bce(logits, label, weights)
    return weighted_bce(logits.flatten(), label, weights.repeat_interleave(2) / 2)


def _rows(weights: Tensor, weighted: bool) -> Tensor:
    return weights if weighted else torch.full_like(weights, 1 / len(weights))
