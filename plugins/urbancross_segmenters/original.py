"""Segment Anything, Kirillov et al., ICCV 2023 (arXiv 2304.02643), by its authors' own package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from transformers import SamConfig

from urbancross_bench.errors import UsageError
from urbancross_bench.interfaces import Mask, Segmenter
from urbancross_bench.modelling.checkpoints import read_checkpoint
from urbancross_segmenters.determinism import deterministic_but_for_sums
from urbancross_segmenters.options import OriginalOptions
from urbancross_segmenters.weights import fill, is_original


class SegmentAnything(Segmenter):
    """The authors' model and their generator of masks, as they are."""

    options_type = OriginalOptions

    def load(self, device: str) -> None:
        """Raises UsageError where the weights cannot be read, are not the authors', or do not fit.

        Also for a folder that has images prepared otherwise than its authors do.
        """
        options = cast(OriginalOptions, self.options)
        if options.preprocessing:
            raise UsageError(
                f"segmenter 'segment_anything' prepares images as its authors do, and {options.folder} says "
                f"otherwise ({', '.join(options.preprocessing)}), which segmenter 'sam' heeds"
            )
        try:
            model = built(SamConfig(**options.config))
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"segmenter 'segment_anything' cannot build the architecture: {error}") from error
        if options.weights_file:
            state = read_checkpoint(options.weights_file, unsafe_pickle=None).state
            if not is_original(state):
                raise UsageError(
                    f"segmenter 'segment_anything' reads the authors' weights; {options.weights_file} has the "
                    "names of transformers, which segmenter 'sam' reads"
                )
            fill(model, state, options.weights_file, options.asked)
        self._generator = SamAutomaticMaskGenerator(
            model.to(device).eval(),
            points_per_side=options.points_per_side,
            points_per_batch=options.points_per_batch,
            pred_iou_thresh=options.pred_iou_thresh,
            stability_score_thresh=options.stability_score_thresh,
            stability_score_offset=options.stability_score_offset,
            box_nms_thresh=options.box_nms_thresh,
        )

    def segment(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Mask]]:
        """The masks of each image."""
        with deterministic_but_for_sums():
            return [[_mask(found) for found in self._generator.generate(image)] for image in images]


def _mask(found: dict[str, Any]) -> Mask:
    return Mask(found["segmentation"], float(found["predicted_iou"]), float(found["stability_score"]))


def built(config: Any) -> Sam:
    """The authors' model with the sizes of a transformers config; their own function knows three sizes only."""
    vision, prompt, decoder = config.vision_config, config.prompt_encoder_config, config.mask_decoder_config
    side = vision.image_size // vision.patch_size
    return Sam(
        ImageEncoderViT(
            img_size=vision.image_size,
            patch_size=vision.patch_size,
            embed_dim=vision.hidden_size,
            depth=vision.num_hidden_layers,
            num_heads=vision.num_attention_heads,
            mlp_ratio=vision.mlp_dim / vision.hidden_size,
            out_chans=vision.output_channels,
            qkv_bias=vision.qkv_bias,
            norm_layer=partial(torch.nn.LayerNorm, eps=vision.layer_norm_eps),
            use_rel_pos=vision.use_rel_pos,
            window_size=vision.window_size,
            global_attn_indexes=vision.global_attn_indexes,
        ),
        PromptEncoder(
            embed_dim=prompt.hidden_size,
            image_embedding_size=(side, side),
            input_image_size=(vision.image_size, vision.image_size),
            mask_in_chans=prompt.mask_input_channels,
        ),
        MaskDecoder(
            transformer_dim=decoder.hidden_size,
            transformer=TwoWayTransformer(
                depth=decoder.num_hidden_layers,
                embedding_dim=decoder.hidden_size,
                num_heads=decoder.num_attention_heads,
                mlp_dim=decoder.mlp_dim,
            ),
            num_multimask_outputs=decoder.num_multimask_outputs,
            iou_head_depth=decoder.iou_head_depth,
            iou_head_hidden_dim=decoder.iou_head_hidden_dim,
        ),
    )
