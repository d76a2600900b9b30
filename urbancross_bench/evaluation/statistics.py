"""Intervals by resampling: images are the clusters, seeds the outermost level. numpy only.

Several captions belong to one image, so queries are not independent; resampling captions gives intervals that
are too narrow. Every resample draws images with replacement and takes all their queries along, the same images
for every seed and both methods of a comparison, since all are scored on one test split. The gallery stays as it
is: a resample asks other queries of the same gallery, it does not rank anew.

Seeds are few, and a bootstrap of three is too narrow: it makes their variance a third too small and knows nothing
of how badly three determine it. So seeds are drawn around their mean from Student's t instead; see `over_seeds`.

The same bytes on every machine and numpy: draws come from `PCG64.random_raw`, which numpy promises to keep (it
does not promise it for `Generator`), and use nothing but +, −, ×, / and √, which IEEE 754 defines to the bit;
sums run in one order, or are exact, so that no order matters: then BLAS may take them (`_totals`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Interval = tuple[float, float] | tuple[None, None]
Bounds = tuple[float, float] | None

RESAMPLES = 2000
LEVEL = 0.95
ROUNDING = 1e-9  # of numbers above 1 the share, of others the distance, within which they are equal
_DRAWS_AT_ONCE = 2**20  # bounds the memory of drawing
_COUNTS_AT_ONCE = 2**24  # bytes of counts
_HELD = 8  # so many of these: of 2000 resamples, all up to 67,000 images; of 10,000, up to 13,000
_WEIGHTS_AT_ONCE = 2**19  # bounds the memory of summing
_DIGITS = {np.float32: 24, np.float64: 53}  # binary, of the whole numbers that a type holds


def image_sums(values: Floats, query: NDArray[np.int64], image: NDArray[np.int64], images: int) -> Floats:
    """(N, 2): per image the sum of its queries' values and their number; their mean is `mean_of` it.

    values: of each query. query, image: which query stands with which image; one that stands with several, as a
    string may, counts for each of them in part.
    """
    share = 1.0 / np.bincount(query)[query]
    sums = np.bincount(image, weights=values[query] * share, minlength=images)
    counts = np.bincount(image, weights=share, minlength=images)
    return np.stack([sums, counts], axis=1)


def mean_of(sums: Floats) -> float:
    """The mean over the queries of some `image_sums`, a ratio of two sums."""
    return float(sums[:, 0].sum() / sums[:, 1].sum())


@dataclass(frozen=True)
class Counts:
    """How often each of `images` stands in each of `resamples`; of a million images that would take 2 GB.

    A count above 255 does not happen: it would need more than 255 images, and then has a chance below 10^-500.
    """

    images: int
    seed: int
    resamples: int

    def slices(self) -> Iterator[NDArray[np.uint8]]:
        """(N, r) uint8 each: the counts of some resamples, one slice after the other."""
        step = min(RESAMPLES, max(1, _COUNTS_AT_ONCE // self.images))  # the first are those of fewer resamples
        for start in range(0, self.resamples, step):
            yield _counts(self.images, self.seed, start, min(start + step, self.resamples))


def resampled_images(images: int, seed: int, resamples: int = RESAMPLES) -> Counts:
    """Draws of images with replacement. Give all scores of one test split the same seed.

    More resamples of one seed begin with the fewer.
    """
    return Counts(images, seed, resamples)


@lru_cache(maxsize=_HELD)
def _counts(images: int, seed: int, first: int, last: int) -> NDArray[np.uint8]:
    """(N, last - first) of the resamples from `first` up to `last`."""
    bits = np.random.PCG64(seed)
    bits.advance(first * images)  # one step a raw draw
    counts = np.empty((images, last - first), dtype=np.uint8)
    at_once = max(1, _DRAWS_AT_ONCE // images)
    for start in range(0, last - first, at_once):
        some = min(at_once, last - first - start)
        draws = (_uniforms(bits, some * images) * images).astype(np.int64).reshape(some, images)
        draws += np.arange(some)[:, None] * images
        drawn = np.bincount(draws.ravel(), minlength=some * images).reshape(some, images)
        counts[:, start : start + some] = drawn.T
    counts.setflags(write=False)
    return counts


def resampled_means(sums: Mapping[str, Floats], draws: Counts) -> dict[str, Floats]:
    """Name → (R,) means over the queries of the images that each resample drew; `sums` from `image_sums`."""
    sizes = {pair[:, 1].tobytes(): pair[:, 1] for pair in sums.values()}
    columns = np.stack([*(pair[:, 0] for pair in sums.values()), *sizes.values()])
    totals = np.concatenate([*resampled_sums(columns, draws)], axis=1)
    numbers = dict(zip(sizes, totals[len(sums) :], strict=True))
    for pair, total in zip(sums.values(), totals, strict=False):
        divided(total, numbers[pair[:, 1].tobytes()], mean_of(pair))
    return dict(zip(sums, totals, strict=False))


def divided(totals: Floats, numbers: Floats, plain: float | Floats) -> None:
    """Divide (…, R) totals by the (R,) numbers of queries that each resample drew, in place.

    plain: (…) the means over all queries, which stand where a resample drew none: few images, of whose copies the
    first row alone is asked.
    """
    if (none := numbers == 0).any():
        numbers = np.where(none, 1.0, numbers)
        totals[..., none] = np.asarray(plain)[..., None]
    totals /= numbers


def resampled_sums(columns: Floats, draws: Counts) -> Iterator[Floats]:
    """(M, r) each, of some resamples after the other: the sums of each of (M, N) columns over the images drawn."""
    return _totals(columns, draws.slices(), draws.images)


def interval(resampled: Floats, level: float = LEVEL, *, bounds: Bounds = None) -> Interval:
    """The percentile interval of R resampled values: the k-th smallest and the k-th largest of them.

    k is the whole part of (R + 1)(1 − level) / 2. (None, None) if all values are the same but for rounding: one
    image, or all images alike, say nothing of how images differ.

    bounds: between which the true value lies for sure, such as 0 and 100 of a recall; an end beyond is put there.
    Student's t of few seeds knows nothing of them. What is cut off cannot be true, so an interval covers the truth
    exactly as often as before.
    """
    if all_alike(resampled):
        return None, None
    k = max(1, int((len(resampled) + 1) * (1 - level) / 2))
    ends = np.partition(resampled, (k - 1, len(resampled) - k))
    return within(bounds, float(ends[k - 1]), float(ends[-k]))


def within(bounds: Bounds, low: float, high: float) -> tuple[float, float]:
    """An interval whose ends beyond the bounds are put there."""
    if bounds is None:
        return low, high
    return min(max(low, bounds[0]), bounds[1]), max(min(high, bounds[1]), bounds[0])


def all_alike(resampled: Floats) -> bool:
    """Whether all values are the same but for rounding."""
    low, high = float(resampled.min()), float(resampled.max())
    return high - low <= ROUNDING * max(1.0, abs(low), abs(high))


@dataclass(frozen=True, eq=False)
class SeedMeans:
    """A mean per seed of training, and each of them over the same resamples of images.

    values: (S,); resampled: (S, R). The difference of two methods is `mine - theirs`, seed by seed.
    bounds: those of the values, where they have any; of a difference of two recalls they are −100 and 100.
    """

    values: Floats
    resampled: Floats
    bounds: Bounds = None

    def __sub__(self, other: SeedMeans) -> SeedMeans:
        bounds: Bounds = None
        if self.bounds and other.bounds:
            bounds = self.bounds[0] - other.bounds[1], self.bounds[1] - other.bounds[0]
        return SeedMeans(self.values - other.values, self.resampled - other.resampled, bounds)

    @property
    def value(self) -> float:
        """The mean over seeds."""
        return math.fsum(self.values) / len(self.values)

    @staticmethod
    def average(several: Iterable[SeedMeans]) -> SeedMeans:
        """The mean of several, such as scenarios, seed by seed: what they share through a seed stays in.

        They are added up as they come: an iterator need not hold more than one.
        """
        each = iter(several)
        first = next(each)
        values, resampled, bounds = first.values.copy(), first.resampled.copy(), [first.bounds]
        for one in each:
            values += one.values
            resampled += one.resampled
            bounds.append(one.bounds)
        values /= len(bounds)
        resampled /= len(bounds)
        return SeedMeans(values, resampled, mean_bounds(bounds))


def mean_bounds(several: Sequence[Bounds]) -> Bounds:
    """Of a mean of several values; None where one of them has none."""
    known = [bounds for bounds in several if bounds is not None]
    if not known or len(known) < len(several):
        return None
    lows, highs = zip(*known, strict=True)
    return math.fsum(lows) / len(lows), math.fsum(highs) / len(highs)


def over_seeds(means: SeedMeans) -> Floats:
    """(R,) resamples of the mean over seeds, for the population of images and of seeds.

    A mean over S seeds and N images errs by the images' share (images that are hard under every seed) and by the
    seeds' share (seeds that are better everywhere, and what each seed gets right by luck on these images).
    The images' share is the deviation of the resampled means, less what they owe to single seeds: its variance is
    V(images) − V(interaction), as in the analysis of variance of two crossed random factors. The seeds' share is
    Student's t with S − 1 degrees of freedom times the standard error of the seeds' means, which holds the
    interaction already. The sum of both is the Behrens–Fisher distribution. Its 95 % intervals cover 95 to
    98 % with three seeds, 95 to 97 with five (`benchmarks/intervals.py`), and at no level less than they say. Of
    one seed: the images' deviation alone, for the population of images and this very model.

    Not used, since they fail that: drawing seeds with replacement (too narrow), Satterthwaite's degrees of freedom
    (too narrow far out, where a correction for many comparisons looks), leaving the seeds' share out where it is
    smaller than the interaction (the same), and adding it to V(images) whole (twice the interaction: 99 %).
    """
    [(middle, _)] = without_seeds([means])
    return middle if len(means.values) == 1 else middle + _of_seeds(means)


def without_seeds(several: Sequence[SeedMeans]) -> list[tuple[Floats, float]]:
    """(R,) of each of several, at least one, of as many seeds and resamples: `over_seeds` less the seeds' share.

    Where all seeds and resamples are the same number, so is the result: differences of nought stay nought. With
    it how far images alone may move the mean of these very seeds: its variance over resamples. Where the seeds'
    means are alike, by chance or because no seed moves them, that is all there is: their share is nought, and does
    not hold what is taken off elsewhere.
    """
    seeds = len(several[0].values)
    resampled = np.stack([one.resampled for one in several])
    middle = np.add.reduce(resampled, axis=1) / seeds
    of_images = variances(middle)
    if seeds > 1:
        resampled -= middle[:, None]
        share = _share_of_images(of_images, variances(resampled))
        share[[all_alike(one.values) for one in several]] = 1.0
        values = np.array([one.value for one in several])
        middle = share[:, None] * middle + ((1.0 - share) * values)[:, None]
    return [*zip(middle, of_images.tolist(), strict=True)]


def pairs_without_seeds(several: Sequence[SeedMeans]) -> Iterator[tuple[int, int, Floats, float]]:
    """a, b and what `without_seeds` has of several[a] - several[b], for all pairs; pairs are many.

    All of it is linear but the variances, and those of all differences are one product of matrices. The images'
    share is that of `over_seeds` to some millionths, unless a difference varies less than a thousandth of what its
    methods do: that is how exactly `_variances_of_pairs` has it.
    """
    seeds = len(several[0].values)
    middles = np.stack([np.add.reduce(one.resampled, axis=0) / seeds for one in several])
    of_each_seed = (np.stack([one.resampled[seed] for one in several]) - middles for seed in range(seeds))
    of_seeds_alone = np.stack([_variances_of_pairs(deviations) for deviations in of_each_seed], axis=-1)
    of_images = _variances_of_pairs(middles)
    shares = _share_of_images(of_images, of_seeds_alone)
    for a, b in combinations(range(len(several)), 2):
        value, apart = several[a].value - several[b].value, several[a].values - several[b].values
        share = 1.0 if all_alike(apart) else shares[a, b]
        yield a, b, share * (middles[a] - middles[b]) + (1.0 - share) * value, float(of_images[a, b])


def _share_of_images(of_images: Floats, of_seeds_alone: Floats) -> Floats:
    """(…) how much of the middles' deviations is the images' own, from variances: their (…), and (…, S) of seeds
    about them.
    """
    seeds = of_seeds_alone.shape[-1]
    alone = np.add.accumulate(of_seeds_alone, axis=-1)[..., -1] / (seeds * (seeds - 1))  # in this order everywhere
    lost = np.divide(alone, of_images, out=np.ones_like(alone), where=of_images != 0)
    share: Floats = np.sqrt(np.maximum(0.0, 1.0 - lost))
    return share


def _of_seeds(means: SeedMeans) -> Floats:
    """(R,) deviations of the mean over seeds that are the seeds' share."""
    seeds, resamples = means.resampled.shape
    weights = seed_weights(seeds, resamples)
    # From the first seed: weights sum to nought but for rounding, which equal seeds are not to show.
    values = means.values - means.values[0]
    deviations = np.zeros(resamples)
    for seed in range(1, seeds):
        deviations += weights[seed] * values[seed]
    return deviations


