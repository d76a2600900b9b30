"""The two references of every comparison: training on the source's pairs, and on the target's."""

from __future__ import annotations

from torch import Tensor

from urbancross_bench.interfaces import Adaptation, Batch, Context, DualEncoder, Progress


class SourceOnly(Adaptation):
    """The supervised loss of the pre-training recipe, on source pairs."""

    def prepare(self, model: DualEncoder, context: Context) -> None:
        """Keep the recipe's loss."""
        self._pair_loss = context.pair_loss

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        """L(source)."""
        return {"source_pairs": self._pair_loss(source)}


class Oracle(SourceOnly):
    """The same loss, on target pairs: the same start and steps, with the labels no other method sees."""

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        """L(target)."""
        return {"target_pairs": self._pair_loss(target)}
