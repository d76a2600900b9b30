"""One direction of a pass over all pairs: its probes, what it sees in a block, and what it makes of that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from urbancross_bench.evaluation.masks import differing, exceeding, reaching, row_counts
from urbancross_bench.evaluation.screening import (
    BFLOAT16,
    DEFINITION,
    FLOAT32,
    Block,
    Screen,
    Side,
    pair_products,
    rounded,
)
from urbancross_bench.evaluation.toplists import Candidates, TopLists
from urbancross_bench.evaluation.vectors import pair_scores

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Matrix = torch.Tensor
Pairs = tuple[Ints, Ints]

_NONE = np.empty(0, dtype=np.int64)
_WAITING = 1 << 16  # pairs that wait for the definition


class Probes:
    """Thresholds of one direction, and what was counted at them.

    `vector` (P,) names the query vector of each, in order, `threshold` (P,) float64; equal ones stand once.
    `above` and `equal` (P,) int64: gallery items that score above the threshold, and that equal it.
    """

    def __init__(self, vector: Ints, threshold: Floats) -> None:
        """From any number of vectors with a threshold each; `place` says which probe each became."""
        if bool((vector[1:] > vector[:-1]).all()):  # sorting would take most of the time
            self.vector, self.threshold, self.place = vector, threshold, np.arange(len(vector))
        else:
            order = np.lexsort((threshold, vector))
            v, t = vector[order], threshold[order]
            new = np.ones(len(order), dtype=bool)
            new[1:] = (v[1:] != v[:-1]) | (t[1:] != t[:-1])
            self.vector, self.threshold = v[new], t[new]
            self.place = np.empty(len(order), dtype=np.int64)
            self.place[order] = np.cumsum(new) - 1
        self.above = np.zeros(len(self.vector), dtype=np.int64)
        self.equal = np.zeros(len(self.vector), dtype=np.int64)


class Buffer:
    """Memory for the products and masks of a block, taken once: fresh pages cost as much as the masks do."""

    def __init__(self, size: int, device: torch.device) -> None:
        """size: elements of the largest block."""
        self._size, self._device = size, device
        self._taken: dict[tuple[torch.dtype, str], Matrix] = {}

    def take(self, dtype: torch.dtype, name: str) -> Matrix:
        """A vector as long as the largest block has elements."""
        if (dtype, name) not in self._taken:
            self._taken[dtype, name] = torch.empty(self._size, dtype=dtype, device=self._device)
        return self._taken[dtype, name]

    def like(self, matrix: Matrix, dtype: torch.dtype, name: str) -> Matrix:
        """A matrix of the shape and order of another."""
        flat = self.take(dtype, name)[: matrix.numel()]
        if matrix.is_contiguous():
            return flat.view(matrix.shape)
        return flat.view(matrix.shape[::-1]).T


@dataclass(frozen=True, eq=False)
class Look:
    """What one direction sees in a block: items above the probes of its queries, and the pairs that are open."""

    screen: Screen
    queries: Block
    gallery: Block
    above: Ints
    probe: Ints
    vector: Ints
    candidates: Candidates | None

    @property
    def open(self) -> int:
        """How many pairs are to be looked at again, beyond what lists of the best need anyway."""
        return len(self.probe) + (self.candidates.surplus if self.candidates else 0)


class _Asked:
    """Some probes of a block of queries: `row` (P,) of the block that each asks for, None if all in order."""

    def __init__(self, probes: slice, row: Ints, same: bool, threshold: Floats) -> None:
        self.probes = probes
        self.row = None if same else torch.from_numpy(row)
        self._threshold = torch.from_numpy(threshold)
        self._limits: dict[Screen, tuple[Matrix, Matrix]] = {}

    def limits(self, screen: Screen, queries: Block, gallery: Side) -> tuple[Matrix, Matrix]:
        """(P, 1) each: products above the one, below the other, come from scores above, below the threshold."""
        if screen not in self._limits:
            bound = queries.bounds(screen, gallery)
            bound = bound if self.row is None else bound[self.row]
            threshold = self._threshold.to(bound.device)
            ends = threshold + bound, threshold - bound
            self._limits[screen] = rounded(screen, ends[0])[:, None], rounded(screen, ends[1])[:, None]
        return self._limits[screen]


class Direction:
    """Queries of one side and a gallery of the other. Queries are rows of matrices, texts of transposed views."""

    def __init__(
        self,
        queries: Side,
        gallery: Side,
        probes: Probes,
        attained: Pairs,
        sizes: tuple[int, int],
        tops: TopLists | None,
        *,
        transposed: bool,
    ) -> None:
        """sizes: queries and gallery items of a block. transposed: whether the queries are the texts."""
        self.queries, self.gallery, self.probes, self.tops = queries, gallery, probes, tops
        self.transposed = transposed
        self.size, self.blocks = sizes, -(-len(gallery.vectors) // sizes[1])
        exact = torch.float32 if gallery.vectors.items < 1 << 24 else torch.float64  # such sums of weights are
        self.weights = torch.from_numpy(gallery.vectors.weights).to(queries.vectors.device, exact)
        self.asked: WeakKeyDictionary[Block, list[_Asked]] = WeakKeyDictionary()
        self.waiting: list[Pairs] = []
        probe, vector = attained
        np.add.at(probes.equal, probe, gallery.vectors.weights[vector])
        block = self._block(probes.vector[probe], vector)
        order = np.argsort(block, kind="stable")
        self.known = block[order], probe[order], vector[order]

    def _block(self, query: Any, vector: Any) -> Any:
        return query // self.size[0] * self.blocks + vector // self.size[1]

    def look(self, screen: Screen, queries: Block, gallery: Block, scores: Matrix, buffer: Buffer) -> Look:
        """Compare one block's products with the thresholds of its probes."""
        above, open_ = [_NONE], [(_NONE, _NONE)]
        for asked in self._asked(queries):
            view = scores if asked.row is None else _expanded(scores, asked.row)
            high, low = asked.limits(screen, queries, self.gallery)
            higher = exceeding(view, high, buffer.like(view, torch.bool, "higher"))
            maybe = reaching(view, low, buffer.like(view, torch.bool, "maybe"))
            above.append(self._weighted(higher, gallery, buffer))
            self._forget_known(maybe, asked.probes, queries, gallery)
            probe, vector = differing(maybe, higher)
            open_.append((probe + asked.probes.start, vector + gallery.start))
        probe, vector = (np.concatenate(column) for column in zip(*open_, strict=True))
        return Look(screen, queries, gallery, np.concatenate(above), probe, vector, None)

    def with_candidates(self, look: Look, scores: Matrix, buffer: Buffer) -> Look:
        """The look, and what of the block may be among the best, where lists of them are wanted."""
        if self.tops is None:
            return look
        mask = buffer.like(scores, torch.bool, "maybe")
        return replace(
            look, candidates=self.tops.candidates(look.screen, look.queries, look.gallery, scores, mask)
        )

    def _asked(self, queries: Block) -> list[_Asked]:
        """The probes of a block of queries, no more of them at once than the block has queries."""
        found = self.asked.get(queries)
        if found is None:
            found = []
            first, last = (int(n) for n in np.searchsorted(self.probes.vector, [queries.start, queries.stop]))
            for start in range(first, last, self.size[0]):
                part = slice(start, min(start + self.size[0], last))
                row = self.probes.vector[part] - queries.start
                same = np.array_equal(row, np.arange(len(queries.rows)))
                found.append(_Asked(part, row, same, self.probes.threshold[part] * queries.side.score_factor))
            self.asked[queries] = found
        return found

    def _weighted(self, mask: Matrix, gallery: Block, buffer: Buffer) -> Ints:
        """(P,) the gallery items that the places set in a mask stand for."""
        weights = self.weights[gallery.start : gallery.stop]
        if bool((weights == 1).all()):
            return row_counts(mask)
        numbers = buffer.like(mask, weights.dtype, "numbers").copy_(mask)
        items: Ints = (numbers @ weights).cpu().numpy().astype(np.int64)
        return items

    def _forget_known(self, maybe: Matrix, part: slice, queries: Block, gallery: Block) -> None:
        """Pairs known to attain their threshold are not open."""
        block, probe, vector = self.known
        number = self._block(queries.start, gallery.start)
        first, last = np.searchsorted(block, [number, number + 1])
        if first == last:
            return
        row, column = probe[first:last] - part.start, vector[first:last] - gallery.start
        mine = (row >= 0) & (row < part.stop - part.start)
        maybe[torch.from_numpy(row[mine]), torch.from_numpy(column[mine])] = 0

    def refined(self, look: Look) -> Look:
        """The look with its pairs multiplied again in float32, where bfloat16 has left them open."""
        if look.screen is not BFLOAT16:
            return look
        row = self.probes.vector[look.probe] - look.queries.start
        score = self._products(look, row, look.vector - look.gallery.start)
        threshold = self.probes.threshold[look.probe] * self.queries.score_factor
        bound = look.queries.bounds(FLOAT32, self.gallery).cpu().numpy()[row]
        higher, open_ = score > threshold + bound, abs(score - threshold) <= bound
        first = np.searchsorted(self.probes.vector, look.queries.start)
        weights = self.gallery.vectors.weights[look.vector[higher]]
        np.add.at(look.above, look.probe[higher] - first, weights)
        best = look.candidates
        if best is not None:
            best = replace(best, score=self._products(look, best.query, best.vector))
        return replace(look, probe=look.probe[open_], vector=look.vector[open_], candidates=best)

    def take(self, look: Look) -> None:
        """Add what a look counted, and let its open pairs wait for the definition."""
        first = np.searchsorted(self.probes.vector, look.queries.start)
        self.probes.above[first : first + len(look.above)] += look.above
        if self.tops is not None and look.candidates is not None:
            self.tops.take(look.queries, look.gallery, look.candidates, exact=look.screen is DEFINITION)
        if look.screen is DEFINITION:  # what is neither above nor below is equal
            self._add(self.probes.equal, look.probe, look.vector)
            return
        self.waiting.append((look.probe, look.vector))
        if sum(len(pairs[0]) for pairs in self.waiting) > _WAITING:
            self.finish()

    def _products(self, look: Look, row: Ints, column: Ints) -> Floats:
        """float32 products of pairs of a block, as float64 numbers."""
        if self.transposed:
            return pair_products(look.gallery, look.queries, column, row)
        return pair_products(look.queries, look.gallery, row, column)

    def finish(self) -> None:
        """Decide the waiting pairs by the definition."""
        if not self.waiting:
            return
        probe, vector = (np.concatenate(column) for column in zip(*self.waiting, strict=True))
        self.waiting = []
        query = self.probes.vector[probe]
        queries, gallery = self.queries.vectors, self.gallery.vectors
        if self.transposed:
            score = pair_scores(gallery, queries, vector, query)
        else:
            score = pair_scores(queries, gallery, query, vector)
        higher, equal = score > self.probes.threshold[probe], score == self.probes.threshold[probe]
        self._add(self.probes.above, probe[higher], vector[higher])
        self._add(self.probes.equal, probe[equal], vector[equal])

    def _add(self, counts: Ints, probe: Ints, vector: Ints) -> None:
        np.add.at(counts, probe, self.gallery.vectors.weights[vector])


def _expanded(scores: Matrix, row: torch.Tensor) -> Matrix:
    """A row per probe: some rows of `scores` several times, or not at all."""
    return scores[row] if scores.is_contiguous() else scores.T[:, row].T
