"""What captions have in common, word for word: those of an image, of a split, of two splits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from urbancross_bench.data.domain import Split


@dataclass(frozen=True)
class CaptionFacts:
    """Counts over the images and captions of one split.

    usual: how many captions most images of the domain have. distinct_per_image: how many different ones, mean.
    repeating: images with fewer different captions than is usual.
    elsewhere: captions that stand at another image of the split too; sharing: the images that have one.
    unowned: images all of whose captions stand at another image too.
    in_train, in_training: captions that stand in train, and in train or val; None for those splits themselves.
    """

    images: int
    captions: int
    usual: int
    distinct_per_image: float
    repeating: int
    elsewhere: int
    sharing: int
    unowned: int
    in_train: int | None
    in_training: int | None


def owned(splits: Iterable[Split]) -> Iterator[tuple[int, str]]:
    """The captions of some splits, each with its image's index in the domain."""
    for split in splits:
        for owner, text in zip(split.image_of_caption.tolist(), split.captions, strict=True):
            yield int(split.members[owner]), text


def caption_facts(splits: Mapping[str, Split]) -> dict[str, CaptionFacts]:
    """The facts of each split of a domain."""
    counts = Counter(n for split in splits.values() for n in np.bincount(split.image_of_caption).tolist())
    usual = max(counts, key=lambda n: (counts[n], n), default=0)
    texts = {name: set(split.captions) for name, split in splits.items()}
    facts = {}
    for name, split in splits.items():
        own, owners = defaultdict[int, set[str]](set), defaultdict[str, set[int]](set)
        for owner, text in zip(split.image_of_caption.tolist(), split.captions, strict=True):
            own[owner].add(text)
            owners[text].add(owner)
        shared = {text for text, images in owners.items() if len(images) > 1}
        train, training = texts.get("train", set()), texts.get("train", set()) | texts.get("val", set())
        facts[name] = CaptionFacts(
            images=len(split.members),
            captions=len(split.captions),
            usual=usual,
            distinct_per_image=sum(map(len, own.values())) / max(1, len(own)),
            repeating=sum(len(captions) < usual for captions in own.values()),
            elsewhere=sum(text in shared for text in split.captions),
            sharing=sum(not shared.isdisjoint(captions) for captions in own.values()),
            unowned=sum(captions <= shared for captions in own.values()),
            in_train=None if name == "train" else sum(text in train for text in split.captions),
            in_training=sum(text in training for text in split.captions) if name == "test" else None,
        )
    return facts
