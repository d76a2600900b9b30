"""Selectors against their formulas written out, on encoders of rising quality, and where they fail."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from urbancross_bench.errors import FirewallError, RunError
from urbancross_bench.evaluation import evaluate_retrieval
from urbancross_bench.execution.selection import Choice
from urbancross_bench.interfaces import Candidate, Features, Options, Selector, UnpairedFeatures
from urbancross_bench.registry import Registry
from urbancross_selectors import features, logistic
from urbancross_selectors.features import centred, unit
from urbancross_selectors.importance import density_ratio, weighted_mean
from urbancross_selectors.logistic import fit_logistic, log_density_ratio
from urbancross_selectors.unlabelled import nearest

Floats = NDArray[np.float64]
Built = Callable[[str], Selector]

LABEL_FREE = ["information_maximisation", "neighbourhood_density", "cycle_consistency", "importance_weighted"]
UNSEEN = ["information_maximisation", "neighbourhood_density", "cycle_consistency"]  # of these no source is asked
SCALE = 20.0


@pytest.fixture(scope="module")
def selector() -> Built:
    """A selector by its reference, options checked, as a grid gets it."""
    registry = Registry.discover()
    return lambda reference: registry.resolve("selector", reference).build()


def made(images: Floats, texts: Floats, per: int = 5, seed: int = 0, **changes: object) -> Candidate:
    """A candidate with these features as source and as target; the target's texts in another order."""
    paired = Features(images.astype(np.float32), texts.astype(np.float32), np.repeat(np.arange(len(images)), per))
    order = np.random.default_rng(seed).permutation(len(texts))
    unpaired = UnpairedFeatures(paired.images, paired.texts[order])
    candidate = Candidate(1, "", 0, SCALE, source_val=[paired], target_val=paired, target_unpaired=unpaired)
    return replace(candidate, **changes)  # type: ignore[arg-type]


def encoder(noise: float, items: int = 120, width: int = 48, seed: int = 0) -> tuple[Floats, Floats]:
    """Features of images of ten kinds and five texts each: what they mean, noise, and an offset of either side."""
    rng = np.random.default_rng(seed)
    meaning = rng.normal(size=(10, width))[np.arange(items) % 10] + 0.7 * rng.normal(size=(items, width))
    offset = rng.normal(size=width)
    images = meaning + noise * rng.normal(size=(items, width)) + offset
    texts = np.repeat(meaning, 5, axis=0) + noise * rng.normal(size=(5 * items, width)) - offset
    return images, texts


def small(seed: int = 0) -> Candidate:
    rng = np.random.default_rng(seed)
    return made(rng.normal(size=(7, 5)), rng.normal(size=(14, 5)) * 3, per=2)


# In what order


def test_last_takes_the_last_that_its_method_lists_and_no_other_options(selector: Built) -> None:
    names = [(0, 1, ""), (0, 5, "teacher"), (0, 5, "average"), (1, 5, "teacher"), (1, 9, "average")]
    candidates = [Candidate(step, name, trial, 1.0) for trial, step, name in names]
    scores = selector("last").scores(candidates)
    assert int(np.argmax(scores)) == 2
    assert scores[3:] == [-math.inf, -math.inf]
    assert scores[0] < scores[1] < scores[2]


def test_validation_pairs_score_their_mr(selector: Built) -> None:
    good, poor = (made(*encoder(noise)) for noise in (0.5, 2.0))
    both = replace(good, source_val=[*good.source_val, *poor.source_val])

    def mr(split: Features) -> float:
        ranking = evaluate_retrieval(split.images, split.texts, split.image_of_text)
        return float(np.mean([*ranking.i2t.recall.values(), *ranking.t2i.recall.values()]))

    first, second = (mr(split) for split in both.source_val)
    assert second < first
    assert selector("source_val").scores([good, poor, both]) == pytest.approx(
        [first, second, (first + second) / 2]
    )
    assert selector("target_oracle").scores([good, poor]) == pytest.approx([first, second])


