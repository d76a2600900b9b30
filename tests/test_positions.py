"""mAP@R, graded nDCG, scene retrieval and reciprocal ranks, against averages over every order of ties."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urbancross_bench.evaluation import Direction, Ranking, evaluate_retrieval
from urbancross_bench.evaluation.floors import chance_ranking
from urbancross_bench.evaluation.positions import average_precisions, graded_gains
from urbancross_bench.evaluation.protocols import PROTOCOLS
from urbancross_bench.evaluation.scenes import scene_precisions
from urbancross_bench.evaluation.ties import TIES

Case = tuple[Ranking, np.ndarray, np.ndarray, np.ndarray]


def orders(scores: Sequence[float], ties: str, good: set[int]) -> Iterator[list[int]]:
    """Every order of the items that a tie rule allows, best score first."""
    groups = [[i for i, s in enumerate(scores) if s == value] for value in sorted(set(scores), reverse=True)]
    if ties == "expected":
        for parts in product(*(list(permutations(group)) for group in groups)):
            yield [item for part in parts for item in part]
    else:
        last = ties == "pessimistic"
        yield [item for group in groups for item in sorted(group, key=lambda i: (i in good) == last)]


def average_precision(order: Sequence[int], good: set[int]) -> float:
    places = [place for place, item in enumerate(order, 1) if item in good]
    return sum(n / place for n, place in enumerate(places, 1) if place <= len(good)) / len(good)


def gain(order: Sequence[int], grades: Sequence[float], k: int) -> float:
    return sum(grades[item] / np.log2(place + 1) for place, item in enumerate(order[:k], 1))


@st.composite
def rankings(draw: st.DrawFn) -> Case:
    """A small ranking full of ties, its strings (M,), classes (N,), and which images are one (N,)."""
    images, extra, width = draw(st.integers(1, 3)), draw(st.integers(0, 3)), draw(st.integers(1, 2))
    seed = draw(st.integers(0, 10**6))
    generator = np.random.default_rng(seed)
    texts = images + extra
    owner = np.concatenate([np.arange(images), generator.integers(0, images, extra)])
    generator.shuffle(owner)
    strings, classes = generator.integers(0, texts, texts), generator.integers(0, 2, images)
    pictures = generator.integers(0, images, images)  # some images stand twice
    vectors = generator.integers(-1, 2, size=(images, width)), generator.integers(-1, 2, size=(texts, width))
    ranking = evaluate_retrieval(
        vectors[0],
        vectors[1][strings],  # equal strings have equal vectors
        owner,
        protocol=draw(st.sampled_from([*PROTOCOLS])),
        ties=draw(st.sampled_from([*TIES])),
        normalize=False,
        text_id=strings,
        image_id=pictures,
        image_class=classes,
    )
    same = pictures if ranking.protocol == "deduplicated" else np.arange(images)
    return ranking, strings, classes, same


def dense(ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
    """(I, T) scores, and which pairs are right."""
    inputs = ranking.with_inputs("")
    rows = [side.rows(side.vector_of_item).numpy().astype(float) for side in (inputs.images, inputs.texts)]
    scores = rows[0] @ rows[1].T
    right = np.zeros(scores.shape, dtype=bool)
    right[inputs.items.right] = True
    return scores, right


@settings(max_examples=150, deadline=None)
@given(rankings())
def test_metrics_are_averages_over_all_orders_of_ties(case: Case) -> None:
    ranking, strings, classes, same_image = case
    scores, right = dense(ranking)
    items, owner = ranking.with_inputs("").items, ranking.image_of_text
    grades = np.array(
        [
            [
                np.mean(
                    [strings[t] == strings[text] for t in np.flatnonzero(same_image[owner] == same_image[image])]
                )
                for text in items.text
            ]
            for image in items.image
        ]
    )
    scene = classes[items.image][:, None] == classes[owner[items.text]]
    directions: tuple[Direction, ...] = ("i2t", "t2i")
    for direction in directions:
        side = ranking.i2t if direction == "i2t" else ranking.t2i
        turned = [m if direction == "i2t" else m.T for m in (scores, right, grades, scene)]
        found = (
            average_precisions(ranking, direction),
            graded_gains(ranking, direction, (3,))[3],
            scene_precisions(ranking, direction, 2),
            side.reciprocal_ranks,
            side.ranks,
        )
        for query, (score, answers, grade, alike) in enumerate(zip(*turned, strict=True)):
            good, same = {*np.flatnonzero(answers).tolist()}, {*np.flatnonzero(alike).tolist()}
            ways = list(orders(score.tolist(), ranking.ties, good))
            first = [1 + min(order.index(i) for i in good) for order in ways]
            cut = min(2, len(score))
            expected = (
                np.mean([average_precision(order, good) for order in ways]),
                np.mean([gain(order, grade, 3) for order in orders(score.tolist(), "expected", good)])
                / gain(np.argsort(-grade, kind="stable").tolist(), grade, 3),
                np.mean(
                    [len(same & {*order[:cut]}) / cut for order in orders(score.tolist(), ranking.ties, same)]
                ),
                np.mean([1 / rank for rank in first]),
                np.mean(first),
            )
            assert [one[query] for one in found] == pytest.approx(expected, abs=1e-12)


def test_a_constant_encoder_scores_chance_in_every_metric() -> None:
    generator = np.random.default_rng(0)
    owner, strings = np.repeat(np.arange(20), 5), generator.integers(0, 30, 100)
    known = {"text_id": strings, "image_class": np.arange(20) % 4}
    constant = evaluate_retrieval(np.ones((20, 3)), np.ones((100, 3)), owner, **known)
    skilled = evaluate_retrieval(generator.normal(size=(20, 3)), generator.normal(size=(100, 3)), owner, **known)
    for direction in ("i2t", "t2i"):
        for metric in (
            lambda r, d: average_precisions(r, d),
            lambda r, d: graded_gains(r, d, (5,))[5],
            lambda r, d: scene_precisions(r, d, 10),
        ):
            assert metric(constant, direction) == pytest.approx(metric(chance_ranking(skilled), direction))
    assert scene_precisions(constant, "i2t", 10) == pytest.approx(0.25)


def test_what_a_metric_lacks_is_named() -> None:
    ranking = evaluate_retrieval(np.eye(12), np.eye(12), np.arange(12), top=3)
    with pytest.raises(ValueError, match="needs text_id"):
        graded_gains(ranking, "i2t", (5,))
    with pytest.raises(ValueError, match="needs image_class"):
        scene_precisions(ranking, "i2t", 5)
    classed = evaluate_retrieval(np.eye(12), np.eye(12), np.arange(12), top=3, image_class=np.arange(12))
    with pytest.raises(ValueError, match="raise top"):
        scene_precisions(classed, "i2t", 5)
