"""Do intervals and tests keep their word? `python benchmarks/intervals.py`, a few minutes; `--quick`: seconds.

Methods with known true scores are simulated: images differ in difficulty, suit some methods more than others, and
have five captions each; seeds of training are better or worse everywhere, and lucky or unlucky image by image. A
caption is hit when a sum of normal numbers, one for each of these, passes a threshold, so that the true score,
over all images and seeds, is a value of the normal distribution. What is measured is the package's own functions.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.evaluation.significance import (
    ALPHA,
    holm,
    minimum_detectable,
    paired_permutation,
    rank_intervals,
)
from urbancross_bench.evaluation.spread import Spread
from urbancross_bench.evaluation.statistics import (
    RESAMPLES,
    SeedMeans,
    image_sums,
    over_seeds,
    resampled_images,
    resampled_means,
)

CAPTIONS = 5
METHODS = 7  # the first is the baseline: a table of six comparisons
BASE = 30.0  # the true score, in percent
IMAGE, METHOD_IMAGE, SEED_IMAGE, CAPTION = 1.0, 0.4, 0.6, 0.6  # standard deviations; the seeds' own is varied
SETTINGS = [  # images, seeds, the seeds' own standard deviation (0.06 is some 1.5 points of score)
    (200, 1, 0.00),
    (200, 3, 0.02),
    (200, 3, 0.06),
    (1000, 3, 0.06),
    (1000, 3, 0.20),
    (400, 5, 0.06),
    (1000, 5, 0.20),
]


@dataclass(frozen=True)
class World:
    """What methods are measured on, and how much seeds differ."""

    images: int
    seeds: int
    seed_sd: float

    @property
    def spread(self) -> float:
        """The standard deviation of all that a hit depends on."""
        parts = (IMAGE, METHOD_IMAGE, self.seed_sd, SEED_IMAGE, CAPTION)
        return math.sqrt(sum(part * part for part in parts))

    def threshold(self, score: float) -> float:
        """The shift that gives a method this true score in percent."""
        low, high = -10.0, 10.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if _normal(middle) < score / 100 else (low, middle)
        return low * self.spread


@dataclass(frozen=True)
class Measured:
    """One simulated table: the means of each method, and per method and image the mean hit."""

    means: list[SeedMeans]
    hits: NDArray[np.float64]


def simulate(
    world: World,
    scores: Sequence[float],
    generator: np.random.Generator,
    resamples: int,
    captions: int = CAPTIONS,
) -> Measured:
    """Methods of these true scores, measured once, with the intervals' resamples."""
    shape = (len(scores), world.seeds, world.images)
    shifts = np.array([world.threshold(score) for score in scores])
    latent = (
        shifts[:, None, None]
        + generator.normal(scale=IMAGE, size=world.images)
        + generator.normal(scale=METHOD_IMAGE, size=(len(scores), 1, world.images))
        + generator.normal(scale=world.seed_sd, size=(*shape[:2], 1))
        + generator.normal(scale=SEED_IMAGE, size=shape)
    )
    hits = 100.0 * (latent[..., None] + generator.normal(scale=CAPTION, size=(*shape, captions)) > 0)
    owners = np.repeat(np.arange(world.images), captions)
    sums = {
        f"{method}/{seed}": image_sums(hits[method, seed].ravel(), np.arange(len(owners)), owners, world.images)
        for method in range(len(scores))
        for seed in range(world.seeds)
    }
    # A few fixed draws of images, as a test split has its own.
    draws = resampled_images(world.images, int(generator.integers(2)), resamples)
    resampled = iter(resampled_means(sums, draws).values())
    values = hits.mean(axis=(2, 3))
    means = [SeedMeans(row, np.stack([next(resampled) for _ in row])) for row in values]
    return Measured(means, hits.mean(axis=(1, 3)))


def differences(measured: Measured) -> list[SeedMeans]:
    """Each method against the first."""
    return [one - measured.means[0] for one in measured.means[1:]]


def covers(means: SeedMeans, truth: float) -> bool:
    """Whether the interval holds the true value."""
    low, high = Spread.of(means).interval()
    return low is not None and high is not None and low <= truth <= high


def found(measured: Measured) -> list[bool]:
    """Which comparisons with the first method hold after Holm's correction."""
    return [p <= ALPHA for p in holm([Spread.of(one).p_value() for one in differences(measured)])]