def test_what_each_sees_is_declared() -> None:
    shown = {
        plugin.registration.name: (plugin.registration.setting, set(plugin.registration.needs))
        for plugin in Registry.discover().plugins
        if plugin.kind == "selector" and plugin.provider.distribution == "urbancross-bench"
    }
    assert shown == {
        "last": ("source_only", set()),
        "source_val": ("source_only", {"source_val"}),
        **{name: ("unsupervised", {"target_unpaired"}) for name in UNSEEN},
        "importance_weighted": ("unsupervised", {"source_val", "target_unpaired"}),
        "target_oracle": ("oracle", {"target_val"}),
    }


# Against loops


def cosines(candidate: Candidate) -> list[list[float]]:
    seen = candidate.target_unpaired
    assert seen is not None
    return [
        [float(x @ y) / math.sqrt(float(x @ x) * float(y @ y)) for y in seen.texts.astype(np.float64)]
        for x in seen.images.astype(np.float64)
    ]


def softmax(values: list[float]) -> list[float]:
    sums = sum(math.exp(v) for v in values)
    return [math.exp(v) / sums for v in values]


def entropy(shares: list[float]) -> float:
    return -sum(p * math.log(p) for p in shares)


def test_information_is_the_entropy_of_the_mean_less_the_mean_entropy(selector: Built) -> None:
    candidate = replace(small(), scale=7.0)
    forth = cosines(candidate)

    def information(table: list[list[float]]) -> float:
        rows = [softmax([7.0 * s for s in row]) for row in table]
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        return entropy(mean) - sum(map(entropy, rows)) / len(rows)

    back = [list(column) for column in zip(*forth, strict=True)]
    expected = (information(forth) + information(back)) / 2
    assert selector("information_maximisation").scores([candidate]) == pytest.approx([expected], rel=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.3])
def test_density_is_the_entropy_over_the_others_and_oneself(selector: Built, temperature: float) -> None:
    candidate = small()
    seen = candidate.target_unpaired
    assert seen is not None
    sides = []
    for side in (seen.images, seen.texts):
        rows = [row / np.sqrt(row @ row) for row in side.astype(np.float64)]
        mean = sum(rows) / len(rows)
        sides.append([(row - mean) / np.sqrt((row - mean) @ (row - mean)) for row in rows])

    def density(queries: list[Floats], gallery: list[Floats]) -> float:
        found = [
            entropy(softmax([float(q @ g) / temperature for g in gallery] + [1 / temperature])) for q in queries
        ]
        return sum(found) / len(found)

    expected = (density(*sides) + density(*reversed(sides))) / 2
    reference = f"neighbourhood_density[temperature={temperature}]"
    assert selector(reference).scores([candidate]) == pytest.approx([expected], rel=1e-6)


def test_cycles_are_counted_one_by_one(selector: Built) -> None:
    for seed in range(5):
        candidate = small(seed)
        table = np.array(cosines(candidate))
        images, texts = table.shape
        forth = sum(table[:, table[i].argmax()].argmax() == i for i in range(images)) / images
        back = sum(table[table[:, t].argmax()].argmax() == t for t in range(texts)) / texts
        assert selector("cycle_consistency").scores([candidate]) == pytest.approx([(forth + back) / 2])


