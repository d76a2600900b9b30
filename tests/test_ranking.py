"""Ranking against brute force, closed forms, other people's tools and adversarial inputs."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import permutations
from math import comb, fsum
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from ranking_oracle import (
    PROTOCOLS,
    TIES,
    Case,
    Query,
    Rows,
    any_case,
    any_seeded_case,
    as_float32,
    differences,
    evaluate,
    sequential,
)

from urbancross_bench.evaluation import counting, directions, evaluate_retrieval, screening, toplists, vectors
from urbancross_bench.evaluation.floors import chance_ranking
from urbancross_bench.evaluation.protocols import PRESETS
from urbancross_bench.evaluation.screening import (
    BFLOAT16,
    DEFINITION,
    FLOAT32,
    FLOAT64,
    Block,
    Screen,
    pair_products,
    plain_arithmetic,
    product,
    rounded,
    scaled,
    screens,
)
from urbancross_bench.evaluation.ties import TIES as RULES
from urbancross_bench.evaluation.vectors import Vectors

TIERS = {
    "bfloat16": (BFLOAT16, FLOAT32, FLOAT64),
    "float32": (FLOAT32, FLOAT64),
    "float64": (FLOAT64,),
}


@st.composite
def cases(draw: st.DrawFn, most_images: int = 8, most_texts: int = 24) -> Case:
    return any_case(lambda low, high: draw(st.integers(low, high)), most_images, most_texts)


@contextmanager
def work_in(tier: str | None = None, images: int = 512, texts: int = 2048, small: bool = False) -> Iterator[None]:
    """Rank with one precision to start from, and in blocks of these sizes; `small` makes all else small too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_IMAGES", images)
        patch.setattr(counting, "_TEXTS", texts)
        if tier is not None:
            patch.setattr(counting, "screens", lambda *_: TIERS[tier])
        if small:
            patch.setattr(counting, "_SPAN", 16)
            patch.setattr(directions, "_WAITING", 5)
            patch.setattr(toplists, "_SPARE", -(10**9))
            patch.setattr(toplists, "_QUERIES", 3)
            patch.setattr(vectors, "_CHUNK", 16)
        yield


def same_counts(a: Any, b: Any) -> bool:
    """Whether two rankings are equal in everything that is counted or listed."""
    names = ("greater", "tied", "tied_positives", "right", "top", "top_tied")
    pairs = ((a.i2t, b.i2t), (a.t2i, b.t2i))
    return all(np.array_equal(getattr(x, name), getattr(y, name)) for x, y in pairs for name in names)


