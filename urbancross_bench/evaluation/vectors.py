"""The vectors of one side as scores are defined on them, and that definition.

A vector is its row as float32. With `normalize` it is first divided by its length and rounded to float32 once
more. The score of two vectors is the sum of their products in float64, taken in the order of the dimensions.
The product of two float32 is exact in float64, so fused multiply-add gives the same bits as two steps: numpy,
torch on any processor and a loop in Python agree on every score. Lengths are taken by the same rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from urbancross_bench.evaluation.compiling import kernels_work
from urbancross_bench.evaluation.threads import for_each

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CHUNK = 1 << 16  # elements of a matrix worked on at once: half a megabyte of float64, which a cache holds
_BIASES = 1e-120, 1e120
_PAIRS = 1 << 17  # elements of the rows of pairs that are looked up at once: they stay in the cache
_MIXER = -7046029254386353131  # 2⁶⁴ / golden ratio, as int64
_LONGER = 1 + 1e-6  # a computed length is at least the true one after this


def at_once(elements: int, device: torch.device) -> int:
    """How many elements to work on at once where a processor's cache holds so many: a card wants many more."""
    return elements if device.type == "cpu" else elements << 9


def sequential_scores(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(B,) float64 scores of B pairs of float32 rows (B, D), by the definition."""
    if left.is_cuda and kernels_work(left.device):
        from urbancross_bench.evaluation.kernels import pair_scores as by_kernel

        each = torch.arange(len(left), device=left.device)
        return by_kernel(left.contiguous(), right.contiguous(), each, each)
    if left.is_cuda:
        sums = torch.zeros(len(left), dtype=torch.float64, device=left.device)
        for a, b in zip(left.T.contiguous(), right.T.contiguous(), strict=True):
            sums.addcmul_(a.double(), b.double())
        return sums
    x, y = left.numpy(), right.numpy()
    total = torch.empty(len(left), dtype=torch.float64)
    step = max(1, _CHUNK // left.shape[1])
    products = np.empty((min(step, len(left)), left.shape[1]))
    for start in range(0, len(left), step):
        part = products[: len(left) - start]
        np.multiply(x[start : start + step], y[start : start + step], out=part, dtype=np.float64)
        # Running sums, unlike a reduction, are taken in order; numpy's take four times as long.
        total[start : start + step] = torch.from_numpy(part).cumsum(dim=1)[:, -1]
    return total


def all_scores(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """(R, C) float64 scores of all pairs of float32 rows (R, D) and (C, D), by the definition, put into `out`.

    Per pair a tenth of the time of `sequential_scores`, and ten times that of a matrix product.
    """
    out.zero_()
    for x, y in zip(left.T.double().contiguous(), right.T.double().contiguous(), strict=True):
        out.addcmul_(x[:, None], y[None])
    return out


class Vectors:
    """The different vectors of one side, each once, and the items that they stand for.

    `first` (U,) int64 is the first row of each different vector, in order; rows are equal if their vectors and
    biases are. Items are the rows, or what `standing_for` says: `vector_of_item` (I,) int64 names the vector of
    each, `weights` (U,) int64 counts the items of each vector. `width` is D, `longest` the greatest length, `bias`
    (U,) float64 or None.

    A normalised copy is kept in memory, of a memory-mapped array none: its rows are read again when needed.
    """

    def __init__(self, name: str, values: Any, normalize: bool, bias: Any = None, where: Any = None) -> None:
        """name: what errors call the matrix. where: the device to work on, of the tensor by default.

        Raises ValueError for anything but a non-empty matrix of finite numbers (and with `normalize` of rows that
        have a direction).
        """
        self.side = name
        self._source, self.device = _source(name, values, where)
        self._rows, self.width = (int(n) for n in self._source.shape)
        self._normalize = normalize
        self._lengths = torch.ones(0, dtype=torch.float64)
        self._copy: torch.Tensor | None = None
        biases = None if bias is None else _biases(name, bias, self._rows)
        self.first, self.vector_of_item = self._read(biases)
        self.weights: Ints = np.bincount(self.vector_of_item, minlength=len(self.first))
        self.bias = None if biases is None else biases[self.first]
        self.longest = 1.0 if normalize else float(self._lengths.max()) * _LONGER

    def __len__(self) -> int:
        return len(self.first)

    @property
    def items(self) -> int:
        """How many items there are."""
        return len(self.vector_of_item)

    def standing_for(self, rows: Ints) -> Vectors:
        """The vectors of these rows, which become the items; a row may be named several times."""
        if np.array_equal(rows, np.arange(self.items)):
            return self
        chosen = copy(self)
        used, chosen.vector_of_item = np.unique(self.vector_of_item[rows], return_inverse=True)
        chosen.first, chosen.weights = self.first[used], np.bincount(chosen.vector_of_item)
        chosen.bias = None if self.bias is None else self.bias[used]
        return chosen

    def rows(self, vectors: slice | Ints) -> torch.Tensor:
        """(B, D) float32 of some different vectors."""
        if len(self.first) == self._rows:
            return self._prepared(vectors)
        return self._prepared(self.first[vectors])

    def lengths(self, vectors: slice) -> torch.Tensor:
        """(B,) float64, at least the length of each vector."""
        if self._normalize:
            return torch.full((len(self.first[vectors]),), _LONGER, dtype=torch.float64, device=self.device)
        return self._lengths[torch.from_numpy(self.first[vectors]).to(self.device)] * _LONGER

    def _prepared(self, which: slice | Ints) -> torch.Tensor:
        if self._copy is not None:
            return self._copy[which if isinstance(which, slice) else torch.from_numpy(which).to(self.device)]
        rows = self._raw(which)
        if not self._normalize:
            return rows
        place = which if isinstance(which, slice) else torch.from_numpy(which).to(self.device)
        return _divided(rows, self._lengths[place])

    def _raw(self, which: slice | Ints) -> torch.Tensor:
        if isinstance(self._source, torch.Tensor):
            part = self._source[which if isinstance(which, slice) else torch.from_numpy(which).to(self.device)]
            return part.detach().to(self.device, torch.float32).contiguous()
        with np.errstate(over="ignore"):  # what float32 cannot hold is named by `_check`
            copied = np.array(self._source[which], dtype=np.float32, order="C")
        return torch.from_numpy(copied).to(self.device)

    def _read(self, biases: NDArray[np.float64] | None) -> tuple[Ints, Ints]:
        """One pass over all rows: check them, measure them, and find the equal ones."""
        lengths = torch.empty(self._rows, dtype=torch.float64, device=self.device)
        digests = torch.empty(self._rows, dtype=torch.int64, device=self.device)
        if self._normalize and not isinstance(self._source, np.memmap):
            self._copy = torch.empty((self._rows, self.width), dtype=torch.float32, device=self.device)

        def read(part: slice) -> None:
            rows = self._raw(part)
            lengths[part] = sequential_scores(rows, rows).sqrt()
            self._check(part, lengths[part])
            if self._normalize:
                rows = _divided(rows, lengths[part])
            if self._copy is not None:
                self._copy[part] = rows
            digests[part] = _digests(rows)

        for_each(self._chunks(), read, self.device)
        self._lengths = lengths
        if digests.is_cuda and biases is None and len(torch.unique(digests)) == self._rows:  # sooner said there
            return np.arange(self._rows), np.arange(self._rows)
        return self._merged(digests.cpu().numpy(), biases)

    def _chunks(self) -> Iterator[slice]:
        step = max(1, at_once(_CHUNK, self.device) // self.width)
        return (slice(start, min(start + step, self._rows)) for start in range(0, self._rows, step))

    def _check(self, part: slice, length: torch.Tensor) -> None:
        bad = ~torch.isfinite(length)  # float64 holds the squares of any float32
        if bad.any():
            row = part.start + int(bad.nonzero()[0])
            raise ValueError(f"{self.side}: row {row} holds NaN or infinity (as float32)")
        if self._normalize and not length.all():
            row = part.start + int((length == 0).nonzero()[0])
            raise ValueError(f"{self.side}: row {row} is zero (as float32) and has no direction")

    def _merged(self, digests: Ints, biases: NDArray[np.float64] | None) -> tuple[Ints, Ints]:
        if biases is not None:
            digests = digests * 31 + (biases + 0.0).view(np.int64)
        _, first, group = np.unique(digests, return_index=True, return_inverse=True)
        candidate = first[group.reshape(-1)]
        candidate[self._differs(candidate, biases)] = -1
        alone = candidate < 0  # equal digests of different rows: such a row is not merged with any
        candidate[alone] = np.flatnonzero(alone)
        firsts, vector_of_item = np.unique(candidate, return_inverse=True)
        return firsts.astype(np.int64), vector_of_item.reshape(-1).astype(np.int64)

    def _differs(self, candidate: Ints, biases: NDArray[np.float64] | None) -> Ints:
        """The rows that are not what their digest promises."""
        found = [np.empty(0, dtype=np.int64)]
        moved = np.flatnonzero(candidate != np.arange(self._rows))
        step = max(1, at_once(_CHUNK, self.device) // self.width)
        for start in range(0, len(moved), step):
            these = moved[start : start + step]
            same = (self._prepared(these) == self._prepared(candidate[these])).all(dim=1).cpu().numpy()
            if biases is not None:
                same &= biases[these] == biases[candidate[these]]
            found.append(these[~same])
        return np.concatenate(found)


def pair_scores(images: Vectors, texts: Vectors, image: Ints, text: Ints) -> Floats:
    """(P,) float64 scores of pairs of vectors by the definition, less the biases: of the image, then the text."""
    scores = np.empty(len(image))
    step = max(1, at_once(_PAIRS, images.device) // images.width)

    def score(start: int) -> None:
        part = slice(start, start + step)
        scores[part] = sequential_scores(images.rows(image[part]), texts.rows(text[part])).cpu().numpy()

    for_each(range(0, len(image), step), score, images.device)
    if images.bias is not None:
        scores -= images.bias[image]
    if texts.bias is not None:
        scores -= texts.bias[text]
    return scores


def _source(name: str, values: Any, where: Any) -> tuple[Any, torch.device]:
    if not isinstance(values, torch.Tensor) and not isinstance(values, np.ndarray):
        values = np.asarray(values)
    shape = tuple(values.shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"{name} must be a non-empty matrix, got shape {shape}")
    _expect_real(name, values)
    if type(values) is np.ndarray and values.dtype == np.float32 and values.flags.carray:
        values = torch.from_numpy(values)  # whose slices need no copy
    own = values.device if isinstance(values, torch.Tensor) else torch.device("cpu")
    try:
        return values, own if where is None else torch.device(where)
    except RuntimeError as error:
        raise ValueError(f"there is no device {where!r}: {error}") from error


def _expect_real(name: str, values: Any) -> None:
    real = not values.is_complex() if isinstance(values, torch.Tensor) else values.dtype.kind in "fiub"
    if not real:
        raise ValueError(f"{name} must hold real numbers, got {values.dtype}")


def _biases(name: str, bias: Any, count: int) -> NDArray[np.float64]:
    given = bias if isinstance(bias, torch.Tensor) else np.asarray(bias)
    _expect_real(f"the bias of {name}", given)
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu().double().numpy()
    values = np.ascontiguousarray(given, dtype=np.float64)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise ValueError(f"the bias of {name} must be one finite number per row ({count}), got {values.shape}")
    size = abs(values[values != 0])
    if size.size and not (size.min() >= _BIASES[0] and size.max() <= _BIASES[1]):
        # Beyond, scaling scores to float32's range would cost digits.
        raise ValueError(f"the bias of {name} must be 0 or from {_BIASES[0]:g} to {_BIASES[1]:g}, either sign")
    return values


def _divided(rows: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    return (rows.double() / length[:, None]).float()


def _digests(rows: torch.Tensor) -> torch.Tensor:
    """(B,) int64, equal for equal rows: the bits of each row, mixed, times odd constants, summed modulo 2⁶⁴.

    Unmixed, rows of few different values would collide: the highest bit times any odd constant is itself.
    """
    rows = rows + 0.0  # -0.0 becomes 0.0
    if rows.shape[1] % 2:
        rows = torch.nn.functional.pad(rows, (0, 1))
    bits = rows.view(torch.int64) * _MIXER
    bits ^= (bits >> 32) & 0xFFFFFFFF
    return (bits * _odd(bits.shape[1]).to(rows.device)).sum(dim=1)


@lru_cache(maxsize=2)
def _odd(count: int) -> torch.Tensor:
    draws = np.random.PCG64(0).random_raw(count) | np.uint64(1)
    return torch.from_numpy(draws.view(np.int64))