@pytest.mark.parametrize("name", UNSEEN)
def test_blocks_do_not_move_a_score(
    selector: Built,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    candidate = made(*encoder(0.8, items=23))
    whole = selector(name).scores([candidate])
    monkeypatch.setattr(features, "_BLOCK", 300)
    assert selector(name).scores([candidate]) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("name", UNSEEN)
def test_neither_lengths_nor_order_count(selector: Built, name: str) -> None:
    images, texts = encoder(0.8, items=30)
    stretched = made(images * 3, texts * np.linspace(1, 9, len(texts))[:, None], seed=5)
    assert selector(name).scores([stretched]) == pytest.approx(
        selector(name).scores([made(images, texts)]), rel=1e-5
    )


# What they choose


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    first, second = (np.argsort(np.argsort(values)).astype(float) for values in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


@pytest.fixture(scope="module")
def rising() -> list[Candidate]:
    """Encoders of rising quality that look at the same items, the source's and others of the target."""
    candidates = []
    for noise in np.geomspace(1.6, 0.5, 8):
        source, target = (made(*encoder(float(noise), seed=side)) for side in (0, 1))
        candidates.append(replace(target, source_val=source.source_val))
    return candidates


@pytest.mark.parametrize("name", [*LABEL_FREE, "source_val"])
def test_better_encoders_score_higher(selector: Built, rising: list[Candidate], name: str) -> None:
    quality = selector("target_oracle").scores(rising)
    assert all(a < b for a, b in pairwise(quality)), "the oracle itself must see the quality rise"
    assert quality[-1] - quality[0] > 20
    assert spearman(selector(name).scores(rising), quality) > 0.9


@pytest.mark.parametrize("name", UNSEEN)
def test_a_collapsed_encoder_scores_least(selector: Built, rising: list[Candidate], name: str) -> None:
    rng = np.random.default_rng(0)
    images, texts = (np.repeat(rng.normal(size=(1, 48)), count, axis=0) for count in (120, 600))
    exactly = made(images, texts)
    nearly = made(images + 1e-3 * rng.normal(size=images.shape), texts + 1e-3 * rng.normal(size=texts.shape))
    scores = selector(name).scores([*rising, exactly, nearly])
    assert scores[-2] < min(scores[:-2])
    assert scores[-1] < max(scores[:-2])
    assert int(np.argmax(scores)) == len(rising) - 1


def test_where_they_fail_as_the_page_says(selector: Built, rising: list[Candidate]) -> None:
    """Each of these is a fact of the measure; should it change, docs/selectors.md is to change with it."""
    rng = np.random.default_rng(0)
    unrelated = made(rng.normal(size=(120, 48)), rng.normal(size=(600, 48)))
    assert selector("target_oracle").scores([unrelated])[0] < 10
    middle = rising[:3]
    assert selector("cycle_consistency").scores([unrelated])[0] > max(selector("cycle_consistency").scores(middle))
    sharp = [replace(c, scale=100.0) for c in (*middle, unrelated)]
    information = selector("information_maximisation").scores(sharp)
    assert information[-1] > max(information[:-1])
    # The same features at a greater scale are surer of the same answers.
    assert information[0] > selector("information_maximisation").scores(middle)[0]
    # Two points for everything, on either side: half of all items are each one's neighbours.
    halves = np.where(np.arange(120)[:, None] < 60, 1.0, -1.0) * np.ones(48) + 0.1 * np.arange(48)
    two = made(halves, np.repeat(halves, 5, axis=0))
    density = selector("neighbourhood_density").scores([*rising, two])
    assert density[-1] > max(density[:-1])
    assert selector("target_oracle").scores([two])[0] < 20


@pytest.mark.parametrize("name", LABEL_FREE)
def test_a_diverged_candidate_is_named(selector: Built, name: str) -> None:
    for bad in (np.nan, 0.0):
        images, texts = encoder(1.0, items=10)
        images[3] = bad
        with pytest.raises(RunError, match=r"image features of the target by the candidate of step 1 .*diverged"):
            selector(name).scores([made(images, texts)])


# Importance weights


def test_the_weighted_mean_is_the_published_risk() -> None:
    """You et al.: mean(w·l) + η mean(w) − η with η = −Cov(w·l, w) / Var(w); of 1 − loss it is 1 less that."""
    rng = np.random.default_rng(0)
    weights, values = rng.gamma(2.0, size=300), rng.uniform(size=300)
    losses = weights * (1 - values)
    eta = -np.cov(losses, weights)[0, 1] / np.var(weights, ddof=1)
    assert weighted_mean(values, weights) == pytest.approx(1 - (losses.mean() + eta * weights.mean() - eta))
    assert weighted_mean(values, np.full(300, 1.7)) == pytest.approx(values.mean())


def test_the_control_variate_makes_estimates_steadier() -> None:
    rng = np.random.default_rng(0)
    plain, controlled = [], []
    for _ in range(200):
        x = rng.normal(size=200)  # values rise with x, and the target lies one standard deviation to the right
        weights, values = np.exp(x - 0.5), 1 / (1 + np.exp(-x))
        plain.append((weights * values).mean())
        controlled.append(weighted_mean(values, weights))
    truth = np.mean(1 / (1 + np.exp(-rng.normal(1, 1, 400_000))))
    assert np.mean(controlled) == pytest.approx(truth, abs=0.02)
    assert np.std(controlled) < 0.5 * np.std(plain)


def test_no_other_weights_of_the_classifier_are_better() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(80, 4)) + 3, np.ones((80, 1))], axis=1)
    labels = (rows[:, 0] + rng.normal(size=80) > 3).astype(float)
    shares, ridge = np.full(80, 1 / 80), 0.3

    def objective(weights: Floats) -> float:
        total = 0.0
        for row, label, share in zip(rows, labels, shares, strict=True):
            chance = 1 / (1 + math.exp(-float(row @ weights)))
            total -= share * math.log(chance if label else 1 - chance)
        return total + ridge / 2 * float(weights[:-1] @ weights[:-1])

    found = fit_logistic(rows, labels, shares, ridge)
    for direction in (*np.eye(5), *rng.normal(size=(10, 5))):
        slope = (objective(found + 1e-5 * direction) - objective(found - 1e-5 * direction)) / 2e-5
        assert abs(slope) < 1e-8
        assert objective(found + 0.1 * direction) > objective(found)


