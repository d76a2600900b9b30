"""Triton kernels: counting while multiplying on tensor cores, and the definition of the score for chosen pairs.

Imported on CUDA alone, or under TRITON_INTERPRET=1, which runs them on the processor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

ROWS, COLUMNS, DEPTH = 128, 128, 32  # of a tile, and how much of the width is multiplied at a time
BITS = 32  # of a word
_GROUP = 16  # rows of tiles that are worked on together, so that their columns stay in the L2 cache
_WARPS, _STAGES = 4, 4
_PAIRS = 128  # of one program


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
    open_words,
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

    infinity = float("inf")
    apart_x = scores - tl.load(centre_x + row, mask=is_row, other=infinity)[:, None]
    apart_y = scores - tl.load(centre_y + column, mask=is_column, other=infinity)[None, :]
    near_x = tl.load(radius_x + row, mask=is_row, other=0.0)[:, None]
    near_y = tl.load(radius_y + column, mask=is_column, other=0.0)[None, :]
    open = (tl.abs(apart_x) <= near_x) | (tl.abs(apart_y) <= near_y)
    words = tl.reshape(open, (rows, columns // bits, bits))
    words = tl.sum(tl.where(words, (1 << tl.arange(0, bits))[None, None, :], 0), 2)
    word = tl.arange(0, columns // bits) + j * (columns // bits)
    place = row.to(tl.int64)[:, None] * (tiles_across * (columns // bits)) + word[None, :]
    tl.store(open_words + place, words, mask=is_row[:, None])

    weight = tl.load(weight_y + column, mask=is_column, other=0)[None, :]
    above = tl.sum(tl.where((apart_x > 0) & ~open, weight, 0), 1)
    tl.atomic_add(above_x + row, above, mask=is_row, sem="relaxed")
    if best:
        most = tl.max(tl.where(weight > 0, scores, -infinity), 1)
        tl.store(best_x + row.to(tl.int64) * tiles_across + j, most, mask=is_row)
    weight = tl.load(weight_x + row, mask=is_row, other=0)[:, None]
    above = tl.sum(tl.where((apart_y > 0) & ~open, weight, 0), 0)
    tl.atomic_add(above_y + column, above, mask=is_column, sem="relaxed")
    if best:
        most = tl.max(tl.where(weight > 0, scores, -infinity), 0)
        tl.store(best_y + column.to(tl.int64) * tiles_down + i, most, mask=is_column)


@triton.jit  # type: ignore[untyped-decorator]
def _pairs(x, y, row, column, out, count, width: tl.constexpr, pairs: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64) * pairs + tl.arange(0, pairs)
    there = place < count
    left = x + tl.load(row + place, mask=there, other=0) * width
    right = y + tl.load(column + place, mask=there, other=0) * width
    total = tl.zeros((pairs,), dtype=tl.float64)
    for _ in range(width):
        # Exact in float64: whether the sum is fused with it makes no difference.
        total += tl.load(left, mask=there, other=0.0).to(tl.float64) * tl.load(right, mask=there, other=0.0).to(
            tl.float64
        )
        left += 1
        right += 1
    tl.store(out + place, total, mask=there)


Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Multiplied:
    """What a launch found.

    `open`: a bit for each of (rows, columns), in (rows, words) int32. `best`: each tile's best product of rows and
    of columns, (rows, tiles) and (columns, tiles) float32, or None.
    """

    open: torch.Tensor
    best: tuple[torch.Tensor, torch.Tensor] | None


def multiply(x: Operands, y: Operands, best: bool) -> Multiplied:
    """Multiply n rows with m columns, and look at each product from both sides.

    x, y: float16 factors (n, D) and (m, D), D a multiple of DEPTH; float32 centre and radius; int32 weights; and
    int32 counters. A pair is open that lies within the radius of either side. To the counters are added the
    weights of what of the other side lies above the centre and is not open. Bits beyond the columns mean nothing.
    """
    n, m = len(x[0]), len(y[0])
    down, across = triton.cdiv(n, ROWS), triton.cdiv(m, COLUMNS)
    device = x[0].device
    words = torch.empty((n, across * (COLUMNS // BITS)), dtype=torch.int32, device=device)
    tiles = (torch.empty((n, across), device=device), torch.empty((m, down), device=device)) if best else None
    _tile[(down * across,)](
        *(x[0], y[0]),
        *(x[1], x[2], y[1], y[2]),
        *(x[3], y[3], x[4], y[4]),
        words,
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
    return Multiplied(words, tiles)


def pair_scores(x: torch.Tensor, y: torch.Tensor, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """(P,) float64 scores by the definition of pairs of float32 rows, x (n, D) and y (m, D), named by int64."""
    out = torch.empty(len(row), dtype=torch.float64, device=x.device)
    if len(row):
        grid = (triton.cdiv(len(row), _PAIRS),)
        _pairs[grid](x, y, row, column, out, len(row), width=x.shape[1], pairs=_PAIRS)
    return out
