"""Self-attention that multiplies all tokens of a batch at once, for inference."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


def join_products(model: nn.Module) -> None:
    """Let torch's own attention layers multiply the tokens of a batch at once, where they attend to themselves.

    `nn.MultiheadAttention` puts tokens before the batch first. Without gradients torch then multiplies each place
    of a text by itself, with a copy of the weights for each: a fifth to a third of a text tower's time in bfloat16
    on a CPU. Only sums may come in another order.
    """
    for layer in model.modules():
        if type(layer) is nn.MultiheadAttention:
            layer.__class__ = _Joined


class _Joined(nn.MultiheadAttention):
    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = True, **more: Any
    ) -> tuple[Tensor, Tensor | None]:
        if query is key and key is value and not need_weights and self._is_plain(query, **more):
            return self._joint(query, more.get("attn_mask")), None
        return super().forward(query, key, value, need_weights=need_weights, **more)

    def _is_plain(self, tokens: Tensor, attn_mask: Tensor | None = None, **more: Any) -> bool:
        """Whether there is nothing but heads, and a mask that is added."""
        added = attn_mask is None or (attn_mask.dim() == 2 and attn_mask.is_floating_point())
        usual = self.in_proj_weight is not None and self.bias_k is None and not self.add_zero_attn
        return self.batch_first and tokens.dim() == 3 and not self.training and added and usual and not more

    def _joint(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, W) of (B, L, W)."""
        joint = F.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        parts = joint.view(*joint.shape[:2], 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        mask = None if mask is None else mask.to(joint.dtype)
        heads = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=mask)
        attended: Tensor = self.out_proj(heads.transpose(1, 2).flatten(2))
        return attended
