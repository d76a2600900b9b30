"""Masks of a block against numpy's plainest words for the same, in both layouts and sizes that fill no word."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from urbancross_bench.evaluation.masks import by_number, differing, exceeding, reaching, row_counts
from urbancross_bench.evaluation.screening import BFLOAT16, FLOAT32, FLOAT64, Screen, rounded, values

SHAPES = [(1, 1), (3, 5), (8, 16), (7, 8), (2, 255), (256, 3), (5, 1021), (1021, 5), (600, 600)]


def mask_of(shape: tuple[int, int], share: float, transposed: bool) -> torch.Tensor:
    generator = np.random.default_rng(shape[0] + shape[1])
    mask = torch.from_numpy(generator.random(shape[::-1] if transposed else shape) < share)
    return mask.T if transposed else mask


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("share", [0, 0.01, 0.6, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_counted_and_differences_found(shape: tuple[int, int], share: float, transposed: bool) -> None:
    mask = mask_of(shape, share, transposed)
    assert row_counts(mask).tolist() == mask.sum(dim=1).tolist()
    other = mask_of(shape, share / 2, transposed)
    for right, wanted in ((None, mask), (other, mask != other)):
        row, column = differing(mask, right)
        assert sorted(zip(row, column, strict=True)) == list(map(tuple, wanted.nonzero().tolist()))
        in_memory = row + shape[0] * column if transposed else row * shape[1] + column
        assert (np.diff(in_memory) > 0).all()


@pytest.mark.parametrize("transposed", [False, True])
def test_limits_are_those_of_rows(transposed: bool) -> None:
    scores = torch.randn(40, 60).T if transposed else torch.randn(60, 40)
    limits = scores[:, 7:8].contiguous()
    for compare, wanted in ((exceeding, scores > limits), (reaching, scores >= limits)):
        out = mask_of((60, 40), 0, transposed)
        assert (compare(scores, limits, out) == wanted).all()
        assert (out == wanted).all()


@pytest.mark.parametrize("screen", [BFLOAT16, FLOAT32, FLOAT64])
def test_products_keep_their_order_and_values(screen: Screen) -> None:
    """All finite bfloat16, which the other precisions hold too; both zeros are one."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    numbers = bits.view(torch.bfloat16).double()
    numbers = numbers[numbers.isfinite()]
    found = rounded(screen, numbers)
    assert (values(screen, found) == numbers).all()
    order = numbers.argsort()
    assert ((found[order].diff() > 0) == (numbers[order].diff() > 0)).all()
    assert (found[order].diff() >= 0).all()
    assert (found[numbers == 0] == 0).all()


def test_numbers_are_ordered_and_equal_ones_stay_in_order() -> None:
    numbers = np.random.default_rng(0).integers(0, 1 << 16, 5000) // 900 * 900
    assert (by_number(numbers) == np.lexsort((np.arange(5000), numbers))).all()
    assert by_number(np.array([65535, 0])).tolist() == [1, 0]
