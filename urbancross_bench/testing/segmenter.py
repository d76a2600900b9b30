"""What a segmenter promises."""

from __future__ import annotations

from typing import Any

import numpy as np

from urbancross_bench.interfaces import Mask, SegmenterOptions, Weights
from urbancross_bench.testing.alike import difference
from urbancross_bench.testing.conformance import PureConformance, broken
from urbancross_bench.testing.fixtures.domains import tiny_images


class SegmenterConformance(PureConformance):
    """A segmenter is shown a few tiles."""

    kind = "segmenter"
    opens_files = True  # its weights
    _images = (*tiny_images(3, 48),)

    def work(self) -> Any:
        """The masks of three images."""
        segmenter = self.build()
        segmenter.load("cpu")
        found = segmenter.segment(list(self._images))
        if len(found) != len(self._images):
            broken(f"it gives the masks of {len(found)} images for {len(self._images)}")
        for image, masks in zip(self._images, found, strict=True):
            for mask in masks:
                if not isinstance(mask, Mask) or mask.pixels.dtype != bool or mask.pixels.shape != image.shape[:2]:
                    broken(f"what it gives of an image of {image.shape[:2]} is no Mask of (H, W) bool")
        return found

    def test_it_says_where_weights_come_from(self) -> None:
        """Its options say where its weights come from."""
        options = self.resolved.options
        if not isinstance(options, SegmenterOptions) or not isinstance(options.weights(), Weights):
            broken("weights() gives no Weights; it must say whether they are trained")

    def test_a_batch_of_one(self) -> None:
        """An image alone has the masks that it has among others."""
        import torch

        together = self.worked().result
        torch.manual_seed(0)
        segmenter = self.build()
        segmenter.load("cpu")
        alone = [segmenter.segment([np.array(image)])[0] for image in self._images]
        if found := difference([len(masks) for masks in together], [len(masks) for masks in alone]):
            broken(f"{found}: an image alone has another number of masks than among others")
