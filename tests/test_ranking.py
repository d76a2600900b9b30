"""Ranking against brute force, closed forms and adversarial inputs."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from urbancross_bench.evaluation import evaluate_retrieval
from urbancross_bench.evaluation.floors import chance_ranking
from urbancross_bench.evaluation.ties import TIES, expected_hits


def brute_force(scores: np.ndarray, owner: np.ndarray) -> dict[str, list[tuple[int, int, int]]]:
    """(greater, tied, tied_positives) per query, from a matrix of exact integer scores."""
    counts: dict[str, list[tuple[int, int, int]]] = {"i2t": [], "t2i": []}
    for image in range(scores.shape[0]):
        own = owner == image
        best = max(scores[image, own])
        rest = scores[image, ~own]
        counts["i2t"].append(
            (int((rest > best).sum()), int((rest == best).sum()), int((scores[image, own] == best).sum()))
        )
    for text, image in enumerate(owner):
        rest = np.delete(scores[:, text], image)
        counts["t2i"].append(
            (int((rest > scores[image, text]).sum()), int((rest == scores[image, text]).sum()), 1)
        )
    return counts


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Small integer embeddings (so ties abound) and owners that reach every image."""
    images, width = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    extra = draw(st.lists(st.integers(0, images - 1), max_size=12))
    owner = np.array(draw(st.permutations([*range(images), *extra])))
    cell = st.integers(-2, 2)
    row = st.lists(cell, min_size=width, max_size=width)
    rows = [np.array(draw(st.lists(row, min_size=n, max_size=n))) for n in (images, len(owner))]
    return rows[0], rows[1], owner


