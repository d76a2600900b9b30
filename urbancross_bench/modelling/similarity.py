"""How well segments go with the captions of their image, as UrbanCross's paper chooses segments."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from urbancross_bench.data.masks import Region, from_counts
from urbancross_bench.data.pack import resized
from urbancross_bench.data.packed import PackedImages, Rows
from urbancross_bench.data.segments import painted
from urbancross_bench.interfaces.encoder import DualEncoder, ImageFormat
from urbancross_bench.modelling.embed import embed_images, embed_texts

_ENDS = re.compile("[;,.]")


def parts_of(captions: Sequence[str]) -> list[str]:
    """What stands between the semicolons, commas and full stops of some captions, in an order of its own."""
    pieces = (piece.strip() for caption in captions for piece in _ENDS.split(caption))
    return sorted(piece for piece in pieces if piece)


class Similarity:
    """Compares segments with captions by one encoder, on one device.

    A score is the mean of the cosine similarities to all parts: a longer caption counts for more, and a caption
    that stands twice counts twice. An image is scored by itself, so that its company in a batch moves no bit.
    """

    def __init__(self, model: DualEncoder, image_format: ImageFormat, device: torch.device) -> None:
        self._model = model
        self._format = image_format
        self._device = device

    def scores(
        self, pixels: NDArray[np.uint8], regions: Sequence[Region], parts: Sequence[str]
    ) -> NDArray[np.float64]:
        """(R,) scores of R regions of an (H, W, 3) image, each seen as stores render it: on a white ground.

        There must be a region and a part. Equal pictures get equal scores. Raises RunError for embeddings that are
        not finite.
        """
        side, size = self._format.size, pixels.shape[:2]
        pictures = np.empty((len(regions), side, side, 3), dtype=np.uint8)
        for place, one in zip(pictures, regions, strict=True):
            segment = painted(pixels, from_counts(one.counts, *size))
            place[:] = resized(segment, self._format)
        segments = embed_images(self._model, PackedImages(Rows([pictures])), self._device)
        texts = embed_texts(self._model, parts, self._device)
        segments, texts = (F.normalize(features.double(), dim=1) for features in (segments, texts))
        # Summed row by row: a matrix product may add up the rows at its edges in another order.
        found: NDArray[np.float64] = (segments.numpy() * texts.mean(dim=0).numpy()).sum(axis=1)
        return found
