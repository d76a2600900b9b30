"""Embedding: features of images and texts, each different one once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from urbancross_bench.data.pack import Pixels
from urbancross_bench.errors import RunError
from urbancross_bench.interfaces.encoder import DualEncoder

BATCH = 256


def to_floats(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(B, S, S, 3) uint8 → (B, 3, S, S) floats in [0, 1] on the device."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float().div_(255)


def normalise(images: Tensor, model: DualEncoder) -> Tensor:
    """(B, 3, S, S) in [0, 1] → as the image tower wants it."""
    mean = torch.tensor(model.mean, device=images.device)[:, None, None]
    std = torch.tensor(model.std, device=images.device)[:, None, None]
    return (images - mean) / std


def cut(tokens: Tensor, model: DualEncoder) -> Tensor:
    """(B, L) tokens without the columns that no feature depends on."""
    return tokens[:, : model.text_length(tokens)]


@torch.inference_mode()
def embed_images(model: DualEncoder, images: Pixels, device: torch.device) -> Tensor:
    """(N, D) float32 features on the CPU, not normalised, of N images, equal ones once."""
    model.train(False)
    place: dict[bytes, int] = {}
    contents = (hashlib.sha256(image).digest() for block in images.blocks(BATCH) for image in block)
    rows = [place.setdefault(content, len(place)) for content in contents]
    parts = []
    for block in images.chosen(np.unique(rows, return_index=True)[1]).blocks(BATCH):
        parts.append(model.encode_image(normalise(to_floats(block, device), model)).float().cpu())
    return _finite("image", torch.cat(parts))[rows]


@torch.inference_mode()
def embed_texts(model: DualEncoder, texts: Sequence[str], device: torch.device) -> Tensor:
    """(M, D) float32 features on the CPU, not normalised.

    Texts of equal tokens are embedded once, so they get equal bits and tie.
    """
    model.train(False)
    tokens, rows = torch.unique(model.tokenize(texts), dim=0, return_inverse=True)
    parts = []
    for start in range(0, len(tokens), BATCH):
        block = tokens[start : start + BATCH]
        parts.append(model.encode_text(cut(block, model).to(device)).float().cpu())
    return _finite("text", torch.cat(parts))[rows]


def _finite(what: str, features: Tensor) -> Tensor:
    bad = int((~features.isfinite().all(dim=1)).sum())
    if bad:
        raise RunError(
            f"{bad} of {len(features)} {what} embeddings hold NaN or infinity; the encoder has diverged"
        )
    return features
