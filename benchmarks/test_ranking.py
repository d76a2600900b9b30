"""Exact ranking beside the argsort loop of the field's released code, on the same embeddings."""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from urbancross_bench.evaluation import evaluate_retrieval

IMAGES, PER_IMAGE, WIDTH = 1093, 5, 512


@pytest.fixture(scope="module")
def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """RSICD's test split in size: 1,093 images, 5,465 captions."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(IMAGES, WIDTH)).astype(np.float32)
    texts = np.repeat(images, PER_IMAGE, axis=0) + 3 * generator.normal(size=(IMAGES * PER_IMAGE, WIDTH))
    return images, texts.astype(np.float32), np.repeat(np.arange(IMAGES), PER_IMAGE)


@pytest.mark.benchmark(group="ranking")
def test_ours(benchmark: BenchmarkFixture, problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    ranking = benchmark(evaluate_retrieval, *problem)
    assert ranking.mr == pytest.approx(argsort_mr(*problem))


@pytest.mark.benchmark(group="ranking")
def test_argsort_loop(benchmark: BenchmarkFixture, problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    benchmark.pedantic(argsort_mr, args=problem, rounds=3)


def argsort_mr(images: np.ndarray, texts: np.ndarray, owner: np.ndarray) -> float:
    """mR by sorting every query's row: no ties here, so order alone decides."""
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    scores = images @ texts.T
    to_text = [np.flatnonzero(owner[np.argsort(-scores[i])] == i)[0] for i in range(len(images))]
    to_image = [np.flatnonzero(np.argsort(-scores[:, j]) == owner[j])[0] for j in range(len(texts))]
    return float(
        np.mean([100 * np.mean(np.array(ranks) < k) for ranks in (to_text, to_image) for k in (1, 5, 10)])
    )
