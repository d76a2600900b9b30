"""What stands in a folder or hub repository of open_clip: a description, weights, a text tower. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from urbancross_bench.errors import UsageError
from urbancross_bench.modelling.formats import read_config

CONFIG = "open_clip_config.json"
# What open_clip looks for in a folder, the first first.
_FOLDER_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
# A hub repository may hold weights of other libraries beside open_clip's.
HUB_WEIGHTS = _FOLDER_WEIGHTS[:3]


def description_in(folder: Path) -> dict[str, Any]:
    """What its config says. Raises UsageError where that is no model of open_clip."""
    path = folder / CONFIG
    found = read_config(path)
    try:
        config = found["model_cfg"]
        if not all(isinstance(config[part], dict) for part in ("vision_cfg", "text_cfg")):
            raise TypeError("vision_cfg and text_cfg are no objects")
        int(config["embed_dim"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} describes no open_clip model: {error!r}") from error
    return found


def describes_tower(folder: Path) -> bool:
    """Whether its config.json is that of a text model: one of a whole CLIP may lie beside open_clip's files."""
    file = folder / "config.json"
    return file.is_file() and "clip" not in str(read_config(file).get("model_type", ""))


def weights_in(folder: Path) -> Path:
    """Its file of weights. Raises UsageError where there is none, or more than one that might be meant."""
    for name in _FOLDER_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    others = sorted(p for p in folder.iterdir() if p.suffix in {".safetensors", ".bin", ".pth", ".pt"})
    if len(others) == 1:
        return others[0]
    raise UsageError(
        f"encoder 'openclip': {folder} holds {'several' if others else 'no'} weights"
        f"{': ' + ', '.join(p.name for p in others) if others else ''}; name one with checkpoint"
    )
