"""Fast products with proven error bounds: they sort out what is clearly above or below a threshold.

A screen multiplies two blocks of vectors in some precision and says how far its products may lie from the scores
of the definition. For sums of D products in precision u, in any order, with or without fused multiply-add,
|computed − true| ≤ γ·‖x‖‖y‖ with γ = Du / (1 − Du) (Higham 2002, section 3.1, and Cauchy–Schwarz).
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from urbancross_bench.evaluation.masks import by_number
from urbancross_bench.evaluation.threads import for_each
from urbancross_bench.evaluation.vectors import Vectors, all_scores, at_once

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CHUNK = 1 << 16  # elements converted at once
_TRIED_FROM = 1 << 31  # multiplications from which bfloat16 is tried: those of fewer take no longer than the trial
_TINY = 2.0**-126  # what flushing a product to zero may cost, in units of a scaled score


@dataclass(frozen=True)
class Screen:
    """A precision: `dtype` of factors and products, `unit` roundoff of products before they are rounded to it.

    `open`: the share of pairs it may leave open before the next screen is the faster way.
    """

    dtype: torch.dtype
    unit: float
    open: float


# The bfloat16 unit is that of float32 sums, doubled: some processors round them otherwise than to nearest.
BFLOAT16 = Screen(torch.bfloat16, 2.0**-23, 1 / 24)
# Tensor cores add several terms at a time and cut each off where the largest has its last bits (Fasi, Higham,
# Mikaitis and Pranesh 2021, "Numerical behavior of NVIDIA tensor cores"): 2⁻²³ of it for each term and each sum.
FLOAT16 = Screen(torch.float16, 2.0**-22, 1 / 256)
FLOAT32 = Screen(torch.float32, 2.0**-24, 1 / 64)
FLOAT64 = Screen(torch.float64, 2.0**-53, 1 / 16)
DEFINITION = Screen(torch.float64, 0.0, 1.0)  # the scores themselves, for data full of exact ties


class Side:
    """The vectors of one side, to be scaled so that nothing overflows, and the largest of what bounds need.

    `factor` and `score_factor` are powers of two: what vectors and scores are multiplied by.
    """

    def __init__(self, vectors: Vectors, factor: float, score_factor: float) -> None:
        self.vectors, self.factor, self.score_factor = vectors, factor, score_factor
        self.longest = vectors.longest * factor
        self._residuals: dict[torch.dtype, torch.Tensor] = {}
        self.largest_bias = 0.0 if vectors.bias is None else float(abs(vectors.bias).max()) * score_factor

    def residuals(self, dtype: torch.dtype) -> torch.Tensor:
        """(U,) float64, at least the length of what a type of 16 bits cuts off each vector."""
        if dtype not in self._residuals:
            self._residuals[dtype] = self._cut_off(dtype)
        return self._residuals[dtype]

    def largest_residual(self, dtype: torch.dtype) -> float:
        """The largest of them."""
        return float(self.residuals(dtype).max())

    def _cut_off(self, dtype: torch.dtype) -> torch.Tensor:
        step = at_once(_CHUNK, self.vectors.device) // self.vectors.width + 1
        lengths = torch.empty(len(self.vectors), dtype=torch.float64, device=self.vectors.device)

        def measure(start: int) -> None:
            rows = Block(self, start, min(start + step, len(self.vectors))).rows
            cut = rows - rows.to(dtype).float()  # exact: few bits are left
            lengths[start : start + step] = torch.linalg.vector_norm(cut, dim=1, dtype=torch.float64)

        for_each(range(0, len(self.vectors), step), measure, self.vectors.device)
        return lengths * (1 + 1e-3) + _TINY


def scaled(images: Vectors, texts: Vectors) -> tuple[Side, Side]:
    """Both sides, with lengths and biases of at most 1; normalised ones without biases stay as they are."""
    left, right = _exponent(images.longest / (1 + 1e-3)), _exponent(texts.longest / (1 + 1e-3))
    biases = [float(abs(side.bias).max()) for side in (images, texts) if side.bias is not None]
    left += max([0, *(_exponent(bias) - left - right for bias in biases)])
    score = 2.0**-left * 2.0**-right
    return Side(images, 2.0**-left, score), Side(texts, 2.0**-right, score)


def _exponent(value: float) -> int:
    """The least e with value ≤ 2ᵉ; 0 of 0."""
    mantissa, exponent = math.frexp(value)
    return exponent - (mantissa == 0.5)


class Block:
    """Some consecutive vectors of one side, scaled.

    `rows` (B, D) float32, `unscaled` the same before; `bias` (B,) float64, unscaled, or None; `lengths` (B,)
    float64, at least the length of each row.
    """

    def __init__(self, side: Side, start: int, stop: int) -> None:
        place, vectors = slice(start, stop), side.vectors
        self.side, self.start, self.stop = side, start, stop
        self.rows = self.unscaled = vectors.rows(place)
        self.lengths = vectors.lengths(place)
        self.bias: torch.Tensor | None = None
        if side.factor != 1:
            # In float64: float32 may hold neither the factor nor, unscaled, the products.
            self.rows = (self.rows.double() * side.factor).float()
            self.lengths = self.lengths * side.factor
        if vectors.bias is not None:
            self.bias = torch.from_numpy(vectors.bias[place]).to(vectors.device)
        self._factors: dict[torch.dtype, torch.Tensor] = {}
        self._bounds: dict[Screen, torch.Tensor] = {}

    def factors(self, dtype: torch.dtype) -> torch.Tensor:
        """The rows in a precision."""
        if dtype not in self._factors:
            self._factors[dtype] = self.rows.to(dtype)
        return self._factors[dtype]

    def bounds(self, screen: Screen, gallery: Side) -> torch.Tensor:
        """(B,) float64: how far a row's products with any of the other side may be off, before they are rounded.

        The float64 sums of the definition are off too, by less than the slack in here.
        """
        if screen not in self._bounds:
            self._bounds[screen] = _bounds(screen, self, gallery)
        return self._bounds[screen]


def _bounds(screen: Screen, queries: Block, gallery: Side) -> torch.Tensor:
    if screen is DEFINITION:
        return torch.zeros_like(queries.lengths)
    width = queries.rows.shape[1]
    gamma = width * screen.unit / (1 - width * screen.unit)
    bound = 1.001 * (gamma + 2 * width * FLOAT64.unit) * queries.lengths * gallery.longest + width * _TINY
    if screen.dtype in (torch.bfloat16, torch.float16):
        bound = bound + 1.01 * (
            queries.side.residuals(screen.dtype)[queries.start : queries.stop] * gallery.longest
            + queries.lengths * gallery.largest_residual(screen.dtype)
        )
    if queries.bias is not None or gallery.vectors.bias is not None:
        biases = queries.side.largest_bias + gallery.largest_bias
        bound = bound + 5 * screen.unit * (queries.lengths * gallery.longest + biases)
    return bound


def product(
    screen: Screen, images: Block, texts: Block, memory: Callable[[torch.dtype, str], torch.Tensor]
) -> torch.Tensor:
    """(R, C) scaled scores of two blocks as a screen sees them, `ordered`, in vectors that `memory` gives."""
    shape = len(images.rows), len(texts.rows)
    size = shape[0] * shape[1]
    scores = memory(screen.dtype, "scores")[:size].view(shape)
    scale = images.side.score_factor
    if screen is DEFINITION:  # unscaled, since scaling may lose digits of small numbers
        all_scores(images.unscaled, texts.unscaled, scores)
        scale = 1.0
    else:
        torch.mm(images.factors(screen.dtype), texts.factors(screen.dtype).T, out=scores)
    if images.bias is not None:
        scores -= (images.bias * scale).to(screen.dtype)[:, None]
    if texts.bias is not None:
        scores -= (texts.bias * scale).to(screen.dtype)
    if screen is BFLOAT16:
        return _ordered(scores, memory(torch.int16, "signs")[:size].view(shape))
    return scores * images.side.score_factor if screen is DEFINITION and images.side.score_factor != 1 else scores


def _ordered(products: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """bfloat16 as int16 of the same order, in place: the bits without the sign, times the sign.

    Such integers are compared in half the time of float32 numbers; numpy has no bfloat16.
    """
    bits = products.view(torch.int16)
    torch.bitwise_right_shift(bits, 15, out=signs)  # 0 or -1; (x ^ -1) - -1 is -x
    return bits.bitwise_and_(0x7FFF).bitwise_xor_(signs).sub_(signs)


def rounded(screen: Screen, thresholds: torch.Tensor) -> torch.Tensor:
    """Thresholds as a screen's products are rounded and ordered: a product above one comes from a sum above it.

    Rounding is monotone: where round(sum) > round(t), sum > t, and the same for below.
    """
    limits = thresholds.to(screen.dtype)
    return _ordered(limits, torch.empty_like(limits, dtype=torch.int16)) if screen is BFLOAT16 else limits


def values(screen: Screen, products: torch.Tensor) -> torch.Tensor:
    """float64 of products as `product` gives them."""
    if screen is BFLOAT16:
        signs = products >> 15
        products = ((products ^ signs) - signs | signs << 15).view(torch.bfloat16)
    return products.double()


def pair_products(images: Block, texts: Block, row: Ints, column: Ints) -> Floats:
    """(P,) products of pairs of two blocks in float32, as float64; `row` names images, `column` texts."""
    order = by_number(row)
    starts = np.zeros(len(images.rows) + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=len(images.rows)), out=starts[1:])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        pattern = torch.sparse_csr_tensor(
            torch.from_numpy(starts),
            torch.from_numpy(column[order]),
            torch.zeros(len(row), dtype=torch.float32),
            (len(images.rows), len(texts.rows)),
            check_invariants=False,
        )
    # Products at the places of a pattern only, without gathering the rows: a tenth of the time.
    sampled = torch.sparse.sampled_addmm(pattern, images.rows, texts.rows.T, beta=0.0)
    products = np.empty(len(row))
    products[order] = sampled.values().numpy()
    return products


def screens(images: Vectors, texts: Vectors) -> tuple[Screen, ...]:
    """The screens worth using here, the fastest first."""
    biased = images.bias is not None or texts.bias is not None  # taken off after rounding: bounds would not hold
    small = len(images) * len(texts) * images.width < _TRIED_FROM
    if not (biased or small) and images.device.type == "cpu" and _bfloat16_pays(torch.get_num_threads()):
        return BFLOAT16, FLOAT32, FLOAT64, DEFINITION
    return FLOAT32, FLOAT64, DEFINITION


@lru_cache(maxsize=8)
def _bfloat16_pays(threads: int) -> bool:
    """Whether this processor multiplies bfloat16 half again as fast as float32: tried, once a process.

    And whether it sums in float32, as oneDNN promises: 256 ones after a 256 are lost in bfloat16.
    """
    seconds = {}
    for dtype in (torch.bfloat16, torch.float32):
        block = torch.ones((512, 512), dtype=dtype)
        block[0, 0] = 256
        if float((block @ block.T)[0, 1].bfloat16()) != 768:  # 256 + 511, to the nearest bfloat16
            return False
        times = []
        for _ in range(4):
            start = time.perf_counter()
            block @ block.T
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return 1.5 * seconds[torch.bfloat16] < seconds[torch.float32]


@contextmanager
def plain_arithmetic() -> Iterator[None]:
    """Products in the precision they name: no TF32, no bfloat16 for float32, no autocast, no gradients.

    torch keeps precisions for the whole process; of several threads in here the last one out restores them.
    """
    with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        with _inside:
            if not _restore:
                _restore.append(_set_precisions())
            else:
                _restore.append(_restore[-1])
        try:
            yield
        finally:
            with _inside:
                restore = _restore.pop()
                if not _restore:
                    restore()


_inside = Lock()
_restore: list[Callable[[], None]] = []


def _set_precisions() -> Callable[[], None]:
    """Make float32 products float32; what is returned undoes it."""
    kinds: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    before = [kind.fp32_precision for kind in kinds]

    def restore() -> None:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision

    for kind in kinds:
        kind.fp32_precision = "ieee"
    return restore
