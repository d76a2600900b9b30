"""Counting, per query, the gallery items that score above a threshold and those that equal it.

All images are multiplied with all texts once, block by block, and each product serves both directions. A rank is
a count, so nothing is sorted and no matrix of similarities is kept. What a screen's error bound leaves open is
decided by the definition of the score (see `vectors`); blocks, threads and precisions cannot move a count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from threading import Lock, local
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from urbancross_bench.evaluation.screening import (
    BFLOAT16,
    DEFINITION,
    FLOAT32,
    Block,
    Scale,
    Screen,
    bounds,
    differing,
    pair_products,
    plain_arithmetic,
    product,
    rounded,
    screens,
)
from urbancross_bench.evaluation.threads import for_each
from urbancross_bench.evaluation.toplists import Candidates, TopLists
from urbancross_bench.evaluation.vectors import Vectors, sequential_scores

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Matrix = torch.Tensor
Pairs = tuple[Ints, Ints]

_IMAGES, _TEXTS = 512, 2048  # rows and columns of a block: its products and masks stay in the cache
_SPAN = 1 << 22  # elements of the texts kept at hand for a round over all images
_PAIRS = 1 << 20  # elements of the rows of pairs that are looked up at once
_WAITING = 1 << 16  # pairs that wait for the definition


class Probes:
    """Thresholds of one direction, and what was counted at them.

    `vector` (P,) names the query vector of each, in order, `threshold` (P,) float64; equal ones stand once.
    `above` and `equal` (P,) int64: gallery items that score above the threshold, and that equal it.
    """

    def __init__(self, vector: Ints, threshold: Floats) -> None:
        """From any number of vectors with a threshold each; `place` says which probe each became."""
        order = np.lexsort((threshold, vector))
        v, t = vector[order], threshold[order]
        new = np.ones(len(order), dtype=bool)
        new[1:] = (v[1:] != v[:-1]) | (t[1:] != t[:-1])
        self.vector, self.threshold = v[new], t[new]
        self.place = np.empty(len(order), dtype=np.int64)
        self.place[order] = np.cumsum(new) - 1
        self.above = np.zeros(len(self.vector), dtype=np.int64)
        self.equal = np.zeros(len(self.vector), dtype=np.int64)


def pair_scores(images: Vectors, texts: Vectors, image: Ints, text: Ints) -> Floats:
    """(P,) float64 scores of pairs of vectors by the definition, less the biases: of the image, then the text."""
    scores = np.empty(len(image))
    step = max(1, _PAIRS // images.width)

    def score(start: int) -> None:
        part = slice(start, start + step)
        scores[part] = sequential_scores(images.rows(image[part]), texts.rows(text[part])).cpu().numpy()

    for_each(range(0, len(image), step), score, images.device)
    if images.bias is not None:
        scores -= images.bias[image]
    if texts.bias is not None:
        scores -= texts.bias[text]
    return scores


def count(
    images: Vectors,
    texts: Vectors,
    to_texts: Probes,
    to_images: Probes,
    *,
    attained: tuple[Pairs, Pairs] | None = None,
    tops: tuple[TopLists, TopLists] | None = None,
) -> None:
    """Fill the counts of both directions' probes, and their lists of the best, in one pass over all pairs.

    attained: per direction, probes and gallery vectors known to score the threshold exactly; only saves time.
    """
    nothing = (np.empty(0, dtype=np.int64),) * 2
    known = attained or (nothing, nothing)
    sizes = _IMAGES, _TEXTS
    forth = _Direction(images, texts, to_texts, known[0], sizes, tops[0] if tops else None, transposed=False)
    back = _Direction(texts, images, to_images, known[1], sizes[::-1], tops[1] if tops else None, transposed=True)
    screening = list(screens(images, texts))
    of_thread, taking = local(), Lock()

    def work(blocks: tuple[Block, Block]) -> None:
        image, text = blocks
        if not hasattr(of_thread, "buffer"):
            of_thread.buffer = _Buffer(images.device)
        buffer: _Buffer = of_thread.buffer
        while True:
            screen = screening[0]
            scores = product(screen, image, text, buffer.scores)
            looks = (
                forth.look(screen, image, text, scores, buffer),
                back.look(screen, text, image, scores.T, buffer),
            )
            if max(look.open for look in looks) <= screen.open * scores.numel() or len(screening) == 1:
                break
            with taking:
                if screening[0] is screen:
                    screening.pop(0)  # later blocks will be no better
        found = forth.refined(looks[0]), back.refined(looks[1])
        with taking:
            forth.take(found[0])
            back.take(found[1])

    with plain_arithmetic():
        for_each(_blocks(images, texts, Scale.fitting(images, texts)), work, images.device)
    forth.finish()
    back.finish()


def _blocks(images: Vectors, texts: Vectors, scale: Scale) -> Iterator[tuple[Block, Block]]:
    """All pairs of blocks; those of a span of texts are read once, those of images once a span."""
    span = max(1, _SPAN // (texts.width * _TEXTS)) * _TEXTS
    for start in range(0, len(texts), span):
        stop = min(start + span, len(texts))
        held = [Block(texts, s, min(s + _TEXTS, stop), scale) for s in range(start, stop, _TEXTS)]
        for first in range(0, len(images), _IMAGES):
            image = Block(images, first, min(first + _IMAGES, len(images)), scale)
            for text in held:
                yield image, text


class _Buffer:
    """Memory for the products and masks of a block, taken once: fresh pages cost as much as the masks do."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._taken: dict[tuple[torch.dtype, str], Matrix] = {}

    def take(self, dtype: torch.dtype, name: str) -> Matrix:
        """A vector as long as the largest block has elements."""
        if (dtype, name) not in self._taken:
            self._taken[dtype, name] = torch.empty(_IMAGES * _TEXTS, dtype=dtype, device=self._device)
        return self._taken[dtype, name]

    def scores(self, dtype: torch.dtype) -> Matrix:
        """Where products go."""
        return self.take(dtype, "scores")

    def like(self, matrix: Matrix, name: str) -> Matrix:
        """A matrix of the shape and order of another."""
        flat = self.take(matrix.dtype, name)[: matrix.numel()]
        if matrix.is_contiguous():
            return flat.view(matrix.shape)
        return flat.view(matrix.shape[::-1]).T


