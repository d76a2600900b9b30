"""From packed images to what a model's `encode_image` takes, on the device that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from urbancross_bench.data.packed import Taken
from urbancross_bench.interfaces.encoder import DualEncoder, SegmentEncoder
from urbancross_bench.modelling.augment import drawn, few_at_once


def image_inputs(
    taken: Taken,
    model: DualEncoder,
    device: torch.device,
    augmentation: Sequence[str] = (),
    generator: Generator | None = None,
) -> tuple[Tensor, ...]:
    """The tensors of some images on the device: pixels or features; then segments and which are there.

    Only an image's own pixels are augmented: features are what they are, and so are segments.
    """
    if taken.rows.dtype == np.uint8:
        images = prepared(taken.rows, model, device, augmentation, generator)
    else:
        images = torch.from_numpy(taken.rows).to(device)
    if taken.segments is None or taken.present is None:
        return (images,)
    present = torch.from_numpy(taken.present).to(device)
    segments = torch.from_numpy(taken.segments)
    if taken.segments.dtype == np.uint8:
        flat = prepared(taken.segments.reshape(-1, *taken.segments.shape[2:]), model, device)
        segments = flat.view(*present.shape, *flat.shape[1:])
    return images, segments.to(device), present


def encoded_segments(model: DualEncoder, segments: Tensor, present: Tensor) -> Tensor:
    """(B, K, D) features of segments: those given, or of (B, K, 3, H, W) pixels by the tower as it is now."""
    if segments.ndim == 3:
        return segments
    if not present.any():
        return torch.zeros(*present.shape, model.width, device=present.device)
    features = cast(SegmentEncoder, model).encode_segment(segments[present])
    return features.new_zeros(*present.shape, features.shape[1]).index_put((present,), features)


def prepared(
    images: NDArray[np.uint8],
    model: DualEncoder,
    device: torch.device,
    augmentation: Sequence[str] = (),
    generator: Generator | None = None,
) -> Tensor:
    """(B, S, S, 3) uint8 → (B, 3, S, S) floats: scaled to [0, 1], augmented, normalised for the model.

    Without augmentation this is bit for bit what torchvision's ToTensor and Normalize give.
    """
    mean, std = torch.tensor(model.mean, device=device), torch.tensor(model.std, device=device)
    packed, count, size = torch.from_numpy(images).to(device), len(images), images.shape[1]
    if augmentation:
        assert generator is not None
        change = drawn(augmentation, count, generator)
        result = torch.empty((count, 3, size, size), device=device)
        for rows in few_at_once(count, device):
            plain = packed[rows].permute(0, 3, 1, 2).contiguous().float().div_(255)
            result[rows] = (change(plain, rows) - mean[:, None, None]).div_(std[:, None, None])
        return result
    # Three values a pixel are too few for vector instructions: the same arithmetic on whole rows of images takes a
    # third of the time. The result keeps the packed order in memory, channels last.
    result = torch.empty(packed.shape, device=device)
    for rows in few_at_once(count, device):
        block = result[rows].copy_(packed[rows]).view(-1, size, 3 * size)
        block.div_(255).sub_(mean.repeat(size)).div_(std.repeat(size))
    return result.permute(0, 3, 1, 2)