def test_steps_that_overshoot_are_halved() -> None:
    """Nearly separable, hardly penalised, one row far off: full steps of Newton's method run away here."""
    rng = np.random.default_rng(0)
    rows = np.ones((27, 9))
    rows[:, :-1] = rng.normal(size=(27, 8)) + np.repeat([0.0, 1.0], [18, 9])[:, None]
    rows[0, :-1] *= 30
    labels, shares = np.repeat([0.0, 1.0], [18, 9]), np.repeat([1 / 36, 1 / 18], [18, 9])
    weights = fit_logistic(rows, labels, shares, 1e-6)
    slope = rows.T @ (shares * (1 / (1 + np.exp(-rows @ weights)) - labels)) + 1e-6 * weights * (np.arange(9) < 8)
    assert np.abs(slope).max() < 1e-9


def test_rounding_halves_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Next to the minimum the objective may rise by rounding alone, however short the step."""
    monkeypatch.setattr(logistic, "_STEPS", 10)
    labels, shares = np.repeat([0.0, 1.0], 30), np.full(60, 1 / 60)
    for seed in range(100):
        rows = np.ones((60, 9))
        rows[:, :-1] = np.random.default_rng(seed).normal(size=(60, 8)) + labels[:, None] / 2
        weights = fit_logistic(rows, labels, shares, 0.1)
        chance = 1 / (1 + np.exp(-rows @ weights))
        slope = rows.T @ (shares * (chance - labels)) + 0.1 * weights * (np.arange(9) < 8)
        assert np.abs(slope).max() < 1e-10, seed


def test_the_ratio_of_two_gaussians_is_found() -> None:
    """log p_t / p_s of unit Gaussians at 0 and at δ is ⟨δ, x⟩ − ‖δ‖² / 2."""
    rng = np.random.default_rng(0)
    delta = np.array([1.0, -0.5, 0, 0])
    source, asked = rng.normal(size=(5000, 4)), rng.normal(size=(200, 4))
    target = rng.normal(size=(9000, 4)) + delta
    found = log_density_ratio(source, target, asked)
    expected = asked @ delta - delta @ delta / 2
    assert np.corrcoef(found, expected)[0, 1] > 0.99
    assert np.abs(found - expected).max() < 0.35
    moved = log_density_ratio(*(100 * rows + 7 for rows in (source, target, asked)))
    assert moved == pytest.approx(found, abs=1e-6), "neither scale nor origin counts"


@pytest.mark.parametrize("width", [10, 100, 300])
def test_domains_that_are_alike_get_equal_weights_however_wide(width: int) -> None:
    """With 100 rows of either, which a classifier without a ridge would tell apart for sure."""
    rng = np.random.default_rng(0)
    scale = np.geomspace(1, 0.05, width)
    found = log_density_ratio(*(rng.normal(size=(rows, width)) * scale for rows in (100, 100, 1000)))
    assert np.var(found) < 1 / 8


def test_each_half_is_weighed_by_the_other() -> None:
    """A row that the classifier has seen as source would look less like the target than one it has not."""
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(60, 100)), rng.normal(size=(60, 100))
    half = np.arange(60) % 2
    ratio = density_ratio(source, half, target)
    assert ratio.mean() == pytest.approx(1, abs=0.25)
    assert np.exp(log_density_ratio(source, target, source)).mean() < 0.85
    alone = np.exp(log_density_ratio(source[1::2], target[1::2], source[::2]))
    assert ratio[::2] == pytest.approx(alone)


def test_weights_tell_which_source_queries_count(selector: Built) -> None:
    """A third of the source looks like the target; of two encoders one fails there, one on as many others."""
    rng = np.random.default_rng(0)
    width, kinds = 32, np.arange(300) % 3
    lean = np.eye(width)[kinds] * 8

    def features_of(failing: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        meaning = rng.normal(size=(300, width))
        images = lean + np.where((kinds == failing)[:, None], rng.normal(size=meaning.shape), meaning)
        return images.astype(np.float32), (lean + meaning).astype(np.float32)

    candidates = []
    for failing in (0, 1):
        pairs = Features(*features_of(failing), np.arange(300))
        target = UnpairedFeatures(*(side[kinds == 0] for side in features_of(failing)))
        candidates.append(Candidate(1, "", 0, SCALE, source_val=[pairs], target_unpaired=target))
    plain, weighted = (selector(name).scores(candidates) for name in ("source_val", "importance_weighted"))
    assert abs(plain[0] - plain[1]) < 2
    assert weighted[1] - weighted[0] > 25


def test_images_weigh_by_images_and_texts_by_texts(selector: Built) -> None:
    """Two source domains, each ranked within itself, put together in order; a text is in its image's half."""
    parts = [made(*encoder(noise, seed=seed, items=40)) for seed, noise in ((0, 0.8), (1, 1.2))]
    joint = replace(made(*encoder(1.0, seed=2)), source_val=[p.source_val[0] for p in parts])
    target = joint.target_unpaired
    assert target is not None
    estimate = 0.0
    for side, direction in (("images", "i2t"), ("texts", "t2i")):
        values, rows, halves = [], [], []
        for domain in joint.source_val:
            ranks = getattr(evaluate_retrieval(domain.images, domain.texts, domain.image_of_text), direction).ranks
            values += [sum(float(rank <= k) for k in (1, 5, 10)) / 3 for rank in ranks]
            rows.append(unit(getattr(domain, side), side))
            halves += [int(i) % 2 for i in (range(40) if side == "images" else domain.image_of_text)]
        ratio = density_ratio(np.concatenate(rows), np.array(halves), unit(getattr(target, side), side))
        estimate += 50 * weighted_mean(np.array(values), ratio)
    assert selector("importance_weighted").scores([joint]) == pytest.approx([estimate])


