"""Ways to make one embedding of an image and its segments.

Each takes unit vectors: (B, D) of images, (B, K, D) of segments, and (B, K) which of those are there. They are a
set: none of them knows an order, and an image without any keeps its own embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from urbancross_bench.modelling.heads import masked_mean


class Mean(nn.Module):
    """v + s̄: image and mean segment weigh the same."""

    def forward(self, images: Tensor, segments: Tensor, present: Tensor) -> Tensor:
        """(B, D)."""
        return images + masked_mean(segments, present)


class Gated(nn.Module):
    """g·v + (1 − g)·s̄ with g = σ(w·[v; s̄] + b), for each image its own; at first g = 0.88 for all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * width, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, 2.0)

    def forward(self, images: Tensor, segments: Tensor, present: Tensor) -> Tensor:
        """(B, D)."""
        pooled = masked_mean(segments, present)
        gate = torch.sigmoid(self.gate(torch.cat([images, pooled], dim=1)))
        gate = torch.where(present.any(dim=1, keepdim=True), gate, 1.0)
        return gate * images + (1 - gate) * pooled


class AttentionPooling(nn.Module):
    """v + α Σₖ aₖ sₖ with a = softmax(τ·〈Q v, K sₖ〉): the image asks, its segments answer.

    At first Q and K are the identity, τ = 10 and α = 0.5: segments that look like the image weigh more.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = (nn.Linear(width, width, bias=False) for _ in range(2))
        for layer in (self.query, self.key):
            nn.init.eye_(layer.weight)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(10.0)))
        self.amount = nn.Parameter(torch.tensor(0.5))

    def forward(self, images: Tensor, segments: Tensor, present: Tensor) -> Tensor:
        """(B, D)."""
        scores = torch.einsum("bd,bkd->bk", self.query(images), self.key(segments)) * self.log_temperature.exp()
        # A row without segments would be all −∞, and its softmax no number: it is given weights, and they count 0.
        scores = scores.masked_fill(~present & present.any(dim=1, keepdim=True), -math.inf)
        weights = torch.softmax(scores, dim=1) * present
        return images + self.amount * torch.einsum("bk,bkd->bd", weights, segments)


def fusion(name: str, width: int) -> nn.Module | None:
    """The fusion of this name; None for `none`, where segments have a part in training alone."""
    if name == "none":
        return None
    return Mean() if name == "mean" else Gated(width) if name == "gated" else AttentionPooling(width)
