"""The firewall: what of a packed split an adaptation may see, and nothing that leads further.

A view owns copies. It holds no domain, no path, no split and no array that another view shares, so nothing
reachable from it pairs what its setting leaves unpaired, and no test data is within reach. Under `unsupervised`
images and captions are two streams in orders of their own; their lengths are those of the training split and
say nothing of who belongs to whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.data.pack import PackedSplit
from urbancross_bench.identity import derive_seed
from urbancross_bench.interfaces.settings import SETTINGS


@dataclass(frozen=True, eq=False)
class PairView:
    """Paired data: `images` (N, S, S, 3) uint8, `captions` M strings, their owners (M,), domain index (N,)."""

    images: NDArray[np.uint8]
    captions: tuple[str, ...]
    image_of_caption: NDArray[np.int64]
    domains: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class StreamView:
    """Unpaired data: an image stream and a caption stream; None where the setting does not show one."""

    images: NDArray[np.uint8] | None
    captions: tuple[str, ...] | None


def source_view(splits: Sequence[PackedSplit]) -> PairView:
    """All pairs of one or more source domains, one after the other."""
    offsets = np.cumsum([0, *(len(split.images) for split in splits)])
    return PairView(
        images=np.concatenate([split.images for split in splits]),
        captions=tuple(caption for split in splits for caption in split.captions),
        image_of_caption=np.concatenate([s.image_of_caption + o for s, o in zip(splits, offsets, strict=False)]),
        domains=np.repeat(np.arange(len(splits)), [len(split.images) for split in splits]).astype(np.int64),
    )


def target_view(split: PackedSplit, setting: str, seed: int) -> PairView | StreamView | None:
    """What `setting` shows of the target's training split; None where it shows nothing."""
    access = SETTINGS[setting]
    if access.pairs:
        return source_view([split])
    if not access.anything:
        return None
    return StreamView(
        images=split.images[_order("images", len(split.images), seed)] if access.images else None,
        captions=_in_order(split.captions, _order("captions", len(split.captions), seed))
        if access.captions
        else None,
    )


def _order(stream: str, length: int, seed: int) -> NDArray[np.int64]:
    generator = np.random.Generator(np.random.PCG64(derive_seed("target stream", stream, seed)))
    return generator.permutation(length).astype(np.int64)


def _in_order(captions: Sequence[str], order: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(captions[index] for index in order)
