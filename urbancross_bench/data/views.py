"""The firewall: what of a packed split an adaptation may see, and nothing that leads further.

A view holds no domain, no path and no split; its images are rows of a read-only mapping of the training pixels,
in an order of its own. So nothing reachable from it pairs what its setting leaves unpaired, and no test data is
within reach. Under `unsupervised` images and captions are two streams in orders of their own; their lengths are
those of the training split and say nothing of who belongs to whom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from urbancross_bench.data.packed import PackedImages, PackedSplit, Rows, sorted_places
from urbancross_bench.errors import DataError
from urbancross_bench.identity import derive_seed
from urbancross_bench.interfaces.dataset import Indices
from urbancross_bench.interfaces.settings import SETTINGS


@dataclass(frozen=True, eq=False)
class PairView:
    """Paired data: N `images`, `captions` M strings, their owners (M,), domain index (N,).

    `text_features` (M, D) are those of a text tower that never changes, else None.
    """

    images: PackedImages
    captions: tuple[str, ...]
    image_of_caption: Indices
    domains: Indices
    text_features: Rows | None = None


@dataclass(frozen=True, eq=False)
class StreamView:
    """Unpaired data: an image stream and a caption stream; None where the setting does not show one."""

    images: PackedImages | None
    captions: tuple[str, ...] | None
    text_features: Rows | None = None


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
    features = [split.text_features for split in splits if split.text_features is not None]
    return PairView(
        images=PackedImages.joined([split.images for split in splits]),
        captions=tuple(caption for split in splits for caption in split.captions),
        image_of_caption=np.concatenate([s.image_of_caption + o for s, o in zip(splits, offsets, strict=False)]),
        domains=np.repeat(np.arange(len(splits)), [len(split.images) for split in splits]).astype(np.int64),
        text_features=Rows.joined(features) if features else None,
    )


def target_view(split: PackedSplit, shown: Shown, seed: int) -> PairView | StreamView | None:
    """What a run is shown of the target's training split; None where it is shown nothing."""
    access = SETTINGS[shown.setting]
    if not access.anything:
        return None
    if access.pairs:
        return source_view([_first(split, shown) if access.share else split])
    # By content: an order that is drawn from the files' can be undone, which tells of classes and pairs.
    split = split.part(sorted_places(split.images.rows.digests()))
    shown_images, texts = split.images, np.arange(len(split.captions))
    if shown.disjoint_halves and access.images and access.captions:
        order = _order("disjoint halves", len(split.images), 0)
        half, other = split.part(order[::2]), split.captions_of(order[1::2])
        own = {*half.captions}
        shown_images = half.images.without_others()
        texts = other[[split.captions[text] not in own for text in other.tolist()]]
        if not len(texts):
            raise DataError(
                "disjoint halves: every caption of one half stands in the other too; none is left to show"
            )
    texts = _captions_by_content(split, texts)[_order("captions", len(texts), seed)]
    # A copy: rows that remember their place in the split would pair captions with images that remember theirs.
    features = None if split.text_features is None else Rows([split.text_features.take(texts)])
    return StreamView(
        images=shown_images.chosen(_order("images", len(shown_images), seed)) if access.images else None,
        captions=tuple(split.captions[text] for text in texts.tolist()) if access.captions else None,
        text_features=features if access.captions else None,
    )


def _first(split: PackedSplit, shown: Shown) -> PackedSplit:
    """The share of a split that is shown with its pairs: at least one image."""
    return split.part(shared(len(split.images), shown)).without_others()


def shared(images: int, shown: Shown) -> Indices:
    """Which of the images of a split are in the share that is shown with its pairs."""
    count = max(1, math.ceil(shown.share * images - 1e-9))
    return np.sort(_order("few shot", images, shown.share_seed)[:count])


def _captions_by_content(split: PackedSplit, texts: Indices) -> Indices:
    """Some captions, sorted by what they say; equal ones may have features of their own."""
    features = split.text_features
    rows = [b""] * len(texts) if features is None else features.chosen(texts).digests()
    return texts[sorted_places([*zip((split.captions[text] for text in texts.tolist()), rows, strict=True)])]


def _order(stream: str, length: int, seed: int) -> Indices:
    generator = np.random.Generator(np.random.PCG64(derive_seed("target stream", stream, seed)))
    return generator.permutation(length).astype(np.int64)
