"""Settings: what may be seen of the target domain, by training and by selection alike."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Access:
    """What a setting lets an adaptation see of the target's training split; `share`: only a share of its pairs."""

    images: bool = False
    captions: bool = False
    pairs: bool = False
    share: bool = False

    @property
    def anything(self) -> bool:
        """Whether the target is seen at all."""
        return self.images or self.captions or self.pairs


# From the least to the most: the setting of a row is the greater of its method's and its selector's.
# `generalisation` learns from several sources; `test_time` sees nothing in training, and the queries and the
# gallery when it is tested. Its rows are marked as transductive, so they may be named by what else was seen.
SETTINGS: dict[str, Access] = {
    "source_only": Access(),
    "generalisation": Access(),
    "test_time": Access(),
    "unsupervised_images": Access(images=True),
    "unsupervised": Access(images=True, captions=True),
    "few_shot": Access(images=True, captions=True, pairs=True, share=True),
    "oracle": Access(images=True, captions=True, pairs=True),
}


def union(first: str, second: str) -> str:
    """The setting of a row whose method and selector have the settings `first` and `second`."""
    order = list(SETTINGS)
    return max(first, second, key=order.index)