@lru_cache(maxsize=8)
def seed_weights(seeds: int, resamples: int) -> Floats:
    """(S, R): per resample a weight for each seed. They sum to nought, and are alike for all directions.

    The weighted sum of any S values is distributed as Student's t with S − 1 degrees of freedom times the standard
    error of the values' mean: multivariate t, so one draw serves every method and every difference.
    """
    normal = normal_numbers(seeds, 2 * seeds - 1, resamples)
    centred = normal[:seeds] - np.add.reduce(normal[:seeds], axis=0) / seeds
    squared = np.add.reduce(normal[seeds:] * normal[seeds:], axis=0) / (seeds - 1)
    weights: Floats = centred / np.sqrt(squared * (seeds * (seeds - 1)))
    weights.setflags(write=False)
    return weights


def normal_numbers(seed: int, rows: int, number: int) -> Floats:
    """(rows, number) drawn: sums of twelve uniform numbers less six, since logarithms differ between machines."""
    uniform = _uniforms(np.random.PCG64(seed), number * rows * 12).reshape(number, rows, 12)
    normal: Floats = np.add.reduce(uniform.transpose(2, 1, 0).copy(), axis=0) - 6.0
    return normal


def weighted_sums(values: Floats, weights: NDArray[np.generic]) -> Floats:
    """(R,) sums of N values by the (N, R) weights: whole numbers, none below 0."""
    [totals] = _totals(values[None], [weights], int(weights.sum(axis=0).max(initial=0)))
    sums: Floats = totals[0]
    return sums


