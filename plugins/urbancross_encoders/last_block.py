"""The last block of open_clip's transformers, in training: one of its tokens is pooled, others are not computed.

Of a tower of twelve blocks that saves a fifteenth of the arithmetic, forward and backward, and changes nothing but
the order of sums. For evaluation features stay open_clip's own to the bit.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, Transformer, VisionTransformer
from torch import Tensor, nn


def pool_first(tower: nn.Module) -> None:
    """Let the last block of an image tower compute the first token alone, where that is what is pooled."""
    if (
        isinstance(tower, VisionTransformer)
        and tower.pool_type == "tok"
        and tower.attn_pool is None
        and not tower.output_tokens
    ):
        _replace_last(tower.transformer, _FirstTokenBlock)


def pool_where_asked(transformer: Transformer) -> None:
    """Let the last block be told which tokens are pooled."""
    _replace_last(transformer, OneTokenBlock)


def _replace_last(transformer: Transformer, by: type[nn.Module]) -> None:
    last = transformer.resblocks[-1]
    if type(last) is ResidualAttentionBlock and last.attn.batch_first:  # of the usual kind
        last.__class__ = by


class OneTokenBlock(ResidualAttentionBlock):  # type: ignore[misc]  # open_clip has no types
    """In training it attends from one token of each row to all, and goes on with that one."""

    def forward(
        self,
        q_x: Tensor,
        k_x: None = None,
        v_x: None = None,
        attn_mask: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """(B, 1, W) of (B, L, W): of the tokens at (B,) places.

        All of (B, L, W) where it is told no places, in evaluation, and while a hook listens to a part of it.
        attn_mask: (L, L), to be added.
        """
        if at is None or not self.training or _is_heard(self):
            return cast(Tensor, super().forward(q_x, attn_mask=attn_mask))
        one = q_x[torch.arange(len(q_x), device=q_x.device), at][:, None]
        return self._of_one(one, q_x, None if attn_mask is None else attn_mask[at][:, None, None])

    def _of_one(self, one: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        one = one + self.ls_1(_attend(self.attn, self.ln_1(one), self.ln_1(tokens), mask))
        return cast(Tensor, one + self.ls_2(self.mlp(self.ln_2(one))))


class _FirstTokenBlock(OneTokenBlock):
    """It is the first token, whoever calls it."""

    def forward(self, q_x: Tensor, k_x: None = None, v_x: None = None, attn_mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if not self.training or attn_mask is not None or _is_heard(self):
            return super().forward(q_x, attn_mask=attn_mask)
        return self._of_one(q_x[:, :1], q_x, None)


def _is_heard(block: nn.Module) -> bool:
    """Whether somebody is told what goes through it, and may want all tokens."""
    return any(part._forward_hooks or part._forward_pre_hooks for part in block.modules())


def _attend(layer: Any, queries: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """(B, 1, W) of (B, 1, W) queries and (B, L, W) tokens: `torch.nn.MultiheadAttention`, its weights alone."""
    width, heads = layer.embed_dim, layer.num_heads
    weight, bias = layer.in_proj_weight, layer.in_proj_bias
    q = F.linear(queries, weight[:width], bias[:width])
    both = F.linear(tokens, weight[width:], bias[width:])
    k, v = both.view(*both.shape[:2], 2, heads, width // heads).unbind(2)
    q = q.view(len(q), 1, heads, width // heads)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    mask = None if mask is None else mask.to(q.dtype)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return F.linear(attended.transpose(1, 2).flatten(2), layer.out_proj.weight, layer.out_proj.bias)
