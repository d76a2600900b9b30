"""Retrieval by brute force over exact numbers, and random cases to hold the package's ranking against.

Nothing here is shared with the package: scores are Python integers or floats, which compare exactly, counting is
counting, and recalls are fractions until the end.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import comb
from random import Random
from typing import Any

import numpy as np

Score = int | float | Fraction
Rows = list[list[float]]

PROTOCOLS = ("classic", "deduplicated", "row_diagonal")
TIES = ("expected", "optimistic", "pessimistic")
KS = (1, 5, 10)


@dataclass(frozen=True)
class Query:
    """One query: negatives above the best positive, negatives equal to it, positives equal to it; right answers;
    the gallery by score, ties in gallery order; for each place whether the next one scores the same.
    """

    greater: int
    tied: int
    tied_positives: int
    right: int
    order: list[int]
    order_tied: list[bool]

    def hit(self, ties: str, k: int) -> Fraction:
        g, e, m = self.greater, self.tied, self.tied_positives
        if ties == "optimistic":
            return Fraction(g + 1 <= k)
        if ties == "pessimistic":
            return Fraction(g + e + 1 <= k)
        r = k - g
        if r <= 0:
            return Fraction(0)
        return Fraction(1) if r > e else 1 - Fraction(comb(e, r), comb(e + m, r))

    def rank(self, ties: str) -> Fraction:
        g, e, m = self.greater, self.tied, self.tied_positives
        if ties == "expected":
            return g + Fraction(e + m + 1, m + 1)
        return Fraction(g + 1 if ties == "optimistic" else g + e + 1)

    def reciprocal(self, ties: str) -> Fraction:
        """1 / rank; by expectation over the place i that the first of m positives takes among e + m tied items."""
        g, e, m = self.greater, self.tied, self.tied_positives
        if ties != "expected":
            return 1 / self.rank(ties)
        places = range(1, e + 2)
        return sum((Fraction(comb(e + m - i, m - 1), comb(e + m, m)) / (g + i) for i in places), start=Fraction(0))


@dataclass(frozen=True)
class Evaluation:
    """Both directions; `image_rows` and `text_rows` are the rows that the protocol's items come from."""

    i2t: list[Query]
    t2i: list[Query]
    image_rows: list[int]
    text_rows: list[int]

    def recall(self, direction: str, ties: str, k: int) -> Fraction:
        queries: list[Query] = getattr(self, direction)
        return 100 * sum((query.hit(ties, k) for query in queries), start=Fraction(0)) / len(queries)

    def mr(self, ties: str) -> Fraction:
        return sum((self.recall(way, ties, k) for way in ("i2t", "t2i") for k in KS), start=Fraction(0)) / 6


def evaluate(
    scores: Sequence[Sequence[Score]],
    image_of_text: Sequence[int],
    protocol: str,
    image_id: Sequence[int] | None = None,
    text_id: Sequence[int] | None = None,
) -> Evaluation:
    """From the score of every image row with every text row."""
    texts = range(len(image_of_text))
    if protocol == "classic":  # an image's own texts; a text's own image; every copy is an item
        image_rows, text_rows = list(range(len(scores))), list(texts)
        right = {(image_of_text[text], text) for text in texts}
    elif protocol == "deduplicated":  # a string and an image are one item each; right is any image with the string
        assert text_id is not None
        ids = list(range(len(scores))) if image_id is None else list(image_id)
        strings, pictures = sorted(set(text_id)), sorted(set(ids))
        image_rows = [ids.index(picture) for picture in pictures]
        text_rows = [list(text_id).index(string) for string in strings]
        right = {(pictures.index(ids[image_of_text[text]]), strings.index(text_id[text])) for text in texts}
    else:  # row i of texts with row i of their images, nothing else
        image_rows, text_rows = list(image_of_text), list(texts)
        right = {(text, text) for text in texts}
    matrix = [[scores[image][text] for text in text_rows] for image in image_rows]
    columns = [list(column) for column in zip(*matrix, strict=True)]
    return Evaluation(
        [_query(row, {t for i, t in right if i == image}) for image, row in enumerate(matrix)],
        [_query(column, {i for i, t in right if t == text}) for text, column in enumerate(columns)],
        image_rows,
        text_rows,
    )


def _query(scores: Sequence[Score], right: set[int]) -> Query:
    best = max(scores[item] for item in right)
    wrong = [score for item, score in enumerate(scores) if item not in right]
    order = sorted(range(len(scores)), key=lambda item: (-scores[item], item))
    return Query(
        greater=sum(score > best for score in wrong),
        tied=sum(score == best for score in wrong),
        tied_positives=sum(scores[item] == best for item in right),
        right=len(right),
        order=order,
        order_tied=[scores[a] == scores[b] for a, b in pairwise(order)] + [False],
    )


