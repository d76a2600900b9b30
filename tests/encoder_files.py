"""Small random models of the CLIP family on disk, in the layouts that are published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import urbancross_encoders.openclip  # noqa: F401 - makes our architectures known to open_clip
from urbancross_bench.registry import Registry

TINY = "urbancross-tiny"
TEXTS = ["a red roof", "many green trees beside the road beside the roof", "road"]
HUB = "0123456789abcdef0123456789abcdef01234567"
_REGISTRY = Registry.discover()


def resolve(reference: str) -> Any:
    """An encoder's reference, with its options checked."""
    return _REGISTRY.resolve("encoder", reference)


def load(reference: str) -> Any:
    """The model an encoder's reference names."""
    return resolve(reference).build().load()


def theirs(architecture: str = TINY, seed: int = 1) -> Any:
    """A random model as open_clip itself builds it; the text tower's tensors stand at the top."""
    torch.manual_seed(seed)
    return open_clip.create_model(architecture).eval()


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.contiguous().clone() for name, value in model.state_dict().items()}


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def layouts(state: dict[str, Tensor]) -> dict[str, tuple[Any, str]]:
    """What a torch file of a published layout holds, and what reading it has to take off."""
    training = {
        "epoch": 3,
        "name": "run",
        "optimizer": {"state": {0: torch.ones(2)}, "param_groups": [{"lr": 0.1}]},
    }
    both = under("clip_model.", state) | under("clip_img_seg.", under("visual.", {"proj": torch.ones(2)}))
    return {
        "plain": (state, ""),  # RemoteCLIP, GeoRSCLIP
        "training": ({**training, "state_dict": under("module.", state)}, "state_dict, module."),  # SkyCLIP
        "training, one device": ({**training, "state_dict": state}, "state_dict"),
        "compiled": (under("module._orig_mod.", state), "module., _orig_mod."),
        "urbancross": ({"epoch": 1, "model": both}, "model, clip_model., clip_img_seg."),
        "urbancross, parallel": ({"model": under("module.", both)}, "model, module., clip_model., clip_img_seg."),
        "urbancross, no segments": ({"model": under("clip_model.", state)}, "model, clip_model."),
    }


def write_local_dir(
    folder: Path, model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any], state: dict[str, Tensor]
) -> None:
    """A folder as open_clip's `push_to_hf_hub` writes one, without a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(content), encoding="utf-8")
    save_file(state, folder / "open_clip_model.safetensors")


def cached(cache: Path, repository: str) -> Path:
    """The folder where the hub's cache keeps the files of a repository; made, with the branch `main` at it."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(HUB)
    folder = place / "snapshots" / HUB
    folder.mkdir(parents=True, exist_ok=True)
    return folder
