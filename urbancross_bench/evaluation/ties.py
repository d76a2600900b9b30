"""Tie rules: what rank a right answer has when wrong ones score exactly the same.

With g negatives above a query's best positive, e negatives equal to it and m positives equal to it:
`optimistic` puts the positive first among the tied, `pessimistic` last, `expected` averages over a uniformly
random order of the e + m tied items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TieRule:
    """`hits(g, e, m, k)` gives hit@k per query in [0, 1]; `ranks(g, e, m)` the 1-based rank of the first right
    answer; `reciprocals(g, e, m)` one over that rank.
    """

    hits: Callable[[Ints, Ints, Ints, int], Floats]
    ranks: Callable[[Ints, Ints, Ints], Floats]
    reciprocals: Callable[[Ints, Ints, Ints], Floats]


def expected_hits(g: Ints, e: Ints, m: Ints, k: int) -> Floats:
    """hit@k averaged over random orders: with r = k − g, 0 for r ≤ 0, 1 for r > e, else 1 − C(e,r)/C(e+m,r)."""
    hits = _floats(g < k)
    tied = np.flatnonzero((g < k) & (e > 0))  # mostly none, or few
    g, e, m = g[tied], e[tied], m[tied]
    r = np.minimum(k - g, e + 1)
    # C(e,r)/C(e+m,r) = ∏ (e−i)/(e+m−i), i < r; the product reaches 0 by itself where r > e.
    miss = np.ones(len(tied))
    for i in range(int(r.max(initial=0))):
        active = i < r
        miss[active] *= (e[active] - i) / (e[active] + m[active] - i)
    hits[tied] = 1.0 - miss
    return hits


def expected_reciprocals(g: Ints, e: Ints, m: Ints) -> Floats:
    """1 / rank averaged over random orders: the first of m among e + m is at place i with probability
    C(e+m−i, m−1) / C(e+m, m), i = 1 … e+1.
    """
    different, which = np.unique(np.stack([g, e, m]), axis=1, return_inverse=True)
    values = np.empty(different.shape[1])
    for n, (above, equal, right) in enumerate(different.T.tolist()):
        left = np.arange(equal + 1, dtype=np.float64)  # tied negatives that went before, i − 1
        # The chance that the first i − 1 are negatives, times that of a positive then.
        before = np.cumprod(np.concatenate([[1.0], (equal - left[:-1]) / (equal + right - left[:-1])]))
        values[n] = np.sum(before * right / (equal + right - left) / (above + left + 1))
    return values[which.reshape(-1)]


def _floats(values: NDArray[Any]) -> Floats:
    return values.astype(np.float64)


TIES: dict[str, TieRule] = {
    "expected": TieRule(expected_hits, lambda g, e, m: _floats(g + (e + m + 1) / (m + 1)), expected_reciprocals),
    "optimistic": TieRule(
        lambda g, e, m, k: _floats(g < k), lambda g, e, m: _floats(g + 1), lambda g, e, m: 1 / (g + 1)
    ),
    "pessimistic": TieRule(
        lambda g, e, m, k: _floats(g + e < k), lambda g, e, m: _floats(g + e + 1), lambda g, e, m: 1 / (g + e + 1)
    ),
}
