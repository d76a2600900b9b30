"""Source validation weighted by how much a source query looks like the target's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import RunError
from urbancross_bench.evaluation import Direction, Ranking, evaluate_retrieval
from urbancross_bench.interfaces import Candidate, Selector
from urbancross_selectors.features import Floats, unit
from urbancross_selectors.logistic import log_density_ratio
from urbancross_selectors.unlabelled import target_features

_EQUAL = 1e-20  # relative variance of weights that differ by rounding alone


class ImportanceWeighted(Selector):
    """The target's mR in percent as estimated from the source's validation pairs.

    Deep embedded validation, You et al. 2019, Towards accurate model selection in deep unsupervised domain
    adaptation: each source query weighs p_target / p_source of its feature, and a control variate takes off what
    the weights' own mean is off by. A query's value is its mean hit@K over K = 1, 5, 10, so with equal weights the
    estimate is the mR; 1 less the value is a loss as in the paper, and leads to the same estimate. Images weigh by
    the images of both domains, texts by the texts. Queries of several source domains are put together, each with
    the gallery of its own.

    A query is weighed by a classifier that has not seen it: one fitted to the other half of both domains.
    """

    def scores(self, candidates: Sequence[Candidate]) -> list[float]:
        """Each candidate by itself. Raises RunError for features that have no direction."""
        return [_estimate(candidate) for candidate in candidates]


def _estimate(candidate: Candidate) -> float:
    target_images, target_texts = target_features(candidate)
    where = f"of the source by the candidate of step {candidate.step}"
    images = np.concatenate([unit(s.images, f"image features {where}") for s in candidate.source_val])
    texts = np.concatenate([unit(s.texts, f"text features {where}") for s in candidate.source_val])
    rankings = [evaluate_retrieval(s.images, s.texts, s.image_of_text, top=0) for s in candidate.source_val]
    # A text goes with its image, or the classifier would have seen as good as the text it is asked about.
    of_text = np.concatenate([s.image_of_text % 2 for s in candidate.source_val])
    of_image = np.concatenate([np.arange(len(s.images)) % 2 for s in candidate.source_val])
    estimates = (
        weighted_mean(_values(rankings, "i2t"), density_ratio(images, of_image, target_images)),
        weighted_mean(_values(rankings, "t2i"), density_ratio(texts, of_text, target_texts)),
    )
    return 50.0 * sum(estimates)


def density_ratio(source: Floats, half: NDArray[np.int64], target: Floats) -> Floats:
    """(n,) p_target / p_source at each source row; `half` (n,), 0 or 1, says with which others it is weighed."""
    if min(np.bincount(half, minlength=2)) < 1 or len(target) < 2:
        raise RunError("importance_weighted halves its data, and needs two validation images a domain at least")
    ratio = np.empty(len(source))
    for own in (0, 1):
        fitted = log_density_ratio(source[half != own], target[1 - own :: 2], source[half == own])
        ratio[half == own] = np.exp(fitted)
    return ratio


def weighted_mean(values: Floats, weights: Floats) -> float:
    """The mean of weight · value, less what the weights' mean is off 1, times how both vary together.

    Of equal weights, which leave open how values vary with them, the mean value.
    """
    products, mean, spread = weights * values, weights.mean(), np.var(weights)
    if spread <= _EQUAL * mean**2:
        return float(values.mean())
    slope = np.mean((products - products.mean()) * (weights - mean)) / spread
    return float(products.mean() - slope * (mean - 1))


def _values(rankings: Sequence[Ranking], direction: Direction) -> Floats:
    sides = [getattr(ranking, direction) for ranking in rankings]
    return np.concatenate([np.mean([side.hits(k) for k in side.k], axis=0) for side in sides])
