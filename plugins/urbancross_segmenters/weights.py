"""Weights of Segment Anything on disk, under the names of its authors or of transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from urbancross_bench.errors import UsageError
from urbancross_bench.modelling.checkpoints import fitting
from urbancross_segmenters.options import VISION

# The authors' names on the left. Of a head's three layers, transformers calls the outer ones by what they do.
_RENAMED = [
    (r"^image_encoder\.", "vision_encoder."),
    (r"^vision_encoder\.blocks\.", "vision_encoder.layers."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"\.neck\.0\.", ".neck.conv1."),
    (r"\.neck\.1\.", ".neck.layer_norm1."),
    (r"\.neck\.2\.", ".neck.conv2."),
    (r"\.neck\.3\.", ".neck.layer_norm2."),
    (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
    (r"\.point_embeddings\.", ".point_embed."),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"(mlps\.\d|prediction_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(mlps\.\d|prediction_head)\.layers\.2\.", r"\1.proj_out."),
    (r"(mlps\.\d|prediction_head)\.layers\.1\.", r"\1.layers.0."),
]
# The image tower's first layer, by either name: (width, 3, patch, patch).
_PATCHES = ("image_encoder.patch_embed.proj.weight", "vision_encoder.patch_embed.projection.weight")
_PROMPT, _IMAGE = (
    f"{place}.positional_embedding" for place in ("prompt_encoder.shared_embedding", "shared_image_embedding")
)


def as_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the names of transformers' `SamModel`; they may have these already."""
    renamed, original = {}, is_original(state)
    for name, value in state.items():
        if original:
            for pattern, new in _RENAMED:
                name = re.sub(pattern, new, name)
        renamed[name] = value
    # One matrix that transformers keeps in two places, and that its files may hold once.
    for name, other in ((_PROMPT, _IMAGE), (_IMAGE, _PROMPT)):
        if name not in renamed and other in renamed:
            renamed[name] = renamed[other]
    return renamed


def is_original(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are the authors'."""
    return any(name.startswith("image_encoder.") for name in state)


def fill(model: nn.Module, state: Mapping[str, Tensor], file: Path, asked: str) -> None:
    """Load weights, all of them and no others.

    Raises UsageError with what does not fit the architecture that was `asked` for, and which one would.
    """
    where = f"segmenter: checkpoint {file} does not fit {asked}"
    try:
        model.load_state_dict(fitting(state, model.state_dict(), where))
    except UsageError as error:
        raise UsageError(f"{error}{_published(state, asked)}") from None


def _published(state: Mapping[str, Tensor], asked: str) -> str:
    """A word on which of the published models the weights are of, where it is not that which was asked for."""
    width = next((value.shape[0] for name, value in state.items() if name in _PATCHES and value.ndim == 4), 0)
    found = next((name for name, sizes in VISION.items() if sizes[0] == width), asked)
    return "" if found == asked else f" Its width of {width} is that of architecture={found}."
