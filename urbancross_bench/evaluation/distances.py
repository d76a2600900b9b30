"""How far two domains lie apart, from their features or their captions: diagnostics, never part of a ranking.

numpy only; the same rows give the same number, rows drawn included: raw draws are what numpy promises to keep.
Memory grows with the rows, not with their square.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_RIDGE = 0.1  # of the mean variance of a feature; much less fits noise where rows are about as many as features
_MEDIAN_OF = 1000  # rows among which the median distance is taken
_BLOCK = 1024  # rows compared at once
_LARGEST = 1e100  # of a feature: no sum of squares of such overflows


def proxy_a_distance(a: ArrayLike, b: ArrayLike) -> float:
    """2(1 − 2ε), ε the error of a linear classifier that tells rows of `a` (n, D) from rows of `b` (m, D).

    2: told apart without error; 0: not at all; below 0 by chance. Ben-David et al. 2007, Analysis of
    representations for domain adaptation. The classifier is ridge regression to ±1, each set weighing half; it is
    fitted to one half of the rows and tested on the other, both ways round. A row's content says which half it is
    in, so that an item which both sets have is never trained under one name and tested under the other. Raises
    ValueError for shapes that do not fit, features above 1e100, and sets too small to be cut into halves.
    """
    a, b = _features(a, b)
    in_a, in_b = _in_first_half(a), _in_first_half(b)
    if any(not half.any() or half.all() for half in (in_a, in_b)):
        raise ValueError(f"sets of {len(a)} and {len(b)} rows are too small to be cut into halves")
    errors = [_error(_classifier(a[x], b[y]), a[~x], b[~y]) for x, y in ((in_a, in_b), (~in_a, ~in_b))]
    return 2 * (1 - 2 * float(np.mean(errors)))


def squared_mmd(a: ArrayLike, b: ArrayLike, bandwidth: float | None = None) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy of `a` (n, D) and `b` (m, D), n, m ≥ 2.

    mean k(aᵢ, aⱼ) + mean k(bᵢ, bⱼ) − 2 mean k(aᵢ, bⱼ), the first two over i ≠ j, k(x, y) = exp(−‖x − y‖² / 2σ²);
    about 0, on either side, where both are drawn alike. Gretton et al. 2012, A kernel two-sample test.
    bandwidth: σ; by default the median distance between different rows of both sets, or of 1,000 of them drawn
    with a fixed seed. Raises ValueError for shapes that do not fit, and features above 1e100.
    """
    x, y = _features(a, b)
    if min(len(x), len(y)) < 2:
        raise ValueError("each set needs two rows")
    origin = (x.mean(axis=0) + y.mean(axis=0)) / 2  # far from it, differences of squares would lose their digits
    x, y = x - origin, y - origin
    sigma = _median_distance(np.concatenate([x, y])) if bandwidth is None else bandwidth
    if not (sigma > 0 and 0 < sigma * sigma < np.inf):
        raise ValueError(f"the bandwidth and its square must be above 0 and finite, got {sigma}")
    within = [(_kernel_sum(one, one, sigma) - len(one)) / (len(one) * (len(one) - 1)) for one in (x, y)]
    return sum(within) - 2 * _kernel_sum(x, y, sigma) / (len(x) * len(y))


@dataclass(frozen=True)
class VocabularyDistance:
    """How differently two sets of captions speak.

    divergence: Jensen–Shannon divergence of the word frequencies in bits (Lin 1991), 0 for the same frequencies, 1
    for no common word. words_a, words_b: words in all, each as often as it stands; a_outside_b: those of A that
    stand nowhere in B.
    """

    divergence: float
    words_a: int
    words_b: int
    a_outside_b: int
    b_outside_a: int


