"""Exact ranking of images against texts and of texts against images.

A rank is a count: how many negatives score higher than a query's best positive, and how many equal it. The counts
are exact for scores that one definition gives (see `vectors`), whatever the device, block or precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from urbancross_bench.errors import did_you_mean
from urbancross_bench.evaluation.owners import integers, owners
from urbancross_bench.evaluation.protocols import PRESETS, PROTOCOLS, Items, protocol_and_ties
from urbancross_bench.evaluation.ties import TIES

if TYPE_CHECKING:
    from urbancross_bench.evaluation.vectors import Vectors

Direction = Literal["i2t", "t2i"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TOP = 10  # gallery items listed for each query


@dataclass(frozen=True, eq=False)
class DirectionRanking:
    """The ranking of Q queries of one direction, as counts from which every tie rule can be computed.

    `greater`, `tied`, `tied_positives`: (Q,) int64. With s the best score among a query's positives: negatives
    above s, negatives equal to s, positives equal to s (at least 1). `right`: (Q,) int64, right answers in the
    gallery of `gallery` items. `top`: (Q, ≤10) int64, the gallery items of the highest scores, ties in gallery
    order, and `top_tied`: whether each scores exactly like the next one. Items are named by the protocol's order;
    `query_row` (Q,) and `gallery_row` (gallery,) give the rows of the embeddings they are.
    `image_of_query`: (2, E) int64, each query with every image (row) it belongs to: the clusters of resampling.
    """

    greater: Ints
    tied: Ints
    tied_positives: Ints
    right: Ints
    top: Ints
    top_tied: NDArray[np.bool_]
    query_row: Ints
    gallery_row: Ints
    image_of_query: Ints
    ties: str
    k: tuple[int, ...]

    def __post_init__(self) -> None:
        _protect(self)

    def __repr__(self) -> str:
        recalls = ", ".join(f"R@{k} {value:.2f}" for k, value in self.recall.items())
        sizes = f"{len(self.greater):,} queries, a gallery of {self.gallery:,}"
        return f"DirectionRanking({sizes}, {self.ties}, {recalls})"

    @property
    def gallery(self) -> int:
        """How many items the gallery has."""
        return len(self.gallery_row)

    def hits(self, k: int) -> Floats:
        """(Q,) hit@k under the tie rule: 1 for a hit, 0 for a miss, a probability where ties decide."""
        return TIES[self.ties].hits(self.greater, self.tied, self.tied_positives, k)

    @cached_property
    def ranks(self) -> Floats:
        """(Q,) 1-based rank of the first right answer under the tie rule."""
        return _read_only(TIES[self.ties].ranks(self.greater, self.tied, self.tied_positives))

    @property
    def recall(self) -> dict[int, float]:
        """K → R@K in percent: the mean of `hits`."""
        return {**self._recall}

    @cached_property
    def _recall(self) -> dict[int, float]:
        return {k: 100.0 * float(self.hits(k).mean()) for k in self.k}

    @property
    def mean_rank(self) -> float:
        """The mean of `ranks`."""
        return float(self.ranks.mean())

    @property
    def median_rank(self) -> float:
        """The median of `ranks`."""
        return float(np.median(self.ranks))

    @cached_property
    def reciprocal_ranks(self) -> Floats:
        """(Q,) 1 / rank of the first right answer, by expectation where the tie rule is `expected`."""
        return _read_only(TIES[self.ties].reciprocals(self.greater, self.tied, self.tied_positives))

    @property
    def mrr(self) -> float:
        """MRR: the mean of `reciprocal_ranks`, in percent."""
        return 100.0 * float(self.reciprocal_ranks.mean())


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a ranking was made from, for metrics that look beyond counts.

    `images` and `texts` hold the vectors, standing for the protocol's `items`. `text_id` (M,) and
    `image_class` (N,) int64 are None where they were not given.
    """

    images: Vectors
    texts: Vectors
    items: Items
    text_id: Ints | None
    image_class: Ints | None

    def __post_init__(self) -> None:
        _protect(self)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Both directions of one evaluation. `image_of_text` is (M,) int64, as given, `images` is N.

    `inputs` is None for a ranking that was read from a record.
    """

    i2t: DirectionRanking
    t2i: DirectionRanking
    images: int
    image_of_text: Ints
    protocol: str
    ties: str
    inputs: Inputs | None = None

    def __post_init__(self) -> None:
        _protect(self)

    def __repr__(self) -> str:
        sizes = f"{self.images:,} images × {len(self.image_of_text):,} texts"
        return f"Ranking({sizes}, {self.protocol}, {self.ties}, mR {self.mr:.2f})"

    @property
    def mr(self) -> float:
        """mR: the mean of R@K over all K and both directions, in percent."""
        values = [*self.i2t.recall.values(), *self.t2i.recall.values()]
        return math.fsum(values) / len(values)  # built-in sums are rounded otherwise since Python 3.12

    def with_inputs(self, what: str) -> Inputs:
        """The inputs. Raises ValueError, saying what needs them, for a ranking read from a record."""
        if self.inputs is None:
            raise ValueError(f"{what} needs the embeddings, which a record does not hold")
        return self.inputs

    @property
    def map_at_r(self) -> dict[Direction, float]:
        """mAP@R in percent per direction; another pass over the embeddings where queries have several answers.

        See `positions.average_precisions`. Raises ValueError for a ranking without `inputs`.
        """
        return {**self._map_at_r}

    @cached_property
    def _map_at_r(self) -> dict[Direction, float]:
        from urbancross_bench.evaluation.positions import average_precisions

        directions: tuple[Direction, ...] = ("i2t", "t2i")
        return {name: 100.0 * float(average_precisions(self, name).mean()) for name in directions}


def _protect(shared: Any) -> None:
    """Make arrays read-only: all metrics are shown them, and none may move the value of another."""
    for name, value in vars(shared).items():
        if isinstance(value, np.ndarray):
            object.__setattr__(shared, name, _read_only(value))


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A view of the array, which may be its caller's own, that nobody can write to."""
    view = array.view()
    view.flags.writeable = False
    return view


