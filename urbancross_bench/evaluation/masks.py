"""Which products of a block lie beyond a threshold: compared, counted and found, a byte to a pair.

On the processor numpy does that, whose comparisons write bytes many at a time. All matrices of a block are
contiguous or transposed views of contiguous ones.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Matrix = torch.Tensor


def exceeding(scores: Matrix, limits: Matrix, out: Matrix) -> Matrix:
    """(Q, G) bool, put into `out`: which scores lie above the (Q, 1) limits."""
    if scores.is_cuda:
        return torch.gt(scores, limits, out=out)
    np.greater(scores.numpy(), limits.numpy(), out=out.numpy())
    return out


def reaching(scores: Matrix, limits: Matrix, out: Matrix) -> Matrix:
    """(Q, G) bool, put into `out`: which scores do not lie below the (Q, 1) limits."""
    if scores.is_cuda:
        return torch.ge(scores, limits, out=out)
    np.greater_equal(scores.numpy(), limits.numpy(), out=out.numpy())
    return out


def row_counts(mask: Matrix) -> Ints:
    """(Q,) how many places are set in each row of a (Q, G) bool."""
    if mask.is_cuda:
        counts: Ints = mask.sum(dim=1).cpu().numpy()
    elif mask.is_contiguous():
        counts = np.bitwise_count(np.packbits(mask.numpy(), axis=1)).sum(axis=1, dtype=np.int64)
    else:
        columns = mask.numpy().view(np.uint8)
        counts = np.zeros(len(columns), dtype=np.int64)
        for start in range(0, columns.shape[1], 255):  # a byte holds so many
            counts += np.add.reduce(columns[:, start : start + 255], axis=1, dtype=np.uint8)
    return counts


def differing(left: Matrix, right: Matrix | None) -> tuple[Ints, Ints]:
    """Rows and columns where two bool masks of one shape and layout differ, in order of memory.

    Without `right`, where `left` is set.
    """
    if not left.is_contiguous():
        column, row = differing(left.T, None if right is None else right.T)
        return row, column
    if left.is_cuda:
        places: Ints = (left if right is None else left ^ right).reshape(-1).nonzero()[:, 0].cpu().numpy()
    else:
        places = _differing(left.numpy().reshape(-1), None if right is None else right.numpy().reshape(-1))
    row = places // left.shape[1]
    return row, places - row * left.shape[1]


def _differing(left: NDArray[np.bool_], right: NDArray[np.bool_] | None) -> Ints:
    if left.size % 8:
        return np.flatnonzero(left if right is None else left != right)
    # Few differ: look at eight places at once.
    mine, theirs = left.view(np.int64), None if right is None else right.view(np.int64)
    eights = np.flatnonzero(mine != (0 if theirs is None else theirs))
    found = mine[eights] if theirs is None else mine[eights] ^ theirs[eights]
    place = np.flatnonzero(found.view(np.bool_))
    places: Ints = 8 * eights[place >> 3] + (place & 7)
    return places


def by_number(numbers: NDArray[np.integer]) -> Ints:
    """(P,) the stable order of numbers from 0 to 65,535: of 16 bits numpy sorts in linear time."""
    return np.argsort(numbers.astype(np.uint16), kind="stable")
