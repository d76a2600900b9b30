"""What two domains share, or the splits of one: images by content and by look, captions word for word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from urbancross_bench.data.captions import owned
from urbancross_bench.data.domain import Split
from urbancross_bench.data.index import Report
from urbancross_bench.data.looks import Match, Seen, nearest
from urbancross_bench.interfaces.dataset import TRAINING, Domain, Indices


@dataclass(frozen=True, eq=False)
class Opened:
    """A domain of which every image has been opened. `splits` is empty where it is too broken to be cut."""

    name: str
    domain: Domain
    seen: Seen
    splits: Mapping[str, Split]

    @cached_property
    def labels(self) -> list[str]:
        """(N,) the split of each image: empty where it is in none, both names where it is in two."""
        labels: list[list[str]] = [[] for _ in self.domain.image_names]
        for name, split in self.splits.items():
            for index in split.members.tolist():
                labels[index].append(name)
        return ["+".join(names) for names in labels]

    @cached_property
    def test(self) -> Indices:
        """The test images."""
        return self.members("test")

    @cached_property
    def training(self) -> Indices:
        """The images of train and val."""
        return self.members(*TRAINING)

    def members(self, *names: str) -> Indices:
        """The images of some splits, in order."""
        return np.unique(
            np.concatenate([np.empty(0, np.int64), *(self.splits[n].members for n in names if n in self.splits)])
        )

    def cut(self, *names: str) -> list[Split]:
        """Some splits, those of them that there are."""
        return [self.splits[name] for name in names if name in self.splits]


@dataclass(frozen=True)
class Shared:
    """What of domain A stands in domain B, which may be A itself.

    images, training_images, test_captions, training_captions: how many A has; training is train and val.
    identical, alike: images of A that are images of B by content, and by look alone. leaking: A's training images
    among B's test images, by name. These are None where one of the two has no images at hand, or features in
    their place; of two that are features, `alike` is.
    in_train, in_training: A's test captions that stand in B's train, and in its training.
    in_test: A's training captions that stand in B's test split. leaking_captions: the same with their images'
    names, each once.
    """

    images: int
    identical: int | None
    alike: int | None
    training_images: int
    leaking: tuple[str, ...] | None
    test_captions: int
    in_train: int
    in_training: int
    training_captions: int
    in_test: int
    leaking_captions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Pair:
    """An image of A and one of B that share `how`: `content`, `look` or `caption`. Numbers as in `looks.Match`."""

    how: str
    image_a: str
    split_a: str
    image_b: str
    split_b: str
    bits: int | None = None
    difference: float | None = None
    caption: str = ""


def twins(a: Opened, b: Opened, report: Report) -> list[Match]:
    """Each image of `a` with its nearest twin among the test images of `b`, and with that among its others."""
    if not _comparable(a, b):
        return []
    every, others = np.arange(len(a.domain.image_names)), np.arange(len(b.domain.image_names))
    what = f"comparing the images of {a.name} with " + ("each other" if a is b else f"those of {b.name}")
    report(what, 0, len(every))

    def tested(share: float) -> None:
        report(what, int(len(every) * share / 2), len(every))

    def rest(share: float) -> None:
        report(what, int(len(every) * (1 + share) / 2), len(every))

    found = nearest(a.seen, every, b.seen, b.test, tested)
    found += nearest(a.seen, every, b.seen, np.setdiff1d(others, b.test), rest)
    report(what, len(every), len(every))
    return found


def shared(a: Opened, b: Opened, matches: Sequence[Match]) -> Shared:
    """What of `a` stands in `b`; `matches` are the twins of the two."""
    tested_by_b = {*b.test.tolist()}
    identical = {match.image for match in matches if match.identical}
    leaking = {match.image for match in matches if match.twin in tested_by_b} & {*a.training.tolist()}
    if a is b:
        leaking |= {*np.intersect1d(a.training, a.test).tolist()}
    comparable = _comparable(a, b)
    train, training, test = ({t for _, t in owned(b.cut(*s))} for s in (("train",), TRAINING, ("test",)))
    tested, trained = [text for _, text in owned(a.cut("test"))], list(owned(a.cut(*TRAINING)))
    found = [(image, text) for image, text in trained if text in test]
    tests = {*a.test.tolist()}  # where splits overlap: such an image is taken out whole, or stays as it is
    return Shared(
        images=len(a.domain.image_names),
        identical=len(identical) if comparable else None,
        alike=len({match.image for match in matches} - identical) if comparable and a.seen.pixels else None,
        training_images=len(a.training),
        leaking=tuple(a.domain.image_names[index] for index in sorted(leaking)) if comparable else None,
        test_captions=len(tested),
        in_train=sum(text in train for text in tested),
        in_training=sum(text in training for text in tested),
        training_captions=len(trained),
        in_test=len(found),
        leaking_captions=tuple(
            dict.fromkeys((a.domain.image_names[image], text) for image, text in found if image not in tests)
        ),
    )


def pairs(a: Opened, b: Opened, forth: Iterable[Match], back: Iterable[Match]) -> list[Pair]:
    """The pairs of two domains, or of one: an image and its nearest twin, a test caption and its like in training.

    `forth` are the twins of `a` in `b`, `back` those of `b` in `a`. A test caption is listed once, beside the
    first image of the other's train and val that carries it.
    """
    found = {(m.image, m.twin): m for m in forth} | {(m.twin, m.image): m for m in back}
    if a is b:
        found = {(min(key), max(key)): match for key, match in found.items()}
    ordered = sorted(found.items(), key=lambda item: (not item[1].identical, item[0]))
    images = [
        _pair(a, b, *key, "content" if m.identical else "look", bits=m.bits, difference=round(m.difference, 3))
        for key, m in ordered
    ]
    captions = [_pair(a, b, i, j, "caption", caption=text) for i, j, text in _caption_pairs(a, b)]
    if a is not b:
        captions += [_pair(a, b, j, i, "caption", caption=text) for i, j, text in _caption_pairs(b, a)]
    return images + captions


def _comparable(a: Opened, b: Opened) -> bool:
    """Whether images of both are there, and of one kind: pixels, or stored features."""
    return bool(a.seen.known.any() and b.seen.known.any()) and a.seen.pixels == b.seen.pixels


def _pair(a: Opened, b: Opened, i: int, j: int, how: str, **facts: object) -> Pair:
    return Pair(how, a.domain.image_names[i], a.labels[i], b.domain.image_names[j], b.labels[j], **facts)  # type: ignore[arg-type]


def _caption_pairs(a: Opened, b: Opened) -> list[tuple[int, int, str]]:
    """Test image of `a`, image of `b`, the caption: once for each caption of a test image."""
    at: dict[str, int] = {}
    for image, text in owned(b.cut(*TRAINING)):
        at.setdefault(text, image)
    tested = dict.fromkeys(owned(a.cut("test")))
    return [(image, at[text], text) for image, text in tested if text in at]
