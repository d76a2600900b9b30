"""A discriminator learns to tell domains, and by gradient reversal the encoder learns to deceive it: DANN, CDAN.

There is a discriminator for images and one for texts. Source domains of a scenario with several count as one.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from urbancross_adaptations.adversarial_options import CdanOptions, DannImagesOptions
from urbancross_adaptations.alignment import features
from urbancross_adaptations.alignment_options import Side
from urbancross_bench.interfaces import Adaptation, Batch, Context, DualEncoder, Progress
from urbancross_bench.modelling.losses import (
    Discriminator,
    dann_strength,
    entropies,
    reverse_gradient,
    weighted_bce,
)

EXACT_COLUMNS = 4096
"""Up to so many columns the multilinear map of CDAN is not randomised, as in its paper."""


class Dann(Adaptation):
    """Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016 (arXiv 1505.07818), eq. 9.

    L(source pairs) + weight · Σ over sides of (mean of BCE(source, 1) + mean of BCE(target, 0)), whose gradient is
    reversed where it enters the encoder. `discriminator_accuracy` in the learning curve is the mean of the shares
    of both domains that are told rightly; 0.5 says that they cannot be told apart, or that it has not learned.
    """

    options_type = DannImagesOptions

    def prepare(self, model: DualEncoder, context: Context) -> None:
        """Build the discriminators."""
        o = self.o = cast(DannImagesOptions, self.options)
        self._pair_loss, self._log = context.pair_loss, context.log
        self.discriminators = nn.ModuleDict({side: self._discriminator(context) for side in o.sides})
        self.discriminators.to(context.device)

    def parameter_groups(self, model: DualEncoder, learning_rate: float) -> list[dict[str, Any]]:
        """The encoder at the budget's learning rate, the discriminators at their own."""
        own = {"params": list(self.discriminators.parameters()), "lr": self.o.discriminator_learning_rate}
        return [*super().parameter_groups(model, learning_rate), own]

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        """The supervised loss and an adversarial one for each side."""
        strength = dann_strength(progress.fraction) if self.o.schedule == "ramp" else 1.0
        losses, right = {"source_pairs": self._pair_loss(source)}, []
        for side in self.o.sides:
            logits, weights = [], []
            for batch in (source, target):
                seen, weight = self._seen(batch, side, source, target)
                logits.append(self.discriminators[side](reverse_gradient(seen, strength)))
                weights.append(weight)
            told = weighted_bce(logits[0], 1.0, weights[0]) + weighted_bce(logits[1], 0.0, weights[1])
            losses[f"adversarial_{side}"] = self.o.weight * told
            right += [(logits[0].detach() > 0).float().mean(), (logits[1].detach() <= 0).float().mean()]
        self._log("discriminator_accuracy", torch.stack(right).mean())
        return losses

    def _discriminator(self, context: Context) -> nn.Module:
        return Discriminator(context.width)

    def _seen(self, batch: Batch, side: Side, source: Batch, target: Batch) -> tuple[Tensor, Tensor]:
        """What the discriminator sees of one side of one batch, (B, W), and the (B,) weights of its rows."""
        own = features(batch, side)
        return own, own.new_full((len(own),), 1 / len(own))


class Cdan(Dann):
    """Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018 (arXiv 1705.10667): CDAN+E.

    The discriminator sees a feature f together with what is predicted from it. There are no classes here; in their
    place stand the texts of both batches, u_1 … u_K (for a text: the images), the same for both domains:
    p = softmax_j(s · ⟨f, u_j⟩) with the model's factor s. As every batch draws other texts, a column of p has no
    lasting meaning; so a class is written as its feature, and p as g = Σ_j p_j u_j. What a source item is paired
    with is no class of it: the target's items have no such class, and it alone would tell the domains apart. The
    input is f ⊗ g, or where that has more than 4096 columns (R f) ⊙ (R' g) / √d with Gaussian R, R' of d rows.
    Rows weigh 1 + exp(−H(p)), to a sum of 1 in each domain. Neither p nor the weights get a gradient; in the
    authors' code p gets none, and the weights a reversed one.
    """

    options_type = CdanOptions

    def prepare(self, model: DualEncoder, context: Context) -> None:
        """Build the discriminators and draw the random maps."""
        options = cast(CdanOptions, self.options)
        self.model, self.entropy = model, options.entropy
        self.map = Multilinear(context.width, options.random_width).to(context.device)
        super().prepare(model, context)

    def _discriminator(self, context: Context) -> nn.Module:
        return Discriminator(self.map.width, context.width)

    def _seen(self, batch: Batch, side: Side, source: Batch, target: Batch) -> tuple[Tensor, Tensor]:
        other: Side = "text" if side == "image" else "image"
        own, others = features(batch, side), [features(source, other), features(target, other)]
        # Certainty lies in small differences, which half precision has not.
        with torch.no_grad(), torch.autocast(own.device.type, enabled=False):
            classes = torch.cat(others)
            logits = self.model.logit_scale.exp() * own @ classes.T
            if batch is source:
                logits[:, : len(own)].fill_diagonal_(torch.finfo(logits.dtype).min)
            predicted = logits.softmax(dim=1) @ classes
            weights = 1 + (-entropies(logits)).exp() if self.entropy else torch.ones_like(logits[:, 0])
        return self.map(own, predicted), weights / weights.sum()


class Multilinear(nn.Module):
    """f ⊗ g of two (B, D) features as (B, D²), or randomised to (B, random_width) where that is too wide.

    Inner products of the randomised map are in expectation those of the exact one, ⟨f, f'⟩ · ⟨g, g'⟩.
    """

    def __init__(self, features: int, random_width: int) -> None:
        super().__init__()
        exact = features**2 <= EXACT_COLUMNS
        self.width = features**2 if exact else random_width
        maps = None if exact else torch.randn(2, features, random_width) / random_width**0.25
        self.register_buffer("maps", maps)

    def forward(self, f: Tensor, g: Tensor) -> Tensor:
        """(B, D) and (B, D) to (B, width)."""
        maps: Tensor | None = self.maps  # type: ignore[assignment]
        if maps is None:
            return (f[:, :, None] * g[:, None, :]).flatten(1)
        return (f @ maps[0]) * (g @ maps[1])
