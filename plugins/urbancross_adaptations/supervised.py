"""What every comparison needs beside a method: no training, training on pairs of the source, or of the target."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from urbancross_adaptations.fine_tuning_options import FewShotOptions, PooledOptions
from urbancross_bench.interfaces import Adaptation, Batch, Context, DualEncoder, Progress


class ZeroShot(Adaptation):
    """The model as pre-training left it."""


class SourceOnly(Adaptation):
    """The supervised loss of the pre-training recipe, on source pairs."""

    def prepare(self, model: DualEncoder, context: Context) -> None:
        """Keep the recipe's loss."""
        self._pair_loss = context.pair_loss

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        """L(source)."""
        return {"source_pairs": self._pair_loss(source)}


class Oracle(SourceOnly):
    """The same loss, on target pairs: the same start, steps and batch, with the labels no other method sees."""

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        """L(target)."""
        return {"target_pairs": self._pair_loss(target)}


class FewShot(SourceOnly):
    """Both: λ_s L(source) + λ_t L(target), on the share of target pairs that the scenario shows."""

    options_type = FewShotOptions

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        """Without a weight the source is not encoded at all."""
        o = cast(FewShotOptions, self.options)
        losses = {"target_pairs": o.target * self._pair_loss(target)}
        if o.source:
            losses["source_pairs"] = o.source * self._pair_loss(source)
        return losses


class Pooled(SourceOnly):
    """Training on several sources together, for a target that is not seen.

    Empirical risk minimisation, which other methods of domain generalisation are hard put to beat: Gulrajani &
    Lopez-Paz 2021. Batches are drawn from all images alike, so a greater domain counts for more, unless
    `balanced`.
    """

    options_type = PooledOptions

    def select(self, source: Batch, target: Batch, progress: Progress) -> Tensor | None:
        """With `balanced`, as many rows of each domain as the rarest of the batch has: the first ones."""
        if not cast(PooledOptions, self.options).balanced:
            return None
        members = torch.nn.functional.one_hot(source.domains)
        counts = members.sum(dim=0)
        fewest = counts[counts > 0].min()
        place = members.cumsum(dim=0).gather(1, source.domains[:, None])[:, 0]  # of a row in its domain, from 1
        return (place <= fewest).nonzero()[:, 0]