def problem(images: int, per_image: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussian images, captions near them, and every fifth caption an exact copy of the one before."""
    generator = np.random.default_rng(seed)
    left = generator.normal(size=(images, width)).astype(np.float32)
    owner = np.repeat(np.arange(images), per_image)
    right = left[owner] + 2 * generator.normal(size=(len(owner), width)).astype(np.float32)
    right[4::5] = right[3::5][: len(right[4::5])]
    return left, right, owner


# --- brute force ---


@settings(max_examples=300, deadline=None)
@given(cases())
def test_every_protocol_and_tie_rule_agrees_with_brute_force(case: Case) -> None:
    assert differences(case, evaluate_retrieval(**case.arguments())) == []


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(PROTOCOLS), st.sampled_from(TIES))
def test_whole_numbers_agree_with_whole_arithmetic(seed: int, protocol: str, ties: str) -> None:
    """Here brute force needs no definition of a score: products of small whole numbers are exact in any order."""
    random = Random(seed)
    images, width = random.randint(1, 8), random.randint(1, 9)
    owner = [*range(images), *(random.randrange(images) for _ in range(random.randint(0, 20)))]
    rows = [[random.randint(-3, 3) for _ in range(width)] for _ in range(images + len(owner))]
    biases = [random.randint(-2, 2) for _ in rows]
    scores = [
        [sum(x * y for x, y in zip(rows[i], rows[images + t], strict=True)) for t in range(len(owner))]
        for i in range(images)
    ]
    scores = [[s - biases[i] - biases[images + t] for t, s in enumerate(row)] for i, row in enumerate(scores)]
    as_floats = [[float(value) for value in row] for row in rows]
    case = Case(
        images=as_floats[:images],
        texts=as_floats[images:],
        image_of_text=owner,
        image_id=None,
        text_id=[random.randint(0, len(owner)) for _ in owner],
        image_bias=[float(bias) for bias in biases[:images]],
        text_bias=[float(bias) for bias in biases[images:]],
        normalize=False,
        protocol=protocol,
        ties=ties,
        top=10,
    )
    arguments = case.arguments(lambda given: np.array(given, dtype=np.int64))
    expected = evaluate(scores, owner, protocol, None, case.text_id)
    assert differences(case, evaluate_retrieval(**arguments), expected) == []


@pytest.mark.parametrize("tier", TIERS)
@settings(max_examples=60, deadline=None)
@given(case=cases(), images=st.sampled_from([1, 2, 3, 7]), texts=st.sampled_from([1, 2, 3, 7]))
def test_neither_blocks_nor_precision_move_anything(tier: str, case: Case, images: int, texts: int) -> None:
    if tier == "bfloat16":
        case = replace(case, image_bias=None, text_bias=None)  # bfloat16 is never chosen where there are biases
    with work_in(tier, images, texts, small=True):
        assert differences(case, evaluate_retrieval(**case.arguments())) == []


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("seed", range(3))
def test_more_than_a_block_agrees_with_brute_force(seed: int, tier: str) -> None:
    case = replace(any_seeded_case(100 + seed, 40, 150), image_bias=None, text_bias=None, top=10)
    with work_in(tier, 16, 64):
        assert differences(case, evaluate_retrieval(**case.arguments())) == []


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("tier", [None, *TIERS])
def test_tiers_agree_where_most_pairs_are_clear(tier: str | None, normalize: bool) -> None:
    images, texts, owner = problem(300, 4, 48)
    with work_in("float64"):
        exact = evaluate_retrieval(images, texts, owner, normalize=normalize)
    with work_in(tier, 128, 256):
        assert same_counts(evaluate_retrieval(images, texts, owner, normalize=normalize), exact)


@pytest.mark.parametrize("tier", TIERS)
def test_a_few_rows_far_smaller_than_the_rest_are_ranked_exactly(tier: str) -> None:
    """Squares of what bfloat16 cuts off such rows are too small for float32."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(300, 2)).astype(np.float32)
    images[270:] *= np.float32(1e-22)
    texts = torch.from_numpy(generator.normal(size=(1500, 2))).bfloat16().float().numpy()
    owner = np.arange(1500) // 5
    with work_in("float64"):
        exact = evaluate_retrieval(images, texts, owner, normalize=False)
    with work_in(tier):
        assert same_counts(evaluate_retrieval(images, texts, owner, normalize=False), exact)


@pytest.mark.parametrize("tier", TIERS)
def test_threads_do_not_matter(tier: str) -> None:
    images, texts, owner = problem(300, 4, 48, seed=5)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        with work_in(tier):
            found.append(evaluate_retrieval(images, texts, owner))
    torch.set_num_threads(1)
    assert same_counts(found[0], found[1])
    assert same_counts(found[0], found[2])


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("sizes", [(512, 2048), (1, 3)])
def test_more_thresholds_than_vectors_are_all_decided(tier: str, sizes: tuple[int, int]) -> None:
    """One image, and a threshold for each of its texts: no screen can tell any of them apart."""
    large = 2.0**60
    texts = [[large, -large, float(n)] for n in range(1, 9)]
    case = replace(
        any_seeded_case(0),
        images=[[1.0, 1.0, 1.0]],
        texts=texts,
        image_of_text=[0] * 8,
        image_id=None,
        text_id=[*range(8)],
        image_bias=None,
        text_bias=None,
        normalize=False,
        protocol="row_diagonal",
    )
    with work_in(tier, *sizes):
        assert differences(case, evaluate_retrieval(**case.arguments())) == []


def test_a_bias_may_be_of_any_real_type() -> None:
    images, texts = np.random.default_rng(0).normal(size=(2, 6, 4))
    given = np.array([0.5, -0.25, 0.0, 1.0, 2.0, -1.0])
    whole = evaluate_retrieval(images, texts, np.arange(6), image_bias=given)
    for bias in (torch.tensor(given, dtype=torch.bfloat16), torch.tensor(given, requires_grad=True), [*given]):
        assert same_counts(evaluate_retrieval(images, texts, np.arange(6), image_bias=bias), whole)
    for odd in (given + 0j, torch.tensor(given + 0j), given.astype(str)):
        with pytest.raises(ValueError, match="the bias of image_embeddings must hold real numbers, got "):
            evaluate_retrieval(images, texts, np.arange(6), image_bias=odd)


@pytest.mark.parametrize("width", [8, 12, 16, 33])
@pytest.mark.parametrize("signs", [(-1, 1), (-1, 0, 1), (0, 1), (0.5, 2)])
def test_equal_rows_of_few_values_are_merged(width: int, signs: tuple[float, ...]) -> None:
    """Codes of few bits: their rows differ in few bits, too, and hardly any may collide."""
    generator = np.random.default_rng(width)
    rows = generator.choice(signs, size=(300, width)).astype(np.float32)
    rows[~rows.any(axis=1), 0] = 1
    rows = rows[generator.integers(0, 300, size=4000)]
    found = vectors.Vectors("x", rows, normalize=False)
    assert len(found) == len(np.unique(rows, axis=0))


def test_rows_whose_digests_collide_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_digests", lambda rows: torch.zeros(len(rows), dtype=torch.int64))
    for seed in range(20):
        case = any_seeded_case(seed)
        assert differences(case, evaluate_retrieval(**case.arguments())) == []


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(0, 2**32 - 1))
def test_the_order_of_texts_moves_no_count(case: Case, seed: int) -> None:
    if case.protocol == "deduplicated":  # the first of equal strings gives the vector: there order has a say
        case = replace(case, protocol="classic")
    order = list(range(len(case.image_of_text)))
    Random(seed).shuffle(order)
    moved = replace(
        case,
        texts=[case.texts[t] for t in order],
        image_of_text=[case.image_of_text[t] for t in order],
        text_id=[case.text_id[t] for t in order],
        text_bias=None if case.text_bias is None else [case.text_bias[t] for t in order],
    )
    a, b = evaluate_retrieval(**case.arguments()), evaluate_retrieval(**moved.arguments())
    assert (a.t2i.greater[order] == b.t2i.greater).all()
    assert (a.t2i.tied[order] == b.t2i.tied).all()
    if case.protocol == "classic":
        assert (a.i2t.greater == b.i2t.greater).all()
        assert (a.i2t.tied_positives == b.i2t.tied_positives).all()
    assert a.mr == pytest.approx(b.mr, abs=1e-12)


