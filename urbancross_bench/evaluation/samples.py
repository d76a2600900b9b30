"""A few of many rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def evenly_spaced(count: int, most: int) -> NDArray[np.int64]:
    """Up to `most` of `count` rows, each once, from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))
