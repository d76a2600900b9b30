"""Run lengths against slow encoders, and choices of regions against their definitions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from random import Random

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urbancross_bench.data.masks import CHOOSERS, Region, by_score, chosen, from_counts, region, to_counts
from urbancross_bench.errors import DataError, RunError

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))
masks = SHAPES.flatmap(lambda shape: arrays.arrays(np.bool_, shape))
blocky = st.tuples(masks, st.integers(1, 40)).map(lambda both: np.kron(both[0], np.ones((both[1], 3), dtype=bool)))


def runs_of(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns, the first of what is outside."""
    inside = [bool(mask[row, column]) for column in range(mask.shape[1]) for row in range(mask.shape[0])]
    runs = [(value, len(list(group))) for value, group in groupby(inside)]
    return [0] * runs[0][0] + [length for _, length in runs]


def written(runs: list[int]) -> str:
    """COCO's text: each run less the one before the last of its kind, in as few groups of five bits as hold it."""
    text = ""
    for place, run in enumerate(runs):
        value = run - runs[place - 2] if place > 2 else run
        groups = next(n for n in range(1, 13) if -(2 ** (5 * n - 1)) <= value < 2 ** (5 * n - 1))
        digits = [(value >> (5 * n)) % 32 + 32 * (n < groups - 1) for n in range(groups)]
        text += "".join(chr(48 + digit) for digit in digits)
    return text


@given(st.one_of(masks, blocky))
def test_masks_are_written_as_coco_does_and_read_back(mask: np.ndarray) -> None:
    counts = to_counts(mask)
    assert counts == written(runs_of(mask))
    assert (from_counts(counts, *mask.shape) == mask).all()


def test_pycocotools_writes_the_same() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    generator = np.random.default_rng(0)
    for share in (0, 0.01, 0.3, 0.99, 1):
        mask = np.kron(generator.random((9, 7)) < share, np.ones((31, 5), dtype=bool))
        assert coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode() == to_counts(mask)


@given(masks, st.text(alphabet=[chr(code) for code in range(40, 120)], max_size=12))
def test_no_text_is_read_as_a_mask_of_another_size(mask: np.ndarray, text: str) -> None:
    height, width = mask.shape
    for counts in (to_counts(mask)[:-1], to_counts(mask) + "P", ""):
        with pytest.raises(DataError, match="run lengths"):
            from_counts(counts, height, width)
    with pytest.raises(DataError, match="are not those of"):
        from_counts(to_counts(mask), height, width + 1)
    try:
        found = from_counts(text, height, width)
    except DataError:
        return
    assert found.shape == (height, width)