def as_float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def sequential(left: Sequence[float], right: Sequence[float]) -> float:
    """The sum of products in float64, in the order of the dimensions."""
    total = 0.0
    for x, y in zip(left, right, strict=True):
        total += x * y
    return total


def defined_scores(
    images: Rows,
    texts: Rows,
    normalize: bool,
    image_bias: Sequence[float] | None = None,
    text_bias: Sequence[float] | None = None,
) -> list[list[float]]:
    """Every score as it is defined: rows as float32, divided by their length and rounded once more, multiplied."""
    left, right = ([_vector(row, normalize) for row in rows] for rows in (images, texts))
    scores = [[sequential(x, y) for y in right] for x in left]
    if image_bias is not None:
        scores = [[score - bias for score in row] for row, bias in zip(scores, image_bias, strict=True)]
    if text_bias is not None:
        scores = [[score - bias for score, bias in zip(row, text_bias, strict=True)] for row in scores]
    return scores


def _vector(row: Sequence[float], normalize: bool) -> list[float]:
    row = [as_float32(value) for value in row]
    if not normalize:
        return row
    length = math.sqrt(sequential(row, row))
    return [as_float32(value / length) for value in row]


@dataclass(frozen=True)
class Case:
    """A problem small enough for brute force."""

    images: Rows
    texts: Rows
    image_of_text: list[int]
    image_id: list[int] | None
    text_id: list[int]
    image_bias: list[float] | None
    text_bias: list[float] | None
    normalize: bool
    protocol: str
    ties: str
    top: int

    def arguments(self, form: Callable[[Rows], Any] = np.array) -> dict[str, Any]:
        """What to give `evaluate_retrieval`; `form` makes the embeddings."""
        return {
            "image_embeddings": form(self.images),
            "text_embeddings": form(self.texts),
            "image_of_text": np.array(self.image_of_text),
            "protocol": self.protocol,
            "ties": self.ties,
            "normalize": self.normalize,
            "text_id": np.array(self.text_id),
            "image_id": None if self.image_id is None else np.array(self.image_id),
            "image_bias": self.image_bias,
            "text_bias": self.text_bias,
            "top": self.top,
        }

    def expected(self) -> Evaluation:
        scores = defined_scores(self.images, self.texts, self.normalize, self.image_bias, self.text_bias)
        return evaluate(scores, self.image_of_text, self.protocol, self.image_id, self.text_id)


def differences(case: Case, ranking: Any, expected: Evaluation | None = None) -> list[str]:
    """Where a ranking of the package is not what brute force finds; nothing if it agrees."""
    expected = expected or case.expected()
    found: list[str] = []

    def compare(name: str, got: Any, wanted: Any) -> None:
        if got != wanted:
            found.append(f"{name}: {got} instead of {wanted}")

    def near(name: str, got: float, wanted: Fraction) -> None:
        # Where no tie decides, sums of whole numbers leave one float; else fractions were rounded on the way.
        exact = case.ties != "expected" and name.split()[1] != "mR"
        if not (got == 100.0 * float(wanted / 100) if exact else abs(got - wanted) <= 1e-12):
            found.append(f"{name}: {got} instead of {float(wanted)}")

    rows = expected.image_rows, expected.text_rows
    for way, (queries, gallery) in (("i2t", rows), ("t2i", rows[::-1])):
        side, wanted = getattr(ranking, way), getattr(expected, way)
        for name in ("greater", "tied", "tied_positives", "right"):
            compare(f"{way} {name}", getattr(side, name).tolist(), [getattr(query, name) for query in wanted])
        listed = min(case.top, len(gallery))
        compare(f"{way} top", side.top.tolist(), [query.order[:listed] for query in wanted])
        compare(f"{way} top_tied", side.top_tied.tolist(), [query.order_tied[:listed] for query in wanted])
        compare(f"{way} query_row", side.query_row.tolist(), queries)
        compare(f"{way} gallery_row", side.gallery_row.tolist(), gallery)
        for k in KS:
            near(f"{way} R@{k}", side.recall[k], expected.recall(way, case.ties, k))
        ranks = zip(side.ranks.tolist(), (query.rank(case.ties) for query in wanted), strict=True)
        compare(f"{way} ranks", [rank for rank, exact in ranks if abs(rank - exact) > 1e-9], [])
        inverse = [query.reciprocal(case.ties) for query in wanted]
        compare(
            f"{way} reciprocal ranks",
            [a for a, b in zip(side.reciprocal_ranks.tolist(), inverse, strict=True) if abs(a - b) > 1e-12],
            [],
        )
    near("both mR", ranking.mr, expected.mr(case.ties))
    return found