def _totals(columns: Floats, slices: Iterable[NDArray[np.generic]], largest: int) -> Iterator[Floats]:
    """(M, R) each, from (M, N) values and some (N, R) weights: whole numbers, each R of a sum up to `largest`.

    Each column is rounded to a grid so coarse that no sum of products needs more digits than a number has: sums
    are exact in whatever order, and of whole numbers they are what they were. Of a thousand images the grid is
    2^-43 of the largest value. Whole numbers go in single precision where that holds their sums: twice as fast.
    """
    bounds = np.maximum(np.abs(columns).max(axis=1, initial=0.0) * max(1, largest), np.finfo(np.float64).tiny)
    unit = np.ldexp(1.0, np.frexp(bounds)[1] - _DIGITS[np.float64])[:, None]
    rounded = np.round(columns / unit) * unit
    whole = (bounds < 2.0 ** _DIGITS[np.float32]) & (rounded == np.round(rounded)).all(axis=1)
    kinds = [
        (chosen, rounded[chosen].astype(kind)) for kind, chosen in ((np.float32, whole), (np.float64, ~whole))
    ]
    for weights in slices:
        totals = np.empty((len(columns), weights.shape[1]))
        for chosen, values in kinds:
            if len(values):
                totals[chosen] = _product(values, weights)
        yield totals


