"""Pseudo-pairs: the unpaired target is trained on as if it were paired, by a guess at what belongs together.

Under `unsupervised` a batch holds images and texts of the target that were drawn independently. Few of its texts
say what its images show, so a guess is at best the nearest there is; each method has its own way of counting a bad
guess for less.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor

from urbancross_adaptations.pseudo_pairs_options import MutualNearestOptions, OptimalTransportOptions
from urbancross_bench.interfaces import Adaptation, Batch, Context, DualEncoder, Progress
from urbancross_bench.modelling.losses import info_nce, refuse_single
from urbancross_bench.modelling.transport import log_plan, mutual_nearest, potentials


class OptimalTransport(Adaptation):
    """L(source) + λ Σ_ij P_ij · (cross-entropy of image i with text j) with P an entropic transport plan.

    The plan is Cuturi's (2013, "Sinkhorn Distances", algorithm 1), between uniform marginals: every text has to go
    to some image, so one that is near to all of them does not get all. Learning from pairs that are coupled so is
    the scheme of Courty et al. 2017 ("Joint distribution optimal transportation"), in which plan and model take
    turns. With `plan=bank` the dual variables are found once, for all of the target, by features of the start; a
    batch then has its part of that plan, divided by its total: beside images whose texts were drawn, others weigh
    little.
    """

    options_type = OptimalTransportOptions

    def prepare(self, model: DualEncoder, context: Context) -> None:
        """Solve for the whole target, if asked."""
        self.o = cast(OptimalTransportOptions, self.options)
        self.model, self.context = model, context
        if self.o.plan == "bank":
            pool = context.target
            images = pool.reference_image_features.to(context.device)
            texts = pool.reference_text_features.to(context.device)
            self.f, self.g = potentials(images, texts, self.o.epsilon, self.o.iterations)

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        """The recipe's loss on source pairs, and the coupled target."""
        refuse_single(target.image_features, target.text_features)
        coupling = self._log_coupling(target)
        self.context.log("plan_confidence", coupling.softmax(dim=1).max(dim=1).values.mean())
        logits = self.model.logit_scale.exp() * target.image_features @ target.text_features.T
        return {
            "source_pairs": self.context.pair_loss(source),
            "transport": self.o.weight * coupled_cross_entropy(logits, coupling),
        }

    def _log_coupling(self, target: Batch) -> Tensor:
        """(B, B') logarithms of the plan between a batch's images and texts."""
        epsilon = self.o.epsilon
        if self.o.plan == "bank":
            images, texts = target.reference_image_features, target.reference_text_features
            return log_plan(images, texts, self.f[target.image_rows], self.g[target.text_rows], epsilon)
        images, texts = target.image_features.detach(), target.text_features.detach()
        return log_plan(images, texts, *potentials(images, texts, epsilon, self.o.iterations), epsilon)


class MutualNearest(Adaptation):
    """L(source) + λ InfoNCE over the target pairs of a batch that are each other's nearest neighbours.

    An image whose nearest text is nearer to another image has no pair, and is left out. Neighbours are sought in
    the batch, not in all of the target: of two that are each other's nearest there, hardly ever both are drawn.
    """

    options_type = MutualNearestOptions

    def prepare(self, model: DualEncoder, context: Context) -> None:
        """Keep what the loss needs."""
        self.o = cast(MutualNearestOptions, self.options)
        self.model, self.context = model, context

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        """The recipe's loss on source pairs, and InfoNCE on the guessed ones; 0 where one was found."""
        refuse_single(target.image_features, target.text_features)
        if self.o.features == "reference":
            rows, columns = mutual_nearest(target.reference_image_features, target.reference_text_features)
        else:
            rows, columns = mutual_nearest(target.image_features, target.text_features)
        self.context.log("paired_share", len(rows) / len(target.image_features))
        pairs = target.image_features[rows], target.text_features[columns]
        return {
            "source_pairs": self.context.pair_loss(source),
            "mutual_nearest": self.o.weight * info_nce(*pairs, self.model.logit_scale.exp()),
        }


def coupled_cross_entropy(logits: Tensor, log_coupling: Tensor) -> Tensor:
    """−½ Σ_ij P_ij (log softmax_j(s_i·) + log softmax_i(s_·j)), with P divided by its total.

    logits: (B, B'); log_coupling: (B, B') log P, without gradient. InfoNCE where P is diagonal and constant.
    """
    p = log_coupling.flatten().softmax(dim=0).view_as(log_coupling)
    return -(p * (logits.log_softmax(dim=1) + logits.log_softmax(dim=0))).sum() / 2