@settings(max_examples=300, deadline=None)
@given(problems())
def test_counts_equal_brute_force(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    images, texts, owner = problem
    ranking = evaluate_retrieval(images, texts, owner, normalize=False)
    expected = brute_force(images @ texts.T, owner)
    for name, side in (("i2t", ranking.i2t), ("t2i", ranking.t2i)):
        found = list(zip(side.greater.tolist(), side.tied.tolist(), side.tied_positives.tolist(), strict=True))
        assert found == expected[name]


@settings(max_examples=100, deadline=None)
@given(problems(), st.integers(1, 5))
def test_order_and_chunk_do_not_move_counts(
    problem: tuple[np.ndarray, np.ndarray, np.ndarray], chunk: int
) -> None:
    images, texts, owner = problem
    whole = evaluate_retrieval(images, texts, owner, normalize=False)
    order = np.random.default_rng(chunk).permutation(len(owner))
    moved = evaluate_retrieval(images, texts[order], owner[order], normalize=False, chunk=chunk)
    assert (whole.i2t.greater == moved.i2t.greater).all()
    assert (whole.t2i.tied[order] == moved.t2i.tied).all()
    assert whole.mr == pytest.approx(moved.mr, abs=1e-12)


@given(st.integers(0, 4), st.integers(0, 4), st.integers(1, 3), st.integers(1, 12))
def test_expected_hit_is_the_average_over_all_orders(g: int, e: int, m: int, k: int) -> None:
    tied = [True] * m + [False] * e
    places = list(set(permutations(tied)))
    hits = Fraction(sum(any(order[: max(0, k - g)]) for order in places), len(places))
    array = lambda value: np.array([value])  # noqa: E731
    assert expected_hits(array(g), array(e), array(m), k)[0] == pytest.approx(float(hits), abs=1e-12)
    first = Fraction(sum(order.index(True) + 1 for order in places), len(places))
    assert TIES["expected"].ranks(array(g), array(e), array(m))[0] == pytest.approx(float(g + first), abs=1e-12)


def test_hand_made_ties_under_each_rule() -> None:
    # One image, its text, and two texts of another image with the very same embedding as its own.
    images = np.eye(2)
    texts = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    owner = np.array([0, 1, 1])
    recall = {ties: evaluate_retrieval(images, texts, owner, ties=ties, k=(1,)).i2t.recall[1] for ties in TIES}
    # Image 0: one positive among three tied texts. Image 1: two positives among three tied texts.
    assert recall == pytest.approx({"expected": 50.0, "optimistic": 100.0, "pessimistic": 0.0})


def test_a_constant_encoder_scores_chance() -> None:
    images, per_image = 37, 5
    owner = np.repeat(np.arange(images), per_image)
    vector = np.random.default_rng(0).normal(size=64).astype(np.float32)
    ranking = evaluate_retrieval(np.tile(vector, (images, 1)), np.tile(vector, (len(owner), 1)), owner)
    texts = len(owner)
    for k in (1, 5, 10):
        assert ranking.i2t.recall[k] == pytest.approx(100 * (1 - comb(texts - per_image, k) / comb(texts, k)))
        assert ranking.t2i.recall[k] == pytest.approx(100 * k / images)
    assert ranking.mr == pytest.approx(chance_ranking(ranking).mr)
    optimistic = evaluate_retrieval(np.ones((images, 3)), np.ones((texts, 3)), owner, ties="optimistic")
    assert optimistic.mr == 100.0


def test_equal_rows_tie_wherever_they_stand_and_whatever_the_chunk() -> None:
    # A matrix product sums columns at a block's edge in another order than inside; equal vectors must tie anyway.
    generator = np.random.default_rng(1)
    base = generator.normal(size=(7, 193)).astype(np.float32)
    texts = base[generator.integers(0, 7, size=331)]
    images = generator.normal(size=(331, 193)).astype(np.float32)
    owner = np.arange(331)
    whole = evaluate_retrieval(images, texts, owner)
    for chunk in (1, 2, 3, 5, 64, 330):
        part = evaluate_retrieval(images, texts, owner, chunk=chunk)
        assert (part.i2t.greater == whole.i2t.greater).all()
        assert (part.i2t.tied == whole.i2t.tied).all()
        assert (part.t2i.greater == whole.t2i.greater).all()
    same = np.array([(texts == row).all(axis=1).sum() for row in texts])
    assert (whole.i2t.tied == same - 1).all()


def test_top_is_in_order_of_score() -> None:
    generator = np.random.default_rng(2)
    images, texts = generator.normal(size=(30, 8)), generator.normal(size=(60, 8))
    ranking = evaluate_retrieval(images, texts, np.arange(60) // 2, normalize=False)
    assert (ranking.i2t.top == np.argsort(-(images @ texts.T), axis=1)[:, :10]).all()
    assert (ranking.t2i.top == np.argsort(-(texts @ images.T), axis=1)[:, :10]).all()


def test_torch_and_numpy_agree() -> None:
    images, texts = torch.randn(9, 4), torch.randn(18, 4)
    owner = torch.arange(18) // 2
    a = evaluate_retrieval(images, texts, owner)
    b = evaluate_retrieval(images.numpy(), texts.numpy(), owner.numpy())
    assert (a.i2t.ranks == b.i2t.ranks).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_embeddings": np.array([[1.0, np.nan], [1.0, 0.0]])}, "1 of 2 rows hold NaN"),
        ({"image_embeddings": np.array([[0.0, 0.0], [1.0, 0.0]])}, "zero"),
        ({"image_of_text": np.array([0, 0])}, "1 images have no text"),
        ({"image_of_text": np.array([0, 2])}, "must lie in"),
        ({"image_of_text": np.array([0.0, 1.0])}, "one integer per text"),
        ({"text_embeddings": np.ones((2, 3))}, "wide"),
        ({"text_embeddings": np.ones((0, 2))}, "non-empty"),
        ({"chunk": 0}, "at least 1"),
        ({"k": (0, 1)}, "at least 1"),
        ({"ties": "lucky"}, "unknown tie rule"),
        ({"protocol": "mine"}, "unknown protocol"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "image_embeddings": np.eye(2),
        "text_embeddings": np.eye(2),
        "image_of_text": np.array([0, 1]),
    }
    with pytest.raises(ValueError, match=message):
        evaluate_retrieval(**(arguments | change))  # type: ignore[arg-type]
