"""What methods share that train few of a model's weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from urbancross_bench.interfaces import DualEncoder


def train_only(model: DualEncoder, parts: Iterable[nn.Parameter]) -> None:
    """Freeze all but `parts` and the factors of the loss (scale and bias), as far as these were to be trained."""
    kept = {id(p) for p in (*parts, model.logit_scale, model.logit_bias) if p is not None and p.requires_grad}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in kept)


def faster(
    model: DualEncoder, parts: Iterable[nn.Parameter], learning_rate: float, factor: float
) -> list[dict[str, Any]]:
    """Parameter groups of everything trainable in the model, where `parts` learn at `factor` times the rate.

    What is added starts from nothing, and the rate that suits trained weights would leave it there.
    """
    added = [p for p in parts if p.requires_grad]
    names = {id(p) for p in added}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in names]
    return [{"params": rest, "lr": learning_rate}, {"params": added, "lr": factor * learning_rate}]
