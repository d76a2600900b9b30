"""Exact ranking beside the tools that others use for the same six recalls, on the same embeddings.

    pip install faiss-cpu clip_benchmark torchmetrics mteb threadpoolctl
    pytest benchmarks/test_ranking.py --benchmark-only                  # -m "not slow" leaves the largest size out

Peers that are not installed are skipped. Those that take minutes at 5,000 images and 25,000 captions
(clip_benchmark, torchmetrics) have the group of 1,000 and 5,000 only; slow ones run one round on one thread.
Peers score in float32, where close pairs may change places; ours is exact. Times are printed and never asserted.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from urbancross_bench.evaluation import evaluate_retrieval

Problem = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
Recalls = dict[str, list[float]]

WIDTH, PER_IMAGE, NOISE, KS = 512, 5, 8, (1, 5, 10)
IMAGES = {"1k x 5k": 1000, "5k x 25k": 5000, "20k x 100k": 20000}
SWAPPED = 2  # queries that may differ where a peer's float32 scores swap two close items

seconds: dict[tuple[str, int], dict[str, float]] = {}  # (size, threads) → tool → fastest round


@cache
def problem(size: str) -> Problem:
    """Unit vectors: gaussian images, and captions so far from them that mR is middling."""
    generator = np.random.default_rng(0)
    images = _unit(generator.standard_normal((IMAGES[size], WIDTH), dtype=np.float32))
    owner = np.repeat(np.arange(len(images)), PER_IMAGE)
    noise = generator.standard_normal((len(owner), WIDTH), dtype=np.float32)
    return images, _unit(images[owner] + np.float32(NOISE / WIDTH**0.5) * noise), owner


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def ours(images: NDArray[np.float32], texts: NDArray[np.float32], owner: NDArray[np.int64], top: int) -> Recalls:
    ranking = evaluate_retrieval(images, texts, owner, top=top)
    return {"i2t": list(ranking.i2t.recall.values()), "t2i": list(ranking.t2i.recall.values())}


def of_lists(to_texts: NDArray[np.int64], to_images: NDArray[np.int64], owner: NDArray[np.int64]) -> Recalls:
    """From the ten best of every query."""
    right = owner[to_texts] == np.arange(len(to_texts))[:, None], to_images == owner[:, None]
    i2t, t2i = ([100 * float(hit[:, :k].any(axis=1).mean()) for k in KS] for hit in right)
    return {"i2t": i2t, "t2i": t2i}


def faiss_flat(images: NDArray[np.float32], texts: NDArray[np.float32], owner: NDArray[np.int64]) -> Recalls:
    import faiss

    lists = []
    for queries, gallery in ((images, texts), (texts, images)):
        index = faiss.IndexFlatIP(WIDTH)
        index.add(gallery)
        lists.append(index.search(queries, max(KS))[1])
    return of_lists(lists[0], lists[1], owner)


def blockwise_torch(images: NDArray[np.float32], texts: NDArray[np.float32], owner: NDArray[np.int64]) -> Recalls:
    """Counts of greater float32 scores, both directions from one product; captions stand in order of images."""
    x, y, of_text = torch.from_numpy(images), torch.from_numpy(texts), torch.from_numpy(owner)
    own = (x[of_text] * y).sum(dim=1)
    best = own.view(len(x), PER_IMAGE).amax(dim=1)
    above, below = torch.zeros(len(x), dtype=torch.int64), torch.zeros(len(y), dtype=torch.int64)
    margin = 1e-6  # a product sums in another order: keeps a positive from beating itself
    for i in range(0, len(x), 512):
        for j in range(0, len(y), 2048):
            scores = x[i : i + 512] @ y[j : j + 2048].T
            above[i : i + 512] += (scores > best[i : i + 512, None] + margin).sum(dim=1)
            below[j : j + 2048] += (scores > own[j : j + 2048] + margin).sum(dim=0)
    return {way: [100 * (g < k).double().mean().item() for k in KS] for way, g in (("i2t", above), ("t2i", below))}


def clip_benchmark(images: NDArray[np.float32], texts: NDArray[np.float32], owner: NDArray[np.int64]) -> Recalls:
    from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k

    scores = torch.from_numpy(texts) @ torch.from_numpy(images).T
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), torch.from_numpy(owner)] = True
    ways = {"i2t": (scores.T, positive.T), "t2i": (scores, positive)}
    return {
        way: [100 * (batchify(recall_at_k, *both, 64, "cpu", k=k) > 0).double().mean().item() for k in KS]
        for way, both in ways.items()
    }


def torchmetrics(images: NDArray[np.float32], texts: NDArray[np.float32], owner: NDArray[np.int64]) -> Recalls:
    from torchmetrics.retrieval import RetrievalHitRate

    found: Recalls = {}
    scores = torch.from_numpy(images) @ torch.from_numpy(texts).T
    right = torch.arange(len(images))[:, None] == torch.from_numpy(owner)
    for way, matrix, target in (("i2t", scores, right), ("t2i", scores.T, right.T)):
        query = torch.arange(len(matrix)).repeat_interleave(matrix.shape[1])
        metrics = [RetrievalHitRate(top_k=k) for k in KS]
        found[way] = [
            100 * metric(matrix.reshape(-1), target.reshape(-1), indexes=query).item() for metric in metrics
        ]
    return found


def _runs(images: NDArray[np.float32], texts: NDArray[np.float32], owner: NDArray[np.int64]) -> Iterator[tuple]:
    """Per direction what trec_eval takes: right answers, and the ten best with scores, by name."""
    scores = torch.from_numpy(images) @ torch.from_numpy(texts).T
    own = {"i2t": np.arange(len(owner)).reshape(-1, PER_IMAGE), "t2i": owner[:, None]}
    for way, matrix in (("i2t", scores), ("t2i", scores.T)):
        values, places = (part.tolist() for part in matrix.topk(max(KS), dim=1))
        answers = {str(q): {str(item): 1 for item in items} for q, items in enumerate(own[way].tolist())}
        run = {
            str(q): {str(item): score for item, score in zip(*both, strict=True)}
            for q, both in enumerate(zip(places, values, strict=True))
        }
        yield way, answers, run


def pytrec_eval(images: NDArray[np.float32], texts: NDArray[np.float32], owner: NDArray[np.int64]) -> Recalls:
    import pytrec_eval

    found: Recalls = {}
    for way, answers, run in _runs(images, texts, owner):
        scores = pytrec_eval.RelevanceEvaluator(answers, {"success_1,5,10"}).evaluate(run).values()
        found[way] = [100 * float(np.mean([score[f"success_{k}"] for score in scores])) for k in KS]
    return found


def mteb(images: NDArray[np.float32], texts: NDArray[np.float32], owner: NDArray[np.int64]) -> Recalls:
    from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores

    runs = _runs(images, texts, owner)
    rates = {way: calculate_retrieval_scores(run, answers, KS).hit_rate for way, answers, run in runs}
    return {way: [100 * float(value) for value in rate.values()] for way, rate in rates.items()}


TOOLS: dict[str, Callable[..., Recalls]] = {
    "ours, top 0": partial(ours, top=0),
    "ours, top 10": partial(ours, top=10),
    "faiss": faiss_flat,
    "blockwise torch": blockwise_torch,
    "pytrec_eval": pytrec_eval,
    "mteb": mteb,
    "clip_benchmark": clip_benchmark,
    "torchmetrics": torchmetrics,
}
FAST = [tool for tool in TOOLS if tool.startswith(("ours", "faiss", "blockwise"))]
RUNS = [
    *(("1k x 5k", 1, tool, 3 if tool in FAST else 1) for tool in TOOLS),
    *(("5k x 25k", threads, tool, 3) for threads in (1, 2) for tool in FAST),
    *(("5k x 25k", 1, tool, 1) for tool in ("pytrec_eval", "mteb")),
    *(("20k x 100k", threads, tool, 1) for threads in (1, 2) for tool in FAST),
]


@pytest.mark.parametrize(
    ("size", "threads", "tool", "rounds"),
    [pytest.param(*run, marks=pytest.mark.slow if run[0].startswith("20k") else ()) for run in RUNS],
)
def test_ranking(benchmark: BenchmarkFixture, size: str, threads: int, tool: str, rounds: int) -> None:
    if tool in ("faiss", "pytrec_eval", "mteb", "clip_benchmark", "torchmetrics"):
        pytest.importorskip(tool)
    benchmark.group = f"{size}, {threads} thread{'s' * (threads > 1)}"
    with limited(threads):
        found = benchmark.pedantic(TOOLS[tool], args=problem(size), rounds=rounds, warmup_rounds=int(rounds > 1))
    seconds.setdefault((size, threads), {})[tool] = benchmark.stats.stats.min
    for way, wanted in expected(size).items():
        queries = len(problem(size)[0 if way == "i2t" else 1])
        assert found[way] == pytest.approx(wanted, abs=100 * SWAPPED / queries + 1e-6)
    if tool.startswith("ours"):
        assert found == expected(size)


@cache
def expected(size: str) -> Recalls:
    """Ours on two threads; its own agreement with brute force is checked by `check_ranking.py`."""
    return ours(*problem(size), top=0)


def limited(threads: int) -> object:
    """All the thread pools of the process, torch's and faiss's among them."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    torch.set_num_threads(threads)
    return threadpoolctl.threadpool_limits(threads)


