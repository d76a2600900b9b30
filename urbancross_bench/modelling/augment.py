"""Augmentation of packed uint8 images, on the device that trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def augment(images: Tensor, steps: Sequence[str], generator: Generator) -> Tensor:
    """(B, 3, H, W) floats in [0, 1] → the same shape, each image changed on its own by every step in turn.

    generator: a CPU generator; drawing on the CPU makes the draws the same on every device.
    """
    for step in steps:
        images = AUGMENTATIONS[step](images, generator)
    return images


def _flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirror left-right, for half of the images."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen.to(images.device)[:, None, None, None], images.flip(3), images)


def _rotate90(images: Tensor, generator: Generator) -> Tensor:
    """Turn by a random number of quarter turns."""
    turns = torch.randint(4, (len(images),), generator=generator).to(images.device)
    result = images.clone()
    for turn in (1, 2, 3):
        result[turns == turn] = images[turns == turn].rot90(turn, (2, 3))
    return result


def _crop(images: Tensor, generator: Generator) -> Tensor:
    """Cut out a rectangle at a random place and resize it back, bilinearly.

    Its area is 50 to 100 % of the image's; its sides are stretched against each other by up to a fifth.
    """
    side = (0.5 + 0.5 * torch.rand(len(images), generator=generator)).sqrt()
    stretch = (0.4 * torch.rand(len(images), generator=generator) - 0.2).exp()
    sides = torch.stack([side * stretch, side / stretch], dim=1).clamp(max=1)
    place = (1 - sides) * (2 * torch.rand(len(images), 2, generator=generator) - 1)
    affine = torch.cat([torch.diag_embed(sides), place[:, :, None]], dim=2).to(images.device)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _colour(images: Tensor, generator: Generator) -> Tensor:
    """Change brightness, contrast and saturation by up to 40 % each."""
    factors = (0.6 + 0.8 * torch.rand(3, len(images), generator=generator)).to(images.device)[
        ..., None, None, None
    ]
    images = images * factors[0]
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = mean + (images - mean) * factors[1]
    grey = images.mean(dim=1, keepdim=True)
    return (grey + (images - grey) * factors[2]).clamp(0, 1)


AUGMENTATIONS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "flip": _flip,
    "rotate90": _rotate90,
    "crop": _crop,
    "colour": _colour,
}
