"""Augmentation of packed images, on the device that trains.

What is drawn is drawn for a whole batch, on the CPU, so it is the same on every device; what is drawn is then done
to a few images at a time, as the device likes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from urbancross_bench.modelling.residence import on_device

# Some images of the batch, (B', 3, H, W) floats in [0, 1], and which of its rows they are → the images changed.
Change = Callable[[Tensor, slice], Tensor]


def drawn(steps: Sequence[str], count: int, generator: Generator) -> Change:
    """What every step in turn does to a batch of `count` images. generator: a CPU generator."""
    changes = [AUGMENTATIONS[step](count, generator) for step in steps]

    def change(images: Tensor, rows: slice) -> Tensor:
        for one in changes:
            images = one(images, rows)
        return images

    return change


def few_at_once(count: int, device: torch.device) -> Iterator[slice]:
    """Slices of a batch: on a CPU a few images each, which stay in the cache from one operation to the next."""
    few = 4 if device.type == "cpu" else max(1, count)
    for start in range(0, count, few):
        yield slice(start, start + few)


def _flip(count: int, generator: Generator) -> Change:
    """Mirror left-right, for half of the images."""
    chosen = torch.rand(count, generator=generator) < 0.5
    return lambda images, rows: torch.where(_each(chosen[rows], images), images.flip(3), images)


def _rotate90(count: int, generator: Generator) -> Change:
    """Turn by a random number of quarter turns."""
    turns = torch.randint(4, (count,), generator=generator)

    def change(images: Tensor, rows: slice) -> Tensor:
        result = images.clone()
        for turn in (1, 2, 3):
            own = on_device((turns[rows] == turn).nonzero()[:, 0], images.device)
            result.index_copy_(0, own, images[own].rot90(turn, (2, 3)))
        return result

    return change


def _crop(count: int, generator: Generator) -> Change:
    """Cut out a rectangle at a random place and resize it back, bilinearly.

    Its area is 50 to 100 % of the image's; one side is up to exp(0.2) times as long as a square's and the other as
    many times shorter, so that their ratio reaches 1.49.
    """
    side = (0.5 + 0.5 * torch.rand(count, generator=generator)).sqrt()
    stretch = (0.4 * torch.rand(count, generator=generator) - 0.2).exp()
    sides = torch.stack([side * stretch, side / stretch], dim=1).clamp(max=1)
    place = (1 - sides) * (2 * torch.rand(count, 2, generator=generator) - 1)
    return _sampled(torch.diag_embed(sides), place, padding="border")


def _rotate_crop(count: int, generator: Generator) -> Change:
    """Turn by 0 to 90 degrees and cut out 224/278 of the side at a random place; what leaves the image is black.

    UrbanCross's training transform (resize to 278, rotate, crop 224), sampled bilinearly once, where PIL resizes
    bilinearly and then takes the nearest pixel.
    """
    side = 224 / 278
    angle = torch.rand(count, generator=generator) * (math.pi / 2)
    place = (1 - side) * (2 * torch.rand(count, 2, generator=generator) - 1)
    sine, cosine = angle.sin(), angle.cos()
    turn = torch.stack([cosine, -sine, sine, cosine], dim=1).view(-1, 2, 2)
    return _sampled(side * turn, (turn @ place[:, :, None])[:, :, 0], padding="zeros")


def _colour(count: int, generator: Generator) -> Change:
    """Change brightness, contrast and saturation by up to 40 % each."""
    factors = 0.6 + 0.8 * torch.rand(3, count, generator=generator)

    def change(images: Tensor, rows: slice) -> Tensor:
        brightness, contrast, saturation = (_each(factor[rows], images) for factor in factors)
        images = images * brightness
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = mean + (images - mean) * contrast
        grey = images.mean(dim=1, keepdim=True)
        return (grey + (images - grey) * saturation).clamp(0, 1)

    return change


AUGMENTATIONS: dict[str, Callable[[int, Generator], Change]] = {
    "flip": _flip,
    "rotate90": _rotate90,
    "crop": _crop,
    "rotate_crop": _rotate_crop,
    "colour": _colour,
}


def _each(values: Tensor, images: Tensor) -> Tensor:
    """(B,) values, one for each of (B, 3, H, W) images, to be broadcast over it."""
    return on_device(values, images.device)[:, None, None, None]


def _sampled(turn: Tensor, shift: Tensor, *, padding: str) -> Change:
    """Each image as seen through its affine map: the pixel at p comes from `turn` p + `shift`.

    turn (B, 2, 2) and shift (B, 2) in coordinates (x, y) that run from -1 to 1 between the image's edges.
    """

    def change(images: Tensor, rows: slice) -> Tensor:
        height, width = images.shape[2:]
        x, y = ((torch.arange(n, device=images.device) * 2 + 1) / n - 1 for n in (width, height))
        across, down = on_device(turn[rows], images.device).unbind(2)
        start = on_device(shift[rows], images.device)
        grid = across[:, None, None] * x[:, None] + (down[:, None] * y[:, None] + start[:, None])[:, :, None]
        return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)

    return change
