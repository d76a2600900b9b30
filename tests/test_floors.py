"""Floors and ceilings against a dense matrix of scores, counted in fractions, and against known figures."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import product

import numpy as np
import pytest
from conftest import SHARED
from data_files import read
from hypothesis import given
from hypothesis import strategies as st

from urbancross_bench.data.domain import split_of
from urbancross_bench.data.floors import numbered, split_floors
from urbancross_bench.evaluation import Ranking, evaluate_retrieval
from urbancross_bench.evaluation.floors import Floor, Floors, as_json, floors

KS = (1, 2, 3, 5)
Scores = Sequence[Sequence[int]]  # images × texts


@dataclass(frozen=True)
class Case:
    """A test split: each image's strings and class."""

    strings: tuple[tuple[int, ...], ...]
    classes: tuple[int, ...]

    @property
    def owner(self) -> list[int]:
        return [image for image, own in enumerate(self.strings) for _ in own]

    @property
    def text(self) -> list[int]:
        return [string for own in self.strings for string in own]


@st.composite
def cases(draw: st.DrawFn, images: int = 6, texts: int = 4, strings: int = 8) -> Case:
    count = draw(st.integers(1, images))
    own = st.lists(st.integers(0, strings - 1), min_size=1, max_size=texts)
    return Case(
        tuple(tuple(draw(own)) for _ in range(count)), tuple(draw(st.integers(0, 2)) for _ in range(count))
    )


def hit(right: Sequence[int], wrong: Sequence[int], k: int, ties: str) -> Fraction:
    """hit@k of one query from the scores of right and wrong answers."""
    best = max(right)
    above, equal, good = sum(s > best for s in wrong), wrong.count(best), right.count(best)
    if ties == "optimistic":
        return Fraction(above < k)
    if ties == "pessimistic":
        return Fraction(above + equal < k)
    room = max(0, k - above)
    if room > equal:
        return Fraction(1)
    return 1 - Fraction(math.comb(equal, room), math.comb(equal + good, room))


def recalls(case: Case, scores: Scores, k: int, ties: str) -> tuple[Fraction, Fraction]:
    """R@k of a matrix of scores in both directions, as a share."""
    images, texts = range(len(case.strings)), range(len(case.text))
    owner = case.owner
    rows, columns = [], []
    for i in images:
        own, others = [t for t in texts if owner[t] == i], [t for t in texts if owner[t] != i]
        rows.append(hit([scores[i][t] for t in own], [scores[i][t] for t in others], k, ties))
    for t in texts:
        others = [i for i in images if i != owner[t]]
        columns.append(hit([scores[owner[t]][t]], [scores[i][t] for i in others], k, ties))
    return sum(rows, Fraction(0)) / len(rows), sum(columns, Fraction(0)) / len(columns)


def dense(case: Case, score: Callable[[int, int], object]) -> Scores:
    return [[int(bool(score(i, t))) for t in range(len(case.text))] for i in range(len(case.strings))]


@given(cases())
def test_floors_are_those_of_a_dense_matrix(case: Case) -> None:
    owner, text, classes = case.owner, case.text, case.classes
    models = {
        "random": dense(case, lambda i, t: True),
        "class_oracle": dense(case, lambda i, t: classes[i] == classes[owner[t]]),
        "equal_strings": dense(case, lambda i, t: text[t] in case.strings[i]),
    }
    found = floors(owner, text, len(classes), classes, k=KS)
    assert list(found) == ["expected", "optimistic", "pessimistic"]
    for ties, under in found.items():
        for name, scores in models.items():
            floor = getattr(under, name)
            for k in KS:
                expected = recalls(case, scores, k, ties)
                assert (floor.i2t[k], floor.t2i[k]) == pytest.approx([100 * float(share) for share in expected])


