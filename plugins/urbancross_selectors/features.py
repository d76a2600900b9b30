"""Features as the label-free selectors look at them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import RunError

Floats = NDArray[np.float64]

_BLOCK = 1 << 21  # similarities worked on at once: 16 MB of float64
_ROUNDING = 1e-6  # what float32 leaves of a row that equals the mean of its side


def unit(rows: NDArray[np.float32], what: str) -> Floats:
    """(N, D) rows divided by their lengths. Raises RunError, naming `what`, for rows that have no direction."""
    values = rows.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise RunError(f"{what} hold a row of zeros, NaN or infinity; the training has diverged")
    return np.asarray(values / lengths[:, None])


def centred(rows: Floats) -> Floats:
    """(N, D) directions from the mean of the unit rows, which takes off what a whole side has in common.

    A row that equals the mean has no direction and becomes 0: nothing is like it, though of a collapsed encoder
    rounding would leave all rows the same direction.
    """
    moved = rows - rows.mean(axis=0)
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.where(lengths > _ROUNDING, moved / np.maximum(lengths, _ROUNDING), 0.0)


def similarities(queries: Floats, gallery: Floats) -> Iterator[tuple[slice, Floats]]:
    """⟨query, gallery⟩ of some queries at a time, (B, M), and which they are: never the whole matrix."""
    step = max(1, _BLOCK // len(gallery))
    for start in range(0, len(queries), step):
        part = slice(start, min(start + step, len(queries)))
        yield part, queries[part] @ gallery.T
