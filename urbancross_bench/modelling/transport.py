"""Pairs where none are given: entropic optimal transport and mutual nearest neighbours of two sets of features.

Features are (N, D) and (M, D), L2-normalised; the cost of a pair is 1 − ⟨x_i, y_j⟩. Nothing here has a gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def potentials(
    images: Tensor, texts: Tensor, epsilon: float, iterations: int, *, rows: int = 1024
) -> tuple[Tensor, Tensor]:
    """The dual variables, (N,) and (M,), of entropic transport between uniform marginals; see `log_plan`.

    Sinkhorn's iterations (Cuturi 2013, algorithm 1) on logarithms, so that a small `epsilon` does not underflow.
    The plan's columns then sum to 1 / M, its rows to 1 / N as far as it has converged. Costs come `rows` images at
    a time: memory is rows · M, not N · M, and time N · M · D for each iteration. Raises ValueError where a side is
    empty.
    """
    n, m = len(images), len(texts)
    if not n or not m:
        raise ValueError(f"there is nothing to transport between {n} images and {m} texts")
    f, g = images.new_zeros(n), images.new_zeros(m)
    for _ in range(iterations):
        columns = images.new_full((m,), -math.inf)
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            kernel = -_costs(images[part], texts) / epsilon
            f[part] = -epsilon * (torch.logsumexp(kernel + g / epsilon, dim=1) + math.log(n))
            columns = torch.logaddexp(columns, torch.logsumexp(kernel + f[part, None] / epsilon, dim=0))
        g = -epsilon * (columns + math.log(m))
    return f, g


@torch.no_grad()
def log_plan(images: Tensor, texts: Tensor, f: Tensor, g: Tensor, epsilon: float) -> Tensor:
    """(N, M) log P_ij = (f_i + g_j − cost_ij) / ε, P the transport plan, of total 1 over all that `f`, `g` are of.

    Of some images and texts with their parts of the dual variables it is that part of the plan, whose numbers may
    all be too small for any but their logarithms.
    """
    return (f[:, None] + g[None, :] - _costs(images, texts)) / epsilon


@torch.no_grad()
def mutual_nearest(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (K,) of images, rising, and (K,) of texts that are each other's nearest; each stands in one pair.

    K is at least 1, since the greatest similarity of all is mutual; at most the smaller side.
    """
    scores = -_costs(images, texts)
    nearest_text, nearest_image = scores.argmax(dim=1), scores.argmax(dim=0)
    own = torch.arange(len(images), device=images.device)
    kept = own[nearest_image[nearest_text] == own]
    return kept, nearest_text[kept]


def _costs(images: Tensor, texts: Tensor) -> Tensor:
    """In the precision of the features: autocast's is too coarse to divide by ε, or to say what is nearest."""
    with torch.autocast(images.device.type, enabled=False):
        return 1 - images @ texts.T
