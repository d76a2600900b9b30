"""Losses and layers that adaptations are built from. Features are (B, D) and L2-normalised."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from urbancross_bench.errors import RunError


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


def hinge(images: Tensor, texts: Tensor, margin: float = 0.2, *, hardest: bool = False) -> Tensor:
    """Bidirectional hinge, mean over pairs of Σ_{j≠i} max(0, m − s_ii + s_ij), both ways; or of the largest term.

    images, texts: (B, D), row i belongs to row i; s is cosine similarity. Faghri et al. 2018, eq. 4 and 6.
    """
    with _full_precision(images):
        scores = images @ texts.T
    own = scores.diagonal()
    off = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    to_texts = (margin - own[:, None] + scores).clamp(min=0) * off
    to_images = (margin - own[None, :] + scores).clamp(min=0) * off
    if hardest:
        return (to_texts.amax(dim=1).sum() + to_images.amax(dim=0).sum()) / len(scores)
    return (to_texts.sum() + to_images.sum()) / len(scores)


def weighted_triplet(
    anchors: Tensor, positives: Tensor, negatives: Tensor | None, weights: Tensor, margin: float
) -> Tensor:
    """Σ_i w_i · max(0, ‖a_i − p_i‖ − min_j ‖a_i − n_j‖ + margin), with the nearest of all negatives.

    anchors, positives: (B, D); negatives: (B', D), None for the other anchors, of which one alone has none and no
    loss; weights: (B,), summing to 1.
    """
    # cdist's gradient at distance 0 is 0 by definition, so equal rows are harmless.
    distances = torch.cdist(anchors, anchors if negatives is None else negatives)
    if negatives is None:
        own_place = torch.eye(len(anchors), dtype=torch.bool, device=anchors.device)
        distances = distances.masked_fill(own_place, torch.inf)
    nearest = distances.min(dim=1).values
    own = (anchors - positives).square().sum(dim=1).clamp(min=1e-12).sqrt()
    return (weights * (own - nearest + margin).clamp(min=0)).sum()


def weighted_bce(logits: Tensor, label: float, weights: Tensor) -> Tensor:
    """Σ_i w_i · BCE(σ(logits_i), label). logits, weights: (B,); weights sum to 1."""
    losses = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label), reduction="none")
    return (weights * losses).sum()


def normalised_weights(scores: Tensor, terms: int = 1) -> Tensor:
    """(B,) scores → weights: min-max scaled to [0, 1], then divided by their sum; equal where all are equal.

    terms: how many cosine similarities each score is the sum of. Equal ones differ by how products of matrices
    round, which scaling would make much of: scores that are no farther apart are equal.
    """
    scaled = scores - scores.min()
    total, rounding = scaled.sum(), 8 * terms * torch.finfo(scores.dtype).eps
    shares = scaled / total.clamp(min=torch.finfo(total.dtype).tiny)
    # Decided on the device, which nobody waits for.
    return torch.where(scaled.max() <= rounding, 1.0 / len(scores), shares)


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


def dann_strength(fraction: float) -> float:
    """2 / (1 + exp(−10 p)) − 1: the strength of reversal at the share p of training. Ganin et al. 2016, 5.2.2."""
    return 2 / (1 + math.exp(-10 * fraction)) - 1


class Discriminator(nn.Sequential):
    """A domain discriminator of (B, width): three linear layers and one logit (> 0 says source).

    inner: width of the layers between; that of the features unless given.
    """

    def __init__(self, width: int, inner: int | None = None) -> None:
        inner = inner or width
        super().__init__(
            nn.Linear(width, inner),
            nn.ReLU(),
            nn.Linear(inner, inner),
            nn.ReLU(),
            nn.Linear(inner, 1),
            nn.Flatten(0),
        )


def coral(source: Tensor, target: Tensor) -> Tensor:
    """‖C_s − C_t‖² / 4 in the Frobenius norm, of the covariances (divisor B − 1). Sun & Saenko 2016, eq. 1 to 3.

    source: (B, D), target: (B', D). The paper divides by 4 D² and has coordinates of about unit variance; those of
    unit vectors have one of 1 / D, which is the same. Raises RunError for a batch of one, which has no covariance.
    """
    refuse_single(source, target)
    with _full_precision(source):
        return (source.T.cov() - target.T.cov()).square().sum() / 4


def mmd(source: Tensor, target: Tensor, kernels: int = 5) -> Tensor:
    """Squared maximum mean discrepancy, unbiased, so it may fall below 0. Gretton et al. 2012, eq. 3.

    source: (B, D), target: (B', D). The kernel is the mean over i of the Gaussians exp(−‖x − y‖² / (2^i γ)), i
    from −(kernels − 1) / 2 to as much above 0, and γ the median of the squared distances among all rows (the lower
    of two; if most rows are equal, among those that are not), which gets no gradient: Long et al. 2015, section 4,
    with equal weights. RunError for a batch of one.
    """
    refuse_single(source, target)
    with _full_precision(source):
        rows = torch.cat([source, target])
        norms = rows.square().sum(dim=1)
        distances = (norms[:, None] + norms[None, :] - 2 * rows @ rows.T).clamp(min=0)
        count = len(rows)
        others = ~torch.eye(count, dtype=torch.bool, device=rows.device)
        # All but the diagonal, without asking the device how many those are.
        beside = distances.detach().flatten()[1:].view(count - 1, count + 1)[:, :-1]
        rounding = 8 * torch.finfo(distances.dtype).eps * norms.detach().max()
        apart = beside.where(beside > rounding, torch.nan).nanmedian().nan_to_num(1.0)
        median = beside.median()
        median = median.where(median > rounding, apart)
        widths = [median * 2.0 ** (i - (kernels - 1) / 2) for i in range(kernels)]
        kernel = torch.stack([(-distances / width).exp() for width in widths]).mean(dim=0) * others
        n, m = len(source), len(target)
        within = kernel[:n, :n].sum() / (n * (n - 1)) + kernel[n:, n:].sum() / (m * (m - 1))
        return within - 2 * kernel[:n, n:].mean()


def entropies(logits: Tensor) -> Tensor:
    """(B,) entropy, in nats, of the softmax of each row of (B, K) logits."""
    logs = logits.log_softmax(dim=1)
    return -(logs.exp() * logs).sum(dim=1)


def concentration(logits: Tensor) -> Tensor:
    """KL(p ‖ uniform), in nats, of the mean p of the softmax of the rows of (B, K) logits; 0 if p is uniform."""
    # In logarithms, since a class that no row chooses has a mean of 0 in single precision, and no gradient there.
    logs = logits.log_softmax(dim=1).logsumexp(dim=0) - math.log(len(logits))
    return (logs.exp() * logs).sum() + math.log(len(logs))


def class_confusion(logits: Tensor) -> Tensor:
    """Minimum class confusion of (B, K) logits, in [0, 1): 0 where no row hesitates. Jin et al. 2020, section 3.2.

    With p the rows' softmax and w_i ∝ 1 + exp(−H(p_i)), which gets no gradient, C = Σ_i w_i p_i p_iᵀ, its rows
    divided by their sums: the mean over classes of what stands beside the diagonal.
    """
    with _full_precision(logits):
        p = logits.float().softmax(dim=1)
        weights = 1 + (-entropies(logits.float()).detach()).exp()
        confused = p.T @ (p * (weights * len(p) / weights.sum())[:, None])
        shares = confused / confused.sum(dim=1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
        return (shares.sum() - shares.trace()) / p.shape[1]


def refuse_single(*sides: Tensor) -> None:
    """Raise RunError for a side of a batch that has one row: with nothing to compare it to, nothing is learnt."""
    if any(len(side) < 2 for side in sides):
        raise RunError(
            "a batch shows one item, and nothing is learnt from what cannot be compared with another; raise "
            "batch_size and target_batch_size, or a few-shot scenario's share, or leave the method out"
        )


def _full_precision(x: Tensor) -> torch.autocast:
    """Small differences of large numbers: at bfloat16 little would be left of them."""
    return torch.autocast(x.device.type, enabled=False)
