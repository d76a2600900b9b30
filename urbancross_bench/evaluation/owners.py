"""Checks of what a caller says of rows: which image each text belongs to, and other integers, one a row."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]


def owners(image_of_text: ArrayLike, images: int, texts: int) -> Ints:
    """(M,) int64 in [0, images), of M texts. Raises ValueError for others, and for an image without a text."""
    owner = integers("image_of_text", image_of_text, texts)
    if not texts:
        raise ValueError("image_of_text must hold at least one text")
    if owner.min() < 0 or owner.max() >= images:
        raise ValueError(f"image_of_text must lie in [0, {images}), got {owner.min()} to {owner.max()}")
    missing = np.flatnonzero(np.bincount(owner, minlength=images) == 0)
    if len(missing):
        raise ValueError(f"{len(missing)} images have no text, the first is image {missing[0]}")
    return owner


def integers(name: str, values: ArrayLike, count: int) -> Ints:
    """(count,) int64, from numpy, torch or a sequence. Raises ValueError, which calls them `name`."""
    if hasattr(values, "detach"):  # a torch tensor, without importing torch
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold one integer each for {count} rows, got {array.dtype} {array.shape}")
    return array.astype(np.int64)
