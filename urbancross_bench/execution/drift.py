"""What evaluating in a lower precision moves: some images and their captions, embedded in both."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.evaluation.ranking import evaluate_retrieval
from urbancross_bench.evaluation.samples import evenly_spaced
from urbancross_bench.interfaces.dataset import Indices
from urbancross_bench.interfaces.selector import Features

_IMAGES = 128  # of a split: enough to see a drift, few enough to cost little


def sampled(images: int) -> Indices:
    """Which of a split's images are embedded in float32 too: up to 128, evenly spaced."""
    return evenly_spaced(images, _IMAGES)


def drift(features: Features, exact: Features) -> dict[str, Any]:
    """mR of the sampled images and their captions alone, by both features; how far any similarity moved.

    `features` are of the whole split, `exact` those of its sample in float32. Raises ValueError for features that
    cannot be ranked.
    """
    members = sampled(len(features.images))
    texts = np.isin(features.image_of_text, members)
    images, captions, owners = features.images[members], features.texts[texts], exact.image_of_text
    rounded = evaluate_retrieval(images, captions, owners)
    plain = evaluate_retrieval(exact.images, exact.texts, owners)
    moved = np.abs(_cosines(images, captions) - _cosines(exact.images, exact.texts)).max()
    return {
        "images": len(members),
        "texts": len(owners),
        "mr": rounded.mr,
        "mr_float32": plain.mr,
        "largest_cosine": float(moved),
    }


def _cosines(images: NDArray[np.float32], texts: NDArray[np.float32]) -> NDArray[np.float64]:
    x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (images, texts))
    product: NDArray[np.float64] = x.astype(np.float64) @ y.astype(np.float64).T
    return product
