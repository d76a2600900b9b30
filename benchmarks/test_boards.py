"""How long a leaderboard of many records takes, and how much memory: built from records as `add` writes them.

    pytest benchmarks/test_boards.py --benchmark-only -s
    BOARD=/tmp/board pytest benchmarks/test_boards.py --benchmark-only -s    # writes the records there once

Five domains in 20 cross-domain scenarios, four encoders, 25 methods, five seeds: 10,000 runs, each scored on 1,000
images with five captions each. Fewer records are fewer encoders and methods. A run's counts are one of 125
drawings, so that all within a scenario and encoder differ. Every build is a process of its own; memory is its
largest resident set.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
IMAGES, CAPTIONS, TOP = 1000, 5, 10
SCENARIOS, SEEDS = [*permutations("abcde", 2)], range(5)
SIZES = {100: (1, 1), 1000: (2, 5), 10_000: (4, 25)}  # records: encoders, methods
METHODS = ["source_only", "oracle", *(f"method {n}" for n in range(23))]

# Prints seconds and the largest resident set in MiB of the command, which is the only child.
_MEASURE = """
import json, resource, subprocess, sys, time
began = time.monotonic()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
clock, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([clock, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""


def drawn(method: int, seed: int) -> tuple[dict[str, Any], dict[str, float]]:
    """The arrays of a ranking, and the values of its metrics. Later methods are better, and on the same images."""
    hard = np.random.default_rng(0).uniform(size=IMAGES)
    generator = np.random.default_rng([method, seed])
    owner = np.repeat(np.arange(IMAGES), CAPTIONS)
    scale = 40 * (1 - 0.01 * method) * generator.normal(1, 0.02)
    arrays: dict[str, Any] = {"image_of_text": owner}
    values = {}
    for way, image in (("i2t", np.arange(IMAGES)), ("t2i", owner)):
        queries, gallery = len(image), len(owner) if way == "i2t" else IMAGES
        greater = np.minimum(generator.exponential(scale * hard[image]), gallery - 1).astype(int)
        each, one = np.arange(queries), np.ones(queries, int)
        arrays |= {f"{way}.greater": greater, f"{way}.tied": one, f"{way}.tied_positives": one}
        arrays |= {f"{way}.right": one * (CAPTIONS if way == "i2t" else 1), f"{way}.query_row": each}
        arrays |= {f"{way}.gallery_row": np.arange(gallery), f"{way}.image_of_query": np.stack([each, image])}
        arrays[f"{way}.top"] = generator.integers(0, gallery, (queries, TOP))
        for k in (1, 5, 10):
            hits, number = np.bincount(image, 100.0 * (greater < k), IMAGES), np.bincount(image)
            arrays[f"image_sums.{way}_R@{k}"] = np.stack([hits, number], axis=1)
            values[f"{way}_R@{k}"] = hits.sum() / queries
    return arrays, values | {"mR": float(np.mean([*values.values()]))}


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Per size a folder of records, of which the larger one's files of counts are links to the drawings."""
    from urbancross_bench.leaderboard.committed import seal

    kept = Path(os.environ["BOARD"]) if "BOARD" in os.environ else tmp_path_factory.mktemp("boards")
    if not (kept / "whole").exists():
        drawings = write_drawings(kept)
        for size, (encoders, methods) in SIZES.items():
            for encoder, method, (source, target), seed in product(
                range(encoders), range(methods), SCENARIOS, SEEDS
            ):
                write_run_of(kept / str(size), encoder, method, source, target, seed, drawings[method, seed])
            seal(kept / str(size))
        (kept / "whole").touch()
    return kept


def write_drawings(place: Path) -> dict[tuple[int, int], tuple[Path, dict[str, float]]]:
    """Method and seed → a folder with the counts in their committed form, and the values of metrics."""
    from made_up_records import edit, write_run

    from urbancross_bench.leaderboard.committed import write_committed
    from urbancross_bench.records import read_record

    found = {}
    for method, seed in product(range(len(METHODS)), SEEDS):
        folder = write_run(place / "drawn" / "runs", "ours", "a", "b", seed, steps=method)
        arrays, values = drawn(method, seed)
        [score] = (folder / "scores").iterdir()
        save_file(arrays, score / "queries.safetensors")
        edit(score / "score.json", images=IMAGES)
        found[method, seed] = folder, values
    records = [read_record(folder) for folder, _ in found.values()]
    write_committed([record for record in records if record is not None], place / "committed")
    return {
        key: (next((place / "committed" / folder.name / "scores").iterdir()), values)
        for key, (folder, values) in found.items()
    }


def write_run_of(
    runs: Path,
    encoder: int,
    method: int,
    source: str,
    target: str,
    seed: int,
    drawing: tuple[Path, dict[str, float]],
) -> None:
    """One run of the board."""
    from made_up_records import edit, write_run

    name = METHODS[method]
    weights = {"status": "trained here", "source": "random", "sha256": None, "partial": False}
    folder = write_run(
        runs,
        name if method < 2 else "ours",
        source,
        target,
        seed,
        adaptation={"label": name, "name": name, "version": "1", "options": {}},
        encoder={
            "label": f"encoder {encoder}",
            "name": f"e{encoder}",
            "version": "1",
            "options": {},
            "weights": weights,
        },
    )
    [score] = (folder / "scores").iterdir()
    for file in ("queries.safetensors", "items.json"):
        (score / file).unlink()
    counts, values = drawing
    for file in counts.glob("*.xz"):
        os.link(file, score / file.name)
    metrics = json.loads((score / "score.json").read_text())["metrics"]
    for metric, value in values.items():
        metrics[metric] |= {"value": value, "low": value - 1, "high": value + 1}
    edit(score / "score.json", metrics=metrics, images=IMAGES, texts=IMAGES * CAPTIONS)


@pytest.mark.parametrize("size", SIZES)
def test_build(benchmark: BenchmarkFixture, boards: Path, tmp_path: Path, size: int) -> None:
    command = [sys.executable, "-m", "urbancross_bench", "leaderboard", "build", boards / str(size)]
    command += ["--out", tmp_path / "board"]
    once = [sys.executable, "-c", _MEASURE, *map(str, command)]
    said: list[str] = []

    def build() -> None:
        said.append(subprocess.run(once, check=True, capture_output=True, text=True).stdout)

    benchmark.pedantic(build, rounds=1 if size == 10_000 else 3, warmup_rounds=0)
    clock, cpu, memory = (min(values) for values in zip(*map(json.loads, said), strict=True))
    files = {file.name: len(file.read_bytes()) for file in sorted((tmp_path / "board").iterdir())}
    state = b"".join(file.read_bytes() for file in (tmp_path / "board").glob("*.csv"))
    print(
        f"\n  {size:6} records: {clock:5.1f} s by the clock, {cpu:5.1f} s of CPU, {memory:5.0f} MiB; tables in "
        f"csv {len(state) / 1e6:.2f} MB, compressed {len(gzip.compress(state)) / 1e6:.2f} MB; {files}"
    )
