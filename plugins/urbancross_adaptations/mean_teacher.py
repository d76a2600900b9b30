"""Mean teacher: on the target the model learns what an average of its own weights believes.

Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017 (arXiv 1703.01780, section 2).

A prediction is the distribution of an image over the batch's texts, and of a text over its images. Both models
see the same augmentation, and each layer of the teacher is in the mode of the student's (dropout, statistics of
batches) as in the authors' code; beyond that they differ in their weights alone, where the paper adds noise.
Disagreement is counted by cross-entropy, where the paper has the squared difference.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from urbancross_adaptations.pseudo_pairs_options import MeanTeacherOptions
from urbancross_bench.interfaces import Adaptation, Batch, Context, DualEncoder, Progress
from urbancross_bench.modelling.losses import refuse_single


class MeanTeacher(Adaptation):
    """L(source) + λ(t) · consistency(target); the teacher follows by θ' ← d θ' + (1 − d) θ.

    At first d is 1 − 1 / (t + 2), as long as that is less, as in the authors' code: else the start would be most
    of the average of a short training.
    """

    options_type = MeanTeacherOptions

    def prepare(self, model: DualEncoder, context: Context) -> None:
        """The teacher is at first the start."""
        self.o = cast(MeanTeacherOptions, self.options)
        self.model, self.pair_loss = model, context.pair_loss
        self.teacher = cast(nn.Module, copy.deepcopy(model)).requires_grad_(False)
        for layer in self.teacher.modules():
            if isinstance(layer, _BatchNorm):  # its running statistics follow the student's
                layer.track_running_stats = False  # of batches; a momentum of 0 would let infinity in, as 0 · ∞

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        """The recipe's loss on source pairs, and what teacher and student differ by."""
        teacher = cast(DualEncoder, self.teacher)
        for own, follows in zip(cast(nn.Module, self.model).modules(), self.teacher.modules(), strict=True):
            follows.training = own.training
        with torch.no_grad():
            taught = target.encoded_by(teacher)
            refuse_single(taught.image_features, taught.text_features)
            believed = _logits(taught, teacher)
        return {
            "source_pairs": self.pair_loss(source),
            "consistency": self._weight(progress.fraction) * consistency(_logits(target, self.model), believed),
        }

    @torch.no_grad()
    def after_step(self, model: DualEncoder, progress: Progress) -> None:
        """Buffers follow, too; counters are copied."""
        own, decay = model.state_dict(), min(self.o.decay, 1 - 1 / (progress.step + 2))
        for name, value in self.teacher.state_dict().items():
            if value.is_floating_point():
                value.lerp_(own[name], 1 - decay)
            else:
                value.copy_(own[name])

    def candidates(self, model: DualEncoder) -> Mapping[str, Mapping[str, Tensor]]:
        """The teacher, or the student."""
        return {self.o.score: (self.teacher if self.o.score == "teacher" else model).state_dict()}

    def _weight(self, fraction: float) -> float:
        """λ · exp(−5 (1 − T)²) with T rising from 0 to 1 over the first steps, as in Laine & Aila 2017."""
        risen = min(1.0, fraction / self.o.ramp) if self.o.ramp else 1.0
        return self.o.weight * math.exp(-5 * (1 - risen) ** 2)


def consistency(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of the student's (B, B') logits against the teacher's softmax, mean of both directions."""
    to_texts = F.cross_entropy(student, teacher.softmax(dim=1))
    to_images = F.cross_entropy(student.T, teacher.T.softmax(dim=1))
    return (to_texts + to_images) / 2


def _logits(batch: Batch, model: DualEncoder) -> Tensor:
    return model.logit_scale.exp() * batch.image_features @ batch.text_features.T
