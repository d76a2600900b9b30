"""UrbanCross's sampler: which rows of a drawn source batch a step trains on, and what each row weighs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from urbancross_adaptations.urbancross_options import UrbanCrossOptions
from urbancross_bench.interfaces import Batch, Progress
from urbancross_bench.modelling.losses import normalised_weights


@dataclass(frozen=True, eq=False)
class Curriculum:
    """What was found of one step, without gradients.

    kept: (B',) rows of the source batch, best first. images: (T, B) similarity of target images to the source
    rows, texts: (T', B) of target texts. cycle: passes over the target since the curriculum (re)started.
    """

    kept: Tensor
    images: Tensor
    texts: Tensor
    cycle: int
    options: UrbanCrossOptions

    def source_weights(self) -> Tensor:
        """(B',), summing to 1. With `source_weights=target`: of target texts in order, over and over."""
        if self.options.source_weights == "own":
            return normalised_weights(_scores(self.images, self.texts, self.options)[self.kept])
        weights = self.target_weights(self.texts)
        taken = weights[torch.arange(len(self.kept), device=weights.device) % len(weights)]
        return torch.where(taken.sum() > 0, taken / taken.sum(), 1 / len(taken))  # nobody waits for the device

    def target_weights(self, similarity: Tensor) -> Tensor:
        """(T,) of target rows by their (T, B) similarities, summing to 1."""
        if self.options.sums == "kept":
            return normalised_weights(similarity[:, self.kept].sum(dim=1), len(self.kept))
        nearest = similarity.sort(dim=1, descending=True).values
        first = len(self.kept) * (self.cycle if self.options.sums == "slice" else 0)
        return normalised_weights(nearest[:, first : first + len(self.kept)].sum(dim=1), len(self.kept))


def curriculum(source: Batch, target: Batch, progress: Progress, o: UrbanCrossOptions) -> Curriculum:
    """Compare a source and a target batch, and choose.

    With z_s the normalised mean of a source item's image and text feature, or its text feature, a target image v
    is as similar to s as ⟨v, z_s⟩, a target text u as ⟨u, z_s⟩.
    """
    by_image, by_text = _similarities(source, target, o)
    cycle = progress.target_pass % o.restart if o.restart else progress.target_pass
    kept = _order(_scores(by_image, by_text, o), o, progress)
    if o.order != "none":
        share = min(o.first_share + o.share_step * cycle, 1.0)
        kept = kept[: max(1, round(share * len(kept)))]
    return Curriculum(kept, by_image, by_text, cycle, o)


def _similarities(source: Batch, target: Batch, o: UrbanCrossOptions) -> tuple[Tensor, Tensor]:
    if not o.compares:  # nobody asks who is nearer, so nothing is encoded
        rows, columns = target.image_rows, target.text_rows
        nought = torch.zeros(len(rows), len(source.image_rows), device=rows.device)
        return nought, nought.new_zeros(len(columns), nought.shape[1])
    v, u, z = _image_features(target, o), _text_features(target, o), _text_features(source, o)
    if o.similarity == "both":
        z = F.normalize(_image_features(source, o) + z, dim=1)
    with torch.autocast(z.device.type, enabled=False):  # rounded to 8 bits, most rows would be as near as others
        return v @ z.T, u @ z.T


# A batch keeps its features for the loss, so live ones are made with gradients and only looked at without.


def _image_features(batch: Batch, o: UrbanCrossOptions) -> Tensor:
    return batch.reference_image_features if o.features == "frozen" else batch.image_features.detach()


def _text_features(batch: Batch, o: UrbanCrossOptions) -> Tensor:
    return batch.reference_text_features if o.features == "frozen" else batch.text_features.detach()


def _scores(images: Tensor, texts: Tensor, o: UrbanCrossOptions) -> Tensor:
    """(B,) ½ (mean_v ⟨v, z_s⟩ + mean_u ⟨u, z_s⟩), or the mean over target texts alone."""
    by_text = texts.mean(dim=0)
    return (images.mean(dim=0) + by_text) / 2 if o.similarity == "both" else by_text


def _order(scores: Tensor, o: UrbanCrossOptions, progress: Progress) -> Tensor:
    if o.order == "none":
        return torch.arange(len(scores), device=scores.device)
    if o.order == "random":
        generator = torch.Generator().manual_seed(progress.step)  # on the CPU: the same rows on every device
        return torch.randperm(len(scores), generator=generator).to(scores.device)
    return scores.argsort(descending=o.order == "nearest", stable=True)