def test_equal_rows_tie_wherever_they_stand() -> None:
    # A matrix product sums columns at a block's edge in another order than inside; equal vectors must tie anyway.
    generator = np.random.default_rng(1)
    base = generator.normal(size=(7, 193)).astype(np.float32)
    texts = base[generator.integers(0, 7, size=331)]
    images = generator.normal(size=(331, 193)).astype(np.float32)
    whole = evaluate_retrieval(images, texts, np.arange(331))
    same = np.array([(texts == row).all(axis=1).sum() for row in texts])
    assert (whole.i2t.tied == same - 1).all()
    for size in (5, 64, 330):
        with work_in(images=size, texts=size):
            assert same_counts(evaluate_retrieval(images, texts, np.arange(331)), whole)


# --- bounds ---


def assert_within_bounds(screen: Screen, case: Case) -> None:
    """Every product lies as near to the score of the definition as is claimed, for both directions."""
    sides = [
        Vectors(name, np.array(rows), case.normalize, bias)
        for name, rows, bias in (("x", case.images, case.image_bias), ("y", case.texts, case.text_bias))
    ]
    scaled_sides = scaled(*sides)
    left, right = (Block(side, 0, len(side.vectors)) for side in scaled_sides)
    row, column = (grid.reshape(-1) for grid in np.indices((len(sides[0]), len(sides[1]))))
    exact = torch.from_numpy(vectors.pair_scores(*sides, row, column) * scaled_sides[0].score_factor).view(
        len(sides[0]), -1
    )
    with plain_arithmetic():
        products = product(screen, left, right, lambda dtype, _: torch.empty(exact.numel(), dtype=dtype))
        pairs = torch.from_numpy(pair_products(left, right, row, column)).view(exact.shape)
    for found, true, queries, gallery in ((products, exact, left, right), (products.T, exact.T, right, left)):
        bound = queries.bounds(screen, gallery.side)[:, None]
        assert (rounded(screen, true - bound) <= found).all()
        assert (found <= rounded(screen, true + bound)).all()
    if case.image_bias is None and case.text_bias is None:
        assert ((pairs - exact).abs() <= left.bounds(FLOAT32, right.side)[:, None]).all()


def test_few_scores_are_not_worth_trying_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(screening, "_bfloat16_pays", lambda threads: tried.append(threads))
    images, texts = (Vectors(name, np.random.default_rng(0).normal(size=(8, 16)), True) for name in ("i", "t"))
    assert screens(images, texts) == (FLOAT32, FLOAT64, DEFINITION)
    assert not tried
    monkeypatch.setattr(screening, "_TRIED_FROM", 8 * 8 * 16)
    assert screens(images, texts) == (FLOAT32, FLOAT64, DEFINITION)
    assert tried == [torch.get_num_threads()]


@pytest.mark.parametrize("screen", [BFLOAT16, FLOAT32, FLOAT64], ids=TIERS)
@settings(max_examples=80, deadline=None)
@given(case=cases())
def test_products_lie_within_their_bounds(screen: Screen, case: Case) -> None:
    if screen is BFLOAT16:
        case = replace(case, image_bias=None, text_bias=None)
    assert_within_bounds(screen, case)