def evaluate_retrieval(
    image_embeddings: Any,
    text_embeddings: Any,
    image_of_text: ArrayLike,
    *,
    protocol: str = "classic",
    ties: str = "expected",
    normalize: bool = True,
    k: Sequence[int] = (1, 5, 10),
    text_id: ArrayLike | None = None,
    image_id: ArrayLike | None = None,
    image_class: ArrayLike | None = None,
    image_bias: ArrayLike | None = None,
    text_bias: ArrayLike | None = None,
    top: int = TOP,
    device: str | None = None,
) -> Ranking:
    """Rank every image against all texts and every text against all images.

    image_embeddings: (N, D); text_embeddings: (M, D); numpy (memory-mapped too) or torch, any real type, taken as
    float32. image_of_text: (M,) integers in [0, N).
    protocol: `classic`, `deduplicated`, `row_diagonal` (see `protocols`), or a preset of protocol and tie rule.
    ties: `expected` (hit@K averaged over a random order of the tied items), `optimistic`, `pessimistic`.
    normalize: divide rows by their length first, so that scores are cosine similarities.
    text_id: (M,) equal integers for equal strings; image_id: (N,) equal integers for equal images (default: all
    differ); image_class: (N,) integers, for metrics that need scene classes.
    image_bias, text_bias: (N,) and (M,); a score is ⟨x, y⟩ − image_bias − text_bias.
    top: how many of the best items to list for each query.
    What is computed later from the result (mAP@R, say) reads arrays again that are memory-mapped or not
    normalised: leave them as they are.
    device: where to multiply; by default where the embeddings are.

    Memory is linear in N and M: the embeddings, one normalised copy (none of memory-mapped ones), and a block.
    Raises ValueError for shapes that do not fit, non-finite or zero rows, an image without a text, an unknown
    protocol or tie rule, or a protocol that lacks its input.
    """
    from urbancross_bench.evaluation.vectors import Vectors

    protocol, ties = _named(protocol, ties)
    cuts = _cuts(k)
    if top < 0:
        raise ValueError(f"top must be at least 0, got {top}")
    images = Vectors("image_embeddings", image_embeddings, normalize, image_bias, device)
    texts = Vectors("text_embeddings", text_embeddings, normalize, text_bias, device)
    if images.width != texts.width:
        raise ValueError(f"image_embeddings are {images.width} wide, text_embeddings {texts.width}")
    if images.device != texts.device:
        raise ValueError(
            f"image_embeddings are on {images.device}, text_embeddings on {texts.device}; give device"
        )
    owner = owners(image_of_text, images.items, texts.items)
    strings = None if text_id is None else integers("text_id", text_id, texts.items)
    pictures = np.arange(images.items) if image_id is None else integers("image_id", image_id, images.items)
    classes = None if image_class is None else integers("image_class", image_class, images.items)
    items = PROTOCOLS[protocol](owner, images.items, pictures, strings)
    inputs = Inputs(images.standing_for(items.image), texts.standing_for(items.text), items, strings, classes)
    i2t, t2i = _directions(inputs, ties, cuts, top)
    return Ranking(i2t, t2i, images.items, owner, protocol, ties, inputs)


