"""The best of the gallery for each query, exact and in one order, from the products that counting makes anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from urbancross_bench.evaluation.masks import by_number, differing, reaching
from urbancross_bench.evaluation.screening import DEFINITION, FLOAT32, Block, Screen, rounded, values
from urbancross_bench.evaluation.vectors import Vectors

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SPARE = 1 << 18  # pairs kept before the first pruning
_QUERIES = 1 << 14  # lists put in order at once
_ROUNDING = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-23, torch.float64: 2.0**-23}  # relative, and more


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs of a block that may be among the best: rows of its queries, columns of its gallery, (P,) products.

    `surplus`: how many more there are than such lists usually need.
    """

    query: Ints
    vector: Ints
    score: Floats
    surplus: int


class TopLists:
    """The `size` best gallery items of each query vector, and whether each ties with the next one.

    Every pair that may be among a query's best is kept with its product until the end. Then those that the error
    bound cannot tell apart are put in order by the definition, equal ones in gallery order.
    """

    def __init__(
        self, queries: Vectors, gallery: Vectors, size: int, pair_scores: Callable[[Ints, Ints], Floats]
    ) -> None:
        """pair_scores: the scores of query vectors and gallery vectors by the definition."""
        self._pair_scores = pair_scores
        self._queries, self._gallery = queries, gallery
        self._size = min(size, gallery.items)
        self.kept = min(self._size + 1, len(gallery))  # one more: it may tie with the last
        self._best = np.full((len(queries), self.kept), -np.inf)  # the least of them stands first
        self._error = np.zeros(len(queries))  # of a float32 product
        self._score_factor = 1.0  # of scores and products that are kept
        self._found: list[tuple[NDArray[np.int32], NDArray[np.int32], Floats, NDArray[np.bool_]]] = []
        self._given: tuple[Ints, Ints, Floats] | None = None
        # The items of each gallery vector in order: of equal scores the earlier items go first.
        self._items_in_order = np.argsort(gallery.vector_of_item, kind="stable")
        self._start = np.cumsum(gallery.weights) - gallery.weights

    def candidates(
        self,
        screen: Screen,
        queries: Block,
        gallery: Block,
        scores: torch.Tensor,
        mask: torch.Tensor,
    ) -> Candidates:
        """The pairs of a block that may score no less than the least of the best so far."""
        if screen is DEFINITION:
            return self._leading(gallery, scores)
        bound, error = queries.bounds(screen, gallery.side), queries.bounds(FLOAT32, gallery.side).cpu()
        self._error[queries.start : queries.stop] = error.numpy()
        least = torch.from_numpy(self._best[queries.start : queries.stop, 0]) - error
        fresh = torch.isinf(least)
        if bool(fresh.any()) and scores.shape[1] >= self.kept:
            seen = values(screen, _surpassed(scores, self.kept))
            seen = (seen - _ROUNDING[screen.dtype] * seen.abs() - bound).cpu()
            least = torch.where(fresh, seen, least)
        limits = rounded(screen, least.to(bound.device) - bound)[:, None]
        row, column = differing(reaching(scores, limits, mask), None)
        score = values(screen, scores[torch.from_numpy(row), torch.from_numpy(column)]).cpu().numpy()
        return Candidates(row, column, score, max(0, len(row) - 2 * self.kept * len(scores)))

    def _leading(self, gallery: Block, scores: torch.Tensor) -> Candidates:
        """The best of each query in a block of exact scores: no ties beyond them can get into the list."""
        first_item = self._items_in_order[self._start[gallery.start : gallery.stop]]
        order = torch.from_numpy(np.argsort(first_item, kind="stable"))
        ranked = scores[:, order.to(scores.device)].sort(dim=1, descending=True, stable=True)
        count = min(self.kept, scores.shape[1])
        column = order[ranked.indices[:, :count].cpu()].numpy().reshape(-1)
        row = np.repeat(np.arange(len(scores)), count)
        return Candidates(row, column, ranked.values[:, :count].cpu().numpy().reshape(-1), 0)

    def take(self, queries: Block, gallery: Block, best: Candidates, *, exact: bool) -> None:
        """Keep pairs of a block, with exact scores or products that are off by no more than those of float32."""
        row, score = best.query, best.score
        self._score_factor = queries.side.score_factor
        if not len(row):
            return
        pairs = (row + queries.start).astype(np.int32), (best.vector + gallery.start).astype(np.int32)
        self._found.append((*pairs, score, np.full(len(row), exact)))
        order = by_number(row)
        counts = np.bincount(row, minlength=len(queries.rows))
        touched, counts = np.flatnonzero(counts), counts[counts > 0]
        new = np.full((len(touched), counts.max()), -np.inf)
        place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        new[np.repeat(np.arange(len(touched)), counts), place] = score[order]
        both = np.concatenate([self._best[touched + queries.start], new], axis=1)
        both.partition(-self.kept, axis=1)
        self._best[touched + queries.start] = both[:, -self.kept :]
        if sum(len(found[0]) for found in self._found) > 1.3 * self._best.size + _SPARE:
            self._prune()

    def give(self, query: Ints, vector: Ints, score: Floats) -> None:
        """All pairs that may be among the best, found by other means, with their scores by the definition: query
        by query, in order, and the best first.
        """
        self._given = query, vector, score

    def _prune(self) -> None:
        """Forget pairs that better ones have overtaken."""
        query, vector, score, exact = (np.concatenate(column) for column in zip(*self._found, strict=True))
        keep = score >= self._best[query, 0] - 2 * self._error[query]
        self._found = [(query[keep], vector[keep], score[keep], exact[keep])]
        if np.count_nonzero(keep) > 2 * self._best.size + _SPARE:
            self._settle()

    def _settle(self) -> None:
        """Keep the best alone, by the definition: for data with more near ties than memory is meant for."""
        query, vector, score, exact = self._found.pop()
        doubtful = query[~exact].astype(np.int64), vector[~exact].astype(np.int64)
        score[~exact] = self._pair_scores(*doubtful) * self._score_factor
        order = np.lexsort((self._items_in_order[self._start[vector]], -score, query))
        query, vector, score = query[order], vector[order], score[order]
        best = _places(query) < self.kept
        self._found = [(query[best], vector[best], score[best], np.ones(np.count_nonzero(best), dtype=bool))]

    def lists(self) -> tuple[Ints, NDArray[np.bool_]]:
        """(U, size) gallery items, best first, and (U, size) whether an item scores exactly like the next one.

        The last column says so of the first item that no longer stands in the list.
        """
        items = np.empty((len(self._queries), self._size), dtype=np.int64)
        tied = np.empty(items.shape, dtype=bool)
        for number, ranked in enumerate(self._from_given() if self._given else self._from_found()):
            part = slice(number * _QUERIES, (number + 1) * _QUERIES)
            items[part], tied[part] = self._items(*ranked)
        return items, tied

    def _from_given(self) -> Iterator[tuple[Ints, Ints, Ints]]:
        """What `_decided` gives, of some queries at a time."""
        assert self._given is not None
        queries, vectors, scores = self._given
        ends = np.searchsorted(queries, np.arange(0, len(self._queries) + _QUERIES, _QUERIES))
        for start, stop in pairwise(ends.tolist()):
            query, score = queries[start:stop], scores[start:stop]
            falls = np.ones(len(query), dtype=bool)
            falls[1:] = (query[1:] != query[:-1]) | (score[1:] != score[:-1])
            yield query, vectors[start:stop], np.cumsum(falls)

    def _from_found(self) -> Iterator[tuple[Ints, Ints, Ints]]:
        """What `_decided` gives, of some queries at a time."""
        self._prune()
        queries, vectors, scores, exacts = self._found.pop()
        part_of = (queries // _QUERIES).astype(np.uint16)
        order = by_number(part_of)
        ends = np.searchsorted(part_of[order], np.arange(1 + -(-len(self._queries) // _QUERIES)))
        for number, (start, stop) in enumerate(pairwise(ends.tolist())):
            pairs = order[start:stop]
            pairs = pairs[np.argsort(-scores[pairs])]
            pairs = pairs[by_number(queries[pairs] - number * _QUERIES)]
            query, vector = queries[pairs].astype(np.int64), vectors[pairs].astype(np.int64)
            yield self._decided(query, vector, scores[pairs], exacts[pairs])

    def _decided(
        self, query: Ints, vector: Ints, score: Floats, exact: NDArray[np.bool_]
    ) -> tuple[Ints, Ints, Ints]:
        """Queries and vectors in the order of the definition, from one as far as products tell, and levels.

        (P,) integers that rise as scores fall and from query to query, equal for equal scores of one query.
        """
        apart = np.ones(len(query), dtype=bool)  # from the pair before, as far as the bound can tell
        apart[1:] = (query[1:] != query[:-1]) | (score[:-1] - score[1:] > 2 * self._error[query[1:]])
        cluster = np.cumsum(apart)
        doubtful = np.bincount(cluster)[cluster] > 1
        inexact = np.bincount(cluster, weights=~exact)[cluster] > 0
        close = np.flatnonzero(doubtful & inexact)
        score[close] = self._pair_scores(query[close], vector[close])
        order = _within(cluster, -score)
        score, falls = score[order], apart
        falls[1:] |= score[1:] != score[:-1]
        return query[order], vector[order], np.cumsum(falls)

    def _items(self, query: Ints, vector: Ints, level: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """From pairs of vectors to items: a vector stands for all gallery rows that are equal to it."""
        wanted = np.minimum(self._gallery.weights[vector], self._size + 1)
        pair = np.repeat(np.arange(len(vector)), wanted)
        within = np.arange(len(pair)) - np.repeat(np.cumsum(wanted) - wanted, wanted)
        query, level = query[pair], level[pair]
        item = self._items_in_order[self._start[vector[pair]] + within]
        item = item[_within(level, item)]
        place = _places(query)
        same = np.zeros(len(query), dtype=bool)
        same[:-1] = level[1:] == level[:-1]
        listed = place < self._size
        shape = (-1, self._size)
        return item[listed].reshape(shape), same[listed].reshape(shape)


def _places(group: NDArray[np.integer]) -> Ints:
    """(P,) how many members of the same group stand before each; groups stand in order."""
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    return np.arange(len(group)) - np.repeat(starts, np.diff(starts, append=len(group)))


def _within(group: Ints, key: NDArray[np.generic]) -> Ints:
    """(P,) the order by rising keys within each group; groups stand in order, and most have one member."""
    order = np.arange(len(group))
    several = np.flatnonzero(np.bincount(group)[group] > 1)
    order[several] = several[np.lexsort((key[several], group[several]))]
    return order


def _surpassed(scores: torch.Tensor, count: int) -> torch.Tensor:
    """(Q,) values that at least `count` scores of each row reach: the best of 16 are compared, which is faster."""
    groups = scores.shape[1] // 16
    if groups >= count:
        first, *others = torch.split(scores[:, : 16 * groups], groups, dim=1)
        scores = first.clone()
        for other in others:
            torch.maximum(scores, other, out=scores)
    if scores.is_cuda:
        return scores.topk(count, dim=1).values[:, -1]
    best = np.partition(scores.cpu().numpy(), -count, axis=1)[:, -count]
    return torch.from_numpy(best).to(scores.device)
