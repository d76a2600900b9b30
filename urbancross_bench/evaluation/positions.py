"""Where pairs stand in their rankings, each by itself, and what follows from that: mAP@R and graded nDCG.

For a pair of a query and a gallery item, `above` items score higher, and `equal` items (itself among them) the
same; in a random order of equals its place is uniform over above + 1 … above + equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from urbancross_bench.evaluation.ranking import Direction, Inputs, Ranking
    from urbancross_bench.evaluation.vectors import Vectors

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_KINDS = 20  # different vectors of one string, on average


def sides(inputs: Inputs, direction: Direction) -> tuple[Vectors, Vectors]:
    """Queries and gallery of a direction."""
    both = inputs.images, inputs.texts
    return both if direction == "i2t" else both[::-1]


def standing(
    inputs: Inputs, queries: Vectors, gallery: Vectors, query: Ints, item: Ints, counted: Vectors | None = None
) -> tuple[Ints, Ints]:
    """(P,) `above` and `equal` of pairs of a query and a gallery item, in one pass over all pairs of vectors.

    counted: the part of the gallery to count in; all of it by default.
    """
    from urbancross_bench.evaluation.counting import count
    from urbancross_bench.evaluation.directions import Probes
    from urbancross_bench.evaluation.vectors import pair_scores

    vector = queries.vector_of_item[query], gallery.vector_of_item[item]
    of_images = queries.side == inputs.images.side
    score = pair_scores(queries, gallery, *vector) if of_images else pair_scores(gallery, queries, *vector[::-1])
    probes, none = Probes(vector[0], score), Probes(*(np.empty(0, np.int64), np.empty(0)))
    within = gallery if counted is None else counted
    if of_images:
        count(queries, within, probes, none)
    else:
        count(within, queries, none, probes)
    return probes.above[probes.place], probes.equal[probes.place]


def average_precisions(ranking: Ranking, direction: Direction) -> Floats:
    """(Q,) AP@R of each query: the mean over the first R places of precision there, where an answer is right.

    R is the number of the query's right answers (Musgrave et al. 2020, "A metric learning reality check"). Ties by
    the ranking's rule; by expectation as in McSherry and Najork 2008, cut off at R. With one right answer it is
    hit@1. Raises ValueError for a ranking without embeddings, unless that holds for every query.
    """
    side = ranking.i2t if direction == "i2t" else ranking.t2i
    if (side.right == 1).all():
        return side.hits(1)
    inputs = ranking.with_inputs("mAP@R")
    pairs = inputs.items.right if direction == "i2t" else inputs.items.right[::-1]
    above, equal = standing(inputs, *sides(inputs, direction), *pairs)
    # Right answers that tie are one group: `size` items from place `start` on, `good` of them right.
    groups, members = np.unique(np.stack([pairs[0], above, equal]), axis=1, return_counts=True)
    query, start, size = groups
    good = members.astype(np.float64)
    reached = np.cumsum(members)
    before = reached - members  # right answers of better groups, those of earlier queries taken off
    before -= before[np.searchsorted(query, query)]
    length = np.clip(side.right[query] - start, 0, size)
    group = np.repeat(np.arange(len(query)), length)
    place = np.arange(len(group)) - np.repeat(np.cumsum(length) - length, length)  # in the group, from 0
    n, t = good[group], size[group].astype(np.float64)
    if ranking.ties == "expected":
        right, others = n / t, place * (n - 1) / np.maximum(t - 1, 1)
    else:
        first = 0 if ranking.ties == "optimistic" else t - n
        right = ((place >= first) & (place < first + n)).astype(np.float64)
        others = place - first
    precision = right * (before[group] + 1 + others) / (start[group] + place + 1)
    sums = np.bincount(query[group], weights=precision, minlength=len(side.right))
    return sums / side.right


def graded_gains(ranking: Ranking, direction: Direction, k: Sequence[int]) -> dict[int, Floats]:
    """K → (Q,) nDCG@K of each query, with graded relevance by caption equality.

    The grade of an image and a text is the share of the image's captions that are the same string: 1 where all
    are, 0 where none is, whichever image the text stands at (copies that a protocol takes for one image pool their
    captions). Gains are linear, discounts 1 / log2(place + 1)
    (Järvelin and Kekäläinen 2002); ties by expectation under every tie rule. Raises ValueError without text_id or
    embeddings.
    """
    inputs = ranking.with_inputs("graded relevance")
    if inputs.text_id is None:
        raise ValueError("graded relevance needs text_id, which says which strings are equal")
    string = np.unique(inputs.text_id, return_inverse=True)[1].reshape(-1)
    kind, string_of_kind, copies = _kinds(inputs, string)
    item, of_kind, grade = _graded(ranking, inputs, string, string_of_kind)
    sample = np.empty(len(copies), dtype=np.int64)  # a text item of each kind
    sample[kind] = np.arange(len(kind))
    if direction == "i2t":
        above, equal = standing(inputs, inputs.images, inputs.texts, item, sample[of_kind])
        many = copies[of_kind]
        return {cut: _ndcg(item, grade, many, above, equal, inputs.images.items, cut) for cut in k}
    above, equal = standing(inputs, inputs.texts, inputs.images, sample[of_kind], item)
    once = np.ones(len(item), dtype=np.int64)
    return {cut: _ndcg(of_kind, grade, once, above, equal, len(copies), cut)[kind] for cut in k}


def _kinds(inputs: Inputs, string: Ints) -> tuple[Ints, Ints, Ints]:
    """Texts of one string and one vector are of one kind.

    (T,) the kind of each text item, and per kind its string and how many items are of it.
    """
    both = np.stack([string[inputs.items.text], inputs.texts.vector_of_item])
    different, kind, copies = np.unique(both, axis=1, return_inverse=True, return_counts=True)
    return kind.reshape(-1), different[0], copies


def _graded(ranking: Ranking, inputs: Inputs, string: Ints, string_of_kind: Ints) -> tuple[Ints, Ints, Floats]:
    """All pairs of an image item and a kind of text with a grade above 0, and the grade."""
    picture = inputs.items.picture
    owner = picture[ranking.image_of_text]
    (image, text), captions = np.unique(np.stack([owner, string]), axis=1, return_counts=True)
    share = captions / np.bincount(owner)[image]
    entry, of_kind = _joined(text, string_of_kind)
    if len(entry) > _KINDS * len(string):
        raise ValueError(
            "too many equal strings have different vectors for graded relevance; embed each string once"
        )
    again, item = _joined(image[entry], picture[inputs.items.image])
    return item, of_kind[again], share[entry][again]


def _joined(left: Ints, right: Ints) -> tuple[Ints, Ints]:
    """All pairs of places in two arrays that hold the same value."""
    order = np.argsort(right, kind="stable")
    first = np.searchsorted(right[order], left)
    times = np.searchsorted(right[order], left, side="right") - first
    place = np.repeat(np.arange(len(left)), times)
    within = np.arange(len(place)) - np.repeat(np.cumsum(times) - times, times)
    return place, order[first[place] + within]


def _ndcg(query: Ints, grade: Floats, copies: Ints, above: Ints, equal: Ints, queries: int, k: int) -> Floats:
    """(queries,) nDCG@k from pairs, each standing for `copies` items of one score."""
    cumulative = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(k) + 2))])
    discount = (cumulative[np.minimum(above + equal, k)] - cumulative[np.minimum(above, k)]) / equal
    gained = np.bincount(query, weights=grade * copies * discount, minlength=queries)
    order = np.lexsort((-grade, query))
    q, ends = query[order], np.cumsum(copies[order])
    starts = ends - copies[order]
    offset = starts[np.searchsorted(q, q)]
    ideal = cumulative[np.minimum(ends - offset, k)] - cumulative[np.minimum(starts - offset, k)]
    return gained / np.bincount(q, weights=grade[order] * ideal, minlength=queries)
