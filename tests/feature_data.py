"""Stored features to test with: random tables in every format, and a bundle of prompts with classes in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

CLASSES = ["lake", "playing field", "port", "road"]
TEMPLATES = [
    *(f"{{}} from above, view {number}" for number in range(6)),
    *(f"a_photo_of_{word}" for word in ("the", "a", "one", "some", "that", "this")),
]


def table(count: int, dtype: str = "float32") -> tuple[list[str], np.ndarray]:
    """Names and (count, 4) features of either sign."""
    rows = np.random.default_rng(count).normal(size=(count, 4)).astype(dtype)
    return [f"image {index}" for index in range(count)], rows


def save_npz(path: Path, names: Sequence[str], rows: np.ndarray) -> Path:
    file = path.with_suffix(".npz")
    np.savez(file, names=np.array(names), features=rows)
    return file


def save_safetensors(path: Path, names: Sequence[str], rows: np.ndarray) -> Path:
    file = path.with_suffix(".safetensors")
    save_file({"features": np.ascontiguousarray(rows)}, file, metadata={"names": json.dumps(list(names))})
    return file


def save_parquet(list_of: Callable[[pa.DataType, int], pa.DataType]) -> Callable[..., Path]:
    def save(path: Path, names: Sequence[str], rows: np.ndarray) -> Path:
        file = path.with_suffix(".parquet")
        kind = list_of(pa.from_numpy_dtype(rows.dtype), rows.shape[1])
        columns = {"name": pa.array(names), "features": pa.array(list(rows), type=kind)}
        pq.write_table(pa.table(columns), file, row_group_size=4)  # several groups, hence several chunks
        return file

    return save


FORMATS: dict[str, Callable[..., Path]] = {
    "npz": save_npz,
    "safetensors": save_safetensors,
    "lists": save_parquet(lambda value, _: pa.list_(value)),
    "large lists": save_parquet(lambda value, _: pa.large_list(value)),
    "fixed lists": save_parquet(lambda value, width: pa.list_(value, width)),
}


def bundle_arrays(seed: int = 0) -> dict[str, Any]:
    """80 images of four classes that lie near their classes' prompts, 12 prompts a class, 12 dimensions."""
    random = np.random.default_rng(seed)
    centres = np.linalg.qr(random.normal(size=(12, 12)))[0][: len(CLASSES)]
    labels = np.arange(80) % len(CLASSES)
    image = centres[labels] + 0.1 * random.normal(size=(80, 12))
    text = centres[None] + 0.1 * random.normal(size=(len(TEMPLATES), len(CLASSES), 12))
    return {
        "image": image.astype(np.float16),
        "text": text.astype(np.float16),
        "labels": labels.astype(np.int16),
        "templates": np.array(TEMPLATES),
        "classnames": np.array(CLASSES),
    }


def write_bundle(file: Path, seed: int = 0) -> Path:
    np.savez(file, **bundle_arrays(seed))
    return file
