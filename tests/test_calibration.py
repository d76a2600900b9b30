"""Test-time methods: biases and rankings against the published formulas, and what they do to hubs and ties."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from urbancross_adaptations import calibration
from urbancross_bench.errors import RunError, UsageError
from urbancross_bench.evaluation import Ranking, evaluate_retrieval
from urbancross_bench.execution.items import Orders
from urbancross_bench.interfaces import Adaptation, Calibrated
from urbancross_bench.interfaces import Features as SplitFeatures
from urbancross_bench.registry import Registry

Floats = NDArray[np.float64]
Features = NDArray[np.float32]
Method = Callable[[str], Adaptation]

PER = 2
NAMES = ["centring", "csls", "inverted_softmax"]
BIASED = ["csls", "inverted_softmax"]


@pytest.fixture(scope="module")
def method() -> Method:
    """A method by its reference, options checked, as a grid gets it."""
    registry = Registry.discover()
    return lambda reference: registry.resolve("adaptation", reference).build()


def unit(rows: Floats) -> Features:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def split(items: int = 20, width: int = 6, seed: int = 0, noise: float = 0.8) -> tuple[Features, Features]:
    """Unit features of images and of `PER` texts each, with an offset between the sides."""
    rng = np.random.default_rng(seed)
    meaning, offset = rng.normal(size=(items, width)), rng.normal(size=width)
    images = meaning + noise * rng.normal(size=meaning.shape) + offset
    texts = np.repeat(meaning, PER, axis=0) + noise * rng.normal(size=(PER * items, width)) - offset
    return unit(images), unit(texts)


def ranked(calibrated: Calibrated) -> Ranking:
    """As the harness ranks it."""
    return evaluate_retrieval(
        calibrated.images,
        calibrated.texts,
        np.repeat(np.arange(len(calibrated.images)), PER),
        image_bias=calibrated.image_bias,
        text_bias=calibrated.text_bias,
    )


def assert_ranked_by(scores: dict[str, Floats], ranking: Ranking) -> None:
    """The best ten of each direction are those of the (N, M) `scores` of that direction, and so are all ranks."""
    right = ranking.image_of_text == np.arange(ranking.images)[:, None]
    for table, answers, side in (
        (scores["i2t"], right, ranking.i2t),
        (scores["t2i"].T, right.T, ranking.t2i),
    ):
        for query, row in enumerate(table):
            order = np.argsort(-row)
            assert side.top[query].tolist() == order[:10].tolist()
            assert side.ranks[query] == 1 + answers[query][order].argmax()


def cosine(x: Features, y: Features) -> float:
    a, b = x.astype(np.float64), y.astype(np.float64)
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


# Against the formulas


def test_centring_ranks_by_cosines_from_the_means(method: Method) -> None:
    images, texts = split()
    x, y = (side - side.astype(np.float64).mean(axis=0) for side in (images, texts))
    table = np.array([[cosine(a, b) for b in y] for a in x])
    assert_ranked_by({"i2t": table, "t2i": table}, ranked(method("centring").calibrate(images, texts)))
    plain = ranked(Calibrated(images, texts))
    assert ranked(method("centring").calibrate(images, texts)).mr > plain.mr + 5, "the offset must matter here"


@pytest.mark.parametrize("neighbours", [1, 3, 10, 25, 1000])
def test_csls_is_the_published_score(method: Method, neighbours: int) -> None:
    images, texts = split()
    calibrated = method(f"csls[neighbours={neighbours}]").calibrate(images, texts)
    assert calibrated.images is images
    assert calibrated.texts is texts
    table = [[cosine(x, y) for y in texts] for x in images]

    def mean_of_nearest(values: list[float]) -> float:
        nearest = sorted(values, reverse=True)[:neighbours]
        return sum(nearest) / len(nearest)

    r_t = [mean_of_nearest(row) for row in table]
    r_s = [mean_of_nearest([row[j] for row in table]) for j in range(len(texts))]
    assert calibrated.image_bias == pytest.approx(np.array(r_t) / 2, abs=1e-7)
    assert calibrated.text_bias == pytest.approx(np.array(r_s) / 2, abs=1e-7)
    csls = np.array([[2 * s - r_t[i] - r_s[j] for j, s in enumerate(row)] for i, row in enumerate(table)])
    assert_ranked_by({"i2t": csls, "t2i": csls}, ranked(calibrated))


@pytest.mark.parametrize("beta", [1.0, 10.0, 30.0])
def test_the_inverted_softmax_sums_over_the_queries(method: Method, beta: float) -> None:
    images, texts = split()
    table = np.array([[cosine(x, y) for y in texts] for x in images])
    spread = np.exp(beta * (table - table.max()))  # the factor cancels
    shares = {"i2t": np.log(spread / spread.sum(axis=0)), "t2i": np.log(spread / spread.sum(axis=1)[:, None])}
    calibrated = method(f"inverted_softmax[beta={beta}]").calibrate(images, texts)
    assert_ranked_by(shares, ranked(calibrated))
    by_hand = [math.log(math.fsum(math.exp(beta * (s - 1)) for s in row)) / beta + 1 for row in table]
    assert calibrated.image_bias == pytest.approx(np.array(by_hand), abs=1e-7)


@pytest.mark.parametrize("name", BIASED)
def test_blocks_do_not_move_a_bias(method: Method, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    images, texts = split()
    whole = method(name).calibrate(images, texts)
    monkeypatch.setattr(calibration, "_BLOCK", 100)
    parts = method(name).calibrate(images, texts)
    assert whole.image_bias is not None
    assert parts.image_bias == pytest.approx(whole.image_bias, abs=1e-14)
    assert parts.text_bias == pytest.approx(whole.text_bias, abs=1e-14)


# Hubs and ties


def skewness_of_occurrence(ranking: Ranking, items: int) -> float:
    """Of how often a text is among the first ten of an image (Radovanović et al. 2010, Hubs in space)."""
    counts = np.bincount(ranking.i2t.top.reshape(-1), minlength=items).astype(float)
    centred = counts - counts.mean()
    return float((centred**3).mean() / (centred**2).mean() ** 1.5)


@pytest.mark.parametrize("name", NAMES)
def test_hubs_lose_their_pull(method: Method, name: str) -> None:
    """Some texts carry much of what all images have in common, and so are near every image."""
    rng = np.random.default_rng(0)
    meaning, common = rng.normal(size=(150, 30)), 6 * np.eye(30)[0]
    images = unit(meaning + 0.7 * rng.normal(size=meaning.shape) + common)
    said = np.repeat(meaning, PER, axis=0) + 0.7 * rng.normal(size=(300, 30))
    texts = unit(said + rng.uniform(0, 1, size=(300, 1)) ** 3 * common)
    plain, calibrated = ranked(Calibrated(images, texts)), ranked(method(name).calibrate(images, texts))
    before, after = (skewness_of_occurrence(ranking, 300) for ranking in (plain, calibrated))
    assert before > 2
    assert after < 0.75 * before
    assert calibrated.i2t.recall[1] > plain.i2t.recall[1] + 5


@pytest.mark.parametrize("name", NAMES)
def test_equal_items_stay_equal_to_the_last_bit(method: Method, name: str) -> None:
    """So that ties are still counted as ties: every right answer stands twice here, far apart."""
    images, texts = split(items=301, width=33)
    images, texts = np.concatenate([images, images]), np.concatenate([texts, texts])
    calibrated = method(name).calibrate(images, texts)
    for side in (calibrated.images, calibrated.texts):
        assert (side[: len(side) // 2] == side[len(side) // 2 :]).all()
    for bias in (calibrated.image_bias, calibrated.text_bias):
        if bias is not None:
            assert (bias[: len(bias) // 2] == bias[len(bias) // 2 :]).all()
    assert (ranked(calibrated).i2t.tied >= 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_pairs_and_order_do_not_matter(method: Method, name: str) -> None:
    """A method that saw pairs would give another answer when one side is shuffled."""
    images, texts = split()
    order = np.random.default_rng(1).permutation(len(texts))
    straight, shuffled = (method(name).calibrate(images, side) for side in (texts, texts[order]))
    assert shuffled.texts == pytest.approx(straight.texts[order], abs=1e-7)
    assert shuffled.images == pytest.approx(straight.images, abs=1e-7)
    if straight.text_bias is not None and straight.image_bias is not None:
        assert shuffled.text_bias == pytest.approx(straight.text_bias[order], abs=1e-12)
        assert shuffled.image_bias == pytest.approx(straight.image_bias, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_given_is_left_as_it_was(method: Method, name: str) -> None:
    images, texts = split()
    copies = images.copy(), texts.copy()
    images.flags.writeable = texts.flags.writeable = False
    method(name).calibrate(images, texts)
    assert (images == copies[0]).all()
    assert (texts == copies[1]).all()


def test_an_item_without_direction_is_named(method: Method) -> None:
    images, texts = split()
    with pytest.raises(RunError, match=r"'centring': text 0 of 40 equals their mean"):
        method("centring").calibrate(images, np.repeat(texts[:1], 40, axis=0))
    with pytest.raises(RunError, match=r"'centring': image 0 of 1 "):
        method("centring").calibrate(images[:1], texts[:2])


# What is declared


@pytest.mark.parametrize("name", NAMES)
def test_they_say_that_they_are_transductive_and_train_nothing(name: str) -> None:
    resolved = Registry.discover().resolve("adaptation", f"{name}[base=urbancross]")
    registration = resolved.plugin.registration
    assert registration.setting == "test_time"
    assert "gradients" not in registration.needs
    built = resolved.build()
    assert built.queries == "all"
    assert built.options.base == "urbancross"


@pytest.mark.parametrize(
    "reference",
    ["csls[neighbours=0]", "inverted_softmax[beta=0]", "inverted_softmax[beta=-1]", "centring[beta=1]"],
)
def test_options_out_of_range_are_refused(reference: str) -> None:
    with pytest.raises(UsageError):
        Registry.discover().resolve("adaptation", reference)


def test_what_a_calibration_is_shown_stands_in_an_order_that_tells_nothing_of_pairs() -> None:
    """Wherever images and texts stood, and whose they were, so none can be undone."""
    generator = np.random.default_rng(0)
    images, texts = (generator.normal(size=(count, 4)).astype(np.float32) for count in (20, 60))
    shown = []
    for _ in range(3):
        features = SplitFeatures(
            images[generator.permutation(20)], texts[generator.permutation(60)], generator.integers(0, 20, 60)
        )
        shown.append(Orders.of(features).unpaired(features))
    for other in shown[1:]:
        np.testing.assert_array_equal(shown[0].images, other.images)
        np.testing.assert_array_equal(shown[0].texts, other.texts)
