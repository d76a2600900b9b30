"""Scores over resampled images: many at once are what each is alone; where the numbers come from takes no part."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from urbancross_bench.errors import DataError
from urbancross_bench.evaluation.statistics import SeedMeans, resampled_images, resampled_means
from urbancross_bench.leaderboard.resampling import OfSplit, SeedScore, Spool
from urbancross_bench.leaderboard.threads import shared_out
from urbancross_bench.records import ScoreRecord, read_records

IMAGES, DRAWS = 40, 7
PARTS = {
    **dict.fromkeys(("one", "two", "odd", "gaps", "shares", "six", "ten")),
    "alike": ["one", "one2"],
    "mixed": ["one", "odd", "two"],
    "in proportion": ["ten", "one", "six", "gaps", "shares", "two"],
}


class MadeUp(ScoreRecord):
    """A score whose sums are in memory. `odd` has other queries per image than the rest, `two` too."""

    def _sums(self) -> dict[str, np.ndarray]:
        generator = np.random.default_rng(self.content["seed"])
        queries = {"one": np.ones(IMAGES), "one2": np.ones(IMAGES), "two": np.full(IMAGES, 2.0)}
        queries |= {"six": np.full(IMAGES, 6.0), "ten": np.full(IMAGES, 10.0)}
        queries["odd"] = 1.0 + np.arange(IMAGES) % 3
        queries["gaps"] = 4.0 * (np.arange(IMAGES) % 3 > 0)
        queries["shares"] = np.where(np.arange(IMAGES) % 2, 0.5, 2.0)
        return {
            f"image_sums.{name}": np.stack([generator.random(IMAGES) * 100 / 3, number], axis=1)
            for name, number in queries.items()
        }


def made_up(seed: int) -> SeedScore:
    metrics = {name: {"parts": parts} for name, parts in PARTS.items()}
    content = {"images": IMAGES, "draws": DRAWS, "metrics": metrics, "seed": seed}
    return SeedScore({"seed": seed}, MadeUp(Path(str(seed)), content))


def alone(score: SeedScore, metric: str, resamples: int) -> np.ndarray:
    """The mean of the parts' means."""
    sums = score.score.image_sums()
    means = resampled_means(sums, resampled_images(IMAGES, DRAWS, resamples))
    of_parts: np.ndarray = np.mean([means[part] for part in PARTS[metric] or [metric]], axis=0)
    return of_parts


@pytest.mark.parametrize("resamples", [30, 4500])
def test_metrics_of_many_scores_equal_each_alone_in_the_order_asked_for(resamples: int) -> None:
    scores = [made_up(seed) for seed in range(3)]
    wanted = [(score, metric) for metric in PARTS for score in reversed(scores)]
    found = OfSplit(scores).resample(wanted, resamples)
    assert len(found) == len(wanted)
    for (score, metric), values in zip(wanted, found, strict=True):
        assert values == pytest.approx(alone(score, metric, resamples), rel=1e-12), metric
    [first] = OfSplit(scores[:1]).resample([(scores[0], "mixed")], resamples)
    assert first.tobytes() == found[wanted.index((scores[0], "mixed"))].tobytes()
    assert OfSplit(scores).resample([], resamples) == []


class Few(ScoreRecord):
    """Of three rows the first alone has queries."""

    def _sums(self) -> dict[str, np.ndarray]:
        first = np.array([1.0, 0.0, 0.0])
        return {
            f"image_sums.{name}": np.stack([first * 30 * n, first * n], axis=1) for n, name in enumerate("ab", 1)
        }


def test_resamples_without_queries_are_the_plain_mean() -> None:
    content = {"images": 3, "draws": 5, "metrics": {"m": {"parts": ["a", "b"]}, "a": {"parts": []}}, "seed": 0}
    score = SeedScore({"seed": 0}, Few(Path("few"), content))
    for values in OfSplit([score]).resample([(score, "m"), (score, "a")], 200):
        assert values == pytest.approx(np.full(200, 30.0))


def test_an_average_is_the_same_from_an_iterator_and_leaves_its_terms() -> None:
    terms = [SeedMeans(np.full(2, k / 3), np.arange(10.0).reshape(2, 5) * k / 7) for k in range(1, 12)]
    before = [one.resampled.copy() for one in terms]
    found = SeedMeans.average(iter(terms))
    assert found.resampled.tobytes() == (np.add.reduce(before, axis=0) / 11).tobytes()
    assert (
        found.values.tobytes() == (np.add.reduce([np.full(2, k / 3) for k in range(1, 12)], axis=0) / 11).tobytes()
    )
    assert all((one.resampled == kept).all() for one, kept in zip(terms, before, strict=True))


def test_shared_out_work_keeps_its_order_and_its_errors() -> None:
    assert shared_out(lambda number: number * number, range(50)) == [number * number for number in range(50)]
    with pytest.raises(ZeroDivisionError):
        shared_out(lambda number: 1 // number, [1, 0, 1])


@pytest.mark.parametrize("was_on", [True, False])
def test_reading_leaves_the_collector_as_it_was(tmp_path: Path, was_on: bool) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{")
    try:
        (gc.enable if was_on else gc.disable)()
        with pytest.raises(DataError, match="cannot be read"):
            read_records([tmp_path])
        assert gc.isenabled() is was_on
    finally:
        gc.enable()


def test_a_board_sets_the_threads_of_products_before_numpy_is_there(tmp_path: Path) -> None:
    """Else threads wait for each other in loops, which takes several times the work where cores are shared."""
    code = f"""
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            print("NUMPY", os.environ.get("OPENBLAS_NUM_THREADS"))
sys.meta_path.insert(0, Watch())
os.environ.pop("OPENBLAS_NUM_THREADS", None)
sys.argv = ["x", "leaderboard", "build", {str(tmp_path)!r}, "--out", {str(tmp_path / "out")!r}]
from urbancross_bench.cli.app import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "holds no record" in done.stderr
    assert done.stdout.split() == ["NUMPY", "1"]


def test_a_file_without_room_is_an_error_and_never_other_numbers() -> None:
    spool = Spool()
    numbers = np.arange(1000.0)
    kept, into = spool.add(numbers), np.empty(1000)
    spool.read(kept.place, into)
    assert (into == numbers).all()
    with pytest.raises(OSError, match="gave 4000 of 8000 bytes"):
        spool.read(kept.place + 4000, into)
