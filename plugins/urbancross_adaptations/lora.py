"""Low-rank updates of an encoder's matrices, trained on source pairs.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021 (arXiv 2106.09685, eq. 3).

An update parametrises the matrix itself, so it holds however the matrix is used. Towers of this kind read most of
theirs (`in_proj_weight` of attention, a ResNet's attention pool) without calling any layer that could be wrapped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from urbancross_adaptations.fine_tuning_options import LoraOptions
from urbancross_adaptations.partial_training import faster, train_only
from urbancross_adaptations.supervised import SourceOnly
from urbancross_bench.errors import UsageError, some
from urbancross_bench.interfaces import Context, DualEncoder

# What nn.MultiheadAttention and those made after it multiply with, beside the weights of linear layers.
_IN_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_LAST = ("proj", "text_projection")  # CLIP's projections: (in, out), where all others are (out, in)


class LowRank(nn.Module):
    """W ↦ W + (α / r) B A with A (r, in), Gaussian, and B (out, r), zero at first; `turned`: W is (in, out)."""

    def __init__(self, matrix: Tensor, rank: int, alpha: float, *, turned: bool = False) -> None:
        super().__init__()
        self.turned = turned
        out, inner = matrix.T.shape if turned else matrix.shape
        self.scaling = alpha / rank
        # Drawn on the CPU, so that every device starts alike.
        self.a = nn.Parameter((torch.randn(rank, inner) / math.sqrt(inner)).to(matrix))
        self.b = nn.Parameter(matrix.new_zeros(out, rank))

    def forward(self, matrix: Tensor) -> Tensor:
        """A matrix to one of its shape."""
        update = self.scaling * (self.b @ self.a)
        return matrix + (update.T if self.turned else update)


class Lora(SourceOnly):
    """See `LoraOptions`. Only the updates and the factors of the loss are trained."""

    options_type = LoraOptions

    def extend(self, model: DualEncoder) -> DualEncoder:
        """The model with an update at every matrix that fits; raises UsageError where none does."""
        o = cast(LoraOptions, self.options)
        matrices = list(_matrices(model))
        found = [m for m in matrices if any(fnmatchcase(m[0], pattern) for pattern in o.targets)]
        if not found:
            names = some([name for name, _, _ in matrices], 3) or "none"
            raise UsageError(
                f"adaptation 'lora': none of the encoder's trainable matrices matches targets="
                f"{','.join(o.targets)}; there are {len(matrices)}: {names}"
            )
        idle = [pattern for pattern in o.targets if not any(fnmatchcase(m[0], pattern) for m in matrices)]
        if idle and "targets" in o.model_fields_set:  # of the default's two, each is for other encoders
            raise UsageError(f"adaptation 'lora': no trainable matrix matches {idle[0]!r} of targets")
        for _, module, own in found:
            update = LowRank(getattr(module, own), o.rank, o.alpha, turned=own in _LAST)
            register_parametrization(module, own, update)
        return model

    def prepare(self, model: DualEncoder, context: Context) -> None:
        """Freeze the encoder."""
        super().prepare(model, context)
        train_only(model, _updates(model))

    def parameter_groups(self, model: DualEncoder, learning_rate: float) -> list[dict[str, Any]]:
        """The updates at a rate of their own."""
        return faster(model, _updates(model), learning_rate, cast(LoraOptions, self.options).rate_factor)


def _matrices(model: DualEncoder) -> Iterator[tuple[str, nn.Module, str]]:
    """Name, module and attribute of each trainable matrix that features are multiplied by."""
    for name, module in cast(nn.Module, model).named_modules():
        for own in _IN_ATTENTION + _LAST + (("weight",) if isinstance(module, nn.Linear) else ()):
            matrix = getattr(module, own, None)
            if isinstance(matrix, nn.Parameter) and matrix.requires_grad and matrix.ndim == 2:
                yield f"{name}.{own}", module, own


def _updates(model: DualEncoder) -> Iterator[nn.Parameter]:
    for module in cast(nn.Module, model).modules():
        if isinstance(module, LowRank):
            yield from module.parameters()
