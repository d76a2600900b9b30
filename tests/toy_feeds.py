"""A model, splits and feeds that are small enough to compare by hand."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from urbancross_bench.data.packed import PackedImages, PackedSegments, PackedSplit, Rows
from urbancross_bench.data.views import PairView, Shown, StreamView, source_view, target_view
from urbancross_bench.modelling.batches import Drawn
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.residence import THREAD, Residence

CPU = torch.device("cpu")
SIZE, STEPS = 6, 7
View = PairView | StreamView | None

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class ToyModel(nn.Module):
    """Two layers on the first values of pixels, features or tokens, whichever come."""

    width, mean, std = 4, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image_tower, self.text_tower = nn.Linear(4, 4), nn.Linear(3, 4)
        self.logit_scale = nn.Parameter(torch.ones(()))
        self.logit_bias = None

    def tokenize(self, texts: list[str]) -> Tensor:
        numbers = torch.tensor([int(text.split()[1]) for text in texts])
        return torch.stack([torch.full_like(numbers, 9), 1 + numbers % 7, numbers // 7], dim=1)

    def text_length(self, tokens: Tensor) -> int:
        return int((tokens != 0).sum(dim=1).max())

    def encode_image(self, images: Tensor, *segments: Tensor) -> Tensor:
        features: Tensor = self.image_tower(images.flatten(1)[:, :4])
        return features

    def encode_segment(self, images: Tensor) -> Tensor:
        return self.encode_image(images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.text_tower(F.pad(tokens.float(), (0, 3 - tokens.shape[1])))
        return features


def split(count: int, first: int = 0, segments: str = "", frozen: bool = False) -> PackedSplit:
    """Image i, of `count` from `first` on, is random but for its first value, i; its two captions say i."""
    draw, numbers = np.random.default_rng(first), np.arange(first, first + count)

    def made(owners: np.ndarray, features: bool) -> np.ndarray:
        if features:
            return np.concatenate([owners[:, None], draw.random((len(owners), 3))], axis=1).astype(np.float32)
        values = draw.integers(0, 256, (len(owners), SIZE, SIZE, 3), dtype=np.uint8)
        values[:, 0, 0, 0] = owners
        return values

    own = None
    if segments:
        counts = numbers % 4  # some have none, and of the last kind one too many is packed
        values = made(np.repeat(numbers, counts), segments == "features")
        own = PackedSegments(Rows([values]), np.cumsum([0, *counts[:-1]]), counts, 2)
    owners = np.repeat(np.arange(count), 2)
    return PackedSplit(
        PackedImages(Rows([made(numbers, frozen)]), own),
        tuple(f"{i}.png" for i in numbers),
        tuple(f"tile {first + i} {kind}" for i, kind in zip(owners, "ab" * count, strict=True)),
        owners,
        Rows([made(first + owners, True)[:, :3]]) if frozen else None,
    )


VIEWS: dict[str, Callable[[], View]] = {
    "pairs": lambda: source_view([split(20)]),
    "domains": lambda: source_view([split(9), split(11, 30), split(5, 60)]),
    "streams": lambda: target_view(split(20), Shown("unsupervised"), 1),
    "halves": lambda: target_view(split(20), Shown("unsupervised", disjoint_halves=True), 1),
    "images": lambda: target_view(split(20), Shown("unsupervised_images"), 1),
    "texts": lambda: StreamView(None, split(20).captions, split(20, frozen=True).text_features),
    "few": lambda: target_view(split(20, segments="pixels"), Shown("few_shot", 0.5), 1),
    "nothing": lambda: None,
    "segments": lambda: source_view([split(9, segments="pixels"), split(11, 30, segments="pixels")]),
    "segment streams": lambda: target_view(split(20, segments="pixels"), Shown("unsupervised"), 1),
    "segment features": lambda: source_view([split(20, segments="features")]),
    "frozen": lambda: source_view([split(9, frozen=True), split(11, 30, frozen=True)]),
    "frozen segments": lambda: target_view(split(20, 0, "features", True), Shown("unsupervised"), 1),
}
ALL = 10**12
WAYS: dict[str, Callable[[], Residence]] = {
    "resident": lambda: Residence(CPU, room=ALL),
    "ahead": lambda: Residence(CPU, ahead=True),
}


def feed(view: View, way: Residence | None = None, device: torch.device = CPU, **changes: Any) -> Feed:
    options: dict[str, Any] = {"batch_size": 4, "augmentation": ("flip", "crop"), "seed": 3, "hidden": "no"}
    model: Any = ToyModel().to(device)
    return Feed(model, view, device=device, residence=way, **(options | changes))


def parts(batch: Any) -> dict[str, Tensor]:
    """Every tensor of a batch, by name."""
    found: dict[str, Tensor] = {}
    for field in dataclasses.fields(Drawn):
        value = getattr(batch._drawn, field.name)
        several = value if isinstance(value, tuple) else (value,)
        found |= {f"{field.name}.{i}": part for i, part in enumerate(several) if isinstance(part, Tensor)}
    return found


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype and torch.equal(value, other[name]) for name, value in one.items()
    )


def no_thread_stays() -> bool:
    mine = [thread for thread in threading.enumerate() if thread.name == THREAD]
    for thread in mine:
        thread.join(60)
    return not any(thread.is_alive() for thread in mine)
