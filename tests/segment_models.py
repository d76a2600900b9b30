"""A small random Segment Anything on disk, under its authors' names."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from segment_anything.modeling import Sam as OriginalSam
from transformers import SamConfig

from urbancross_bench.testing.fixtures.sam import CONFIG
from urbancross_segmenters.original import built


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
