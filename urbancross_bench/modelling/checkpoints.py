"""Model weights on disk: safetensors, strict."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file

from urbancross_bench.interfaces.encoder import DualEncoder


def save_weights(model: DualEncoder, path: Path) -> None:
    """Write every parameter and buffer."""
    save_file({name: value.detach().contiguous().cpu() for name, value in model.state_dict().items()}, path)


def load_weights(model: DualEncoder, path: Path) -> None:
    """Read what `save_weights` wrote for the same architecture; any missing or surplus key is an error."""
    model.load_state_dict(load_file(path))