def _directions(
    inputs: Inputs, ties: str, k: tuple[int, ...], top: int
) -> tuple[DirectionRanking, DirectionRanking]:
    from urbancross_bench.evaluation.counting import count
    from urbancross_bench.evaluation.toplists import TopLists
    from urbancross_bench.evaluation.vectors import pair_scores

    images, texts, items = inputs.images, inputs.texts, inputs.items
    image, text = items.right
    score = pair_scores(images, texts, images.vector_of_item[image], texts.vector_of_item[text])
    forth, back = _Queries(images, texts, image, text, score), _Queries(texts, images, text, image, score)
    tops = None
    if top:
        tops = (
            TopLists(images, texts, top, lambda query, vector: pair_scores(images, texts, query, vector)),
            TopLists(texts, images, top, lambda query, vector: pair_scores(images, texts, vector, query)),
        )
    count(images, texts, forth.probes, back.probes, attained=(forth.attained, back.attained), tops=tops)
    lists = [side.lists() for side in tops] if tops else [None, None]
    clusters = np.stack([np.arange(images.items), items.image]), np.stack([text, items.image[image]])
    return (
        forth.ranking(lists[0], (items.image, items.text), clusters[0], ties, k),
        back.ranking(lists[1], (items.text, items.image), clusters[1], ties, k),
    )


class _Queries:
    """The queries of one direction: the best score among each one's right answers, to be counted at."""

    def __init__(self, queries: Vectors, gallery: Vectors, query: Ints, right: Ints, score: Floats) -> None:
        from urbancross_bench.evaluation.directions import Probes

        best = _best(query, score, queries.items)
        attains = np.flatnonzero(score == best[query])
        attaining = query[attains]
        self._queries = queries
        self._right = np.bincount(query, minlength=queries.items)
        self._tied_positives = np.bincount(attaining, minlength=queries.items)
        self.probes = Probes(queries.vector_of_item, best)
        vector = gallery.vector_of_item[right[attains]]
        self.attained = _different(self.probes.place[attaining], vector, len(gallery))

    def ranking(
        self,
        lists: tuple[Ints, NDArray[np.bool_]] | None,
        rows: tuple[Ints, Ints],
        image_of_query: Ints,
        ties: str,
        k: tuple[int, ...],
    ) -> DirectionRanking:
        """What was counted, query by query."""
        top, top_tied = lists or (np.empty((len(self._queries), 0), np.int64),) * 2
        place, vector = self.probes.place, self._queries.vector_of_item
        return DirectionRanking(
            greater=self.probes.above[place],
            # Counts know no positives: none lies above the best, and those that equal it are taken off.
            tied=self.probes.equal[place] - self._tied_positives,
            tied_positives=self._tied_positives,
            right=self._right,
            top=top[vector],
            top_tied=top_tied[vector].astype(bool),
            query_row=rows[0],
            gallery_row=rows[1],
            image_of_query=image_of_query,
            ties=ties,
            k=k,
        )


def _best(query: Ints, score: Floats, queries: int) -> Floats:
    """(Q,) the highest of each query's scores; −∞ where it has none."""
    best = np.full(queries, -np.inf)
    if bool((query[1:] >= query[:-1]).all()):  # as in most data sets, and ten times as fast
        first = np.flatnonzero(np.diff(query, prepend=-1))
        best[query[first]] = np.maximum.reduceat(score, first)
    else:
        np.maximum.at(best, query, score)
    return best


def _different(probe: Ints, vector: Ints, vectors: int) -> tuple[Ints, Ints]:
    """Pairs of a probe and one of some vectors, each once, in order."""
    pairs = probe * vectors + vector
    if bool((pairs[1:] > pairs[:-1]).all()):  # as most data sets are
        return probe, vector
    pairs.sort()  # np.unique hashes, which takes ten times as long
    probe, vector = np.divmod(pairs[np.diff(pairs, prepend=-1) > 0], vectors)
    return probe, vector


def _cuts(k: Sequence[int]) -> tuple[int, ...]:
    try:
        cuts = tuple(index(cut) for cut in k)
    except TypeError:
        cuts = ()
    if not cuts or min(cuts) < 1 or max(cuts) > np.iinfo(np.int64).max:
        raise ValueError(f"k must be whole numbers from 1 on, (1, 5, 10) say, got {k!r}")
    return cuts


def _named(name: str, ties: str) -> tuple[str, str]:
    if not isinstance(name, str) or (name not in PROTOCOLS and name not in PRESETS):
        raise ValueError(f"unknown protocol {name!r}.{did_you_mean(str(name), [*PROTOCOLS, *PRESETS])}")
    if not isinstance(ties, str) or ties not in TIES:
        raise ValueError(f"unknown tie rule {ties!r}.{did_you_mean(str(ties), TIES)}")
    protocol, rule = protocol_and_ties(name, ties)
    if ties not in ("expected", rule):
        raise ValueError(f"preset {name!r} brings the tie rule {rule!r}; name protocol {protocol!r} for others")
    return protocol, rule