@dataclass(frozen=True, eq=False)
class _Look:
    """What one direction sees in a block: the items above its probes, and the pairs that are open."""

    screen: Screen
    queries: Block
    gallery: Block
    probes: slice
    above: Ints
    probe: Ints
    vector: Ints
    candidates: Candidates | None

    @property
    def open(self) -> int:
        """How many pairs are to be looked at again, beyond what lists of the best need anyway."""
        return len(self.probe) + (self.candidates.surplus if self.candidates else 0)


class _Direction:
    """Queries of one side and a gallery of the other. Queries are rows of matrices, texts of transposed views."""

    def __init__(
        self,
        queries: Vectors,
        gallery: Vectors,
        probes: Probes,
        attained: Pairs,
        sizes: tuple[int, int],
        tops: TopLists | None,
        *,
        transposed: bool,
    ) -> None:
        self.queries, self.gallery, self.probes, self.tops = queries, gallery, probes, tops
        self.transposed = transposed
        self.size, self.blocks = sizes, -(-len(gallery) // sizes[1])
        self.weights = torch.from_numpy(gallery.weights).to(queries.device)
        self.sums = torch.float32 if gallery.items < 1 << 24 else torch.float64  # exact for such counts
        self.waiting: list[Pairs] = []
        probe, vector = attained
        np.add.at(probes.equal, probe, gallery.weights[vector])
        block = self._block(probes.vector[probe], vector)
        order = np.argsort(block, kind="stable")
        self.known = block[order], probe[order], vector[order]

    def _block(self, query: Any, vector: Any) -> Any:
        return query // self.size[0] * self.blocks + vector // self.size[1]

    def look(self, screen: Screen, queries: Block, gallery: Block, scores: Matrix, buffer: _Buffer) -> _Look:
        """Compare one block's products with the thresholds of its probes."""
        first, last = (int(n) for n in np.searchsorted(self.probes.vector, [queries.start, queries.stop]))
        bound = bounds(screen, queries, gallery)
        above, open_ = [np.empty(0, dtype=np.int64)], [(np.empty(0, dtype=np.int64),) * 2]
        for start in range(first, last, self.size[0]):
            part = slice(start, min(start + self.size[0], last))
            row = torch.from_numpy(self.probes.vector[part] - queries.start).to(scores.device)
            view = _expanded(scores, row)
            threshold = torch.from_numpy(self.probes.threshold[part] * queries.score_scale).to(scores.device)
            higher, maybe = buffer.like(view, "higher"), buffer.like(view, "maybe")
            torch.gt(view, rounded(screen, threshold + bound[row])[:, None], out=higher)
            torch.ge(view, rounded(screen, threshold - bound[row])[:, None], out=maybe)
            above.append(self._weighted(higher, gallery))
            self._forget_known(maybe, part, queries, gallery)
            probe, vector = differing(maybe, higher)
            open_.append((probe + part.start, vector + gallery.start))
        candidates = None
        if self.tops is not None:
            candidates = self.tops.candidates(
                screen, queries, gallery, scores, bound, buffer.like(scores, "maybe")
            )
        return _Look(
            screen,
            queries,
            gallery,
            slice(first, last),
            np.concatenate(above),
            np.concatenate([probe for probe, _ in open_]),
            np.concatenate([vector for _, vector in open_]),
            candidates,
        )

    def _weighted(self, mask: Matrix, gallery: Block) -> Ints:
        weights = self.weights[gallery.start : gallery.stop]
        if mask.dtype == torch.float32 and self.sums == torch.float64:
            mask = mask.double()
        return (mask @ weights.to(mask.dtype)).cpu().numpy().astype(np.int64)

    def _forget_known(self, maybe: Matrix, part: slice, queries: Block, gallery: Block) -> None:
        """Pairs known to attain their threshold are not open."""
        block, probe, vector = self.known
        here = slice(*np.searchsorted(block, self._block(queries.start, gallery.start) + np.array([0, 1])))
        row, column = probe[here] - part.start, vector[here] - gallery.start
        mine = (row >= 0) & (row < part.stop - part.start)
        maybe[torch.from_numpy(row[mine]), torch.from_numpy(column[mine])] = 0

    def refined(self, look: _Look) -> _Look:
        """The look with its pairs multiplied again in float32, where bfloat16 has left them open."""
        if look.screen is not BFLOAT16:
            return look
        row = self.probes.vector[look.probe] - look.queries.start
        score = self._products(look, row, look.vector - look.gallery.start)
        threshold = self.probes.threshold[look.probe] * look.queries.score_scale
        bound = bounds(FLOAT32, look.queries, look.gallery).cpu().numpy()[row]
        higher, open_ = score > threshold + bound, abs(score - threshold) <= bound
        np.add.at(look.above, look.probe[higher] - look.probes.start, self.gallery.weights[look.vector[higher]])
        best = look.candidates
        if best is not None:
            best = replace(best, score=self._products(look, best.query, best.vector))
        return replace(look, probe=look.probe[open_], vector=look.vector[open_], candidates=best)

    def take(self, look: _Look) -> None:
        """Add what a look counted, and let its open pairs wait for the definition."""
        self.probes.above[look.probes] += look.above
        if self.tops is not None and look.candidates is not None:
            self.tops.take(look.queries, look.gallery, look.candidates, exact=look.screen is DEFINITION)
        if look.screen is DEFINITION:  # what is neither above nor below is equal
            self._add(self.probes.equal, look.probe, look.vector)
            return
        self.waiting.append((look.probe, look.vector))
        if sum(len(pairs[0]) for pairs in self.waiting) > _WAITING:
            self.finish()

    def _products(self, look: _Look, row: Ints, column: Ints) -> Floats:
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
        if self.transposed:
            score = pair_scores(self.gallery, self.queries, vector, query)
        else:
            score = pair_scores(self.queries, self.gallery, query, vector)
        higher, equal = score > self.probes.threshold[probe], score == self.probes.threshold[probe]
        self._add(self.probes.above, probe[higher], vector[higher])
        self._add(self.probes.equal, probe[equal], vector[equal])

    def _add(self, counts: Ints, probe: Ints, vector: Ints) -> None:
        np.add.at(counts, probe, self.gallery.weights[vector])


def _expanded(scores: Matrix, row: torch.Tensor) -> Matrix:
    """A row per probe: those of `scores`, in order, some of them several times or not at all."""
    if len(row) == len(scores) and bool((row == torch.arange(len(row), device=row.device)).all()):
        return scores
    return scores[row] if scores.is_contiguous() else scores.T[:, row].T