def equal_methods(world: World, times: int, generator: np.random.Generator) -> tuple[list[float], float, float]:
    """Percent: means and differences covered, tables with a false verdict, single false verdicts by bootstrap and
    by permutation; and the median detectable difference, of a test alone and in this table.
    """
    means, others, tables, single, swapped, sizes = [], [], [], [], [], []
    for number in range(times):
        measured = simulate(world, [BASE] * METHODS, generator, RESAMPLES)
        means += [covers(one, BASE) for one in measured.means]
        others += [covers(one, 0.0) for one in differences(measured)]
        tables.append(any(found(measured)))
        spreads = [Spread.of(one) for one in differences(measured)]
        single += [one.p_value() <= ALPHA for one in spreads]
        apart = (measured.hits[1] - measured.hits[0]) / world.images
        swapped.append(paired_permutation(apart, number, 999) <= ALPHA)
        sizes.append([minimum_detectable(spreads[0], tests) or 0.0 for tests in (1, METHODS - 1)])
    shares = [100 * float(np.mean(each)) for each in (means, others, tables, single, swapped)]
    alone, table = np.median(sizes, axis=0)
    return shares, float(alone), float(table)


def planted_gap(world: World, gap: float, times: int, generator: np.random.Generator) -> tuple[float, float]:
    """Percent: how often a gap between two methods is found, alone and in a table of six with five equal ones."""
    alone, table = [], []
    for _ in range(times):
        measured = simulate(world, [BASE, BASE + gap] + [BASE] * (METHODS - 2), generator, RESAMPLES)
        alone.append(Spread.of(differences(measured)[0]).p_value() <= ALPHA)
        table.append(found(measured)[0])
    return 100 * float(np.mean(alone)), 100 * float(np.mean(table))


def few_hits(times: int, generator: np.random.Generator) -> float:
    """Percent of tables of twenty comparisons with a false verdict, of methods that all hit 2 of 200 images: then
    three seeds often agree to the last hit, and few images make all the difference.
    """
    world, scores = World(200, 3, 0.02), [1.0] * 21
    return 100 * float(np.mean([any(found(simulate(world, scores, generator, 2000, 1))) for _ in range(times)]))


def ranks_covered(world: World, step: float, times: int, generator: np.random.Generator) -> float:
    """Percent of methods, a step apart from each other, whose rank interval holds their true rank."""
    held = []
    for _ in range(times):
        measured = simulate(
            world, [BASE + step * (METHODS // 2 - place) for place in range(METHODS)], generator, RESAMPLES
        )
        ranges = rank_intervals(np.stack([over_seeds(one) for one in measured.means]))
        held += [low <= place + 1 <= high for place, (low, high) in enumerate(ranges)]
    return 100 * float(np.mean(held))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seconds, and percentages good to five points")
    times = 40 if parser.parse_args().quick else 300
    generator = np.random.default_rng(20261124)
    print(
        f"{times} tables a line. Percent of intervals that hold the true mean and the true difference (95 wanted);"
    )
    print("of tables of six equal methods with a false verdict after Holm (at most 5 wanted); of single tests of")
    print("equal methods that call them different, by the bootstrap and by swapping images (at most 5); the")
    print("detectable difference in points, how often that is found (80 wanted), and twice that (90 wanted), of a")
    print("test alone and in the table of six after Holm; true ranks held.")
    print("The one seed differs from no other: there, swapping images asks the right question.\n")
    names = (
        "images",
        "seeds",
        "seed sd",
        "mean",
        "diff",
        "table",
        "test",
        "swap",
        "alone",
        "found",
        "2 found",
        "Holm",
        "found",
        "2 found",
        "ranks",
    )
    print("".join(f"{name:>8}" for name in names))
    began = time.perf_counter()
    for setting in SETTINGS:
        world = World(*setting)
        shares, alone, table = equal_methods(world, times, generator)
        by_one = [planted_gap(world, times_as_much * alone, times // 2, generator)[0] for times_as_much in (1, 2)]
        by_all = [planted_gap(world, times_as_much * table, times // 2, generator)[1] for times_as_much in (1, 2)]
        ranks = ranks_covered(world, alone / 4, times // 4, generator)
        print(
            f"{world.images:8}{world.seeds:8}{world.seed_sd:8.2f}"
            + "".join(f"{value:8.1f}" for value in (*shares, alone, *by_one, table, *by_all, ranks)),
            flush=True,
        )
    print(f"\nTables of twenty equal methods of few hits with a false verdict: {few_hits(times, generator):.1f}")
    print(f"\n{time.perf_counter() - began:.0f} s")


def _normal(value: float) -> float:
    return (1 + math.erf(value / math.sqrt(2))) / 2


if __name__ == "__main__":
    main()
