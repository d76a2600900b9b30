"""Counting on a CUDA device while multiplying: one kernel on tensor cores, and no matrix of scores.

The kernel multiplies in float16, counts what surely lies above a threshold, and writes down the pairs that its
error bound leaves open; the definition decides those, on the device too. Lists of the best come from a second run
of the same kernel, which writes down all that reach the best values of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch

from urbancross_bench.evaluation.compiling import kernels_work
from urbancross_bench.evaluation.directions import Probes
from urbancross_bench.evaluation.screening import FLOAT16, Block, Side
from urbancross_bench.evaluation.toplists import TopLists

Pairs = tuple[torch.Tensor, torch.Tensor]
Limits = tuple[torch.Tensor, torch.Tensor]

_LEAST = 1 << 12  # vectors of either side: fewer are soon done by blocks
_PAIRS = 1 << 32  # that one launch multiplies at most
_DECIDED = 1 << 22  # pairs decided at once
_ROUNDING = 2.0**-21  # of centres, and of a product's distance from one
_MEMORY = 0.8  # of what the device has free
_OPEN = 128  # bytes that an open pair takes while it is found, what the other direction has found included


class TooManyOpenError(Exception):
    """More pairs lie close to their thresholds than it pays to decide one by one."""


def suits(images: Side, texts: Side, to_texts: Probes, to_images: Probes) -> bool:
    """Whether the kernel can count here, and pays: many vectors on a CUDA device that has room, and no biases."""
    sides = images.vectors, texts.vectors
    device = images.vectors.device
    if device.type != "cuda" or min(map(len, sides)) < _LEAST or not kernels_work(device):
        return False
    if any(side.bias is not None or side.items >= 1 << 31 for side in sides):
        return False
    rows = sum(map(len, sides)) + len(to_texts.vector) + len(to_images.vector)  # some stand twice
    scaled = any(side.factor != 1 for side in (images, texts))
    taken = rows * ((20 if scaled else 6) * images.vectors.width + 256) + _PAIRS // 4 + 64 * _DECIDED
    return taken + _OPEN * _PAIRS * FLOAT16.open < _MEMORY * torch.cuda.mem_get_info(device)[0]


def count(
    images: Side, texts: Side, to_texts: Probes, to_images: Probes, tops: tuple[TopLists, TopLists] | None
) -> None:
    """Fill the probes' counts, and the lists of the best.

    Raises TooManyOpenError or torch.OutOfMemoryError, and nothing is filled, where the kernel is not the way.
    """
    kept = max(side.kept for side in tops) if tops else 0
    x, y = _Queries(images, texts, to_texts, kept), _Queries(texts, images, to_images, kept)
    for to_y, to_x in _launches(x, y, x.limits(), y.limits(), kept > 0):
        x.decide(y, *to_y)
        y.decide(x, *to_x)
    best = []
    if tops:
        found = list(_launches(x, y, x.cutoffs(), y.cutoffs(), False))
        for queries, gallery, way in ((x, y, 0), (y, x, 1)):
            query, vector = (torch.cat([pairs[way][n] for pairs in found]) for n in (0, 1))
            once = gallery.weights[vector] > 0
            query, vector = query[once], vector[once]
            score = queries.scores(gallery, query, vector)
            order = score.argsort(descending=True)
            order = order[query[order].argsort(stable=True)]  # on the host this would take most of all time
            best.append(tuple(column[order].cpu().numpy() for column in (query, vector, score)))
    for lists, pairs in zip(tops or (), best, strict=True):
        lists.give(*pairs)
    x.fill()
    y.fill()


class _Queries:
    """One side on the device, as the queries of its direction and as the gallery of the other.

    R rows are its U different vectors and, for further thresholds of some, those once more, with a weight of 0:
    `exact` (R, D) float32 and `factors`, padded, in float16; `weights` (R,) int32. What is counted at their
    thresholds: `surely` (R,) int32 by the kernel, `more` and `equal` (R,) int64 by the definition. `best` (R,
    kept) float32 are products of as many different gallery vectors, each the largest of a tile.
    """

    def __init__(self, side: Side, gallery: Side, probes: Probes, kept: int) -> None:
        from urbancross_bench.evaluation.kernels import DEPTH

        block, device = Block(side, 0, len(side.vectors)), side.vectors.device
        again = np.zeros(len(probes.vector), dtype=bool)
        again[1:] = probes.vector[1:] == probes.vector[:-1]
        vectors, further = len(side.vectors), torch.from_numpy(probes.vector[again]).to(device)

        def rows(values: torch.Tensor) -> torch.Tensor:
            return torch.cat([values, values[further]]) if len(further) else values.contiguous()

        self.exact = rows(block.unscaled)
        factors = rows(block.factors(FLOAT16.dtype))
        self.factors = torch.nn.functional.pad(factors, (0, -factors.shape[1] % DEPTH))
        self.weights = torch.zeros(len(self.exact), dtype=torch.int32, device=device)
        self.weights[:vectors] = torch.from_numpy(side.vectors.weights).to(device)
        self.surely = torch.zeros_like(self.weights)
        self.more, self.equal = (torch.zeros_like(self.weights, dtype=torch.int64) for _ in range(2))
        self.best = torch.full((len(self.exact), kept), -torch.inf, device=device)
        self._bound, self._factor = rows(block.bounds(FLOAT16, gallery)), side.score_factor
        self._probes, self._row = probes, np.where(again, vectors - 1 + np.cumsum(again), probes.vector)
        self._threshold = torch.full((len(self.exact),), torch.inf, dtype=torch.float64, device=device)
        self._threshold[torch.from_numpy(self._row).to(device)] = torch.from_numpy(probes.threshold).to(device)

    def limits(self) -> Limits:
        """(R,) float32 each, a centre and a radius: products that lie farther from it need no second look."""
        return (self._threshold * self._factor).float(), (self._bound + _ROUNDING).float()

    def cutoffs(self) -> Limits:
        """Limits within which all of the best lie, and little else."""
        most = 1 + self._bound
        least = torch.maximum(self.best.amin(dim=1).double() - 2 * self._bound, -most)
        centre, radius = (most + least) / 2, (most - least) / 2 + _ROUNDING
        centre[self.weights == 0] = torch.inf
        return centre.float(), radius.float()

    def scores(self, gallery: _Queries, query: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """(P,) float64 scores of queries and gallery vectors by the definition, in which neither comes first."""
        from urbancross_bench.evaluation.kernels import pair_scores

        return pair_scores(self.exact, gallery.exact, query, vector)

    def decide(self, gallery: _Queries, query: torch.Tensor, vector: torch.Tensor) -> None:
        """Count open pairs by the definition."""
        for start in range(0, len(query), _DECIDED):
            some, others = query[start : start + _DECIDED], vector[start : start + _DECIDED]
            score, weight = self.scores(gallery, some, others), gallery.weights[others].long()
            threshold = self._threshold[some]
            self.more.index_add_(0, some, weight * (score > threshold))
            self.equal.index_add_(0, some, weight * (score == threshold))

    def fill(self) -> None:
        """Add what was counted to the probes."""
        self._probes.above += (self.surely + self.more).cpu().numpy()[self._row]
        self._probes.equal += self.equal.cpu().numpy()[self._row]

    def keep_best(self, part: slice, best: torch.Tensor) -> None:
        """Take notice of (part, tiles) float32 products, the largest of some tiles."""
        both = torch.cat([self.best[part], best], dim=1)
        self.best[part] = both.topk(self.best.shape[1], dim=1).values


def _launches(x: _Queries, y: _Queries, forth: Limits, back: Limits, best: bool) -> Iterator[tuple[Pairs, Pairs]]:
    """Multiply all of x with all of y, some of y at a time, and give the pairs of both directions within limits.

    Each pair is a query and a vector of its gallery. Counts go to `surely`, with `best` those to `best`.
    """
    from urbancross_bench.evaluation.kernels import COLUMNS, multiply

    most = max(1, _PAIRS // len(x.exact) // COLUMNS) * COLUMNS
    # A short one first: it soon shows where too much is left open.
    starts = [0, *range(max(COLUMNS, most // 16 // COLUMNS * COLUMNS), len(y.exact), most), len(y.exact)]
    for start, stop in pairwise(starts):
        part = slice(start, stop)
        done = multiply(
            (x.factors, *forth, x.weights, x.surely),
            (y.factors[part], back[0][part], back[1][part], y.weights[part], y.surely[part]),
            best,
        )
        if done.best is not None:
            x.keep_best(slice(None), done.best[0])
            y.keep_best(part, done.best[1])
        # Of both sides each query may have its own right answer open.
        room = int(len(x.exact) * (stop - start) * FLOAT16.open) + len(x.exact) + stop - start
        (row, column), (answer, query) = (_places(words, stop - start, room) for words in done.open)
        yield (row, column + start), (query + start, answer)


def _places(words: torch.Tensor, columns: int, room: int) -> Pairs:
    """Rows and columns whose bits are set in (rows, words) int32; bits beyond the columns are cleared there.

    Raises TooManyOpenError for more than `room` of them, and takes no more than `_OPEN` bytes for each of so many.
    """
    from urbancross_bench.evaluation.kernels import BITS

    full, rest = divmod(columns, BITS)
    words[:, full : full + 1] &= (1 << rest) - 1
    words[:, full + 1 :] = 0
    # Nearly all are empty, and two are looked at as soon as one.
    looked_at = words.view(torch.int64 if words.shape[1] % 2 == 0 else words.dtype).view(-1)
    filled, each = looked_at.nonzero(), words.numel() // len(looked_at)
    _expect(len(filled), room)
    word = (filled * each + torch.arange(each, device=words.device)).view(-1)
    word = word[words.view(-1)[word] != 0]
    _expect(len(word), room)
    # A byte for each bit, which a shift of whole words would give four; bytes of low bits stand first.
    shifts = torch.arange(8, dtype=torch.uint8, device=words.device)
    bits = (words.view(-1)[word].view(torch.uint8)[:, None] >> shifts & 1).view(-1, BITS)
    _expect(int(bits.sum(dim=1, dtype=torch.uint8).sum()), room)  # at once they would be taken to eight bytes each
    place, bit = bits.nonzero().T
    word = word[place]
    return word // words.shape[1], word % words.shape[1] * BITS + bit


def _expect(places: int, room: int) -> None:
    if places > room:
        raise TooManyOpenError