# Features


def test_a_row_that_equals_the_mean_has_no_direction() -> None:
    """Of 120 equal rows rounding leaves the mean beside each, and all would lie on the same side of it."""
    rows = unit(np.repeat(np.random.default_rng(0).normal(size=(1, 48)), 120, axis=0).astype(np.float32), "rows")
    assert (rows != rows.mean(axis=0)).any()
    assert (centred(rows) == 0).all()


# The choice among candidates


class Fixed(Selector):
    """Scores by the place of a candidate."""

    given: Sequence[float] = ()

    def scores(self, candidates: Sequence[Candidate]) -> list[float]:
        return [*self.given][: len(candidates)]


def choice(
    folder: Path,
    scores: Sequence[float],
    diverged: Sequence[str] = (),
    trials: int = 2,
    lost: Sequence[tuple[str, int]] = (),
    needs: Sequence[str] = ("source_val",),
    of: type[Selector] | None = None,
) -> Choice:
    """Of trials with two candidates each; `diverged` are the folders, such as `test.1`, that hold none, `lost` the
    candidates of which a folder has no features.
    """
    for trial, role in product(range(trials), ("test", "source_val")):
        place = folder / f"{role}.{trial}"
        place.mkdir(parents=True)
        failed = place.name in diverged
        why = [{"lost": "all zero"} if (place.name, number) in lost else {} for number in range(2)]
        said = [
            {"step": number + 1, "name": "", "scale": 1.0} | why[number] for number in range(0 if failed else 2)
        ]
        metadata = {"diverged": "not a number" if failed else "", "candidates": json.dumps(said)}
        arrays = {f"{kind}.{n}": np.eye(3, dtype=np.float32) for n in range(2) for kind in ("images", "texts")}
        save_file({**arrays, "image_of_text": np.arange(3)}, place / "features.safetensors", metadata=metadata)
    fixed = of or type("Given", (Fixed,), {"given": scores})
    registration = SimpleNamespace(needs=frozenset(needs))
    resolved = SimpleNamespace(plugin=SimpleNamespace(registration=registration), build=lambda: fixed(Options()))
    job = SimpleNamespace(
        planned=lambda *_: resolved,
        work={"selector": "fixed", "trials": trials},
        facts={"selector": {}},
        group=lambda role: [folder / f"{role}.{trial}" for trial in range(trials)],
    )
    return Choice(job)  # type: ignore[arg-type]


