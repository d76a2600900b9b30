"""Selectors that look at the target's validation images and texts without their pairs.

Each is a function of features and needs no label, so it can be wrong: docs/selectors.md says where.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.interfaces import Candidate, Selector
from urbancross_selectors.features import Floats, centred, similarities, unit
from urbancross_selectors.options import NeighbourhoodDensityOptions

_DIGITS = 12  # after the point: beyond them products of matrices tell equal rows apart


class Unlabelled(Selector):
    """A selector that knows a candidate by its unit features of the target, (N, D) and (M, D), and its scale."""

    def scores(self, candidates: Sequence[Candidate]) -> list[float]:
        """Each candidate by itself. Raises RunError for features that have no direction."""
        return [self.score(*target_features(candidate), candidate.scale) for candidate in candidates]

    @abstractmethod
    def score(self, images: Floats, texts: Floats, scale: float) -> float:
        """How good the features look; greater is better."""


class InformationMaximisation(Unlabelled):
    """The mutual information of a query and what it retrieves, in nats; the mean of both directions.

    With p_i = softmax over texts of scale · ⟨x_i, y⟩: H(mean of p_i) − mean of H(p_i), from 0 to log(min(N, M)).
    High where each query is sure of its answer and all answers together are many. Liang et al. 2020, Do we really
    need to access the source data?; among the selectors that Musgrave et al. 2022 compare (Three new validators).
    """

    def score(self, images: Floats, texts: Floats, scale: float) -> float:
        """At the scale of the model's own loss."""
        return (mutual_information(images, texts, scale) + mutual_information(texts, images, scale)) / 2


class NeighbourhoodDensity(Unlabelled):
    """How many items of the other side lie close to an item, softly counted: the mean of both directions, in nats.

    After the soft neighbourhood density of Saito et al. 2021, Tune it the right way: the entropy of
    p_ij ∝ exp(s_ij / τ). There, s compares a classifier's outputs. A retrieval model has none, and among plain
    features an encoder to which all are equally near, or equally far, would have the greatest entropy. So here:

    * neighbours are those of the other side, else towers that never meet could score;
    * each side is centred first, so that what is common to all items is no neighbourhood;
    * an item counts among its own neighbours with s = 1, so that one without others has the entropy 0.
    """

    options_type = NeighbourhoodDensityOptions

    def score(self, images: Floats, texts: Floats, scale: float) -> float:
        """The model's scale does not enter."""
        temperature = cast(NeighbourhoodDensityOptions, self.options).temperature
        images, texts = centred(images), centred(texts)
        return (soft_density(images, texts, temperature) + soft_density(texts, images, temperature)) / 2


class CycleConsistency(Unlabelled):
    """The share of items that the nearest item of the other side has as its own nearest; the mean of both sides.

    Of equally near ones the first counts, so a collapsed encoder gets one item of each side right.
    """

    def score(self, images: Floats, texts: Floats, scale: float) -> float:
        """Between 0 and 1; with five texts an image at most 0.6."""
        text_of, image_of = nearest(images, texts), nearest(texts, images)
        forth = np.mean(image_of[text_of] == np.arange(len(images)))
        back = np.mean(text_of[image_of] == np.arange(len(texts)))
        return float(forth + back) / 2


def target_features(candidate: Candidate) -> tuple[Floats, Floats]:
    """(N, D) and (M, D) unit features of the target's validation images and texts."""
    found = candidate.target_unpaired
    where = f"of the target by the candidate of step {candidate.step}"
    return unit(found.images, f"image features {where}"), unit(found.texts, f"text features {where}")


def mutual_information(queries: Floats, gallery: Floats, scale: float) -> float:
    """H(mean p) − mean H(p) in nats, p = softmax(scale · similarities) of each query."""
    total, conditional = np.zeros(len(gallery)), 0.0
    for _, block in similarities(queries, gallery):
        logits = scale * (block - block.max(axis=1, keepdims=True))
        shares = np.exp(logits)
        sums = shares.sum(axis=1)
        total += (1 / sums) @ shares
        conditional += float((np.log(sums) - np.einsum("ij,ij->i", shares, logits) / sums).sum())
    marginal = total[total > 0] / len(queries)
    return float(-(marginal * np.log(marginal)).sum()) - conditional / len(queries)


def soft_density(queries: Floats, gallery: Floats, temperature: float) -> float:
    """The mean entropy in nats of p ∝ exp(s / τ) over the gallery and the query itself, whose s is 1."""
    entropies = 0.0
    for _, block in similarities(queries, gallery):
        logits = (block - 1) / temperature  # the query's own is 0, and none is greater
        shares = np.exp(logits)
        sums = 1 + shares.sum(axis=1)
        entropies += float((np.log(sums) - np.einsum("ij,ij->i", shares, logits) / sums).sum())
    return entropies / len(queries)


def nearest(queries: Floats, gallery: Floats) -> NDArray[np.int64]:
    """(Q,) the gallery item of the greatest similarity, the first of equals."""
    found = np.empty(len(queries), dtype=np.int64)
    for part, block in similarities(queries, gallery):
        found[part] = block.round(_DIGITS).argmax(axis=1)
    return found