@cache
def weak_orders(count: int) -> list[tuple[int, ...]]:
    """All ways to score `count` things, ties among them or not."""
    return [
        scores for scores in product(range(count), repeat=count) if set(scores) == set(range(len(set(scores))))
    ]


@given(cases(images=4, texts=3, strings=4))
def test_the_ceiling_is_the_best_of_all_models_that_score_equal_strings_equally(case: Case) -> None:
    """For an image, all orders of the strings; for a string, all orders of the images."""
    owner, text, images = case.owner, case.text, range(len(case.strings))
    different = sorted(set(text))
    found = floors(owner, text, len(images), k=KS)
    for ties, under in found.items():
        for k in KS:
            rows = [
                max(
                    hit(
                        [order[different.index(s)] for s in case.strings[i]],
                        [order[different.index(s)] for s, o in zip(text, owner, strict=True) if o != i],
                        k,
                        ties,
                    )
                    for order in weak_orders(len(different))
                )
                for i in images
            ]
            assert under.ceiling.i2t[k] == pytest.approx(100 * float(sum(rows) / len(rows)))
            columns = [
                max(
                    sum(
                        hit([order[o]], [order[i] for i in images if i != o], k, ties)
                        for s, o in zip(text, owner, strict=True)
                        if s == string
                    )
                    for order in weak_orders(len(images))
                )
                for string in different
            ]
            assert under.ceiling.t2i[k] == pytest.approx(100 * float(sum(columns) / len(text)))


@given(cases())
def test_a_model_that_knows_more_scores_no_less(case: Case) -> None:
    found = floors(case.owner, case.text, len(case.classes), case.classes, k=KS)["expected"]
    assert found.class_oracle
    for part in ("i2t", "t2i"):
        for k in KS:
            random, oracle, best = (getattr(f, part)[k] for f in (found.random, found.class_oracle, found.ceiling))
            assert random <= oracle + 1e-9
            assert getattr(found.equal_strings, part)[k] <= best + 1e-9


@given(cases())
def test_names_of_strings_and_classes_and_the_order_of_texts_mean_nothing(case: Case) -> None:
    order = np.random.default_rng(len(case.text)).permutation(len(case.text))
    owner, text = np.array(case.owner), np.array(case.text)
    before = as_json(floors(owner, text, len(case.classes), case.classes))
    after = as_json(floors(owner[order], -7 * text[order] + 3, len(case.classes), [5 - c for c in case.classes]))
    for ties, under in before.items():
        for name, floor in under.items():
            assert after[ties][name] == pytest.approx(floor)