@pytest.mark.parametrize("screen", [BFLOAT16, FLOAT32, FLOAT64], ids=TIERS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (3, 5), (70, 40)])
@pytest.mark.parametrize("width", [2, 33, 257, 1025])
def test_bounds_hold_for_sums_that_lose_their_small_terms(
    screen: Screen, shape: tuple[int, int], width: int
) -> None:
    case = any_seeded_case(0)
    rising = [[256.0, *[1.0] * (width - 1)] for _ in range(shape[0])]
    falling = [[1.0] * (width // 2) + [-(1.0 + 2.0**-9)] * (width - width // 2) for _ in range(shape[1])]
    for normalize in (True, False):
        assert_within_bounds(
            screen,
            replace(case, images=rising, texts=falling, normalize=normalize, image_bias=None, text_bias=None),
        )


@pytest.mark.parametrize("size", [1e-10, 1e-20, 1e-24, 1e-30, 1e-36, 1e-42])
@pytest.mark.parametrize("screen", [BFLOAT16, FLOAT32, FLOAT64], ids=TIERS)
def test_bounds_hold_for_rows_far_smaller_than_the_longest(screen: Screen, size: float) -> None:
    generator = np.random.default_rng(0)
    images = generator.normal(size=(40, 4)) * size
    images[0] = 1
    case = replace(any_seeded_case(0), normalize=False, image_bias=None, text_bias=None)
    texts = generator.normal(size=(80, 4))
    assert_within_bounds(screen, replace(case, images=images.tolist(), texts=texts.tolist()))


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e3, 1e30])
@pytest.mark.parametrize("screen", [FLOAT32, FLOAT64], ids=list(TIERS)[1:])
def test_bounds_hold_with_biases_of_any_size(screen: Screen, size: float) -> None:
    generator = np.random.default_rng(0)
    images, texts = generator.normal(size=(40, 3)), generator.normal(size=(80, 3))
    for normalize in (True, False):
        case = replace(any_seeded_case(0), images=images.tolist(), texts=texts.tolist(), normalize=normalize)
        biases = (size * generator.normal(size=n) for n in (40, 80))
        assert_within_bounds(screen, replace(case, image_bias=next(biases), text_bias=next(biases)))


# --- inputs and surroundings ---

FORMS: dict[str, Callable[[Rows], Any]] = {
    "float64": lambda rows: np.array(rows, dtype=np.float64),
    "float32": lambda rows: np.array(rows, dtype=np.float32),
    "float16": lambda rows: np.array(rows, dtype=np.float16),
    "big endian": lambda rows: np.array(rows, dtype=">f4"),
    "int8": lambda rows: np.clip(np.array(rows), -100, 100).astype(np.int8),
    "uint8": lambda rows: np.clip(np.abs(np.array(rows)), 0, 100).astype(np.uint8),
    "bool": lambda rows: np.array(rows) > 0,
    "lists": lambda rows: [[as_float32(value) for value in row] for row in rows],
    "Fortran order": lambda rows: np.asfortranarray(rows),
    "reversed": lambda rows: np.array(rows)[::-1, ::-1],
    "every other": lambda rows: np.repeat(np.array(rows), 2, axis=1)[:, ::2],
    "torch float64": lambda rows: torch.tensor(rows, dtype=torch.float64),
    "torch float32": lambda rows: torch.tensor(rows, dtype=torch.float32),
    "torch float16": lambda rows: torch.tensor(rows, dtype=torch.float16),
    "torch bfloat16": lambda rows: torch.tensor(rows, dtype=torch.bfloat16),
    "torch int64": lambda rows: torch.tensor(rows).clamp(-100, 100).long(),
    "torch bool": lambda rows: torch.tensor(rows) > 0,
    "torch transposed": lambda rows: torch.tensor(rows).T.contiguous().T,
    "torch every other": lambda rows: torch.tensor(rows).repeat_interleave(2, dim=1)[:, ::2],
    "torch with gradients": lambda rows: torch.tensor(rows, dtype=torch.float32, requires_grad=True),
}


def as_rows(embeddings: Any) -> Rows:
    if isinstance(embeddings, torch.Tensor):
        embeddings = embeddings.detach().double().numpy()
    return np.asarray(embeddings, dtype=np.float64).tolist()


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=15, deadline=None)
@example(case=any_seeded_case(3))
@given(case=cases())
def test_every_kind_of_matrix_is_taken_as_float32(form: str, case: Case) -> None:
    arguments = case.arguments(FORMS[form])
    left, right = (as_rows(arguments[name]) for name in ("image_embeddings", "text_embeddings"))
    assume(np.isfinite(left).all() and np.isfinite(right).all())
    # Of what float32 holds; a row without direction has an error of its own.
    assume(not case.normalize or all(np.float32(row).any() for row in [*left, *right]))
    assert differences(replace(case, images=left, texts=right), evaluate_retrieval(**arguments)) == []


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("normalize", [True, False])
def test_files_and_read_only_arrays_are_left_as_they_are(tmp_path: Path, dtype: Any, normalize: bool) -> None:
    images, texts, owner = problem(20, 5, 17)
    images, texts = images.astype(dtype), texts.astype(dtype)
    wanted = evaluate_retrieval(images, texts, owner, normalize=normalize)
    opened = []
    for name, rows in (("images", images), ("texts", texts)):
        np.save(tmp_path / f"{name}.npy", rows)
        opened.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
        rows.flags.writeable = False
    before = images.copy(), texts.copy()
    with work_in(images=7, texts=7, small=True):
        assert same_counts(evaluate_retrieval(*opened, owner, normalize=normalize), wanted)
        assert same_counts(evaluate_retrieval(images, texts, owner, normalize=normalize), wanted)
    assert (images == before[0]).all()
    assert (texts == before[1]).all()


