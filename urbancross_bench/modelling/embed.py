"""Embedding: features of images and texts, each different one once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from urbancross_bench.data.pack import Pixels
from urbancross_bench.errors import RunError
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.modelling.inputs import prepared

BATCH = 256


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
        parts.append(model.encode_image(prepared(block, model, device)).float().cpu())
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