def vocabulary_distance(a: Iterable[str], b: Iterable[str]) -> VocabularyDistance | None:
    """The distance of two sets of captions; None where one has no word."""
    counts_a, counts_b = (Counter(word for caption in side for word in words(caption)) for side in (a, b))
    total_a, total_b = counts_a.total(), counts_b.total()
    if not total_a or not total_b:
        return None
    vocabulary = [*(counts_a | counts_b)]
    p, q = (
        np.array([counts[word] for word in vocabulary]) / total
        for counts, total in ((counts_a, total_a), (counts_b, total_b))
    )
    return VocabularyDistance(
        divergence=(_relative_entropy(p, (p + q) / 2) + _relative_entropy(q, (p + q) / 2)) / 2,
        words_a=total_a,
        words_b=total_b,
        a_outside_b=sum(count for word, count in counts_a.items() if word not in counts_b),
        b_outside_a=sum(count for word, count in counts_b.items() if word not in counts_a),
    )


def words(caption: str) -> list[str]:
    """The words of a caption, lower case, without punctuation."""
    return re.findall(r"\w+", caption.lower())


def _features(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    given = np.asarray(a), np.asarray(b)
    if any(x.dtype.kind not in "fiub" for x in given):
        raise ValueError(f"the features must be real numbers, got {given[0].dtype} and {given[1].dtype}")
    sets = given[0].astype(np.float64, copy=False), given[1].astype(np.float64, copy=False)
    if any(x.ndim != 2 or 0 in x.shape for x in sets) or sets[0].shape[1] != sets[1].shape[1]:
        raise ValueError(f"two matrices of one width are wanted, got shapes {sets[0].shape} and {sets[1].shape}")
    if not all(np.isfinite(x).all() for x in sets):
        raise ValueError("the features hold NaN or infinity")
    if (largest := max(float(np.abs(x).max()) for x in sets)) > _LARGEST:
        raise ValueError(f"the features are too large: {largest:.3g}, at most {_LARGEST:g}")
    return sets


def _in_first_half(rows: Floats) -> NDArray[np.bool_]:
    rows = rows + 0.0  # or −0 and 0 would differ
    return np.array([blake2b(row.tobytes(), digest_size=1).digest()[0] % 2 == 0 for row in rows])


def _classifier(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Direction and origin: a row lies on the side of `a` where (row − origin) · direction > 0."""
    centre_a, centre_b = a.mean(axis=0), b.mean(axis=0)
    origin = (centre_a + centre_b) / 2
    a, b = a - origin, b - origin
    spread = a.T @ a / len(a) + b.T @ b / len(b)
    ridge = _RIDGE * np.trace(spread) / len(spread) or 1.0
    return np.linalg.solve(spread + ridge * np.eye(len(spread)), centre_a - centre_b), origin


def _error(classifier: tuple[Floats, Floats], a: Floats, b: Floats) -> float:
    """Of each set its share on the wrong side, the mean of both; what lies between the sides is half wrong."""
    direction, origin = classifier
    sides = [np.sign((x - origin) @ direction) for x in (a, b)]
    return float((1 - sides[0]).mean() + (1 + sides[1]).mean()) / 4


def _median_distance(rows: Floats) -> float:
    """The median distance of rows that are not the same; 1 where all are."""
    if len(rows) > _MEDIAN_OF:
        drawn = np.argsort(np.random.PCG64(0).random_raw(len(rows)), kind="stable")[:_MEDIAN_OF]
        rows = rows[drawn]
    squares = _squared_distances(rows, rows)[np.triu_indices(len(rows), 1)]
    different = squares[squares > 1e-12 * (rows * rows).sum(axis=1).max()]  # less is rounding
    return float(np.median(np.sqrt(different))) if len(different) else 1.0


def _kernel_sum(a: Floats, b: Floats, sigma: float) -> float:
    blocks = (
        _squared_distances(a[start : start + _BLOCK], b[at : at + _BLOCK])
        for start in range(0, len(a), _BLOCK)
        for at in range(0, len(b), _BLOCK)
    )
    return sum(float(np.exp(block / (-2 * sigma * sigma)).sum()) for block in blocks)


def _squared_distances(a: Floats, b: Floats) -> Floats:
    squares: Floats = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T
    return np.maximum(squares, 0)


def _relative_entropy(p: Floats, q: Floats) -> float:
    there = p > 0
    return float((p[there] * np.log2(p[there] / q[there])).sum())
