"""Distances of domains: known limits, closed forms, and a loop over all pairs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from urbancross_bench.evaluation import distances
from urbancross_bench.evaluation.distances import proxy_a_distance, squared_mmd, vocabulary_distance

Floats = NDArray[np.float64]


def normal(seed: int, rows: int = 400, width: int = 8, shift: float = 0.0) -> Floats:
    drawn: Floats = np.random.default_rng(seed).normal(size=(rows, width))
    drawn[:, 0] += shift
    return drawn


# Proxy A-distance


def test_what_nothing_tells_apart_is_at_distance_0_and_what_is_told_apart_at_2() -> None:
    a = normal(0)
    assert proxy_a_distance(a, a) == 0
    assert proxy_a_distance(a, a[::-1]) == 0  # shared items stay in one half, wherever they stand
    assert abs(proxy_a_distance(a, normal(1))) < 0.3
    assert proxy_a_distance(a, normal(1, shift=20)) == 2


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_shifted_gaussians_are_at_the_distance_of_their_overlap(shift: float) -> None:
    """The best classifier errs by Φ(−shift / 2)."""
    error = 0.5 * math.erfc(shift / 2 / math.sqrt(2))
    found = proxy_a_distance(normal(0, 6000), normal(1, 6000, shift=shift))
    assert found == pytest.approx(2 * (1 - 2 * error), abs=0.04)


def test_the_distance_needs_no_equal_sizes_no_order_and_no_scale() -> None:
    a, b = normal(0, 300, shift=1), normal(1, 3000)
    found = proxy_a_distance(a, b)
    assert 0.4 < found < 1.1  # one set is ten times the other; guessing it would not do
    assert proxy_a_distance(b, a) == pytest.approx(found)
    assert proxy_a_distance(a[::-1], b) == pytest.approx(found)
    assert proxy_a_distance(a, b) == found


@pytest.mark.parametrize("measure", [proxy_a_distance, squared_mmd])
def test_features_that_do_not_fit_are_named(measure: object) -> None:
    for a, b, problem in (
        (np.zeros((3, 2)), np.zeros((3, 4)), "two matrices of one width"),
        (np.zeros(3), np.zeros(3), "two matrices of one width"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), "NaN or infinity"),
        (np.zeros((1, 2)), np.zeros((3, 2)), "too small|needs two rows"),
        (normal(0, 40) * 1e200, normal(1, 40) * 1e200, "features are too large"),
        (normal(0, 40), normal(1, 40) * 1e160, "features are too large"),
    ):
        with pytest.raises(ValueError, match=problem):
            measure(a, b)  # type: ignore[operator]


# Maximum mean discrepancy


def mmd_by_loops(a: Floats, b: Floats, sigma: float) -> float:
    def kernel(x: Floats, y: Floats) -> float:
        return math.exp(-sum((p - q) ** 2 for p, q in zip(x, y, strict=True)) / (2 * sigma**2))

    n, m = len(a), len(b)
    within_a = sum(kernel(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_b = sum(kernel(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_a + within_b - 2 * sum(kernel(x, y) for x in a for y in b) / (n * m)


@given(st.integers(0, 1000), st.integers(2, 9), st.integers(2, 9), st.floats(0.2, 5))
def test_mmd_is_that_of_a_loop_over_all_pairs(seed: int, n: int, m: int, sigma: float) -> None:
    a, b = normal(seed, n, 3), normal(seed + 1, m, 3, shift=1)
    assert squared_mmd(a, b, sigma) == pytest.approx(mmd_by_loops(a, b, sigma), abs=1e-12)
    median = np.median([np.linalg.norm(x - y) for i, x in enumerate([*a, *b]) for y in [*a, *b][:i]])
    assert squared_mmd(a, b) == pytest.approx(mmd_by_loops(a, b, float(median)), abs=1e-9)


def test_blocks_do_not_move_mmd(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(0, 53), normal(1, 31, shift=1)
    whole = squared_mmd(a, b)
    monkeypatch.setattr(distances, "_BLOCK", 7)
    assert squared_mmd(a, b) == pytest.approx(whole, rel=1e-12)


def test_mmd_of_shifted_gaussians_has_its_closed_form() -> None:
    """Of N(0, I) and N(μ, I) in D dimensions: 2 (σ² / (σ² + 2))^(D/2) (1 − exp(−‖μ‖² / (2 (σ² + 2))))."""
    a, b, sigma = normal(0, 2500), normal(1, 2500, shift=1.5), 3.0
    expected = 2 * (sigma**2 / (sigma**2 + 2)) ** 4 * (1 - math.exp(-(1.5**2) / (2 * (sigma**2 + 2))))
    assert squared_mmd(a, b, sigma) == pytest.approx(expected, rel=0.1)
    assert abs(squared_mmd(a, normal(2, 2500), sigma)) < 0.01 * expected + 2e-3


@pytest.mark.parametrize("offset", [1e3, 1e6, 1e7])
def test_mmd_does_not_move_with_both_sets(offset: float) -> None:
    a, b = normal(0, rows=60), normal(1, rows=70, shift=0.5)
    assert squared_mmd(a + offset, b + offset) == pytest.approx(squared_mmd(a, b), abs=1e-7)
    assert squared_mmd(a, b) > 1e-3


def test_what_is_no_real_number_is_refused() -> None:
    for odd in (normal(0) * 1j, normal(0).astype(str)):
        for measure in (squared_mmd, proxy_a_distance):
            with pytest.raises(ValueError, match="the features must be real numbers, got "):
                measure(odd, normal(1))


def test_mmd_is_about_0_for_the_same_rows_and_2_for_points_far_apart() -> None:
    a = normal(0)
    assert -0.01 < squared_mmd(a, a) <= 0
    assert squared_mmd(np.zeros((5, 2)), np.full((5, 2), 100.0), bandwidth=1) == pytest.approx(2)
    assert squared_mmd(np.ones((5, 2)), np.ones((5, 2))) == 0
    for wrong in (0, -1, 1e-200, 1e200, math.nan):
        with pytest.raises(ValueError, match="bandwidth"):
            squared_mmd(a, a, bandwidth=wrong)


@pytest.mark.parametrize("measure", [proxy_a_distance, squared_mmd])
def test_large_features_are_at_the_same_distance_and_overflow_nowhere(measure: Callable[..., float]) -> None:
    a, b = normal(0, 40), normal(1, 400, shift=1)
    scale = 1e100 / max(np.abs(a).max(), np.abs(b).max())
    with np.errstate(over="raise", invalid="raise"):
        found = measure(a * scale, b * scale)
    assert found == pytest.approx(measure(a, b), abs=0.2)  # rows fall into other halves


def test_rows_are_drawn_as_numpy_promises_to_draw_them() -> None:
    """The median distance of the rows with the 1,000 least raw draws; the first of these are known."""
    assert np.random.PCG64(0).random_raw(2).tolist() == [11749869230777074271, 4976686463289251617]
    a, b = normal(0, 700), normal(1, 800, shift=3)
    draws = np.random.PCG64(0).random_raw(1500).tolist()
    drawn = np.concatenate([a, b])[sorted(range(1500), key=draws.__getitem__)[:1000]]
    apart = [np.linalg.norm(drawn[i + 1 :] - drawn[i], axis=1) for i in range(999)]
    sigma = float(np.median(np.concatenate(apart)))
    assert squared_mmd(a, b) == pytest.approx(squared_mmd(a, b, sigma), rel=1e-12)


# Vocabulary

SENTENCES = st.lists(st.sampled_from(["A river.", "a Road", "many trees", "two rivers", "a river , a road"]))


def test_vocabularies_by_hand() -> None:
    found = vocabulary_distance(["A red roof.", "red"], ["a roof", "one road"])
    assert found
    # a 1/4, red 2/4, roof 1/4 against a 1/4, roof 1/4, one 1/4, road 1/4: half the words of each are its own
    assert found.divergence == pytest.approx(0.5)
    assert (found.words_a, found.words_b, found.a_outside_b, found.b_outside_a) == (4, 4, 2, 2)


def test_the_same_words_are_at_0_and_other_words_at_1() -> None:
    same, other = vocabulary_distance(["a b", "a"], ["A, b; a!"]), vocabulary_distance(["a b"], ["c d"])
    assert same
    assert other
    assert (same.divergence, same.a_outside_b, same.b_outside_a) == (0, 0, 0)
    assert (other.divergence, other.a_outside_b, other.b_outside_a) == (1, 2, 2)
    assert vocabulary_distance(["a"], [".", ""]) is None
    assert vocabulary_distance([], ["a"]) is None


@given(SENTENCES.filter(bool), SENTENCES.filter(bool))
def test_divergence_is_entropy_of_the_mixture_less_that_of_the_parts(a: list[str], b: list[str]) -> None:
    def entropy(counts: dict[str, float]) -> float:
        return -sum(share * math.log2(share) for share in counts.values() if share)

    def shares(texts: list[str]) -> dict[str, float]:
        counts = Counter(word.strip(".,") for word in " ".join(texts).lower().split() if word.strip(".,"))
        return {word: count / counts.total() for word, count in counts.items()}

    p, q = shares(a), shares(b)
    mixture = {word: (p.get(word, 0) + q.get(word, 0)) / 2 for word in {*p, *q}}
    found, back = vocabulary_distance(a, b), vocabulary_distance(b, a)
    assert found
    assert back
    assert found.divergence == pytest.approx(entropy(mixture) - (entropy(p) + entropy(q)) / 2, abs=1e-12)
    assert found.divergence == pytest.approx(back.divergence, abs=1e-12)
    assert found.a_outside_b / found.words_a == pytest.approx(sum(p[word] for word in p.keys() - q.keys()))
    assert found.b_outside_a == back.a_outside_b