def test_of_equal_scores_the_earliest_counts_however_sums_were_rounded(tmp_path: Path) -> None:
    low, high = 77.77777777777777, 77.77777777777779
    for number, (scores, place) in enumerate(
        [
            ((low, high, low, low), (0, 0)),
            ((low, low, 77.8, high), (1, 0)),
            ((math.nan, -high, math.inf, -low), (0, 1)),
            ((0.0, 1e-9, 2e-9, 1e-9), (1, 0)),
        ]
    ):
        found = choice(tmp_path / str(number), scores)
        assert (found.trial, found.number) == place


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "must give one number per candidate, in a list of 4; it gives nothing"),
        (["best"] * 4, r"must give .* of 4; of candidate 0 \(from 0\) it gives 'best'"),
        ([1.0, None, 2.0, 3.0], r"must give .* of candidate 1 \(from 0\) it gives nothing"),
        ([1.0], "gave 1 scores for 4 candidates"),
    ],
)
def test_what_is_no_number_per_candidate_is_the_selectors_fault(tmp_path: Path, given: object, says: str) -> None:
    class Gives(Selector):
        def scores(self, candidates: Sequence[Candidate]) -> list[float]:
            return given  # type: ignore[return-value]

    with pytest.raises(RunError, match=f"selector 'fixed' {says}"):
        choice(tmp_path, (), of=Gives)