def peak(dtype: torch.dtype) -> float:
    """Multiplications and additions a second in the product of two large blocks."""
    block = torch.randn(2048, 2048).to(dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        block @ block
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(times)


MEMORY = """
import sys, numpy as np
from urbancross_bench.evaluation import evaluate_retrieval
def most():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
images, texts = (np.load(file) for file in sys.argv[1:3])
evaluate_retrieval(images[:64], texts[:320], np.arange(320) // 5)  # what libraries take once
before = most()
evaluate_retrieval(images, texts, np.arange(len(texts)) // 5, top=int(sys.argv[3]))
print(most() - before)
"""


def extra_memory(size: str, top: int, folder: Path) -> float:
    """MiB that a call in a fresh process takes at its peak, beside the embeddings and one normalised copy."""
    images, texts, _ = problem(size)
    files = [folder / f"{name}-{len(images)}.npy" for name in ("images", "texts")]
    for file, rows in zip(files, (images, texts), strict=True):
        np.save(file, rows)
    command = [sys.executable, "-c", MEMORY, *map(str, files), str(top)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout) - (images.nbytes + texts.nbytes) / 2**20


@pytest.fixture(scope="module", autouse=True)
def _summary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield
    lines = []
    for (size, threads), times in sorted(seconds.items()):
        with limited(threads):
            peaks = {"float32": peak(torch.float32), "bfloat16": peak(torch.bfloat16)}
        work = 2 * WIDTH * PER_IMAGE * IMAGES[size] ** 2
        lines.append(
            f"{size}, {threads} threads; " + ", ".join(f"{n} {p / 1e9:.0f} GFLOP/s" for n, p in peaks.items())
        )
        for tool, spent in times.items():
            shares = ", ".join(f"{work / spent / top:.0%} of {name}" for name, top in peaks.items())
            ratio = f"{spent / times['faiss']:7.2f} of faiss, " if "faiss" in times else ""
            lines.append(f"  {tool:16} {spent:8.2f} s, {ratio}{shares}")
    for size in sorted({size for size, _ in seconds}) if Path("/proc/self/status").exists() else []:
        used = [extra_memory(size, top, tmp_path_factory.mktemp("rows")) for top in (0, 10)]
        lines.append(f"{size}: extra memory of ours {used[0]:.0f} MiB (top 0), {used[1]:.0f} MiB (top 10)")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(lines))