Integer = Callable[[int, int], int]  # a whole number from the first to the second


def any_case(integer: Integer, most_images: int = 8, most_texts: int = 24) -> Case:
    """A case by the choices of `integer`: equal rows, rows one last bit apart, equal captions and images."""
    images = integer(1, most_images)
    owner = [*range(images), *(integer(0, images - 1) for _ in range(integer(0, most_texts - images)))]
    width = integer(1, 6) if integer(0, 2) else integer(1, 70)
    normalize = bool(integer(0, 1))
    kind = integer(0, len(_CELLS) - 1)
    random = Random(integer(0, 2**32 - 1))
    random.shuffle(owner)
    both = _CELLS[kind](random, images + len(owner), width)
    _plant(random, both)
    if normalize:
        for row in both:
            if not any(as_float32(value) for value in row):
                row[0] = 1.0
    biased = integer(0, 5)  # 1: images, 2: texts, 3: both
    return Case(
        images=both[:images],
        texts=both[images:],
        image_of_text=owner,
        image_id=None if integer(0, 1) else [random.randint(-2, images) for _ in range(images)],
        text_id=[random.randint(-2, len(owner)) for _ in owner],
        image_bias=_biases(random, images) if biased in (1, 3) else None,
        text_bias=_biases(random, len(owner)) if biased in (2, 3) else None,
        normalize=normalize,
        protocol=PROTOCOLS[integer(0, 2)],
        ties=TIES[integer(0, 2)],
        top=integer(0, 12),
    )


def any_seeded_case(seed: int, most_images: int = 8, most_texts: int = 24) -> Case:
    return any_case(Random(seed).randint, most_images, most_texts)


def last_bits(value: float, steps: int) -> float:
    """The float32 some steps away, or the value where that is none."""
    (bits,) = struct.unpack("<i", struct.pack("<f", value))
    moved = float(struct.unpack("<f", struct.pack("<i", max(0, bits + steps) if bits >= 0 else bits))[0])
    return moved if math.isfinite(moved) else value


def _whole(random: Random, rows: int, width: int) -> Rows:
    return [[float(random.randint(-2, 2)) for _ in range(width)] for _ in range(rows)]


def _signed_zeros(random: Random, rows: int, width: int) -> Rows:
    return [[random.choice([-0.0, 0.0, 1.0, -1.0]) for _ in range(width)] for _ in range(rows)]


def _gaussian(random: Random, rows: int, width: int) -> Rows:
    return [[random.gauss(0, 1) for _ in range(width)] for _ in range(rows)]


def _near_one_another(random: Random, rows: int, width: int) -> Rows:
    base = [abs(random.gauss(0, 1)) for _ in range(width)]
    return [[last_bits(value, random.choice([0, 0, 0, 1, -1, 2])) for value in base] for _ in range(rows)]


def _few_bits(random: Random, rows: int, width: int) -> Rows:
    return [[round(4 * random.gauss(0, 1)) / 4 for _ in range(width)] for _ in range(rows)]


def _of_all_sizes(random: Random, rows: int, width: int) -> Rows:
    low, high = random.choice([(-44, 36), (-30, -30), (30, 30), (-25, 0), (-45, -38), (-3, 3)])
    made = []
    for _ in range(rows):
        size = 10.0 ** random.uniform(low, high)
        made.append([random.gauss(0, 1) * size for _ in range(width)])
    return made


def _cancelling(random: Random, rows: int, width: int) -> Rows:
    """Sums of large numbers of both signs, of which little is left."""
    return [[random.choice([-1, 1]) * random.choice([1e4, 1e-4, 3.0]) for _ in range(width)] for _ in range(rows)]


_CELLS = (_whole, _signed_zeros, _gaussian, _near_one_another, _few_bits, _of_all_sizes, _cancelling)


def _plant(random: Random, rows: Rows) -> None:
    """Make some rows copies of others, of either side: as they are, one last bit off, twice as long, or turned."""
    often = random.choice([0.0, 0.3, 0.7])
    for place in range(len(rows)):
        if random.random() >= often:
            continue
        row = list(rows[random.randrange(len(rows))])
        change = random.randrange(6)
        if change == 0:
            cell = random.randrange(len(row))
            row[cell] = last_bits(row[cell], random.choice([1, -1]))
        elif change == 1:
            row = [2 * value for value in row]
        elif change == 2:
            row = [-value for value in row]
        rows[place] = row


def _biases(random: Random, count: int) -> list[float]:
    size = random.choice([1.0, 1.0, 1e-8, 1e-30, 1e30, 0.0])
    return [size * random.choice([0.0, -0.0, 0.5, 1.0, -1.0, random.gauss(0, 1)]) for _ in range(count)]
