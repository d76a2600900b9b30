"""From packed uint8 images to what an image tower takes, on the device that runs it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.modelling.augment import drawn, few_at_once


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
