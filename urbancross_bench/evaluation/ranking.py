"""Exact ranking of images against texts and of texts against images.

A rank is a count: how many negatives score higher than a query's best positive, and how many equal it. The
counts are exact in this sense: the score of a pair is one fixed function of the two vectors (a float64 dot
product summed in one order), and the counts are those of these scores. A matrix product sums in an order of
its own, which changes with block sizes and positions; so it only sorts out the pairs that are clearly above
or below, and the few within its error bound are decided by the score itself. Chunk sizes cannot move a rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from urbancross_bench.evaluation.ties import TIES

Direction = Literal["i2t", "t2i"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DirectionRanking:
    """The ranking of Q queries of one direction, as counts from which every tie rule can be computed.

    `greater`, `tied`, `tied_positives`: (Q,) int64. With s the best score among a query's positives: negatives
    above s, negatives equal to s, positives equal to s (at least 1). `positives`: (Q,) int64, right answers in
    the gallery. `top`: (Q, ≤10) int64, the gallery items of the highest scores, ties in gallery order.
    """

    greater: Ints
    tied: Ints
    tied_positives: Ints
    positives: Ints
    top: Ints
    gallery: int
    ties: str
    k: tuple[int, ...]

    def hits(self, k: int) -> Floats:
        """(Q,) hit@k under the tie rule: 1 for a hit, 0 for a miss, a probability where ties decide."""
        return TIES[self.ties].hits(self.greater, self.tied, self.tied_positives, k)

    @cached_property
    def ranks(self) -> Floats:
        """(Q,) 1-based rank of the first right answer under the tie rule."""
        return TIES[self.ties].ranks(self.greater, self.tied, self.tied_positives)

    @cached_property
    def recall(self) -> dict[int, float]:
        """K → R@K in percent: the mean of `hits`."""
        return {k: 100.0 * float(self.hits(k).mean()) for k in self.k}


@dataclass(frozen=True, eq=False)
class Ranking:
    """Both directions of one evaluation. `image_of_text` is (M,) int64, as given."""

    i2t: DirectionRanking
    t2i: DirectionRanking
    image_of_text: Ints
    protocol: str
    ties: str

    @property
    def mr(self) -> float:
        """mR: the mean of R@K over all K and both directions, in percent."""
        values = [*self.i2t.recall.values(), *self.t2i.recall.values()]
        return sum(values) / len(values)


def evaluate_retrieval(
    image_embeddings: ArrayLike,
    text_embeddings: ArrayLike,
    image_of_text: ArrayLike,
    *,
    protocol: str = "classic",
    ties: str = "expected",
    normalize: bool = True,
    k: tuple[int, ...] = (1, 5, 10),
    chunk: int = 1024,
) -> Ranking:
    """Rank every image against all texts and every text against all images.

    image_embeddings: (N, D); text_embeddings: (M, D); image_of_text: (M,) integers in [0, N).
    protocol: `classic`: an image's own texts are right, best of them counts; a text's own image is right.
    ties: `expected` (hit@K averaged over a random order of the tied items), `optimistic`, `pessimistic`.
    normalize: scale rows to unit length first, so that scores are cosine similarities.
    chunk: rows scored at once; changes memory and time, never a count.

    Raises ValueError for shapes that do not fit, non-finite or zero rows, or an image without a text.
    """
    if protocol != "classic":
        raise ValueError(f"unknown protocol {protocol!r}; known: classic")
    if chunk < 1 or not k or min(k) < 1:
        raise ValueError(f"chunk and every K must be at least 1, got chunk={chunk}, k={k}")
    if ties not in TIES:
        raise ValueError(f"unknown tie rule {ties!r}; known: {', '.join(TIES)}")
    images = _rows("image_embeddings", image_embeddings, normalize)
    texts = _rows("text_embeddings", text_embeddings, normalize)
    owner = _owners(image_of_text, len(images), len(texts))
    if images.shape[1] != texts.shape[1]:
        raise ValueError(f"images are {images.shape[1]} wide, texts {texts.shape[1]}")

    own = _scores(images[owner], texts)  # (M,) of each text and its own image
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(images)))
    best_of_image = np.maximum.reduceat(own[order], starts)
    positives = np.bincount(owner, minlength=len(images)).astype(np.int64)
    equal_positives = np.bincount(owner[own == best_of_image[owner]], minlength=len(images)).astype(np.int64)

    above, equal, top = _count(images, texts, best_of_image, chunk)
    # `_count` knows no positives: none of them lies above the best, and those that equal it are taken off.
    i2t = DirectionRanking(above, equal - equal_positives, equal_positives, positives, top, len(texts), ties, k)
    above, equal, top = _count(texts, images, own, chunk)
    one = np.ones(len(texts), dtype=np.int64)
    t2i = DirectionRanking(above, equal - one, one, one, top, len(images), ties, k)
    return Ranking(i2t, t2i, owner, protocol, ties)


def _rows(name: str, values: ArrayLike, normalize: bool) -> Floats:
    if hasattr(values, "detach"):  # a torch tensor, without importing torch
        values = values.detach().to("cpu").double().numpy()
    rows = np.ascontiguousarray(values, dtype=np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"{name} must be a non-empty matrix, got shape {rows.shape}")
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows).all(axis=1)).sum())
        raise ValueError(f"{name}: {bad} of {len(rows)} rows hold NaN or infinity")
    if normalize:
        lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
        if not lengths.all():
            raise ValueError(f"{name}: {int((lengths == 0).sum())} rows are zero and have no direction")
        rows = rows / lengths
    return rows


def _owners(image_of_text: Any, images: int, texts: int) -> Ints:
    owner = np.asarray(image_of_text)
    if owner.shape != (texts,) or not np.issubdtype(owner.dtype, np.integer):
        raise ValueError(
            f"image_of_text must hold one integer per text ({texts}), got {owner.dtype} {owner.shape}"
        )
    if owner.min() < 0 or owner.max() >= images:
        raise ValueError(f"image_of_text must lie in [0, {images}), got {owner.min()} to {owner.max()}")
    missing = np.setdiff1d(np.arange(images), owner)
    if len(missing):
        raise ValueError(f"{len(missing)} images have no text, the first is image {missing[0]}")
    return owner.astype(np.int64)


def _scores(left: Floats, right: Floats) -> Floats:
    """(B,) the score of each pair of rows: float64 products, summed in an order fixed by the width alone."""
    products: Floats = np.ascontiguousarray(left * right).sum(axis=1)
    return products


def _count(queries: Floats, gallery: Floats, threshold: Floats, chunk: int) -> tuple[Ints, Ints, Ints]:
    """Per query: items above its threshold, items equal to it, and the ids of the ten best items."""
    above = np.empty(len(queries), dtype=np.int64)
    equal = np.empty(len(queries), dtype=np.int64)
    top = np.empty((len(queries), min(10, len(gallery))), dtype=np.int64)
    longest = float(np.sqrt((gallery * gallery).sum(axis=1).max()))
    for start in range(0, len(queries), chunk):
        block = slice(start, start + chunk)
        product = queries[block] @ gallery.T
        top[block] = _top(product, top.shape[1])
        # Either sum of D products is off by at most D·2⁻⁵³·‖x‖‖y‖; twice that lies between them.
        lengths = np.sqrt((queries[block] ** 2).sum(axis=1))
        bound = 4.0 * queries.shape[1] * np.finfo(np.float64).eps * lengths * longest
        margin = product - threshold[block, None]
        above[block] = (margin > bound[:, None]).sum(axis=1)
        equal[block] = 0
        rows, columns = np.nonzero(np.abs(margin) <= bound[:, None])
        for part in range(0, len(rows), 65536):
            r, c = rows[part : part + 65536], columns[part : part + 65536]
            exact = _scores(queries[start + r], gallery[c])
            np.add.at(above, start + r, exact > threshold[start + r])
            np.add.at(equal, start + r, exact == threshold[start + r])
    return above, equal, top


def _top(scores: Floats, count: int) -> Ints:
    """(Q, count) columns of the highest scores of each row, best first, equal ones in column order."""
    # Scores that the matrix product may tell apart by rounding alone are equal here.
    rounded = np.round(scores, 12)
    if count < scores.shape[1]:
        kth = -np.partition(-rounded, count - 1, axis=1)[:, count - 1 : count]
        best = np.empty((len(scores), count), dtype=np.int64)
        for row, (values, least) in enumerate(zip(rounded, kth, strict=True)):
            columns = np.nonzero(values >= least)[0]
            best[row] = columns[np.argsort(-values[columns], kind="stable")[:count]]
        return best
    return np.argsort(-rounded, axis=1, kind="stable").astype(np.int64)