def test_test_features_have_no_say_in_the_choice(tmp_path: Path) -> None:
    """A trial that diverged is passed over; one whose test features are lost is none the worse, and then fails."""
    assert choice(tmp_path / "a", (1.0, 2.0, 9.0, 9.0), ["source_val.1", "test.1"]).number == 1
    assert choice(tmp_path / "b", (3.0, 2.0, 1.0, 1.0), ["test.1"]).trial == 0
    with pytest.raises(RunError, match="not a number"):
        choice(tmp_path / "c", (1.0, 1.0, 2.0, 1.0), ["test.1"])


def test_one_candidate_whose_test_features_are_lost_costs_another_nothing(tmp_path: Path) -> None:
    lost = [("test.0", 1)]
    for needs in (("source_val",), ()):
        name = str(len(needs))
        assert choice(tmp_path / f"{name}a", (2.0, 1.0), trials=1, lost=lost, needs=needs).number == 0
        with pytest.raises(RunError, match="all zero"):
            choice(tmp_path / f"{name}b", (1.0, 2.0), trials=1, lost=lost, needs=needs)
    # A search has others: what validation features show of a trial, or test features where nothing else is seen.
    assert choice(tmp_path / "c", (1.0, 1.0), lost=[("source_val.0", 0)]).trial == 1
    assert choice(tmp_path / "d", (1.0, 1.0), lost=lost, needs=()).trial == 1
    assert choice(tmp_path / "e", (1.0, 0.0, 0.5, 0.0), lost=lost).trial == 0


class Forgetful(Selector):
    """Looks at what its registration says, and at more."""

    looks: ClassVar[Callable[[Candidate], object]]

    def scores(self, candidates: Sequence[Candidate]) -> list[float]:
        return [0.0 for candidate in candidates if type(self).looks(candidate) is not self]


@pytest.mark.parametrize(
    ("need", "looks"),
    [
        ("source_val", lambda candidate: sum(one.images.std() for one in candidate.source_val)),
        ("source_val", lambda candidate: len(candidate.source_val)),
        ("source_val", lambda candidate: candidate.source_val[0]),
        ("source_val", lambda candidate: 1 if candidate.source_val else 0),
        ("target_val", lambda candidate: candidate.target_val.images),
        ("target_unpaired", lambda candidate: candidate.target_unpaired.texts),
    ],
)
def test_what_a_selector_forgot_to_register_is_named_when_it_looks(
    tmp_path: Path, need: str, looks: Callable[[Candidate], object]
) -> None:
    """Nothing to look at would be the same score for all, and the first checkpoint the best."""
    shown = type("Shown", (Forgetful,), {"looks": staticmethod(lambda candidate: candidate.step)})
    assert choice(tmp_path / "a", (), trials=1, needs=(), of=shown).number == 0
    forgot = type("Forgot", (Forgetful,), {"looks": staticmethod(looks)})
    with pytest.raises(FirewallError, match=f"{need} is not shown here: register .* needs={{'{need}'}}"):
        choice(tmp_path / "b", (), trials=1, needs=(), of=forgot)
    copied = copy.deepcopy(Candidate(1, "", 0, 1.0))
    with pytest.raises(FirewallError):
        looks(pickle.loads(pickle.dumps(copied)))


def test_features_that_cannot_be_ranked_are_named_with_their_step(selector: Built) -> None:
    images, texts = encoder(1.0, items=10)
    images[3] = 0.0
    for name in ("source_val", "target_oracle"):
        with pytest.raises(RunError, match=r"candidate of step 1: .*row 3"):
            selector(name).scores([made(images, texts)])


def test_of_equally_near_items_the_first_is_nearest() -> None:
    """Also where a product of matrices rounds equal rows otherwise."""
    generator = np.random.default_rng(0)
    for width in range(1, 300, 7):
        same, query = generator.normal(size=(1, width)), generator.normal(size=(40, width))
        found = nearest(unit(query, "queries"), unit(np.repeat(same, 53, axis=0), "gallery"))
        assert found.tolist() == [0] * 40
