"""Settings: what may be seen of the target domain, by training and by selection alike."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Access:
    """What a setting lets an adaptation see of the target's training split."""

    images: bool = False
    captions: bool = False
    pairs: bool = False

    @property
    def anything(self) -> bool:
        """Whether the target is seen at all."""
        return self.images or self.captions or self.pairs


# From the least to the most: the setting of a row is the greater of its method's and its selector's.
SETTINGS: dict[str, Access] = {
    "source_only": Access(),
    "unsupervised_images": Access(images=True),
    "unsupervised": Access(images=True, captions=True),
    "oracle": Access(images=True, captions=True, pairs=True),
}


def union(first: str, second: str) -> str:
    """The setting of a row whose method and selector have the settings `first` and `second`."""
    order = list(SETTINGS)
    return max(first, second, key=order.index)
