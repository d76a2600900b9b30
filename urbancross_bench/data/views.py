"""The firewall: what of a packed split an adaptation may see, and nothing that leads further.

A view holds no domain, no path and no split; its images are rows of a read-only mapping of the training pixels,
in an order of its own. So nothing reachable from it pairs what its setting leaves unpaired, and no test data is
within reach. Under `unsupervised` images and captions are two streams in orders of their own; their lengths are
those of the training split and say nothing of who belongs to whom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from urbancross_bench.data.pack import PackedSplit, Pixels
from urbancross_bench.errors import DataError
from urbancross_bench.identity import derive_seed
from urbancross_bench.interfaces.dataset import Indices
from urbancross_bench.interfaces.settings import SETTINGS


@dataclass(frozen=True, eq=False)
class PairView:
    """Paired data: N `images`, `captions` M strings, their owners (M,), domain index (N,)."""

    images: Pixels
    captions: tuple[str, ...]
    image_of_caption: Indices
    domains: Indices


@dataclass(frozen=True, eq=False)
class StreamView:
    """Unpaired data: an image stream and a caption stream; None where the setting does not show one."""

    images: Pixels | None
    captions: tuple[str, ...] | None


@dataclass(frozen=True)
class Shown:
    """How much of a target's training split a run is shown, within its setting.

    share: of the images, with their captions, for `few_shot`: the first of one order that `share_seed` draws, so a
    smaller share is part of a larger one.
    disjoint_halves: where images and captions are shown unpaired, images of one half and captions of the other,
    without those that a shown image has word for word: so no image's own caption is there at all. A control.
    """

    setting: str
    share: float = 1.0
    share_seed: int = 0
    disjoint_halves: bool = False


def source_view(splits: Sequence[PackedSplit]) -> PairView:
    """All pairs of one or more source domains, one after the other."""
    offsets = np.cumsum([0, *(len(split.images) for split in splits)])
    return PairView(
        images=Pixels.joined([split.images for split in splits]),
        captions=tuple(caption for split in splits for caption in split.captions),
        image_of_caption=np.concatenate([s.image_of_caption + o for s, o in zip(splits, offsets, strict=False)]),
        domains=np.repeat(np.arange(len(splits)), [len(split.images) for split in splits]).astype(np.int64),
    )


def target_view(split: PackedSplit, shown: Shown, seed: int) -> PairView | StreamView | None:
    """What a run is shown of the target's training split; None where it is shown nothing."""
    access = SETTINGS[shown.setting]
    if not access.anything:
        return None
    if access.pairs:
        return source_view([_first(split, shown) if access.share else split])
    images, captions = split.images, split.captions
    if shown.disjoint_halves and access.images and access.captions:
        order = _order("disjoint halves", len(split.images), 0)
        half, other = _part(split, order[::2]), _part(split, order[1::2])
        own = {*half.captions}
        images, captions = half.images, tuple(caption for caption in other.captions if caption not in own)
        if not captions:
            raise DataError(
                "disjoint halves: every caption of one half stands in the other too; none is left to show"
            )
    return StreamView(
        images=images.chosen(_order("images", len(images), seed)) if access.images else None,
        captions=_in_order(captions, _order("captions", len(captions), seed)) if access.captions else None,
    )


def _first(split: PackedSplit, shown: Shown) -> PackedSplit:
    """The share of a split that is shown with its pairs: at least one image."""
    count = max(1, math.ceil(shown.share * len(split.images) - 1e-9))
    return _part(split, np.sort(_order("few shot", len(split.images), shown.share_seed)[:count]))


def _part(split: PackedSplit, members: Indices) -> PackedSplit:
    """Some images of a split, in this order, with their captions."""
    position = np.full(len(split.images), -1, dtype=np.int64)
    position[members] = np.arange(len(members))
    owners = position[split.image_of_caption]
    kept = np.flatnonzero(owners >= 0)
    return replace(
        split,
        images=split.images.chosen(members),
        image_names=tuple(split.image_names[index] for index in members.tolist()),
        captions=_in_order(split.captions, kept),
        image_of_caption=owners[kept],
    )


def _order(stream: str, length: int, seed: int) -> Indices:
    generator = np.random.Generator(np.random.PCG64(derive_seed("target stream", stream, seed)))
    return generator.permutation(length).astype(np.int64)


def _in_order(captions: Sequence[str], order: Indices) -> tuple[str, ...]:
    return tuple(captions[index] for index in order.tolist())
