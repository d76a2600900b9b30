"""Packing: each image of a split is decoded once, resized once, and kept as uint8."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from urbancross_bench.data.domain import Split
from urbancross_bench.interfaces.encoder import ImageFormat


@dataclass(frozen=True, eq=False)
class PackedSplit:
    """One split, ready for a model: `images` (N, S, S, 3) uint8, M captions, `image_of_caption` (M,) int64."""

    images: NDArray[np.uint8]
    image_names: tuple[str, ...]
    captions: tuple[str, ...]
    image_of_caption: NDArray[np.int64]

    def save(self, folder: Path) -> None:
        """Write into an existing folder."""
        save_file({"images": self.images, "image_of_caption": self.image_of_caption}, folder / "pack.safetensors")
        text = json.dumps({"image_names": self.image_names, "captions": self.captions}, ensure_ascii=False)
        (folder / "pack.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> PackedSplit:
        """Read what `save` wrote."""
        arrays = load_file(folder / "pack.safetensors")
        text = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
        return cls(
            arrays["images"], tuple(text["image_names"]), tuple(text["captions"]), arrays["image_of_caption"]
        )


def pack(split: Split, image_format: ImageFormat, report: Callable[[float], None]) -> PackedSplit:
    """Decode and resize every image of a split. Raises DataError naming the first image that cannot be read."""
    from PIL import Image

    size = image_format.size
    resampling = Image.Resampling[image_format.interpolation.upper()]
    images = np.empty((len(split.members), size, size, 3), dtype=np.uint8)
    for position, index in enumerate(split.members):
        pixels = split.domain.images.read(int(index))
        if pixels.shape[:2] != (size, size):
            pixels = np.asarray(Image.fromarray(pixels).resize((size, size), resampling))
        images[position] = pixels
        report((position + 1) / len(images))
    return PackedSplit(images, tuple(split.image_names), split.captions, split.image_of_caption)