def _product(values: NDArray[np.floating], weights: NDArray[np.generic]) -> NDArray[np.floating]:
    """(M, R) of (M, N) and (N, R), in the type of the values; of many weights only some stand in it at once."""
    at_once = max(1, _WEIGHTS_AT_ONCE // max(1, weights.shape[1]))
    products = (
        values[:, start : start + at_once] @ weights[start : start + at_once].astype(values.dtype)
        for start in range(0, max(1, len(weights)), at_once)
    )
    found = next(products)
    for product in products:
        found += product
    return found


def _uniforms(bits: np.random.PCG64, number: int) -> Floats:
    """Uniform on [0, 1): the upper 53 bits of each raw draw. n times that, rounded down, is an index below n, and
    no index is more likely than another by more than 2^-53.
    """
    raw = np.asarray(bits.random_raw(number), dtype=np.uint64)
    uniform: Floats = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


def variances(values: Floats) -> Floats:
    """(…) of the (…, R) values."""
    centred = _centred(values)
    centred *= centred
    found: Floats = sums_in_order(centred) / values.shape[-1]
    return found


def _variances_of_pairs(values: Floats) -> Floats:
    """(M, M) of the difference of each two rows of (M, R) values: V(a) + V(b) − 2 Cov(a, b).

    Each row is taken to as many digits as leave sums of R products exact, whoever adds them up.
    """
    centred = _centred(values)
    digits = (_DIGITS[np.float64] - values.shape[1].bit_length()) // 2
    largest = np.maximum(np.abs(centred).max(axis=1), np.finfo(np.float32).tiny)
    unit = np.ldexp(1.0, np.frexp(largest)[1] - digits)
    whole = np.round(centred / unit[:, None])
    covariances = whole @ whole.T * unit[:, None] * unit
    own = np.diagonal(covariances)
    variances: Floats = np.maximum(0.0, own[:, None] + own - 2.0 * covariances) / values.shape[1]
    return variances


def _centred(values: Floats) -> Floats:
    centred: Floats = values - (sums_in_order(values) / values.shape[-1])[..., None]
    return centred


def sums_in_order(values: Floats) -> Floats:
    """(…) of (…, R) values, in an order that is everywhere the same: every 64th one, then these one by one."""
    whole = values.shape[-1] // 64 * 64
    parts = np.add.reduce(values[..., :whole].reshape(*values.shape[:-1], -1, 64), axis=-2)
    sums: Floats = np.add.accumulate(np.concatenate([parts, values[..., whole:]], axis=-1), axis=-1)[..., -1]
    return sums