def regions_of(seed: int, count: int = 12) -> list[Region]:
    """Overlapping boxes in 16×16 pixels, some of them twice with other qualities, some of equal area."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        top, left, height, width = generator.integers([0, 0, 1, 1], [12, 12, 5, 5]).tolist()
        mask = np.zeros((16, 16), dtype=bool)
        mask[top : top + height, left : left + width] = True
        for _ in range(int(generator.integers(1, 3))):
            found.append(region(mask, quality=float(generator.integers(0, 4)) / 4, stability=0.5))
    return found


@settings(max_examples=60)
@given(st.integers(0, 2**16), st.sampled_from(["area", "quality", "diversity"]), st.integers(1, 6))
def test_choices_know_no_order(seed: int, chooser: str, count: int) -> None:
    regions = regions_of(seed)
    taken = chosen(regions, (16, 16), CHOOSERS[chooser], count, 0)
    shuffled = Random(seed).sample(regions, len(regions))
    again = chosen(shuffled, (16, 16), CHOOSERS[chooser], count, 0)
    assert [one.as_json() for one in again] == [one.as_json() for one in taken]
    assert len(taken) == min(count, len({one.counts for one in regions}))
    assert len({one.counts for one in taken}) == len(taken)
    best = {one.counts: max(o.quality or 0 for o in regions if o.counts == one.counts) for one in regions}
    assert all(one.quality == best[one.counts] for one in taken)
    order = [(-one.area, one.box, one.counts) for one in taken]
    assert order == sorted(order)


@settings(max_examples=40)
@given(st.integers(0, 2**16), st.integers(1, 6))
def test_choices_are_what_they_are_called(seed: int, count: int) -> None:
    regions = regions_of(seed)
    best = {one.counts: max(o.quality or 0 for o in regions if o.counts == one.counts) for one in regions}
    pixels = {one.counts: from_counts(one.counts, 16, 16) for one in regions}
    areas = {counts: int(mask.sum()) for counts, mask in pixels.items()}
    boxes = {one.counts: one.box for one in regions}
    by_content = sorted(pixels, key=lambda counts: (-areas[counts], boxes[counts], counts))
    assert [one.counts for one in chosen(regions, (16, 16), CHOOSERS["area"], count, 0)] == by_content[:count]
    by_quality = sorted(by_content, key=lambda counts: -best[counts])[:count]
    assert {one.counts for one in chosen(regions, (16, 16), CHOOSERS["quality"], count, 0)} == {*by_quality}
    covered, greedy, left = np.zeros((16, 16), dtype=bool), set(), list(by_content)
    for _ in range(min(count, len(left))):
        counts = max(left, key=lambda c: int((pixels[c] & ~covered).sum()))
        left.remove(counts)
        greedy.add(counts)
        covered |= pixels[counts]
    assert {one.counts for one in chosen(regions, (16, 16), CHOOSERS["diversity"], count, 0)} == greedy


def test_diversity_takes_what_adds_most() -> None:
    size = (4, 8)
    large, within, other = (np.zeros(size, dtype=bool) for _ in range(3))
    large[:, :5], within[:, :4], other[2:, 6:] = True, True, True
    regions = [region(mask, quality=0.5) for mask in (within, other, large)]
    assert [one.area for one in chosen(regions, size, CHOOSERS["diversity"], 2, 0)] == [20, 4]
    assert [one.area for one in chosen(regions, size, CHOOSERS["area"], 2, 0)] == [20, 16]


def test_small_masks_are_left_out_by_pixels_or_by_share() -> None:
    regions = regions_of(3)
    areas = {one.counts: one.area for one in regions}
    for least, pixels in ((4, 4), (8 / 256, 8), (0, 0), (1, 1), (0.999, 256)):
        taken = chosen(regions, (16, 16), CHOOSERS["area"], 99, least)
        assert sorted(one.area for one in taken) == sorted(area for area in areas.values() if area >= pixels)
    assert {4, 8} <= {*areas.values()}


def test_quality_must_be_known_to_be_chosen_by() -> None:
    silent = region(np.ones((2, 3), dtype=bool))
    with pytest.raises(RunError, match="another --chooser"):
        chosen([silent], (2, 3), CHOOSERS["quality"], 1, 0)
    assert silent.as_json() == {
        "area": 6,
        "box": [0, 0, 3, 2],
        "counts": "06",
        "quality": None,
        "stability": None,
    }


def test_the_highest_scores_win_and_content_breaks_ties() -> None:
    regions, asked = regions_of(5), list[int]()

    def by_width(some: Sequence[Region]) -> np.ndarray:
        asked.append(len(some))
        return np.array([float(one.box[2]) for one in some])

    different = {one.counts: one for one in regions}
    order = sorted(different.values(), key=lambda one: (-one.box[2], -one.area, one.box, one.counts))
    for count in range(1, len(order)):
        taken = chosen(regions, (16, 16), by_score(by_width), count, 0)
        assert {one.counts for one in taken} == {one.counts for one in order[:count]}
    assert len({one.box[2] for one in order}) < len(order)  # there were ties
    asked.clear()
    assert len(chosen(regions, (16, 16), by_score(by_width), len(order), 0)) == len(order)
    assert not asked  # nothing had to be left out
    large = max(one.area for one in order)
    chosen(regions, (16, 16), by_score(by_width), 1, 4)
    assert large >= 4
    assert asked == [sum(one.area >= 4 for one in order)]
