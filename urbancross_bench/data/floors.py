"""The floors and ceilings of a split: from captions and class names to what `evaluation.floors` counts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import numpy as np

from urbancross_bench.data.domain import Split
from urbancross_bench.evaluation.floors import Floors, floors
from urbancross_bench.interfaces.dataset import Indices


def split_floors(split: Split) -> dict[str, Floors]:
    """Tie rule → floors of a split of a domain that is whole (`data.domain.check`)."""
    classes = split.image_class
    return floors(
        split.image_of_caption,
        numbered(split.captions),
        len(split.members),
        None if classes is None else numbered(classes),
    )


def numbered(values: Iterable[Hashable]) -> Indices:
    """An integer for each value, equal for equal ones, in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)