def test_plain_values() -> None:
    content = as_json(floors([0, 1], [0, 1], 2, k=(1,)))
    perfect = {"mR": 100.0, "i2t_R@1": 100.0, "t2i_R@1": 100.0}
    assert content["expected"] == {
        "random": {"mR": 50.0, "i2t_R@1": 50.0, "t2i_R@1": 50.0},
        "class_oracle": None,
        "equal_strings": perfect,
        "ceiling": perfect,
    }


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (([0, 0], [0, 1], 2), "1 images have no text, the first is image 1"),
        (([0, 2], [0, 1], 2), r"must lie in \[0, 2\)"),
        (([-1, 0], [0, 1], 1), r"must lie in \[0, 1\)"),
        (([0, 1], [0], 2), "text_id must hold one integer each for 2 rows"),
        (([[0, 1]], [0, 1], 2), "image_of_text must hold one integer each for 2 rows"),
        (([0.0, 1.0], [0, 1], 2), "image_of_text must hold one integer each for 2 rows"),
        (([0, 1], [0, 1], 2, [0]), "image_class must hold one integer each for 2 rows"),
        ((np.zeros(0, np.int64), np.zeros(0, np.int64), 0), "at least one"),
    ],
)
def test_arrays_that_do_not_fit_are_named(arguments: tuple[object, ...], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        floors(*arguments)  # type: ignore[arg-type]


def test_memory_is_linear() -> None:
    images = 20_000
    owner = np.repeat(np.arange(images), 5)
    text = np.random.default_rng(0).integers(0, 3 * images, len(owner))
    tracemalloc.start()
    floors(owner, text, images, np.arange(images) % 30)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * len(owner)  # bytes; a bit for each pair would be 2,500 a text


# --- the data of the field --------------------------------------------------------------------------------------


def of_test_split(reference: str) -> dict[str, Floors]:
    found = split_floors(split_of(read(reference), "test"))
    assert found
    return found


def mrs(found: Floors) -> Iterator[float]:
    return (round(floor.mr, 2) for floor in vars(found).values())


def parts(floor: Floor) -> list[float]:
    return [round(value, 2) for value in (*floor.i2t.values(), *floor.t2i.values())]


@pytest.mark.skipif(not (SHARED / "rsicd").is_dir(), reason=f"no RSICD at {SHARED}")
def test_floors_of_rsicd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URBANCROSS_DATA", str(SHARED))
    found = of_test_split("rsicd[images=none]")
    assert [*mrs(found["expected"])] == [0.49, 14.53, 95.95, 98.63]
    assert parts(found["expected"].ceiling) == [99.7, 100, 100, 93.12, 99.19, 99.78]
    assert [round(found[ties].equal_strings.mr, 2) for ties in found] == [95.95, 100, 88.66]


@pytest.mark.skipif(not (SHARED / "ucm_captions").is_dir(), reason=f"no UCM-Captions at {SHARED}")
def test_floors_of_ucm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URBANCROSS_DATA", str(SHARED))
    found = of_test_split("ucm[images=none]")
    assert [*mrs(found["expected"])] == [2.52, 46.88, 70.39, 77.01]
    assert parts(found["expected"].ceiling) == [48.93, 90, 100, 38.38, 84.76, 100]
    assert [round(found[ties].equal_strings.mr, 2) for ties in found] == [70.39, 100, 38.73]


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "ucm_captions").is_dir(), reason=f"no UCM-Captions at {SHARED}")
@pytest.mark.parametrize("reference", ["rsicd", "ucm"])
def test_the_ranking_of_such_models_scores_their_floor(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class oracle and the equal-strings model as vectors: a direction per class, and one per string."""
    monkeypatch.setenv("URBANCROSS_DATA", str(SHARED))
    split = split_of(read(f"{reference}[images=none]"), "test")
    expected, owner = split_floors(split), split.image_of_caption
    assert split.image_class is not None
    strings, classes = numbered(split.captions), numbered(split.image_class)
    texts = np.eye(strings.max() + 1, dtype=np.float32)[strings]
    images = np.zeros((len(split.members), texts.shape[1]), dtype=np.float32)
    images[owner, strings] = 1
    scenes = np.eye(classes.max() + 1, dtype=np.float32)[classes]
    knows_all = evaluate_retrieval(images, texts, owner, normalize=False, top=0)
    knows_class = evaluate_retrieval(scenes, scenes[owner], owner)
    for ties, found in expected.items():
        assert found.class_oracle is not None
        assert under(knows_all, ties) == pytest.approx(found.equal_strings.mr)
        assert under(knows_class, ties) == pytest.approx(found.class_oracle.mr)


def under(ranking: Ranking, ties: str) -> float:
    """mR under another tie rule, from the same counts."""
    return replace(ranking, i2t=replace(ranking.i2t, ties=ties), t2i=replace(ranking.t2i, ties=ties), ties=ties).mr


@pytest.mark.skipif(not (SHARED / "precomp").is_dir(), reason=f"no text files at {SHARED}")
def test_floors_of_rsitmd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URBANCROSS_DATA", str(SHARED))
    found = of_test_split("precomp[folder=precomp/rsitmd_precomp,images=none,classes=from_file_name]")
    assert [*mrs(found["expected"])] == [1.18, 32.42, 99.95, 99.98]
