"""Exact ranking on a CUDA device beside blockwise float32 counting with plain torch on the same card.

    pytest benchmarks/test_ranking_cuda.py --benchmark-only

Times are printed and never asserted; shares are of the fastest product of large float16 matrices measured here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache, partial

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from side_by_side import product

from urbancross_bench.evaluation import evaluate_retrieval, fused
from urbancross_bench.evaluation.screening import plain_arithmetic

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

Problem = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Recalls = dict[str, list[float]]

WIDTH, PER_IMAGE, NOISE, KS = 512, 5, 8, (1, 5, 10)
IMAGES = {"20k x 100k": 20_000, "100k x 500k": 100_000}
SWAPPED = 5  # queries that may differ where the peer's float32 scores swap two close items

seconds: dict[str, dict[str, float]] = {}
kernels: dict[str, float] = {}


@cache
def problem(size: str) -> Problem:
    """Unit vectors: gaussian images, and captions so far from them that mR is middling."""
    generator = torch.Generator("cuda").manual_seed(0)
    images = torch.randn(IMAGES[size], WIDTH, generator=generator, device="cuda")
    owner = torch.arange(len(images), device="cuda").repeat_interleave(PER_IMAGE)
    images = torch.nn.functional.normalize(images)
    noise = torch.randn(len(owner), WIDTH, generator=generator, device="cuda")
    return images, torch.nn.functional.normalize(images[owner] + NOISE / WIDTH**0.5 * noise), owner


def ours(images: torch.Tensor, texts: torch.Tensor, owner: torch.Tensor, top: int) -> Recalls:
    ranking = evaluate_retrieval(images, texts, owner.cpu().numpy(), top=top)
    return {"i2t": list(ranking.i2t.recall.values()), "t2i": list(ranking.t2i.recall.values())}


def blockwise(images: torch.Tensor, texts: torch.Tensor, owner: torch.Tensor) -> Recalls:
    """Counts of greater float32 scores, both directions from one product, in blocks as large as pay."""
    own = (images[owner] * texts).sum(dim=1)
    best = own.view(len(images), PER_IMAGE).amax(dim=1)
    above, below = (torch.zeros(len(rows), dtype=torch.int64, device="cuda") for rows in (images, texts))
    margin = 1e-6  # a product sums in another order: keeps a positive from beating itself
    with plain_arithmetic():
        for i in range(0, len(images), 8192):
            for j in range(0, len(texts), 16384):
                scores = images[i : i + 8192] @ texts[j : j + 16384].T
                above[i : i + 8192] += (scores > best[i : i + 8192, None] + margin).sum(dim=1)
                below[j : j + 16384] += (scores > own[j : j + 16384] + margin).sum(dim=0)
    return {way: [100 * (g < k).double().mean().item() for k in KS] for way, g in (("i2t", above), ("t2i", below))}


TOOLS: dict[str, Callable[..., Recalls]] = {
    "blockwise float32": blockwise,
    "ours, top 0": partial(ours, top=0),
    "ours, top 10": partial(ours, top=10),
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("size", IMAGES)
def test_ranking(benchmark: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch, size: str, tool: str) -> None:
    count = fused.count

    def timed(*arguments: object) -> None:
        torch.cuda.synchronize()
        start = time.perf_counter()
        count(*arguments)  # type: ignore[arg-type]
        torch.cuda.synchronize()
        kernels[f"{size}, {tool}"] = time.perf_counter() - start

    monkeypatch.setattr(fused, "count", timed)
    benchmark.group = size
    found = benchmark.pedantic(TOOLS[tool], args=problem(size), rounds=3, warmup_rounds=1)
    seconds.setdefault(size, {})[tool] = benchmark.stats.stats.min
    for way, wanted in expected(size).items():
        queries = len(problem(size)[0 if way == "i2t" else 1])
        assert found[way] == pytest.approx(wanted, abs=100 * SWAPPED / queries + 1e-6)
    if tool.startswith("ours"):
        assert found == expected(size)
        assert f"{size}, {tool}" in kernels


@cache
def expected(size: str) -> Recalls:
    """Ours, block by block, without the kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "suits", lambda *_: False)
        return ours(*problem(size), top=0)


@pytest.fixture(scope="module", autouse=True)
def _summary(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    top = product(torch.device("cuda"), "float16")
    name = torch.cuda.get_device_name()
    lines = [f"{name}, torch {torch.__version__}: at most {top / 1e12:.0f} TFLOP/s in float16"]
    for size, times in seconds.items():
        work = 2 * WIDTH * PER_IMAGE * IMAGES[size] ** 2
        for tool, spent in times.items():
            ratio = times.get("blockwise float32", float("nan")) / spent
            line = f"  {size:12} {tool:18} {spent:7.3f} s, {ratio:5.1f} times as fast, {work / spent / top:.0%}"
            inner = kernels.get(f"{size}, {tool}")
            lines.append(line + (f"; counting alone {inner:.3f} s, {work / inner / top:.0%}" if inner else ""))
    lines.append(f"  at most {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on the card")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(lines))
