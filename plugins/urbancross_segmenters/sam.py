"""Segment Anything, Kirillov et al., ICCV 2023 (arXiv 2304.02643), through transformers.

The authors' generator of masks without crops: a grid of points, three masks for each; those that the model thinks
bad and those that hang on the threshold are dropped, and of masks with almost the same box the best is kept. Masks
of low predicted quality are dropped before they are enlarged, which changes nothing but the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import masks_to_boxes, nms
from transformers import SamConfig, SamImageProcessorPil, SamModel

from urbancross_bench.errors import DataError, UsageError
from urbancross_bench.interfaces import Mask, Segmenter
from urbancross_bench.modelling.checkpoints import read_checkpoint
from urbancross_segmenters.determinism import deterministic_but_for_sums
from urbancross_segmenters.options import SamOptions
from urbancross_segmenters.weights import as_transformers, fill

_THRESHOLD = 0.0  # of the logits; above it is inside


@dataclass
class _Found:
    """What has been found in an image of (H, W) pixels: per mask its box, scores and pixels, eight to a byte."""

    size: tuple[int, int]
    boxes: list[Tensor] = field(default_factory=list)
    qualities: list[Tensor] = field(default_factory=list)
    stabilities: list[Tensor] = field(default_factory=list)
    packed: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, masks: Tensor, qualities: Tensor, stabilities: Tensor) -> None:
        """(K, H, W) bool masks, none of them empty, and (K,) scores."""
        self.boxes.append(masks_to_boxes(masks).cpu())
        self.qualities.append(qualities.cpu())
        self.stabilities.append(stabilities.cpu())
        self.packed.append(np.packbits(masks.flatten(1).cpu().numpy(), axis=1))

    def distinct(self, overlap: float) -> list[Mask]:
        """Of masks whose boxes overlap by more, the one of the best quality."""
        if not self.packed:
            return []
        qualities, stabilities, packed = (
            torch.cat(self.qualities),
            torch.cat(self.stabilities),
            np.concatenate(self.packed),
        )
        kept = nms(torch.cat(self.boxes), qualities, overlap).tolist()
        pixels = self.size[0] * self.size[1]
        return [
            Mask(
                np.unpackbits(packed[i], count=pixels).astype(bool).reshape(self.size),
                float(qualities[i]),
                float(stabilities[i]),
            )
            for i in kept
        ]


class Sam(Segmenter):
    """`SamModel`: the images of a batch are encoded together; their masks, which take most memory, one by one."""

    options_type = SamOptions
    _model: Any
    _processor: Any

    def load(self, device: str) -> None:
        """Raises UsageError where the weights cannot be read or do not fit the architecture."""
        options = cast(SamOptions, self.options)
        try:
            self._model = SamModel(SamConfig(**options.config))
        except Exception as error:  # whatever torch makes of sizes that are none
            raise UsageError(f"segmenter 'sam' cannot build {options.asked}: {error!r}") from error
        _expect_one_image(self._model.config, options.asked)
        if options.weights_file:
            state = as_transformers(read_checkpoint(options.weights_file, unsafe_pickle=None).state)
            fill(self._model, state, options.weights_file, options.asked)
        self._model.to(device).eval()
        side = int(self._model.config.vision_config.image_size)
        pixels = {"size": {"longest_edge": side}, "pad_size": {"height": side, "width": side}}
        self._processor = SamImageProcessorPil(**(pixels | options.preprocessing))

    @torch.inference_mode()
    @deterministic_but_for_sums()
    def segment(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Mask]]:
        """The masks of each image."""
        options = cast(SamOptions, self.options)
        for image in images:
            short, long = sorted(image.shape[:2])
            if short / long * self._processor.size["longest_edge"] < 0.5:
                raise DataError(f"an image of {long}×{short} pixels is too narrow: resized, nothing is left of it")
        inputs = self._processor(images=list(images), return_tensors="pt", input_data_format="channels_last")
        embeddings = self._model.get_image_embeddings(inputs["pixel_values"].to(self._model.device))
        resized = [(int(height), int(width)) for height, width in inputs["reshaped_input_sizes"]]
        every = []
        for image, embedding, size in zip(images, embeddings, resized, strict=True):
            found = _Found((image.shape[0], image.shape[1]))
            points = grid(options.points_per_side, size).to(embedding.device)
            for some in torch.split(points, options.points_per_batch):
                outputs = self._model(image_embeddings=embedding[None], input_points=some[None, :, None])
                self._keep(outputs.pred_masks[0].flatten(0, 1), outputs.iou_scores[0].flatten(), size, found)
            every.append(found.distinct(options.box_nms_thresh))
        return every

    def _keep(self, logits: Tensor, qualities: Tensor, resized: tuple[int, int], found: _Found) -> None:
        """Add what is good enough of (K, h, w) small masks with (K,) predicted qualities."""
        options = cast(SamOptions, self.options)
        if options.pred_iou_thresh > 0:
            good = qualities > options.pred_iou_thresh
            logits, qualities = logits[good], qualities[good]
        if not len(logits):
            return
        [large] = self._processor.post_process_masks([logits[:, None]], [found.size], [resized], binarize=False)
        large = large[:, 0]
        stabilities = stability(large, options.stability_score_offset)
        masks = large > _THRESHOLD
        good = (stabilities >= options.stability_score_thresh) & masks.any(dim=(1, 2))
        if good.any():
            found.add(masks[good], qualities[good], stabilities[good])


def _expect_one_image(config: Any, asked: str) -> None:
    """Raise UsageError where the towers of image and prompt do not see one and the same."""
    for name in ("image_size", "patch_size"):
        image, prompt = (getattr(part, name) for part in (config.vision_config, config.prompt_encoder_config))
        if image != prompt:
            raise UsageError(
                f"segmenter 'sam': {asked} has {name} {image} in its vision_config, and {prompt} in its "
                "prompt_encoder_config; they are one"
            )


def grid(points: int, size: tuple[int, int]) -> Tensor:
    """(points², 2) x and y of the centres of a grid over (H, W) pixels."""
    centres = (torch.arange(points) + 0.5) / points
    y, x = torch.meshgrid(centres * size[0], centres * size[1], indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def stability(logits: Tensor, offset: float) -> Tensor:
    """(K,) the IoU of each mask of (K, H, W) logits cut a little higher with itself cut a little lower."""
    high, low = ((logits > _THRESHOLD + shift).sum(dim=(1, 2)) for shift in (offset, -offset))
    return high / low.clamp(min=1)
