"""Test-time methods: what a score is corrected by once all images and texts of a test split are there.

They train nothing and see no pair, but every score depends on the other items of the split: they are transductive.
All see the queries of both directions at once.

In numpy and float64, a block of similarities at a time. Equal rows are calibrated once, so that their scores stay
equal to the last bit and ties stay ties.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

from urbancross_adaptations.calibration_options import CSLSOptions, InvertedSoftmaxOptions
from urbancross_bench.errors import RunError
from urbancross_bench.interfaces import Adaptation, Calibrated, CalibrationOptions

Features = NDArray[np.float32]
Floats = NDArray[np.float64]

_BLOCK = 1 << 21  # similarities worked on at once: 16 MB of float64


class Centring(Adaptation):
    """Less the mean of the images each image, and less the mean of the texts each text.

    x − mean x and y − mean y, then cosine similarity: takes off the offset between the sides (Liang et al. 2022,
    Mind the gap) and what else is common to all items of a side.
    """

    options_type = CalibrationOptions

    def calibrate(self, images: Features, texts: Features) -> Calibrated:
        """Raises RunError where an item equals the mean, as where all are alike: it has no direction left."""
        return Calibrated(_less_mean(images, "image"), _less_mean(texts, "text"))


class CSLS(Adaptation):
    """Cross-domain similarity local scaling: 2⟨x, y⟩ − r_T(x) − r_S(y), halved so that the factor of ⟨x, y⟩ is 1.

    r_T(x): the mean similarity of an image and its k nearest texts, r_S(y): of a text and its k nearest images (of
    all, where they are fewer than k). An item that is near everything, a hub, is moved away. Conneau et al. 2018,
    Word translation without parallel data, section 2.3.
    """

    options_type = CSLSOptions

    def calibrate(self, images: Features, texts: Features) -> Calibrated:
        """Biases r / 2."""
        count = cast(CSLSOptions, self.options).neighbours

        def half_of_nearest(similarities: Floats) -> Floats:
            kept = min(count, similarities.shape[1])
            nearest = np.partition(similarities, -kept, axis=1)[:, -kept:]
            return np.asarray(np.sort(nearest, axis=1).mean(axis=1) / 2)

        return _biased(images, texts, half_of_nearest)


class InvertedSoftmax(Adaptation):
    """The softmax over the queries in place of the gallery: exp(β⟨x, y⟩) / Σ over queries x' of exp(β⟨x', y⟩).

    As a score, ⟨x, y⟩ − (1 / β) log Σ. The same sum over the gallery is the query's own bias, which moves none of
    its ranks, so that one score serves both directions. Smith et al. 2017, Offline bilingual word vectors,
    orthogonal transformations and the inverted softmax; all queries are summed over, none drawn.
    """

    options_type = InvertedSoftmaxOptions

    def calibrate(self, images: Features, texts: Features) -> Calibrated:
        """Biases (1 / β) log Σ exp(β · similarity)."""
        beta = cast(InvertedSoftmaxOptions, self.options).beta

        def softened_maximum(similarities: Floats) -> Floats:
            highest = similarities.max(axis=1)
            sums = np.exp(beta * (similarities - highest[:, None])).sum(axis=1)
            return np.asarray(highest + np.log(sums) / beta)

        return _biased(images, texts, softened_maximum)


def _biased(images: Features, texts: Features, bias: Callable[[Floats], Floats]) -> Calibrated:
    """The features as they are, with the `bias` of each item from its similarities to all of the other side."""
    x, y = images.astype(np.float64), texts.astype(np.float64)
    return Calibrated(images, texts, _by_rows(x, y, bias), _by_rows(y, x, bias))


def _by_rows(rows: Floats, others: Floats, bias: Callable[[Floats], Floats]) -> Floats:
    """(N,) the bias of each of (N, D) rows, one and the same for equal rows."""
    firsts: dict[bytes, int] = {}
    place = [firsts.setdefault(row.tobytes(), len(firsts)) for row in rows]
    _, first = np.unique(place, return_index=True)
    found = np.empty(len(first))
    step = max(1, _BLOCK // len(others))
    for start in range(0, len(first), step):
        found[start : start + step] = bias(rows[first[start : start + step]] @ others.T)
    return found[place]


def _less_mean(rows: Features, side: str) -> Features:
    values = rows.astype(np.float64)
    moved: Features = (values - values.mean(axis=0)).astype(np.float32)
    length = np.linalg.norm(moved, axis=1)
    place = int(length.argmin())
    if not length[place] > 1e-6:  # less is the rounding of unit rows in float32
        raise RunError(
            f"adaptation 'centring': {side} {place} of {len(rows)} equals their mean: no direction is left"
        )
    return moved
