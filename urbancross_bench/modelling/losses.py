"""Losses and layers that adaptations are built from. Features are (B, D) and L2-normalised."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def info_nce(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE over the pairs of a batch: cross-entropy of scale·⟨x_i, y_j⟩ against j = i, both ways.

    images, texts: (B, D), row i belongs to row i. scale: positive scalar. Radford et al. 2021, fig. 3.
    """
    logits = scale * images @ texts.T
    labels = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def soft_info_nce(images: Tensor, texts: Tensor, scale: Tensor, similarity: Tensor, temperature: float) -> Tensor:
    """InfoNCE against soft targets: row i's are softmax_j(similarity_ij / temperature).

    images, texts: (B, D), row i belongs to row i. similarity: (B, B), symmetric, of the captions. Captions that
    say the same are then no negatives of each other's images, which in data with formulaic captions they would be.
    """
    logits = scale * images @ texts.T
    targets = (similarity / temperature).softmax(dim=1)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def hinge(images: Tensor, texts: Tensor, margin: float = 0.2) -> Tensor:
    """Bidirectional hinge, summed over all negatives, mean over pairs: Σ_{j≠i} max(0, m − s_ii + s_ij), both ways.

    images, texts: (B, D), row i belongs to row i; s is cosine similarity. Faghri et al. 2018, eq. 4.
    """
    scores = images @ texts.T
    own = scores.diagonal()
    off = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    to_texts = (margin - own[:, None] + scores).clamp(min=0)[off].sum()
    to_images = (margin - own[None, :] + scores).clamp(min=0)[off].sum()
    return (to_texts + to_images) / len(scores)


def weighted_triplet(
    anchors: Tensor, positives: Tensor, negatives: Tensor, weights: Tensor, margin: float
) -> Tensor:
    """Σ_i w_i · max(0, ‖a_i − p_i‖ − min_j ‖a_i − n_j‖ + margin), with the nearest of all negatives.

    anchors, positives: (B, D); negatives: (B', D); weights: (B,), summing to 1.
    """
    # cdist's gradient at distance 0 is 0 by definition, so equal rows are harmless.
    nearest = torch.cdist(anchors, negatives).min(dim=1).values
    own = (anchors - positives).square().sum(dim=1).clamp(min=1e-12).sqrt()
    return (weights * (own - nearest + margin).clamp(min=0)).sum()


def weighted_bce(logits: Tensor, label: float, weights: Tensor) -> Tensor:
    """Σ_i w_i · BCE(σ(logits_i), label). logits, weights: (B,); weights sum to 1."""
    losses = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label), reduction="none")
    return (weights * losses).sum()


def normalised_weights(scores: Tensor) -> Tensor:
    """(B,) scores → weights: min-max scaled to [0, 1], then divided by their sum; equal where all are equal."""
    scaled = scores - scores.min()
    total = scaled.sum()
    if total <= 0:
        return torch.full_like(scores, 1.0 / len(scores))
    return scaled / total


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None  # type: ignore[attr-defined]


def reverse_gradient(x: Tensor, strength: float) -> Tensor:
    """The identity whose gradient is multiplied by −strength. Ganin et al. 2016, eq. 9–11."""
    reversed_: Tensor = _Reversal.apply(x, strength)
    return reversed_


class Discriminator(nn.Sequential):
    """A domain discriminator: three linear layers of the features' width, one logit (> 0 says source)."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
            nn.Flatten(0),
        )
