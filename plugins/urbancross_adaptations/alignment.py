"""Distances between the features of two domains, in closed form: CORAL and MMD.

Source domains of a scenario with several count as one. Images and texts are brought together apart: the distance
of each side is a loss of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import cast

from torch import Tensor

from urbancross_adaptations.alignment_options import CoralImagesOptions, MmdImagesOptions, Side
from urbancross_bench.interfaces import Adaptation, Batch, Context, DualEncoder, Progress
from urbancross_bench.modelling.losses import coral, mmd


def features(batch: Batch, side: Side) -> Tensor:
    """(B, D) of one side of a batch, by the encoder being trained."""
    return batch.image_features if side == "image" else batch.text_features


class _Alignment(Adaptation):
    """L(source pairs) + weight · Σ over sides of the distance between source and target features."""

    def prepare(self, model: DualEncoder, context: Context) -> None:
        """Keep the recipe's loss."""
        self._pair_loss = context.pair_loss

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        """The supervised loss and a distance for each side."""
        o = cast("CoralImagesOptions | MmdImagesOptions", self.options)
        losses = {"source_pairs": self._pair_loss(source)}
        for side in o.sides:
            losses[f"distance_{side}"] = o.weight * self._distance(features(source, side), features(target, side))
        return losses

    @abstractmethod
    def _distance(self, source: Tensor, target: Tensor) -> Tensor:
        """Of (B, D) and (B', D) features; a scalar."""


class Coral(_Alignment):
    """Sun & Saenko, "Deep CORAL", ECCV 2016 workshops (arXiv 1607.01719), eq. 1 and 6."""

    options_type = CoralImagesOptions

    def _distance(self, source: Tensor, target: Tensor) -> Tensor:
        return coral(source, target)


class Mmd(_Alignment):
    """Long et al., "Learning Transferable Features with Deep Adaptation Networks", ICML 2015 (arXiv 1502.02791).

    With the kernels' weights equal, which there are learned, and on the common space alone, not on several layers.
    """

    options_type = MmdImagesOptions

    def _distance(self, source: Tensor, target: Tensor) -> Tensor:
        return mmd(source, target, cast(MmdImagesOptions, self.options).kernels)