def test_torch_tensors_are_left_as_they_are() -> None:
    images, texts, owner = (torch.from_numpy(part) for part in problem(9, 2, 4))
    before = images.clone(), texts.clone()
    for normalize in (True, False):
        a = evaluate_retrieval(images, texts, owner, normalize=normalize)
        b = evaluate_retrieval(images.numpy(), texts.numpy(), owner.numpy(), normalize=normalize)
        assert same_counts(a, b)
    assert (images == before[0]).all()
    assert (texts == before[1]).all()


@contextmanager
def _set(get: Callable[[], Any], put: Callable[[Any], Any], value: Any) -> Iterator[None]:
    before = get()
    put(value)
    try:
        yield
        assert get() == value
    finally:
        put(before)


@contextmanager
def _new_precision(backend: str, value: str) -> Iterator[None]:
    """The newer way to ask for coarse products, which forbids asking by the older one meanwhile."""
    holder = getattr(torch.backends, backend).matmul
    with _set(lambda: holder.fp32_precision, lambda new: setattr(holder, "fp32_precision", new), value):
        yield


@contextmanager
def _autocast(dtype: torch.dtype) -> Iterator[None]:
    with torch.autocast("cpu", dtype=dtype):
        yield
        assert torch.is_autocast_enabled("cpu")


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "medium precision": lambda: _set(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "fp32_precision of mkldnn": lambda: _new_precision("mkldnn", "bf16"),
    "fp32_precision of cuda": lambda: _new_precision("cuda", "tf32"),
    "float64 by default": lambda: _set(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "float16 by default": lambda: _set(torch.get_default_dtype, torch.set_default_dtype, torch.float16),
    "autocast": lambda: _autocast(torch.bfloat16),
    "inference": torch.inference_mode,
    "two threads": lambda: _set(torch.get_num_threads, torch.set_num_threads, 2),
    "numpy raises": lambda: np.errstate(all="raise"),
}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("surrounding", SURROUNDINGS)
def test_the_state_of_the_process_does_not_matter_and_stays(surrounding: str, tier: str) -> None:
    images, texts, owner = problem(60, 3, 65)
    for normalize in (True, False):
        with work_in("float64"):
            wanted = evaluate_retrieval(images, texts, owner, normalize=normalize)
        with work_in(tier, 32, 64), SURROUNDINGS[surrounding]():
            found = evaluate_retrieval(torch.tensor(images, requires_grad=True), texts, owner, normalize=normalize)
        assert same_counts(found, wanted)


# --- ties, lists, constants ---


@given(st.integers(0, 4), st.integers(0, 4), st.integers(1, 3), st.integers(1, 12))
def test_expected_values_are_averages_over_all_orders(g: int, e: int, m: int, k: int) -> None:
    places = list(set(permutations([True] * m + [False] * e)))
    query = Query(g, e, m, m, [], [])
    firsts = [g + order.index(True) + 1 for order in places]
    hit = Fraction(sum(first <= k for first in firsts), len(places))
    rank = Fraction(sum(firsts), len(places))
    reciprocal = sum((Fraction(1, first) for first in firsts), start=Fraction(0)) / len(places)
    assert (query.hit("expected", k), query.rank("expected"), query.reciprocal("expected")) == (
        hit,
        rank,
        reciprocal,
    )
    counts = np.array([g]), np.array([e]), np.array([m])
    rule = RULES["expected"]
    assert rule.hits(*counts, k)[0] == pytest.approx(float(hit), abs=1e-14)
    assert rule.ranks(*counts)[0] == pytest.approx(float(rank), abs=1e-14)
    assert rule.reciprocals(*counts)[0] == pytest.approx(float(reciprocal), abs=1e-14)


def test_hand_made_ties_under_each_rule() -> None:
    # One image, its text, and two texts of another image with the very same embedding as its own.
    images = np.eye(2)
    texts = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    owner = np.array([0, 1, 1])
    recall = {ties: evaluate_retrieval(images, texts, owner, ties=ties, k=(1,)).i2t.recall[1] for ties in TIES}
    # Image 0: one positive among three tied texts. Image 1: two positives among three tied texts.
    assert recall == pytest.approx({"expected": 50.0, "optimistic": 100.0, "pessimistic": 0.0})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_constant_encoder_scores_chance(protocol: str) -> None:
    images, strings = 37, 60
    owner = np.concatenate([np.arange(images), np.random.default_rng(0).integers(0, images, 120)])
    text_id = np.concatenate([np.arange(strings), np.random.default_rng(1).integers(0, strings, 97)])
    vector = np.random.default_rng(2).normal(size=64).astype(np.float32)
    tiled = np.tile(vector, (images, 1)), np.tile(vector, (len(owner), 1))
    ranking = evaluate_retrieval(*tiled, owner, protocol=protocol, text_id=text_id)
    if protocol == "classic":
        right = np.bincount(owner), np.ones(len(owner), int)
    elif protocol == "row_diagonal":
        right = np.ones(len(owner), int), np.ones(len(owner), int)
    else:
        pairs = np.unique(np.stack([owner, text_id]), axis=1)
        right = np.bincount(pairs[0]), np.bincount(pairs[1])
    for side, answers, gallery in zip((ranking.i2t, ranking.t2i), right, map(len, right[::-1]), strict=True):
        for k in (1, 5, 10):
            chance = [1 - comb(gallery - n, k) / comb(gallery, k) for n in answers.tolist()]
            assert side.recall[k] == pytest.approx(100 * np.mean(chance), abs=1e-10)
    assert ranking.mr == pytest.approx(chance_ranking(ranking).mr, abs=1e-10)
    for ties, mr in (("optimistic", 100.0), ("pessimistic", 0.0)):
        assert evaluate_retrieval(*tiled, owner, protocol=protocol, ties=ties, text_id=text_id).mr == mr


def test_top_lists_are_in_order_of_score_and_then_of_the_gallery() -> None:
    images = np.array([[1.0, 0.0], [0.0, 1.0]])
    texts = np.array([[1.0, 3.0], [2.0, 3.0], [1.0, 3.0], [2.0, 2.0]])
    ranking = evaluate_retrieval(images, texts, np.array([0, 1, 0, 1]), normalize=False, top=3)
    assert ranking.i2t.top.tolist() == [[1, 3, 0], [0, 1, 2]]
    assert ranking.i2t.top_tied.tolist() == [[True, False, True], [True, True, False]]  # text 2 is cut off
    assert ranking.t2i.top.tolist() == [[1, 0], [1, 0], [1, 0], [0, 1]]
    assert ranking.t2i.top_tied.tolist() == [[False, False], [False, False], [False, False], [True, False]]


@pytest.mark.parametrize("top", [0, 1, 10, 1000])
def test_any_length_of_list_leaves_counts_alone(top: int) -> None:
    images, texts, owner = problem(40, 3, 6)
    wanted, found = (evaluate_retrieval(images, texts, owner, top=n) for n in (10, top))
    assert found.i2t.top.shape == (40, min(top, 120))
    assert found.t2i.top.shape == (120, min(top, 40))
    assert found.i2t.top.dtype == np.int64
    assert found.i2t.top_tied.dtype == np.bool_
    shared = min(top, 10)
    assert (found.i2t.top[:, :shared] == wanted.i2t.top[:, :shared]).all()
    assert (found.i2t.greater == wanted.i2t.greater).all()


def test_clusters_of_queries_are_images() -> None:
    images, texts, owner = problem(3, 2, 4)
    classic = evaluate_retrieval(images, texts, owner)
    assert classic.i2t.image_of_query.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert classic.t2i.image_of_query.tolist() == [[0, 1, 2, 3, 4, 5], owner.tolist()]
    rows = evaluate_retrieval(images, texts, owner, protocol="row_diagonal")
    assert rows.i2t.image_of_query.tolist() == [[0, 1, 2, 3, 4, 5], owner.tolist()]
    strings = evaluate_retrieval(
        images, texts, owner, protocol="deduplicated", text_id=np.array([0, 1, 1, 2, 3, 1])
    )
    assert sorted(zip(*strings.t2i.image_of_query.tolist(), strict=True)) == [
        (0, 0),
        (1, 0),
        (1, 1),
        (1, 2),
        (2, 1),
        (3, 2),
    ]


def test_presets_are_a_protocol_and_a_tie_rule() -> None:
    images, texts, owner = problem(12, 5, 8)
    for preset, (protocol, ties) in PRESETS.items():
        text_id = np.arange(60) // 2
        named = evaluate_retrieval(images, texts, owner, protocol=preset, text_id=text_id)
        spelled = evaluate_retrieval(images, texts, owner, protocol=protocol, ties=ties, text_id=text_id)
        assert (named.protocol, named.ties) == (protocol, ties)
        assert same_counts(named, spelled)
        assert named.mr == spelled.mr
    assert PRESETS["urbancross_released"] == ("row_diagonal", "optimistic")


def test_a_perfect_model_under_row_diagonal_finds_one_of_five_equal_rows() -> None:
    owner = np.repeat(np.arange(20), 5)
    ranking = evaluate_retrieval(np.eye(20), np.eye(20)[owner], owner, protocol="row_diagonal")
    assert ranking.t2i.recall == pytest.approx({1: 20.0, 5: 100.0, 10: 100.0})


# --- other people's tools ---


def test_trec_eval_agrees_where_nothing_ties() -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    generator = np.random.default_rng(3)
    images, texts = generator.normal(size=(20, 16)), generator.normal(size=(60, 16))
    owner = np.arange(60) // 3
    ranking = evaluate_retrieval(images, texts, owner, normalize=False)
    scores = images @ texts.T
    for side, matrix, right in (
        (ranking.i2t, scores, owner == np.arange(20)[:, None]),
        (ranking.t2i, scores.T, owner[:, None] == np.arange(20)),
    ):
        answers = {
            str(q): {str(g): int(is_right) for g, is_right in enumerate(row)} for q, row in enumerate(right)
        }
        run = {str(q): {str(g): float(score) for g, score in enumerate(row)} for q, row in enumerate(matrix)}
        found = pytrec_eval.RelevanceEvaluator(answers, {"success_1,5,10", "map", "recip_rank"}).evaluate(run)
        for k in (1, 5, 10):
            assert [found[str(q)][f"success_{k}"] for q in range(len(right))] == side.hits(k).tolist()
        reciprocal = [found[str(q)]["recip_rank"] for q in range(len(right))]
        assert side.reciprocal_ranks.tolist() == pytest.approx(reciprocal, abs=1e-12)
        if (side.right == 1).all():  # then average precision is the reciprocal rank
            assert side.mrr == pytest.approx(100 * np.mean([found[q]["map"] for q in found]), abs=1e-10)


def test_rankdata_agrees_where_one_answer_ties() -> None:
    rankdata = pytest.importorskip("scipy.stats").rankdata
    generator = np.random.default_rng(4)
    images, texts = generator.integers(-2, 3, size=(25, 3)), generator.integers(-2, 3, size=(100, 3))
    owner = np.arange(100) % 25
    for protocol, rows in (("classic", images), ("row_diagonal", images[owner])):
        place = owner if protocol == "classic" else np.arange(100)
        for ties, method in (("optimistic", "min"), ("pessimistic", "max"), ("expected", "average")):
            ranking = evaluate_retrieval(images, texts, owner, normalize=False, protocol=protocol, ties=ties)
            ranks = rankdata(-(texts @ rows.T), method=method, axis=1)[np.arange(100), place]
            assert (ranking.t2i.ranks == ranks).all()


def test_scores_are_sums_in_order() -> None:
    """2⁶⁰ + 1 − 2⁶⁰ is 0 in this order and 1 in another: the same numbers, told apart by where they stand."""
    image, large = [[1.0, 1.0, 1.0]], 2.0**60
    texts = [[large, 1.0, -large], [large, -large, 1.0], [1.0, large, -large]]
    assert [sequential(image[0], text) for text in texts] == [0.0, 1.0, 0.0]
    ranking = evaluate_retrieval(np.array([*image, [-1.0, 0, 0]]), texts, np.array([0, 1, 1]), normalize=False)
    assert (ranking.i2t.greater[0], ranking.i2t.tied[0]) == (1, 1)
    assert ranking.i2t.top[0].tolist() == [1, 0, 2]


# --- guards ---

BAD: list[tuple[dict[str, object], str]] = [
    ({"image_embeddings": np.array([[1.0, 0.0], [1.0, np.nan]])}, "image_embeddings: row 1 holds NaN"),
    ({"text_embeddings": np.array([[np.inf, 0.0], [1.0, 0.0]])}, "text_embeddings: row 0 holds NaN or infinity"),
    ({"text_embeddings": np.array([[1e39, 0.0], [1.0, 0.0]])}, "row 0 holds NaN or infinity"),
    ({"text_embeddings": torch.tensor([[1.0, 0.0], [-torch.inf, 0.0]])}, "row 1 holds NaN or infinity"),
    ({"image_embeddings": np.array([[1.0, 0.0], [0.0, -0.0]])}, "row 1 is zero"),
    ({"image_embeddings": np.array([[1.0, 0.0], [1e-60, 0.0]])}, "row 1 is zero"),
    ({"image_embeddings": np.eye(2) * 1j}, "real numbers"),
    ({"image_embeddings": torch.eye(2) * 1j}, "real numbers"),
    ({"image_embeddings": np.array([["a", "b"], ["c", "d"]])}, "real numbers"),
    ({"image_embeddings": np.ones(2)}, "non-empty matrix"),
    ({"image_embeddings": np.ones((2, 2, 1))}, "non-empty matrix"),
    ({"text_embeddings": np.ones((0, 2))}, "non-empty matrix"),
    ({"text_embeddings": np.ones((2, 0))}, "non-empty matrix"),
    ({"text_embeddings": np.ones((2, 3))}, "2 wide, text_embeddings 3"),
    ({"image_of_text": np.array([0, 0])}, "1 images have no text, the first is image 1"),
    ({"image_of_text": np.array([0, 2])}, "must lie in"),
    ({"image_of_text": np.array([0, -1])}, "must lie in"),
    ({"image_of_text": np.array([0, 2**64 - 1], dtype=np.uint64)}, "must lie in"),
    ({"image_of_text": np.array([0.0, 1.0])}, "one integer each"),
    ({"image_of_text": np.array([True, False])}, "one integer each"),
    ({"image_of_text": np.array([0, 1, 1])}, "one integer each"),
    ({"image_of_text": np.array([[0, 1]])}, "one integer each"),
    ({"text_id": np.array([0])}, "text_id must hold one integer each"),
    ({"text_id": np.array(["a", "b"])}, "text_id must hold one integer each"),
    ({"image_id": np.array([0.0, 1.0])}, "image_id must hold one integer each"),
    ({"image_class": np.array([0, 1, 2])}, "image_class must hold one integer each"),
    ({"image_bias": np.zeros(3)}, "bias of image_embeddings"),
    ({"image_bias": 1.0}, "bias of image_embeddings"),
    ({"text_bias": np.zeros((2, 1))}, "bias of text_embeddings"),
    ({"text_bias": np.array([0.0, np.nan])}, "finite"),
    ({"text_bias": torch.tensor([0.0, torch.inf])}, "finite"),
    ({"k": (0, 1)}, "whole numbers from 1 on"),
    ({"k": ()}, "whole numbers from 1 on"),
    ({"k": 5}, "whole numbers from 1 on"),
    ({"k": (1.5,)}, "whole numbers from 1 on"),
    ({"k": (10**30,)}, "whole numbers from 1 on"),
    ({"top": -1}, "top must be at least 0"),
    ({"protocol": ["classic"]}, "unknown protocol"),
    ({"ties": ["expected"]}, "unknown tie rule"),
    ({"top": -1}, "at least 0"),
    ({"protocol": "deduplicated"}, "needs text_id"),
    ({"protocol": "skyscript"}, "needs text_id"),
    ({"protocol": "clasic"}, 'unknown protocol .clasic.. Did you mean "classic"'),
    ({"protocol": "urbancross_relased"}, 'Did you mean "urbancross_released"'),
    ({"protocol": "mine"}, "unknown protocol .mine.. Known: amfmn, classic"),
    ({"ties": "optimstic"}, 'unknown tie rule .optimstic.. Did you mean "optimistic"'),
    ({"ties": "lucky"}, "unknown tie rule"),
    ({"protocol": "urbancross_released", "ties": "lucky"}, "unknown tie rule"),
    ({"protocol": "urbancross_released", "ties": "pessimistic"}, "brings the tie rule 'optimistic'"),
    ({"image_bias": np.array([np.finfo(float).max, 0])}, "must be 0 or from 1e-120 to 1e.120"),
    ({"text_bias": np.array([1e-300, 0])}, "must be 0 or from 1e-120 to 1e.120"),
    ({"device": "abacus"}, "there is no device 'abacus'"),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_named(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "image_embeddings": np.eye(2),
        "text_embeddings": np.eye(2),
        "image_of_text": np.array([0, 1]),
    }
    with pytest.raises(ValueError, match=message):
        evaluate_retrieval(**(arguments | change))  # type: ignore[arg-type]


@pytest.mark.parametrize("place", [0, 4097])
def test_a_bad_row_is_named_wherever_it_stands(place: int) -> None:
    images = np.ones((5000, 32), dtype=np.float32)
    images[place, 31] = np.nan
    with pytest.raises(ValueError, match=rf"row {place} holds"):
        evaluate_retrieval(images, images, np.arange(5000))


def test_zero_rows_are_ranked_where_nothing_is_divided() -> None:
    ranking = evaluate_retrieval(np.zeros((2, 3)), np.zeros((4, 3)), np.array([0, 1, 0, 1]), normalize=False)
    assert ranking.i2t.tied.tolist() == [2, 2]
    assert ranking.i2t.greater.tolist() == [0, 0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("tier", [None, "float32", "float64"])
def test_a_graphics_card_ranks_the_same(tier: str | None) -> None:
    with work_in(tier, 7, 9):
        for seed in range(60):
            case = any_seeded_case(seed)
            assert differences(case, evaluate_retrieval(**case.arguments(), device="cuda")) == []
            moved = case.arguments(lambda rows: torch.tensor(rows, device="cuda"))
            assert differences(case, evaluate_retrieval(**moved)) == []


def test_mr_is_the_same_with_every_python() -> None:
    """A sum one after the other is rounded otherwise than `sum` of Python 3.12 and later."""
    unlike = 0
    for seed in range(40):
        ranking = evaluate_retrieval(**any_seeded_case(seed, 7, 19).arguments())
        values = [*ranking.i2t.recall.values(), *ranking.t2i.recall.values()]
        exact = float(sum(map(Fraction, values)) / len(values))
        assert ranking.mr == pytest.approx(exact, rel=1e-15)
        assert ranking.mr == fsum(values) / len(values)
        unlike += functools.reduce(operator.add, values) / len(values) != ranking.mr
    assert unlike
