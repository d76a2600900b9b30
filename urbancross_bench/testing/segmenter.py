"""What a segmenter promises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.interfaces import Mask, SegmenterOptions, Weights
from urbancross_bench.testing.alike import difference
from urbancross_bench.testing.conformance import PureConformance, broken
from urbancross_bench.testing.fixtures.domains import tiny_images

_ALIKE = 0.9  # IoU: a batch may move the last bits of what a model computes, and so the edge of a mask


class SegmenterConformance(PureConformance):
    """A segmenter is shown a few tiles, of which none is square."""

    kind = "segmenter"
    opens_files = True  # its weights
    _images = (*tiny_images(3, 56)[:, :40],)

    def work(self) -> Any:
        """The masks of three images."""
        return self._cut(self._ready(), self._images)

    def _ready(self) -> Any:
        segmenter = self.build()
        segmenter.load("cpu")
        return segmenter

    @staticmethod
    def _cut(segmenter: Any, images: Sequence[NDArray[np.uint8]]) -> list[list[Mask]]:
        given = [image.copy() for image in images]
        found: list[list[Mask]] = segmenter.segment(given)
        if len(found) != len(images):
            broken(f"it gives the masks of {len(found)} images for {len(images)}")
        for image, own, masks in zip(images, given, found, strict=True):
            if not np.array_equal(image, own):
                broken("it changes the images that it is given, which others read after it; change a copy")
            for mask in masks:
                if not isinstance(mask, Mask) or mask.pixels.dtype != bool or mask.pixels.shape != image.shape[:2]:
                    broken(f"what it gives of an image of {image.shape[:2]} is no Mask of (H, W) bool")
                for name, value in (("quality", mask.quality), ("stability", mask.stability)):
                    if value is not None and not math.isfinite(value):
                        broken(f"the {name} of a mask is {value}; where the model says nothing it is None")
        return found

    def test_it_says_where_weights_come_from(self) -> None:
        """Its options say where its weights come from."""
        options = self.resolved.options
        if not isinstance(options, SegmenterOptions) or not isinstance(options.weights(), Weights):
            broken("weights() gives no Weights; it must say whether they are trained")

    def test_calls_are_independent(self) -> None:
        """What it has cut before changes nothing of what it cuts."""
        first = self.worked().result
        again = self.watched(self._again)
        if again.error is not None:
            broken(f"it cannot be called again: {type(again.error).__name__}: {again.error}")
        if found := difference(first, again.result):
            broken(f"{found} is another after a call for others")

    def _again(self) -> list[list[Mask]]:
        segmenter = self._ready()
        self._cut(segmenter, self._images[:0:-1])
        return self._cut(segmenter, self._images)

    def test_a_batch_of_one(self) -> None:
        """An image alone has the masks that it has among others, in whatever order."""
        together = self.worked().result
        alone = self.watched(self._alone_each)
        if alone.error is not None:
            broken(f"it cannot cut an image alone: {type(alone.error).__name__}: {alone.error}")
        for number, (some, others) in enumerate(zip(together, alone.result, strict=True)):
            if len(some) != len(others):
                broken(f"image {number} has {len(some)} masks among others and {len(others)} alone")
            if not (_within(some, others) and _within(others, some)):
                broken(f"image {number} alone has other masks than among others")

    def _alone_each(self) -> list[list[Mask]]:
        segmenter = self._ready()
        return [self._cut(segmenter, [image])[0] for image in self._images]


def _within(some: Sequence[Mask], others: Sequence[Mask]) -> bool:
    """Whether each of some masks is, but for its edge, one of others."""
    return all(any(_overlap(one.pixels, other.pixels) > _ALIKE for other in others) for one in some)


def _overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union; of two that show nothing, 1."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0
