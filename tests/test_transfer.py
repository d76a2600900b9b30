"""Transfer figures by hand, from resamples whose intervals are known."""

from __future__ import annotations

import numpy as np
import pytest

from urbancross_bench.evaluation.statistics import interval
from urbancross_bench.evaluation.transfer import UNDEFINED, Figure, Score, forgetting, gain, gap_closed, over_pairs

NOISE, OTHER = np.random.default_rng(0).normal(size=(2, 2000))


def score(value: float, spread: float = 1.0, noise: np.ndarray = NOISE) -> Score:
    """A score whose resamples are the value and some noise; scores of the same noise vary together."""
    return value, value + spread * noise


def around(value: float, resampled: np.ndarray) -> Figure:
    """A figure of about this value, with the interval of these resamples."""
    return Figure(pytest.approx(value), *map(pytest.approx, interval(resampled)))


def test_a_gain_is_paired() -> None:
    assert gain(score(12, 1.1), score(10)) == around(2, 2 + NOISE / 10)  # the noise of both is the same
    assert gain(score(12), score(10, noise=OTHER)) == around(2, 2 + NOISE - OTHER)
    assert gain((12, NOISE[:0]), (10, NOISE[:0])) == Figure(2)
    with pytest.raises(ValueError, match="not paired"):
        gain(score(12), (10, NOISE[:5]))


def test_the_share_of_the_gap_closed() -> None:
    source_only, oracle = score(10), score(20, 1.01)
    for method, share in ((10, 0), (15, 0.5), (20, 1), (22, 1.2), (8, -0.2)):
        ratios = (10 * share + NOISE) / (10 + 0.01 * NOISE)
        assert gap_closed(score(method, 2), source_only, oracle) == around(share, ratios)
    assert gap_closed(oracle, source_only, oracle).value == 1


def test_a_gap_that_may_be_none_is_not_divided_by() -> None:
    method, source_only = score(10.5), score(10)
    assert gap_closed(method, source_only, score(11, noise=OTHER)) == UNDEFINED
    assert gap_closed(method, source_only, score(10)) == UNDEFINED
    assert gap_closed(method, source_only, score(5, noise=OTHER / 9)) == UNDEFINED  # the oracle is worse
    assert gap_closed((1, NOISE[:0]), (0, NOISE[:0]), (2, NOISE[:0])) == UNDEFINED  # not known to be one


def test_few_resamples_without_a_gap_do_not_move_its_share_to_infinity() -> None:
    gaps = 10 + NOISE / 10
    gaps[:20] = np.linspace(-1e-9, 0, 20)
    found = gap_closed((15, np.full(2000, 15.0)), (10, np.full(2000, 10.0)), (20, 10 + gaps))
    assert found == around(0.5, 5 / gaps[20:])
    assert (found.low, found.high) == pytest.approx((0.5, 0.5), abs=0.02)


def test_forgetting_is_what_the_source_lost() -> None:
    assert forgetting(score(30), score(24, noise=OTHER)) == around(6, 6 + NOISE - OTHER)
    assert forgetting(score(30), score(31)).value == -1


def test_mean_and_worst_over_ordered_pairs() -> None:
    noises = [np.random.default_rng(seed).normal(size=2000) for seed in range(6)]
    domains = ["a", "b", "c"]
    pairs = [(s, t) for s in domains for t in domains if s != t]
    values = [10.0, 20.0, 5.0, 40.0, 50.0, 60.0]
    scores = {pair: score(v, noise=n) for pair, v, n in zip(pairs, values, noises, strict=True)}
    found = over_pairs(scores, domains)
    assert found.mean == around(185 / 6, 185 / 6 + np.mean(noises, axis=0))
    assert found.worst_pair == ("b", "a")
    assert found.worst == around(5, 5 + noises[2])


def test_a_missing_pair_leaves_no_mean() -> None:
    scores: dict[tuple[str, str], Score | None] = {("a", "b"): score(1), ("b", "a"): score(2)}
    assert over_pairs(scores, ["a", "b"]).mean.value == 1.5
    for incomplete in ({**scores, ("b", "a"): None}, {("a", "b"): score(1)}, {}):
        found = over_pairs(incomplete, ["a", "b"])
        assert (found.mean, found.worst, found.worst_pair) == (UNDEFINED, UNDEFINED, None)
    assert over_pairs({}, ["a"]).mean == UNDEFINED
    for strange in (("a", "a"), ("a", "c")):
        with pytest.raises(ValueError, match="no ordered pair"):
            over_pairs({**scores, strange: score(1)}, ["a", "b"])
