"""From packed images to what a model's `encode_image` takes, on the device that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.modelling import answers
from urbancross_bench.modelling.augment import drawn, few_at_once
from urbancross_bench.modelling.distributed import Ranks
from urbancross_bench.modelling.encoding import statistics_kept
from urbancross_bench.modelling.residence import on_device

Values: TypeAlias = NDArray[Any] | Tensor  # on the host, or on whichever device


def image_inputs(
    taken: tuple[Values, Values | None, Values | None],
    model: DualEncoder,
    device: torch.device,
    augmentation: Sequence[str] = (),
    generator: Generator | None = None,
) -> tuple[Tensor, ...]:
    """The tensors of some images on the device: pixels or features; then segments and which are there.

    taken: what `data.packed.Taken` holds, as arrays or as tensors. Only an image's own pixels are augmented:
    features are what they are, and so are segments.
    """
    rows, segments, present = (None if part is None else torch.as_tensor(part) for part in taken)
    assert rows is not None
    if rows.dtype == torch.uint8:
        images = prepared(rows, model, device, augmentation, generator)
    else:
        images = on_device(rows, device)
    if segments is None or present is None:
        return (images,)
    if segments.dtype == torch.uint8:
        flat = prepared(segments.flatten(0, 1), model, device)
        segments = flat.view(*present.shape, *flat.shape[1:])
    return images, on_device(segments, device), on_device(present, device)


def encoded_segments(model: DualEncoder, segments: Tensor, present: Tensor) -> Tensor:
    """(B, K, D) features of segments: those given, or of (B, K, 3, H, W) pixels by the tower as it is now.

    present: (B, K); on the CPU, nothing waits for the device to learn how many there are.
    """
    if segments.ndim == 3:
        return segments
    device, there = segments.device, present.flatten().nonzero()[:, 0]
    if not len(there):
        if present.numel() and Ranks.current().world > 1:  # another share may have some: see `Ranks.own_draws`
            encoded_segments(model, segments[:1, :1], torch.ones(1, 1, dtype=torch.bool))
        return torch.zeros(*present.shape, model.width, device=device)
    places = on_device(there, device)
    with statistics_kept(model.image_tower):  # where segments pass through it too, they are of images alone
        features = answers.encoded(model, "encode_segment", segments.flatten(0, 1)[places])
    whole = features.new_zeros(present.numel(), features.shape[1]).index_copy(0, places, features)
    return whole.view(*present.shape, features.shape[1])


def prepared(
    images: NDArray[np.uint8] | Tensor,
    model: DualEncoder,
    device: torch.device,
    augmentation: Sequence[str] = (),
    generator: Generator | None = None,
) -> Tensor:
    """(B, S, S, 3) uint8 → (B, 3, S, S) floats: scaled to [0, 1], augmented, normalised for the model.

    Without augmentation this is bit for bit what torchvision's ToTensor and Normalize give.
    """
    mean, std = _channels(tuple(model.mean), device), _channels(tuple(model.std), device)
    packed, count, size = on_device(torch.as_tensor(images), device), len(images), images.shape[1]
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


@lru_cache(maxsize=16)
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(3,) on the device, copied there once: such a copy waits for all that the device has still to do."""
    with torch.inference_mode(False):  # it outlives whatever asked for it first
        return torch.tensor(values, device=device)
