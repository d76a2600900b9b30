"""Floors and ceilings: what a score on a test split means, beside what needs no skill and what no skill can pass.

All are for the protocol `classic` (an image's own texts are right, the best of them counts; a text's own image is
right) and follow from who owns which text, which texts are the same string, and the images' scene classes:

`random`        a constant score. Under ties by expectation that is a random order.
`class_oracle`  score 1 where image and text are of one scene class, else 0: it knows the class and nothing else.
`equal_strings` score 1 for each of an image's own strings wherever the string stands, else 0: it knows everything,
                and loses only what copies of its captions at other images cost it.
`ceiling`       no model that scores equal strings equally does better, for each direction and K by itself (one
                model need not reach all six). For an image the best of its strings is ranked first, m copies its
                own among e of others; for a string the images that carry it are ranked by how often they do.

numpy only. Memory grows with images and texts, not with their product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from urbancross_bench.evaluation.owners import integers, owners
from urbancross_bench.evaluation.ties import TIES

if TYPE_CHECKING:
    from urbancross_bench.evaluation.ranking import DirectionRanking, Inputs, Ranking
    from urbancross_bench.evaluation.vectors import Vectors

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Hits = Callable[[Ints, Ints, Ints, int], Floats]  # as of a tie rule


# What each is, in few words.
FLOORS: Mapping[str, str] = {
    "random": "random order",
    "class_oracle": "knows the scene class alone",
    "equal_strings": "knows all but whose copy a caption is",
    "ceiling": "ceiling: equal captions score equally",
}


@dataclass(frozen=True)
class Floor:
    """R@K in percent by K, from images to texts and from texts to images."""

    i2t: Mapping[int, float]
    t2i: Mapping[int, float]

    @property
    def mr(self) -> float:
        """mR: the mean of R@K over all K and both directions, in percent."""
        return float(np.mean([*self.i2t.values(), *self.t2i.values()]))

    def as_json(self) -> dict[str, float]:
        """mR and its parts, under the names that scores have."""
        to_texts = {f"i2t_R@{k}": value for k, value in self.i2t.items()}
        return {"mR": self.mr} | to_texts | {f"t2i_R@{k}": value for k, value in self.t2i.items()}


@dataclass(frozen=True)
class Floors:
    """All floors under one tie rule. `class_oracle` is None where the images have no classes."""

    random: Floor
    class_oracle: Floor | None
    equal_strings: Floor
    ceiling: Floor

    def as_json(self) -> dict[str, dict[str, float] | None]:
        """The floors by name, as plain JSON values."""
        return {name: floor and floor.as_json() for name, floor in vars(self).items()}


def floors(
    image_of_text: ArrayLike,
    text_id: ArrayLike,
    images: int,
    image_class: ArrayLike | None = None,
    *,
    k: Sequence[int] = (1, 5, 10),
) -> dict[str, Floors]:
    """Tie rule → floors.

    image_of_text: (M,) integers in [0, images), every image with a text. text_id: (M,) integers, equal for equal
    strings. image_class: (images,) integers. Raises ValueError for arrays that do not fit.
    """
    owner = owners(image_of_text, images, np.asarray(image_of_text).size)
    text = integers("text_id", text_id, len(owner))
    classes = None if image_class is None else integers("image_class", image_class, images)
    wording = _wording(owner, text)
    own = np.bincount(owner)
    return {name: _floors(rule.hits, owner, own, wording, classes, k) for name, rule in TIES.items()}


def as_json(found: Mapping[str, Floors]) -> dict[str, dict[str, dict[str, float] | None]]:
    """Tie rule → floor → mR and its parts, as plain JSON values."""
    return {ties: under.as_json() for ties, under in found.items()}


def random_floor(ranking: Ranking) -> Floor:
    """What a random order of the same queries and gallery scores, under any protocol."""
    chance = chance_ranking(ranking)
    return Floor(chance.i2t.recall, chance.t2i.recall)


def chance_ranking(ranking: Ranking) -> Ranking:
    """The ranking of the same queries and gallery by a constant score, ties by expectation.

    Everything ties with everything, so each hit@K is the probability of a hit in a random order: with p right
    answers in a gallery of n, 1 − C(n−p, K) / C(n, K). The `inputs`, if there are any, become equal vectors.
    """
    inputs = None if ranking.inputs is None else _indifferent(ranking.inputs)
    i2t, t2i = _all_tied(ranking.i2t), _all_tied(ranking.t2i)
    return replace(ranking, i2t=i2t, t2i=t2i, ties="expected", inputs=inputs)


def _all_tied(side: DirectionRanking) -> DirectionRanking:
    listed = np.arange(side.top.shape[1])
    return replace(
        side,
        greater=np.zeros_like(side.greater),
        tied=side.gallery - side.right,
        tied_positives=side.right,
        top=np.broadcast_to(listed, side.top.shape),
        top_tied=np.broadcast_to(listed < side.gallery - 1, side.top.shape),
        ties="expected",
    )


def _indifferent(inputs: Inputs) -> Inputs:
    from urbancross_bench.evaluation.vectors import Vectors

    def one(side: Vectors, rows: Ints) -> Vectors:
        return Vectors(side.side, np.ones((1, 1), np.float32), normalize=False).standing_for(np.zeros_like(rows))

    items = inputs.items
    return replace(inputs, images=one(inputs.images, items.image), texts=one(inputs.texts, items.text))


@dataclass(frozen=True)
class _Wording:
    """Who carries which of S different strings.

    Of each text: string (M,). Of each string: copies (S,), and the number of images that carry it, carriers (S,).
    Of each different pair of image and string, by image: image, of (its string), times (how often it carries it).
    """

    string: Ints
    copies: Ints
    carriers: Ints
    image: Ints
    of: Ints
    times: Ints


def _wording(owner: Ints, text: Ints) -> _Wording:
    string, copies = np.unique(text, return_inverse=True, return_counts=True)[1:]
    pairs, times = np.unique(owner * len(copies) + string, return_counts=True)
    image, of = np.divmod(pairs, len(copies))
    return _Wording(string, copies, np.bincount(of), image, of, times)


def _floors(
    hits: Hits, owner: Ints, own: Ints, wording: _Wording, classes: Ints | None, k: Sequence[int]
) -> Floors:
    images = len(own)
    others = wording.copies[wording.of] - wording.times
    strangers = np.bincount(wording.image, weights=others).astype(np.int64)
    class_oracle = None
    if classes is not None:
        kind = np.unique(classes, return_inverse=True)[1]
        alike, texts = np.bincount(kind), np.bincount(kind[owner])
        class_oracle = _binary(hits, texts[kind] - own, own, alike[kind][owner], k)
    return Floors(
        random=_binary(hits, len(owner) - own, own, np.full(len(owner), images), k),
        class_oracle=class_oracle,
        equal_strings=_binary(hits, strangers, own, wording.carriers[wording.string], k),
        ceiling=Floor(
            {n: 100.0 * _best_i2t(hits, wording, n) for n in k},
            {n: 100.0 * _best_t2i(hits, wording, n) for n in k},
        ),
    )


def _binary(hits: Hits, strangers: Ints, own: Ints, alike: Ints, k: Sequence[int]) -> Floor:
    """A score of 1 or 0 that gives 1 to all that is right.

    strangers, own: (N,) texts with score 1 that are not an image's own, and its own. alike: (M,) images with
    score 1 for a text, its own one among them.
    """
    none, one = np.zeros_like(own), np.ones_like(alike)
    return Floor(
        {n: 100.0 * float(hits(none, strangers, own, n).mean()) for n in k},
        {n: 100.0 * float(hits(np.zeros_like(alike), alike - 1, one, n).mean()) for n in k},
    )


def _best_i2t(hits: Hits, wording: _Wording, k: int) -> float:
    others = wording.copies[wording.of] - wording.times
    of_string = hits(np.zeros_like(others), others, wording.times, k)
    starts = np.flatnonzero(np.diff(wording.image, prepend=-1))
    return float(np.maximum.reduceat(of_string, starts).mean())


def _best_t2i(hits: Hits, wording: _Wording, k: int) -> float:
    """Per string the better of two: its images one after the other, most copies first; or all of them tied, which
    is never better unless ties are optimistic.
    """
    order = np.lexsort((-wording.times, wording.of))
    place = np.arange(len(order)) - (np.cumsum(wording.carriers) - wording.carriers)[wording.of[order]]
    found = np.bincount(wording.of[order], weights=np.where(place < k, wording.times[order], 0))
    one = np.ones_like(wording.carriers)
    tied = hits(np.zeros_like(one), wording.carriers - 1, one, k) * wording.copies
    return float(np.maximum(found, tied).sum() / wording.copies.sum())
