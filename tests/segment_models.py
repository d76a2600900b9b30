"""Small random Segment Anything models on disk, under the authors' names and under those of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import Sam as OriginalSam
from transformers import SamConfig, SamModel

from urbancross_segmenters.original import built

CONFIG: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 16,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
        "window_size": 2,
        "global_attn_indexes": [1],
        "num_pos_feats": 8,
        "mlp_dim": 32,
    },
    "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
    "mask_decoder_config": {
        "hidden_size": 16,
        "mlp_dim": 16,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 16,
    },
}


def original(seed: int = 0) -> OriginalSam:
    """The authors' model, its weights drawn wide enough for masks of many shapes and qualities."""
    torch.manual_seed(seed)
    model = built(SamConfig(**CONFIG))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                wide = 3 if "hypernetworks" in name and ".2." in name else 1.5
                parameter.copy_(torch.randn(parameter.shape) * wide / parameter[0].numel() ** 0.5)
            else:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.eval()


def write_original(folder: Path, seed: int = 0) -> Path:
    """`sam.pth` as the authors publish theirs, and `config.json` beside it; the former's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    torch.save(original(seed).state_dict(), folder / "sam.pth")
    return folder / "sam.pth"


def write_transformers(folder: Path, seed: int = 0) -> Path:
    """A folder as `save_pretrained` leaves it, with random weights."""
    torch.manual_seed(seed)
    model = SamModel(SamConfig(**CONFIG))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.4)
    model.save_pretrained(folder)
    return folder
