"""Model weights on disk: safetensors, strict."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from urbancross_bench.interfaces.encoder import DualEncoder


def save_weights(model: DualEncoder, path: Path) -> None:
    """Write every parameter and buffer."""
    save_file({name: value.detach().contiguous().cpu() for name, value in model.state_dict().items()}, path)


def load_weights(model: DualEncoder, path: Path) -> None:
    """Read what `save_weights` wrote for the same architecture; any missing or surplus key is an error."""
    model.load_state_dict(load_file(path))


def weights_digest(model: DualEncoder) -> str:
    """SHA-256 over names and values of every parameter and buffer, in hex."""
    hasher = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        hasher.update(name.encode())
        hasher.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()
