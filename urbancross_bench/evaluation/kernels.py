"""Triton kernels: counting while multiplying on tensor cores, and the definition of the score for chosen pairs.

Imported on CUDA alone, or under TRITON_INTERPRET=1, which runs them on the processor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

ROWS, COLUMNS, DEPTH = 128, 128, 64  # of a tile, and how much of the width is multiplied at a time
BITS = 32  # of a word
_GROUP = 16  # rows of tiles that are worked on together, so that their columns stay in the L2 cache
_WARPS, _STAGES = 4, 3
_PAIRS = 128  # of one program


@triton.jit  # type: ignore[untyped-decorator]
def _bits(places, rows: tl.constexpr, columns: tl.constexpr, bits: tl.constexpr):  # type: ignore[no-untyped-def]
    """(rows, columns / bits) int32 of a bool (rows, columns)."""
    words = tl.reshape(places, (rows, columns // bits, bits))
    return tl.sum(tl.where(words, (1 << tl.arange(0, bits))[None, None, :], 0), 2)


@triton.jit  # type: ignore[untyped-decorator]
def _tile(  # type: ignore[no-untyped-def]
    x,
    y,
    centre_x,
    radius_x,
    centre_y,
    radius_y,
    weight_x,
    weight_y,
    above_x,
    above_y,
    open_x,
    open_y,
    best_x,
    best_y,
    n,
    m,
    width: tl.constexpr,
    best: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    step: tl.constexpr,
    bits: tl.constexpr,
    group: tl.constexpr,
):
    tiles_down, tiles_across = tl.cdiv(n, rows), tl.cdiv(m, columns)
    number, in_group = tl.program_id(0), group * tiles_across
    first = number // in_group * group
    down = min(tiles_down - first, group)
    i, j = first + number % in_group % down, number % in_group // down
    row, column = i * rows + tl.arange(0, rows), j * columns + tl.arange(0, columns)
    is_row, is_column, depth = row < n, column < m, tl.arange(0, step)
    # Beyond the end other rows are read, and counted nowhere.
    left = x + (row % n).to(tl.int64)[:, None] * width + depth[None, :]
    right = y + (column % m).to(tl.int64)[None, :] * width + depth[:, None]
    scores = tl.zeros((rows, columns), dtype=tl.float32)
    for _ in range(0, width, step):
        scores = tl.dot(tl.load(left), tl.load(right), scores)
        left += step
        right += step

    word = tl.arange(0, columns // bits) + j * (columns // bits)
    words = row.to(tl.int64)[:, None] * (tiles_across * (columns // bits)) + word[None, :]
    infinity = float("inf")
    apart = scores - tl.load(centre_x + row, mask=is_row, other=infinity)[:, None]
    radius = tl.load(radius_x + row, mask=is_row, other=0.0)[:, None]
    weight = tl.load(weight_y + column, mask=is_column, other=0)[None, :]
    tl.atomic_add(above_x + row, tl.sum(tl.where(apart > radius, weight, 0), 1), mask=is_row, sem="relaxed")
    tl.store(open_x + words, _bits(tl.abs(apart) <= radius, rows, columns, bits), mask=is_row[:, None])
    if best:
        most = tl.max(tl.where(weight > 0, scores, -infinity), 1)
        tl.store(best_x + row.to(tl.int64) * tiles_across + j, most, mask=is_row)

    apart = scores - tl.load(centre_y + column, mask=is_column, other=infinity)[None, :]
    radius = tl.load(radius_y + column, mask=is_column, other=0.0)[None, :]
    weight = tl.load(weight_x + row, mask=is_row, other=0)[:, None]
    tl.atomic_add(above_y + column, tl.sum(tl.where(apart > radius, weight, 0), 0), mask=is_column, sem="relaxed")
    tl.store(open_y + words, _bits(tl.abs(apart) <= radius, rows, columns, bits), mask=is_row[:, None])
    if best:
        most = tl.max(tl.where(weight > 0, scores, -infinity), 0)
        tl.store(best_y + column.to(tl.int64) * tiles_down + i, most, mask=is_column)


@triton.jit  # type: ignore[untyped-decorator]
def _pairs(x, y, row, column, out, count, width: tl.constexpr, pairs: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64) * pairs + tl.arange(0, pairs)
    there = place < count
    # Four at a time, which is one access to memory.
    left = (x + tl.load(row + place, mask=there, other=0) * width)[:, None] + tl.arange(0, 4)[None, :]
    right = (y + tl.load(column + place, mask=there, other=0) * width)[:, None] + tl.arange(0, 4)[None, :]
    total = tl.zeros((pairs,), dtype=tl.float64)
    for start in range(0, width, 4):
        inside = there[:, None] & (start + tl.arange(0, 4) < width)[None, :]
        # Exact in float64: whether the sum is fused with it makes no difference.
        products = tl.load(left + start, mask=inside, other=0.0).to(tl.float64)
        products *= tl.load(right + start, mask=inside, other=0.0).to(tl.float64)
        even, odd = tl.split(tl.reshape(products, (pairs, 2, 2)))
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
        total = (((total + first) + second) + third) + fourth
    tl.store(out + place, total, mask=there)


Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Multiplied:
    """What a launch found, of rows and of columns.

    `open`: a bit for each of (rows, columns), in (rows, words) int32. `best`: each tile's best product, (rows,
    tiles) and (columns, tiles) float32, or None.
    """

    open: tuple[torch.Tensor, torch.Tensor]
    best: tuple[torch.Tensor, torch.Tensor] | None


def multiply(x: Operands, y: Operands, best: bool) -> Multiplied:
    """Multiply n rows with m columns, and look at each product from both sides.

    x, y: float16 factors (n, D) and (m, D), D a multiple of DEPTH; float32 centre and radius of what is open;
    int32 weights; and int32 counters, to which the weights are added of what of the other side lies above that.
    Bits beyond the columns mean nothing.
    """
    n, m = len(x[0]), len(y[0])
    down, across = triton.cdiv(n, ROWS), triton.cdiv(m, COLUMNS)
    device = x[0].device
    words = torch.empty((2, n, across * (COLUMNS // BITS)), dtype=torch.int32, device=device)
    tiles = (torch.empty((n, across), device=device), torch.empty((m, down), device=device)) if best else None
    _tile[(down * across,)](
        *(x[0], y[0]),
        *(x[1], x[2], y[1], y[2]),
        *(x[3], y[3], x[4], y[4]),
        *(words[0], words[1]),
        *(tiles or (x[1], y[1])),
        *(n, m),
        width=x[0].shape[1],
        best=best,
        rows=ROWS,
        columns=COLUMNS,
        step=DEPTH,
        bits=BITS,
        group=_GROUP,
        num_warps=_WARPS,
        num_stages=_STAGES,
    )
    return Multiplied((words[0], words[1]), tiles)


def pair_scores(x: torch.Tensor, y: torch.Tensor, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """(P,) float64 scores by the definition of pairs of float32 rows, x (n, D) and y (m, D), named by int64."""
    out = torch.empty(len(row), dtype=torch.float64, device=x.device)
    if len(row):
        grid = (triton.cdiv(len(row), _PAIRS),)
        _pairs[grid](x, y, row, column, out, len(row), width=x.shape[1], pairs=_PAIRS)
    return out
