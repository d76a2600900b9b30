"""The distance to the nearest of many points: a balanced k-d tree that all queries go down at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BATCH = 2048  # queries under way at once, which bounds memory
_LEAF = 16

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def nearest(points: Floats, others: Floats) -> Floats:
    """(N,) distances from each of (N, 3) points to the nearest of (M, 3), M > 0."""
    tree = _grow(others)
    squares = [_descend(points[start : start + _BATCH], tree) for start in range(0, len(points), _BATCH)]
    distances: Floats = np.sqrt(np.concatenate([np.empty(0), *squares]))
    return distances


@dataclass(frozen=True)
class _Tree:
    """The boxes of each level from the root down, and the points in those of the last.

    A level has twice the nodes of the one before: node i has the nodes 2i and 2i + 1. `boxes` are the lowest and
    highest corners, (nodes, 3) each; `leaves` is (nodes, points, 3).
    """

    boxes: list[tuple[Floats, Floats]]
    leaves: Floats


def _grow(points: Floats) -> _Tree:
    """Nodes are cut in halves along their longest side, all of a level at once."""
    depth = max(0, int(np.ceil(np.log2(len(points) / _LEAF))))
    width = -(-len(points) // 2**depth)
    nodes = np.resize(points, (1, width * 2**depth, 3))  # filled up by repeats, which are no nearer
    boxes = [(nodes.min(axis=1), nodes.max(axis=1))]
    for _ in range(depth):
        low, high = boxes[-1]
        longest = (high - low).argmax(axis=1)[:, None, None]
        order = np.take_along_axis(nodes, longest, axis=2).argsort(axis=1, kind="stable")
        nodes = np.take_along_axis(nodes, order, axis=1).reshape(2 * len(nodes), -1, 3)
        boxes.append((nodes.min(axis=1), nodes.max(axis=1)))
    return _Tree(boxes, nodes)


def _descend(points: Floats, tree: _Tree) -> Floats:
    """(N,) squared distances to the nearest in the tree."""

    def outside(who: Indices, level: int, node: Indices) -> Floats:
        low, high = (corner[node] for corner in tree.boxes[level])
        return _squares(np.maximum(0, np.maximum(low - points[who], points[who] - high)))

    def within(who: Indices, leaf: Indices) -> Floats:
        closest: Floats = _squares(points[who, None] - tree.leaves[leaf]).min(axis=1)
        return closest

    everyone: Indices = np.arange(len(points))
    # The nearest in the leaf that the nearer boxes lead to bounds what else is worth a look.
    leaf: Indices = np.zeros_like(everyone)
    for level in range(1, len(tree.boxes)):
        left, right = (outside(everyone, level, 2 * leaf + side) for side in (0, 1))
        leaf = 2 * leaf + (right < left)
    best = within(everyone, leaf)
    who: Indices = everyone
    node: Indices = np.zeros_like(everyone)
    for level in range(1, len(tree.boxes)):
        who, node = np.repeat(who, 2), (2 * node[:, None] + np.arange(2)).ravel()
        worth = outside(who, level, node) < best[who]
        who, node = who[worth], node[worth]
    for start in range(0, len(who), _BATCH):
        some = slice(start, start + _BATCH)
        np.minimum.at(best, who[some], within(who[some], node[some]))
    return best


def _squares(vectors: Floats) -> Floats:
    """(…, 3) → squared lengths, always added in the same order: a box is never farther than what it holds."""
    squares = vectors * vectors
    total: Floats = squares[..., 0] + squares[..., 1] + squares[..., 2]
    return total
